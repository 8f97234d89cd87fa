"""What it costs that coordinates talk: LSTM+GAC, NTM-BFGS and NTM-L-BFGS beside the plain LSTM.

The optimizee is a perceptron with one hidden layer of sigmoid units and minibatches of 128, on
random images of MNIST's shape; all optimizers have two layers of 20 and the preset "mnist".

  lstm        learned_opt.lstm, the reference: no coordinate knows of another, and on a CPU the C++
              loops run it
  lstm, XLA   learned_opt.lstm_gac(num_averaged=0): the same numbers on the way of the optimizers
              below, through XLA
  gac         learned_opt.lstm_gac(): 5 cells of each layer are averaged
  ntm-lbfgs   learned_opt.ntm_lbfgs(history=30): besides, one read head and three write heads on the
              last 30 pairs
  ntm-bfgs    learned_opt.ntm_bfgs(): the same on a whole matrix; only up to --max_dense coordinates

Columns:
  coordinates            parameters of the optimizee
  update / lstm          how many times as long as lstm's an update takes; median over rounds
                         (quartiles)
  meta-gradient / lstm   the same of a meta-gradient over a window, all coordinates
  state B/param          bytes of optimizer state for each parameter, kept between steps
  temporary MiB          memory that the meta-gradient needs while it runs, beside its arguments and
                         results
  memory / lstm          how many times as much of it as lstm's

All are timed in turns within each round, and the ratios are taken round by round. --sizes takes the
widths of the optimizee's hidden layer; a width of h gives 795 h + 10 coordinates. The default run
takes minutes on two CPU cores.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import cases, common
from learned_opt.evaluation import cost, timing
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers.base import LearnedOptimizer, Phi

REFERENCE = "lstm"
_WINDOW = flags.DEFINE_integer(
    "window", None, "Steps of a window; by default 20, with --quick 3.", lower_bound=1
)
_max_dense = common.define_count(
    "max_dense", 1_000, 1_000, "Coordinates up to which the whole matrix is measured"
)
_sizes = common.define_sizes(
    [1, 5, 20],
    [30],
    "Widths of the optimizee's hidden layer; with --quick, coordinates of a quadratic function",
)
flags.adopt_module_key_flags(common)


def optimizers(num_coordinates: int, max_dense: int) -> dict[str, LearnedOptimizer]:
    """The optimizers by name."""
    every = {
        REFERENCE: learned_opt.lstm("mnist"),
        "lstm, XLA": learned_opt.lstm_gac("mnist", num_averaged=0),
        "gac": learned_opt.lstm_gac("mnist"),
        "ntm-lbfgs": learned_opt.ntm_lbfgs("mnist"),
        "ntm-bfgs": learned_opt.ntm_bfgs("mnist"),
    }
    if num_coordinates > max_dense:
        del every["ntm-bfgs"]
    return every


def update_program(case: cases.Case) -> Callable[[], Any]:
    """The optimizer's update alone, compiled, with its arguments."""
    tx = case.opt.transform(case.phi)
    family = optimizee_base.as_family(case.problem)
    theta = optimizee_base.begin(family, case.key).theta_0
    gradient = jax.tree.map(lambda x: 0.1 * x + 0.01, theta)
    state = jax.jit(tx.init)(theta)
    program = common.compiled(tx.update, gradient, state, theta)
    return lambda: program(gradient, state, theta)


def meta_gradient_program(case: cases.Case) -> tuple[Callable[[], Any], int]:
    """A meta-gradient over a window, compiled, with its arguments: `(run, temporary bytes)`."""

    def meta_gradient(
        phi: Phi,
        problem: Any,
        key: jax.Array,
    ) -> tuple[jax.Array, Phi]:
        return learned_opt.meta_gradient(case.opt, phi, problem, key, case.window)

    args = case.phi, case.problem, case.key
    program = common.compiled(meta_gradient, *args)
    return lambda: program(*args), common.temporary_bytes(program)


def measure(
    problem: Any,
    window: int,
    rounds: int,
    max_dense: int,
) -> list[dict]:
    """Times all optimizers on one optimizee; returns one dict for each of them."""
    size, key = common.num_coordinates(problem), jax.random.key(1)
    made, updates, meta_gradients, memory = {}, {}, {}, {}
    for name, opt in optimizers(size, max_dense).items():
        case = cases.Case(opt, opt.init(jax.random.key(0)), problem, key, window)
        made[name] = case
        updates[name] = update_program(case)
        meta_gradients[name], memory[name] = meta_gradient_program(case)
    update_times = timing.interleaved(updates, rounds, f"{size:,} coordinates, updates")
    times = timing.interleaved(meta_gradients, rounds, f"{size:,} coordinates, meta-gradients")
    vector = jnp.zeros(size)
    results = []
    for name, case in made.items():
        state_bytes = cost.state_bytes_per_parameter((case.opt, case.phi), vector)
        result = {
            "coordinates": size,
            "optimizer": name,
            "update_seconds": update_times[name],
            "seconds": times[name],
            "update_over_lstm": common.ratio(update_times, name, REFERENCE),
            "time_over_lstm": common.ratio(times, name, REFERENCE),
            "state_bytes_per_parameter": state_bytes,
            "temporary_bytes": memory[name],
            "memory_over_lstm": memory[name] / memory[REFERENCE],
        }
        results.append(result)
    return results


def as_table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    header = [
        "coordinates",
        "optimizer",
        "update / lstm",
        "meta-gradient / lstm",
        "state B/param",
        "temporary MiB",
        "memory / lstm",
    ]
    rows = []
    for result in results:
        row = [
            f"{result['coordinates']:,}",
            result["optimizer"],
            result["update_over_lstm"],
            result["time_over_lstm"],
            common.number(result["state_bytes_per_parameter"]),
            common.number(result["temporary_bytes"] / common.MIB),
            common.times_as(result["memory_over_lstm"]),
        ]
        rows.append(row)
    return common.table(header, rows)


def as_figure(results: list[dict]) -> figure.Figure:
    """Time and memory of a meta-gradient, relative to the LSTM's, against the coordinates."""
    fig, (time_ax, memory_ax) = common.new_axes(2)
    for name, mine in common.grouped(results, "optimizer").items():
        sizes = common.column(mine, "coordinates")
        common.draw(time_ax, sizes, common.column(mine, "time_over_lstm"), name)
        memory_ax.plot(sizes, common.column(mine, "memory_over_lstm"), "o-", label=name)
    time_ax.set(xlabel="coordinates", ylabel="time / lstm", title="What a meta-gradient costs")
    memory_ax.set(xlabel="coordinates", ylabel="temporary memory / lstm", title="Temporary memory")
    memory_ax.legend()
    return fig


def main() -> None:
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("communicating")
    window = _WINDOW.value or common.by_default(20, 3)
    results = []
    for size in _sizes():
        if settings.quick:  # a single array of parameters compiles in a fraction of the time
            problem = learned_opt.optimizees.quadratic(size)
        else:
            problem = cases.make(cases.IMAGE_SHAPES["mnist"], size, window).problem
        results += measure(problem, window, settings.rounds, _max_dense())
    record = common.record("communicating", settings, window=window, results=results)
    common.report(settings.output, as_table(results), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
