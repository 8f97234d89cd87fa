"""What a meta-gradient costs: the adjoint method beside autodiff, in time and in temporary memory.

The optimizee is the paper's network for MNIST, one hidden layer of sigmoid units and minibatches of
128, on random images of MNIST's shape (no data set is needed; the cost does not depend on what the
images show). The optimizer is learned_opt.lstm("mnist"), two layers of 20. One window is unrolled,
and the gradient of the sum of its losses with respect to the optimizer's weights is computed by

  naive      what one writes today: Flax's OptimizedLSTMCell, lax.scan, jax.grad through it
             (benchmarks/naive.py)
  autodiff   learned_opt.meta_gradient(method="autodiff"), reverse mode through the whole unroll
  adjoint    learned_opt.meta_gradient(method="adjoint"), the default: nothing is differentiated
             through the optimizee
  forward    no gradient at all: learned_opt.unroll of the same window, the floor

Columns:
  coordinates       parameters of the optimizee
  naive / time      how many times as fast as naive; median over rounds (quartiles)
  time / forward    cost in forward unrolls; median over rounds (quartiles)
  time / floor      how many times as long as the machine needs at least for the method's own
                    multiplications, at the rate of multiplying large matrices in the same rounds:
                    the network forward and twice backward, once more forward for adjoint, and the
                    optimizee; median
  temporary MiB     memory that the program needs while it runs, beside its arguments and results
  naive / memory    how many times less of it than naive
  ms                milliseconds a meta-gradient, on an accelerator only (raw times are in
                    results.json everywhere)

All are timed in turns within each round, and the ratios are taken round by round. Below the table
stands the relative error between the three gradients: some 1e-7 on a CPU, and up to 1e-3 on an
accelerator that multiplies float32 matrices in a smaller format. More than 1e-2 is marked: such
programs do not compare. A program that needs more than --max_gib of temporary memory is not run:
its memory is known from its compilation.

--sizes takes the widths of the optimizee's hidden layer, one measurement for each; for MNIST, a
width of h gives 795 h + 10 coordinates, and 1258 a million. The default run takes one to two
minutes on two CPU cores, and 2 GB of memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import cases, common, floor, naive
from learned_opt.evaluation import timing
from learned_opt.optimizers.base import Phi

TOLERANCE = 1e-2  # gradients that differ by more are not gradients of the same thing

# How often a method runs the network over the window, a product backward counted as two.
PASSES = {"naive": 3, "autodiff": 3, "adjoint": 4, "forward": 1}

_PROBLEM = flags.DEFINE_enum(
    "problem",
    None,
    list(cases.IMAGE_SHAPES),
    "Shape of the images, 28 x 28 or 8 x 8; by default mnist, with --quick digits.",
)
_WINDOW = flags.DEFINE_integer(
    "window", None, "Steps of a window; by default 20, with --quick 5.", lower_bound=1
)
_MAX_GIB = flags.DEFINE_float(
    "max_gib",
    8.0,
    "Programs that need more temporary memory than this are not run.",
    lower_bound=0.0,
)
_sizes = common.define_sizes([5, 20], [3], "Widths of the optimizee's hidden layer")
flags.adopt_module_key_flags(common)


def programs(case: cases.Case) -> dict[str, jax.stages.Compiled]:
    """Compiled programs of `(phi, problem, key)` by name.

    All but forward give `(loss, gradient like phi)`.
    """
    opt, window = case.opt, case.window

    def by_flax(
        phi: Phi,
        problem: Any,
        key: jax.Array,
    ) -> tuple[jax.Array, Phi]:
        weights = naive.from_learned(phi)
        loss, gradient = naive.meta_gradient(naive.like(opt), weights, problem, key, window)
        return loss, naive.gradient_to_learned(phi, gradient)

    def by(method: str) -> Callable:
        def meta_gradient(
            phi: Phi,
            problem: Any,
            key: jax.Array,
        ) -> tuple[jax.Array, Phi]:
            return learned_opt.meta_gradient(opt, phi, problem, key, window, method=method)

        return meta_gradient

    def forward(
        phi: Phi,
        problem: Any,
        key: jax.Array,
    ) -> jax.Array:
        return learned_opt.unroll((opt, phi), problem, key, window).losses

    functions = {
        "naive": by_flax,
        "autodiff": by("autodiff"),
        "adjoint": by("adjoint"),
        "forward": forward,
    }
    args = case.phi, case.problem, case.key
    return {name: common.compiled(function, *args) for name, function in functions.items()}


def measure(
    case: cases.Case,
    rounds: int,
    max_bytes: float,
    machine: floor.Machine,
) -> tuple[list[dict], dict[str, float]]:
    """Times all programs of a case.

    Returns:
      `(one dict for each program, {name: relative error of its gradient})`; programs above
      `max_bytes` of temporary memory have no times, and no error.
    """
    every = programs(case)
    memory = {name: common.temporary_bytes(program) for name, program in every.items()}
    runs = {}
    for name, program in every.items():
        if memory[name] <= max_bytes:
            runs[name] = _bound(program, case)
    timed = {**runs, **machine.programs()}
    times = timing.interleaved(timed, rounds, f"{case.num_coordinates:,} coordinates")
    results = []
    for name in every:
        result = {
            "coordinates": case.num_coordinates,
            "method": name,
            "seconds": times.get(name),
            "naive_over_time": common.ratio(times, "naive", name),
            "time_over_forward": common.ratio(times, name, "forward"),
            "time_over_floor": _over_floor(case, name, times, machine),
            "machine_rates": machine.rates(times),
            "temporary_bytes": memory[name],
            "naive_over_memory": memory["naive"] / memory[name],
        }
        results.append(result)
    gradients = {}
    for name in set(runs) - {"forward"}:
        _, gradients[name] = runs[name]()
    return results, relative_errors(gradients)


def _bound(program: Callable, case: cases.Case) -> Callable[[], Any]:
    return lambda: program(case.phi, case.problem, case.key)


def _over_floor(
    case: cases.Case,
    name: str,
    times: floor.Times,
    machine: floor.Machine,
) -> common.Spread | None:
    if name not in times:
        return None
    network = PASSES[name] * case.window * floor.network_operations(case.phi)
    # Three products of the minibatch with each weight.
    optimizee = 6 * cases.BATCH_SIZE * (case.window + 1)
    work = floor.Work(case.num_coordinates * (network + optimizee))
    return common.spread(machine.over_floor(times, name, work))


def relative_errors(gradients: dict[str, Phi]) -> dict[str, float]:
    """The norm of each gradient's distance to that of autodiff, over the norm of the latter."""
    if "autodiff" not in gradients:
        return {}
    oracle, _ = jax.flatten_util.ravel_pytree(gradients["autodiff"])
    errors = {}
    for name in sorted(set(gradients) - {"autodiff"}):
        flat, _ = jax.flatten_util.ravel_pytree(gradients[name])
        errors[name] = float(jnp.linalg.norm(flat - oracle) / jnp.linalg.norm(oracle))
    return errors


def as_table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    header = [
        "coordinates",
        "method",
        "naive / time",
        "time / forward",
        "time / floor",
        "temporary MiB",
        "naive / memory",
    ]
    rows = []
    for result in results:
        over_floor = result["time_over_floor"]
        row = [
            f"{result['coordinates']:,}",
            result["method"],
            result["naive_over_time"],
            result["time_over_forward"],
            over_floor and common.number(over_floor.median),
            common.number(result["temporary_bytes"] / common.MIB),
            common.times_as(result["naive_over_memory"]),
        ]
        rows.append(row)
    if common.show_milliseconds():
        header.append("ms")
        for row, result in zip(rows, results, strict=True):
            seconds = result["seconds"]
            row.append(seconds and common.spread(np.multiply(1e3, seconds)))
    return common.table(header, rows)


def as_text(results: list[dict], errors: dict[int, dict[str, float]]) -> str:
    """The table, and a line for each size on how well the gradients agree."""
    lines = [as_table(results), ""]
    for size, of_size in errors.items():
        shown = ", ".join(_error(name, error) for name, error in of_size.items())
        shown = shown or "not known, autodiff was not run"
        lines.append(
            f"- {size:,} coordinates, relative error of the gradient against autodiff: {shown}."
        )
    return "\n".join(lines)


def _error(name: str, error: float) -> str:
    warning = "" if error <= TOLERANCE else " (NOT THE SAME GRADIENT: do not compare)"
    return f"{name} {error:.1e}{warning}"


def as_figure(results: list[dict]) -> figure.Figure:
    """Time in forward unrolls, and temporary memory, against the number of coordinates."""
    fig, (time_ax, memory_ax) = common.new_axes(2)
    for name, mine in common.grouped(results, "method").items():
        timed = [result for result in mine if result["time_over_forward"]]
        if timed:
            sizes = common.column(timed, "coordinates")
            common.draw(time_ax, sizes, common.column(timed, "time_over_forward"), name)
        mebibytes = np.divide(common.column(mine, "temporary_bytes"), common.MIB)
        memory_ax.plot(common.column(mine, "coordinates"), mebibytes, "o-", label=name)
    time_ax.set(xlabel="coordinates", ylabel="time / forward unroll")
    time_ax.set(title="What a meta-gradient costs")
    memory_ax.set(xlabel="coordinates", ylabel="MiB", title="Temporary memory")
    memory_ax.legend()
    return fig


def main() -> None:
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("meta_gradient")
    shape = cases.IMAGE_SHAPES[_PROBLEM.value or common.by_default("mnist", "digits")]
    window = _WINDOW.value or common.by_default(20, 5)
    max_bytes = _MAX_GIB.value * 1024 * common.MIB
    results, errors = [], {}
    machine = floor.Machine(settings.quick)
    for width in _sizes():
        case = cases.make(shape, width, window, common.by_default((20, 20), (4,)))
        of_case, of_gradients = measure(case, settings.rounds, max_bytes, machine)
        results += of_case
        errors[case.num_coordinates] = of_gradients
    record = common.record(
        "meta_gradient",
        settings,
        image_shape=shape,
        window=window,
        relative_errors=errors,
        results=results,
    )
    common.report(settings.output, as_text(results, errors), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
