"""What a meta-gradient costs: the adjoint method beside autodiff, in time and in temporary memory.

The optimizee is the paper's network for MNIST, one hidden layer of sigmoid units and minibatches of 128, on random
images of MNIST's shape (no data set is needed; the cost does not depend on what the images show). The optimizer is
learned_opt.lstm("mnist"), two layers of 20. One window is unrolled, and the gradient of the sum of its losses with
respect to the optimizer's weights is computed by

  naive      what one writes today: Flax's OptimizedLSTMCell, lax.scan, jax.grad through it (benchmarks/naive.py)
  autodiff   learned_opt.meta_gradient(method="autodiff"), reverse mode through the whole unroll
  adjoint    learned_opt.meta_gradient(method="adjoint"), the default: nothing is differentiated through the optimizee
  forward    no gradient at all: learned_opt.unroll of the same window, the floor

Columns:
  coordinates       parameters of the optimizee
  naive / time      how many times as fast as naive; median over rounds (quartiles)
  time / forward    cost in forward unrolls; median over rounds (quartiles)
  time / floor      how many times as long as the machine needs at least for the method's own multiplications, at the
                    rate of multiplying large matrices in the same rounds: the network forward and twice backward, once
                    more forward for adjoint, and the optimizee; median
  temporary MiB     memory that the program needs while it runs, beside its arguments and results
  naive / memory    how many times less of it than naive
  ms                milliseconds a meta-gradient, on an accelerator only (raw times are in results.json everywhere)

All are timed in turns within each round, and the ratios are taken round by round. Below the table stands the
relative error between the three gradients: some 1e-7 on a CPU, and up to 1e-3 on an accelerator that multiplies
float32 matrices in a smaller format. More than 1e-2 is marked: such programs do not compare. A program that needs more
than --max_gib of temporary memory is not run: its memory is known from its compilation.

--sizes takes the widths of the optimizee's hidden layer, one measurement for each; for MNIST, a width of h gives
795 h + 10 coordinates, and 1258 a million. The default run takes one to two minutes on two CPU cores, and 2 GB of
memory.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from absl import flags

import learned_opt
from benchmarks import cases, common, floor, naive
from learned_opt.evaluation import environment, timing

TOLERANCE = 1e-2  # gradients that differ by more are not gradients of the same thing

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


def programs(case):
    """Dict from name to compiled program of `(phi, problem, key)`; all but forward give `(loss, gradient like phi)`."""
    opt, window = case.opt, case.window

    def by_flax(phi, problem, key):
        loss, gradient = naive.meta_gradient(
            naive.like(opt), naive.from_learned(phi), problem, key, window
        )
        return loss, naive.gradient_to_learned(phi, gradient)

    def by(method):
        return lambda phi, problem, key: learned_opt.meta_gradient(
            opt, phi, problem, key, window, method=method
        )

    def forward(phi, problem, key):
        return learned_opt.unroll(opt.transform(phi), problem, key, window).losses

    functions = {
        "naive": by_flax,
        "autodiff": by("autodiff"),
        "adjoint": by("adjoint"),
        "forward": forward,
    }
    return {
        name: common.compiled(f, case.phi, case.problem, case.key) for name, f in functions.items()
    }


def measure(case, rounds, max_bytes, machine):
    """Times all programs of a case.

    Returns:
      `(one dict for each program, {name: relative error of its gradient})`; programs above `max_bytes` of temporary
      memory have no times, and no error.
    """
    every = programs(case)
    memory = {name: common.temporary_bytes(program) for name, program in every.items()}
    args = case.phi, case.problem, case.key
    runs = {name: lambda p=p: p(*args) for name, p in every.items() if memory[name] <= max_bytes}
    times = timing.interleaved(
        {**runs, **machine.programs()}, rounds, f"{case.num_coordinates:,} coordinates"
    )
    results = [
        {
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
        for name in every
    ]
    return results, relative_errors(
        {name: run()[1] for name, run in runs.items() if name != "forward"}
    )


# How often a method runs the network over the window, a product backward counted as two.
PASSES = {"naive": 3, "autodiff": 3, "adjoint": 4, "forward": 1}


def _over_floor(case, name, times, machine):
    if name not in times:
        return None
    network = PASSES[name] * case.window * floor.network_operations(case.phi)
    optimizee = (
        6 * cases.BATCH_SIZE * (case.window + 1)
    )  # three products of the minibatch with each weight
    return common.spread(
        machine.over_floor(times, name, floor.Work(case.num_coordinates * (network + optimizee)))
    )


def relative_errors(gradients):
    """Dict from name to the norm of a gradient's distance to that of autodiff, divided by the norm of the latter."""
    flat = {name: jax.flatten_util.ravel_pytree(g)[0] for name, g in gradients.items()}
    if "autodiff" not in flat:
        return {}
    oracle = flat.pop("autodiff")
    return {
        name: float(jnp.linalg.norm(g - oracle) / jnp.linalg.norm(oracle))
        for name, g in flat.items()
    }


def as_table(results):
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
    rows = [
        [
            f"{r['coordinates']:,}",
            r["method"],
            r["naive_over_time"],
            r["time_over_forward"],
            r["time_over_floor"] and common.number(r["time_over_floor"].median),
            common.number(r["temporary_bytes"] / common.MIB),
            common.times_as(r["naive_over_memory"]),
        ]
        for r in results
    ]
    if common.show_milliseconds():
        header.append("ms")
        rows = [
            [*row, r["seconds"] and common.spread(np.multiply(1e3, r["seconds"]))]
            for row, r in zip(rows, results, strict=True)
        ]
    return common.table(header, rows)


def as_text(results, errors):
    """The table, and a line for each size on how well the gradients agree."""
    lines = [
        f"- {n:,} coordinates, relative error of the gradient against autodiff: "
        + (", ".join(map(_error, e, e.values())) or "not known, autodiff was not run")
        + "."
        for n, e in errors.items()
    ]
    return "\n".join([as_table(results), "", *lines])


def _error(name, error):
    return f"{name} {error:.1e}" + (
        "" if error <= TOLERANCE else " (NOT THE SAME GRADIENT: do not compare)"
    )


def as_figure(results):
    """Time in forward unrolls, and temporary memory, against the number of coordinates."""
    fig, (time_ax, memory_ax) = common.new_axes(2)
    for name in dict.fromkeys(r["method"] for r in results):
        mine = [r for r in results if r["method"] == name]
        timed = [r for r in mine if r["time_over_forward"]]
        if timed:
            common.draw(
                time_ax,
                [r["coordinates"] for r in timed],
                [r["time_over_forward"] for r in timed],
                name,
            )
        memory_ax.plot(
            [r["coordinates"] for r in mine],
            [r["temporary_bytes"] / common.MIB for r in mine],
            "o-",
            label=name,
        )
    time_ax.set(
        xlabel="coordinates", ylabel="time / forward unroll", title="What a meta-gradient costs"
    )
    memory_ax.set(xlabel="coordinates", ylabel="MiB", title="Temporary memory")
    memory_ax.legend()
    return fig


def main():
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("meta_gradient")
    shape = cases.IMAGE_SHAPES[_PROBLEM.value or ("digits" if settings.quick else "mnist")]
    window = _WINDOW.value or (5 if settings.quick else 20)
    results, errors = [], {}
    machine = floor.Machine(settings.quick)
    for width in _sizes():
        case = cases.make(shape, width, window)
        of_case, errors[case.num_coordinates] = measure(
            case, settings.rounds, _MAX_GIB.value * 1024 * common.MIB, machine
        )
        results += of_case
    record = {
        "benchmark": "meta_gradient",
        "rounds": settings.rounds,
        "quick": settings.quick,
        "image_shape": shape,
        "window": window,
        "environment": environment.record(),
        "relative_errors": errors,
        "results": results,
    }
    common.report(settings.output, as_text(results, errors), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
