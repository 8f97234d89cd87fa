"""What it costs that coordinates talk: LSTM+GAC, NTM-BFGS and NTM-L-BFGS beside the plain LSTM optimizer.

The optimizee is a perceptron with one hidden layer of sigmoid units and minibatches of 128, on random images of MNIST's
shape; all optimizers have two layers of 20 and the preset "mnist".

  lstm        learned_opt.lstm, the reference: no coordinate knows of another, and on a CPU the C++ loops run it
  lstm, XLA   learned_opt.lstm_gac(num_averaged=0): the same numbers on the way of the optimizers below, through XLA
  gac         learned_opt.lstm_gac(): 5 cells of each layer are averaged
  ntm-lbfgs   learned_opt.ntm_lbfgs(history=30): besides, one read head and three write heads on the last 30 pairs
  ntm-bfgs    learned_opt.ntm_bfgs(): the same on a whole matrix; only up to --max_dense coordinates

Columns:
  coordinates        parameters of the optimizee
  update / lstm      how many times as long as lstm's an update takes; median over rounds (quartiles)
  meta-gradient / lstm   the same of a meta-gradient over a window, all coordinates
  state B/param      bytes of optimizer state for each parameter, kept between steps
  temporary MiB      memory that the meta-gradient needs while it runs, beside its arguments and results
  memory / lstm      how many times as much of it as lstm's

All are timed in turns within each round, and the ratios are taken round by round. --sizes takes the widths of the
optimizee's hidden layer; a width of h gives 795 h + 10 coordinates. The default run takes minutes on two CPU cores.
"""

import jax
import jax.numpy as jnp
from absl import flags

import learned_opt
from benchmarks import cases, common
from learned_opt.evaluation import cost, environment, timing
from learned_opt.optimizees import base as optimizee_base

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


def optimizers(num_coordinates, max_dense):
    """Dict from name to `LearnedOptimizer`."""
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


def update_program(case):
    """The optimizer's update alone, compiled, with its arguments."""
    tx = case.opt.transform(case.phi)
    theta = optimizee_base.begin(case.problem, case.key).theta_0
    gradient = jax.tree.map(lambda x: 0.1 * x + 0.01, theta)
    state = jax.jit(tx.init)(theta)
    program = common.compiled(tx.update, gradient, state, theta)
    return lambda: program(gradient, state, theta)


def meta_gradient_program(case):
    """A meta-gradient over a window, compiled, with its arguments: `(run, temporary bytes)`."""
    args = case.phi, case.problem, case.key
    program = common.compiled(
        lambda phi, problem, key: learned_opt.meta_gradient(
            case.opt, phi, problem, key, case.window
        ),
        *args,
    )
    return lambda: program(*args), common.temporary_bytes(program)


def measure(problem, window, rounds, max_dense):
    """Times all optimizers on one optimizee; returns one dict for each of them."""
    size, key = common.num_coordinates(problem), jax.random.key(1)
    made = {
        name: cases.Case(opt, opt.init(jax.random.key(0)), problem, key, window)
        for name, opt in optimizers(size, max_dense).items()
    }
    updates = {name: update_program(case) for name, case in made.items()}
    meta_gradients, memory = {}, {}
    for name, case in made.items():
        meta_gradients[name], memory[name] = meta_gradient_program(case)
    update_times = timing.interleaved(updates, rounds, f"{size:,} coordinates, updates")
    times = timing.interleaved(meta_gradients, rounds, f"{size:,} coordinates, meta-gradients")
    vector = jnp.zeros(size)
    return [
        {
            "coordinates": size,
            "optimizer": name,
            "update_seconds": update_times[name],
            "seconds": times[name],
            "update_over_lstm": common.ratio(update_times, name, REFERENCE),
            "time_over_lstm": common.ratio(times, name, REFERENCE),
            "state_bytes_per_parameter": cost.state_bytes_per_parameter(
                case.opt.transform(case.phi), vector
            ),
            "temporary_bytes": memory[name],
            "memory_over_lstm": memory[name] / memory[REFERENCE],
        }
        for name, case in made.items()
    ]


def as_table(results):
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
    return common.table(
        header,
        [
            [
                f"{r['coordinates']:,}",
                r["optimizer"],
                r["update_over_lstm"],
                r["time_over_lstm"],
                common.number(r["state_bytes_per_parameter"]),
                common.number(r["temporary_bytes"] / common.MIB),
                common.times_as(r["memory_over_lstm"]),
            ]
            for r in results
        ],
    )


def as_figure(results):
    """Time and memory of a meta-gradient, relative to the LSTM's, against the number of coordinates."""
    fig, (time_ax, memory_ax) = common.new_axes(2)
    for name in dict.fromkeys(r["optimizer"] for r in results):
        mine = [r for r in results if r["optimizer"] == name]
        sizes = [r["coordinates"] for r in mine]
        common.draw(time_ax, sizes, [r["time_over_lstm"] for r in mine], name)
        memory_ax.plot(sizes, [r["memory_over_lstm"] for r in mine], "o-", label=name)
    time_ax.set(xlabel="coordinates", ylabel="time / lstm", title="What a meta-gradient costs")
    memory_ax.set(xlabel="coordinates", ylabel="temporary memory / lstm", title="Temporary memory")
    memory_ax.legend()
    return fig


def main():
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("communicating")
    window = _WINDOW.value or (3 if settings.quick else 20)
    results = []
    for size in _sizes():
        # A single array of parameters compiles in a fraction of the time.
        problem = (
            learned_opt.optimizees.quadratic(size)
            if settings.quick
            else cases.make(cases.IMAGE_SHAPES["mnist"], size, window).problem
        )
        results += measure(problem, window, settings.rounds, _max_dense())
    record = {
        "benchmark": "communicating",
        "rounds": settings.rounds,
        "quick": settings.quick,
        "window": window,
        "environment": environment.record(),
        "results": results,
    }
    common.report(settings.output, as_table(results), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
