r"""How fast an optimizer is learned: steps a second, and the time until tuned Adam is beaten.

The optimizee is the paper's network for images, one hidden layer of sigmoid units and minibatches
of 128. The optimizer is learned_opt.lstm("mnist"), two layers of 20. It is meta-trained as
learned_opt.meta_train does it: a horizon of 100 steps in windows of 20, and after each window the
meta-gradient of its losses and a step of Adam on the optimizer's weights. The meta-gradient is
computed by

  naive          what one writes today: Flax's OptimizedLSTMCell, lax.scan, jax.grad through it
                 (benchmarks/naive.py)
  autodiff       estimators.Autodiff(), reverse mode through the whole window
  adjoint        estimators.Adjoint(), the default: nothing is differentiated through the optimizee
  coordinates=N  estimators.Adjoint(coordinates=N), the estimate from N coordinates, drawn anew for
                 each window; one for each of --coordinates, by default a sixteenth and a quarter

1. Steps a second. One horizon of each is timed in turns within each round, and the ratios are taken
round by round.

  naive / time    how many times as many steps a second as naive; median over rounds (quartiles)
  temporary MiB   memory that a horizon's program needs while it runs, beside its arguments and
                  results
  steps / s       steps of an optimizee a second, on an accelerator only (raw times are in
                  results.json everywhere)

2. Time to Adam. Adam's learning rate is tuned, on problems of its own. Then an optimizer is
meta-trained from each of --seeds seeds by the adjoint method and by each of its estimates, always
for --max_horizons horizons. After every --horizons_per_validation of them it is validated: the mean
loss at the last step of the horizon, on validation problems that stay the same throughout a run,
and on which tuned Adam is run as well. Adam counts as beaten at the first validation below its own
loss. Naive and autodiff are left out: their gradient is the adjoint's, so that but for rounding
they take as many horizons, and the first table tells how long those last.

  beaten          in how many seeds Adam was beaten within --max_horizons
  horizons        until then; median over those seeds (quartiles)
  time / adjoint  seconds of training until then, over those of the adjoint method with the same
                  seed; over the seeds in which both beat Adam
  best / Adam     the best validation loss of a run, over Adam's on the same problems; over all
                  seeds
  seconds         of training until Adam is beaten, on an accelerator only

Seconds are those of meta-training alone: neither compilation nor validation is in them. The picture
shows the best validation loss so far, over Adam's, against the time: on a CPU in units of the
adjoint method's mean horizon, thin lines for seeds and a thick one for their median.

The default problem is the embedded digits, and needs no data set. The default run takes about five
minutes on two CPU cores, --max_horizons=0 one: it leaves out the second part. --problem=mnist reads
TensorFlow Datasets:

    python -m benchmarks.meta_training --problem=mnist --data_dir=~/tensorflow_datasets \
        --coordinates=1000,4000
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import common, naive, racing
from learned_opt import data
from learned_opt.estimators import Adjoint, Autodiff, Estimator
from learned_opt.evaluation import baselines, timing
from learned_opt.meta import episode
from learned_opt.meta.optimizer import Bound
from learned_opt.optimizees import base as optimizee_base

_PROBLEM = flags.DEFINE_enum(
    "problem",
    "digits",
    data.DATASETS,
    "The data set that the optimizee learns; with --quick it is a quadratic function.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS directory that has the data set; not needed for digits."
)
_LEARNING_RATE = common.define_positive(
    "learning_rate", 0.01, "Meta-learning rate of Adam, constant."
)
_width = common.define_count("width", 20, 20, "Width of the optimizee's hidden layer")
_num_problems = common.define_count(
    "num_problems", 1, 1, "Problems that live at once in meta-training"
)
_coordinates = common.define_numbers(
    "coordinates",
    "From how many coordinates, of all parameters and problems "
    "together, the meta-gradient is estimated; by default a sixteenth and a quarter, "
    "with --quick a quarter.",
)
_seeds = common.define_count("seeds", 3, 2, "From how many seeds is meta-trained")
_max_horizons = common.define_count(
    "max_horizons", 150, 4, "Horizons of each meta-training", lower_bound=0
)
_per_validation = common.define_count(
    "horizons_per_validation", 10, 2, "Horizons between two validations"
)
_num_validation = common.define_count("num_validation", 20, 3, "Validation problems")
_tune_runs = common.define_count(
    "tune_runs", 20, 3, "Problems on which Adam's learning rate is tuned"
)
flags.adopt_module_key_flags(common)


def make_course(quick: bool) -> racing.Course:
    """The `racing.Course` that the flags ask for.

    Raises:
      ValueError: unless a whole number of validations fits.
    """
    if _max_horizons() % _per_validation():
        raise ValueError(
            f"--max_horizons={_max_horizons()} must be a multiple of "
            f"--horizons_per_validation={_per_validation()}."
        )
    num_steps, window = (10, 5) if quick else (100, 20)
    if quick:  # a single array of parameters and one layer compile in a fraction of the time
        opt = learned_opt.lstm("mnist", hidden_sizes=(4,))
        problem = learned_opt.optimizees.quadratic(8)
    else:
        opt = learned_opt.lstm("mnist")
        dataset = data.load(_PROBLEM.value, _DATA_DIR.value).train
        problem = learned_opt.optimizees.mlp(dataset, width=_width())
    return racing.Course(
        opt=opt,
        problem=problem,
        num_steps=num_steps,
        window=window,
        num_problems=_num_problems(),
        learning_rate=_LEARNING_RATE.value,
        max_horizons=_max_horizons(),
        horizons_per_validation=_per_validation(),
        num_validation=_num_validation(),
        tune_runs=_tune_runs(),
    )


def num_coordinates(course: racing.Course) -> int:
    """Parameters of all optimizees that live at once."""
    return course.num_problems * common.num_coordinates(course.problem)


def estimates(course: racing.Course, coordinates: Sequence[int]) -> dict[str, Estimator]:
    """Dict from name to estimator, the whole gradient first."""
    methods: dict[str, Estimator] = {racing.WHOLE: Adjoint(course.window)}
    for number in coordinates:
        methods[f"coordinates={number}"] = Adjoint(course.window, coordinates=number)
    return methods


def programs(course: racing.Course, methods: dict[str, Estimator]) -> dict[str, tuple]:
    """Dict from name to `(compiled program of a horizon, its arguments)`."""
    estimators: dict[str, Any] = {
        "naive": naive.Estimator(course.window),
        "autodiff": Autodiff(course.window),
        **methods,
    }
    bar = tqdm.tqdm(estimators.items(), "compiling", unit="method", leave=False)
    return {name: _program(course, estimator) for name, estimator in bar}


def _program(course: racing.Course, estimator: Estimator) -> tuple:
    plan = episode.Plan(
        opt=course.opt,
        estimator=estimator,
        optimizer=Bound(learned_opt.ClippedAdam(schedule="constant"), num_updates=1),
        num_steps=course.num_steps,
        num_problems=course.num_problems,
        family_weights=(1.0,),
        share=episode.Share(0.0, 1.0, 1),
        selection="last",
        validation_steps=course.num_steps,
        validation_weights=(1.0,),
    )
    families = (optimizee_base.as_family(course.problem),)
    key = jax.random.key(1)
    phi = course.opt.init(jax.random.key(0))
    state = episode.init(plan, families, key, phi, jnp.asarray(course.learning_rate))
    args = (
        families,
        key,
        jnp.ones((plan.num_windows, course.window)),
        state.window,
        jnp.int32(plan.num_windows),
        jax.tree.map(episode.own, state),
    )
    return common.compiled(functools.partial(episode.run, plan), *args), args


def measure_speed(
    course: racing.Course,
    methods: dict[str, Estimator],
    rounds: int,
) -> list[dict]:
    """Times a horizon of every method; returns one dict for each."""
    every = programs(course, methods)
    calls = {name: functools.partial(program, *args) for name, (program, args) in every.items()}
    times = timing.interleaved(calls, rounds, "steps a second")
    steps = course.num_steps * course.num_problems
    results = []
    for name, (program, _) in every.items():
        result = {
            "method": name,
            "seconds": times[name],
            "steps_per_second": common.spread(np.divide(steps, times[name])),
            "naive_over_time": common.ratio(times, "naive", name),
            "temporary_bytes": common.temporary_bytes(program),
        }
        results.append(result)
    return results


def speed_table(results: list[dict]) -> str:
    """Steps a second as a Markdown table."""
    header = ["method", "naive / time", "temporary MiB"]
    rows = []
    for result in results:
        mebibytes = common.number(result["temporary_bytes"] / common.MIB)
        rows.append([result["method"], result["naive_over_time"], mebibytes])
    if common.show_milliseconds():
        header.append("steps / s")
        _append_column(rows, common.column(results, "steps_per_second"))
    return common.table(header, rows)


def _append_column(rows: list[list], cells: Sequence[Any]) -> None:
    for row, cell in zip(rows, cells, strict=True):
        row.append(cell)


def race_table(summaries: list[dict]) -> str:
    """The time to Adam as a Markdown table."""
    header = ["method", "beaten", "horizons", f"time / {racing.WHOLE}", "best / Adam"]
    rows = []
    for summary in summaries:
        row = [
            summary["method"],
            f"{summary['reached']} of {summary['seeds']}",
            summary["horizons_to_adam"] or "not reached",
            summary["time_over_whole"],
            summary["loss_over_adam"],
        ]
        rows.append(row)
    if common.show_milliseconds():
        header.append("seconds")
        _append_column(rows, common.column(summaries, "seconds_to_adam"))
    return common.table(header, rows)


def as_text(
    course: racing.Course,
    speed: list[dict],
    summaries: list[dict],
    adam: baselines.Tuned | None,
) -> str:
    """Both tables, each under a line that says what it is."""
    name = common.by_default(_PROBLEM.value, "quadratic")
    parts = [
        f"Steps a second, {name}, {num_coordinates(course):,} coordinates:",
        speed_table(speed),
    ]
    if adam is not None:
        title = (
            f"Time to Adam, tuned to a learning rate of {adam.learning_rate:.3g}, in at most "
            f"{course.max_horizons} horizons:"
        )
        parts += [title, race_table(summaries)]
    return "\n\n".join(parts)


def as_figure(speed: list[dict], runs: list[dict]) -> figure.Figure:
    """Steps a second beside naive's, and the validation loss against the time."""
    fig, axes = common.new_axes(2 if runs else 1)
    _draw_speed(axes[0], speed)
    if runs:
        _draw_race(axes[1], runs)
    return fig


def _draw_speed(ax: Any, results: list[dict]) -> None:
    low, median, high = np.transpose(common.column(results, "naive_over_time"))
    ax.set(xscale="linear", yscale="linear", title="Steps a second")
    ax.set(xlabel="steps a second / naive")
    bars = [median - low, high - median]
    ax.barh(common.column(results, "method"), median, xerr=bars, capsize=3)
    ax.invert_yaxis()


def _draw_race(ax: Any, runs: list[dict]) -> None:
    unit = 1.0 if common.show_milliseconds() else _mean_horizon(runs)
    for i, (name, mine) in enumerate(common.grouped(runs, "method").items()):
        times = np.array(common.column(mine, "seconds")) / unit
        losses = np.array([_best_so_far(run) for run in mine])
        color = f"C{i}"
        ax.plot(times.T, losses.T, color=color, linewidth=0.7, alpha=0.5)
        medians = np.median(times, axis=0), np.median(losses, axis=0)
        ax.plot(*medians, color=color, linewidth=2, label=name)
    ax.axhline(1, color="black", linestyle="--", label="tuned Adam")
    ax.set(xscale="linear", ylabel="best validation loss so far / Adam's", title="Time to Adam")
    if common.show_milliseconds():
        ax.set(xlabel="seconds of training")
    else:
        ax.set(xlabel=f"time of training, in horizons of {racing.WHOLE}")
    # Never a power of ten: the losses lie close together.
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.legend()


def _best_so_far(run: dict) -> np.ndarray:
    return np.minimum.accumulate(run["validation_losses"]) / run["adam_loss"]


def _mean_horizon(runs: list[dict]) -> float:
    whole = common.grouped(runs, "method")[racing.WHOLE]
    return float(np.mean([run["seconds"][-1] / run["horizons"][-1] for run in whole]))


def main() -> None:
    """Measures what the flags ask for, and reports."""
    settings = common.settings("meta_training")
    course = make_course(settings.quick)
    whole = num_coordinates(course)
    parts = (4,) if settings.quick else (16, 4)
    coordinates = _coordinates() or [max(1, whole // part) for part in parts]
    methods = estimates(course, coordinates)
    speed = measure_speed(course, methods, settings.rounds)
    adam, runs = None, []
    if course.max_horizons:
        adam, runs = racing.race(course, methods, _seeds())
    summaries = racing.summarize(runs)
    record = common.record(
        "meta_training",
        settings,
        problem=common.by_default(_PROBLEM.value, "quadratic"),
        coordinates=whole,
        course=_plain(course),
        adam=adam and _plain(adam),
        speed=speed,
        time_to_adam=summaries,
        runs=runs,
    )
    text = as_text(course, speed, summaries, adam)
    common.report(settings.output, text, record, as_figure(speed, runs))


def _plain(settings: Any) -> dict:
    """The numbers and names of a NamedTuple."""
    fields = settings._asdict().items()
    return {name: value for name, value in fields if isinstance(value, (int, float, str))}


if __name__ == "__main__":
    common.run(main)
