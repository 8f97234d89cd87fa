"""How fast an optimizer is learned: steps a second, and the time until tuned Adam is beaten.

The optimizee is the paper's network for images, one hidden layer of sigmoid units and minibatches of 128; the optimizer
is learned_opt.lstm("mnist"), two layers of 20. It is meta-trained as learned_opt.meta_train does it: a horizon of 100
steps in windows of 20, and after each window the meta-gradient of its losses and a step of Adam on the optimizer's
weights. The meta-gradient is computed by

  naive          what one writes today: Flax's OptimizedLSTMCell, lax.scan, jax.grad through it (benchmarks/naive.py)
  autodiff       method="autodiff", reverse mode through the whole window
  adjoint        method="adjoint", the default: nothing is differentiated through the optimizee
  coordinates=N  the adjoint method's estimate from N coordinates, drawn anew for each window; one for each of
                 --coordinates, by default a sixteenth and a quarter of all

1. Steps a second. One horizon of each is timed in turns within each round, and the ratios are taken round by round.

  naive / time    how many times as many steps a second as naive; median over rounds (quartiles)
  temporary MiB   memory that a horizon's program needs while it runs, beside its arguments and results
  steps / s       steps of an optimizee a second, on an accelerator only (raw times are in results.json everywhere)

2. Time to Adam. Adam's learning rate is tuned, on problems of its own. Then an optimizer is meta-trained from each of
--seeds seeds by the adjoint method and by each of its estimates, always for --max_horizons horizons, and after every
--horizons_per_validation of them it is validated: the mean loss at the last step of the horizon, on validation problems
that stay the same throughout a run, and on which tuned Adam is run as well. Adam counts as beaten at the first
validation below its own loss. Naive and autodiff are left out: their gradient is the adjoint's, so that but for
rounding they take as many horizons, and the first table tells how long those last.

  beaten          in how many seeds Adam was beaten within --max_horizons
  horizons        until then; median over those seeds (quartiles)
  time / adjoint  seconds of training until then, over those of the adjoint method with the same seed; over the seeds in
                  which both beat Adam
  best / Adam     the best validation loss of a run, over Adam's on the same problems; over all seeds
  seconds         of training until Adam is beaten, on an accelerator only

Seconds are those of meta-training alone: neither compilation nor validation is in them. The picture shows the best
validation loss so far, over Adam's, against the time: on a CPU in units of the adjoint method's mean horizon, thin
lines for seeds and a thick one for their median.

The default problem is the embedded digits, and needs no data set. The default run takes about five minutes on two CPU
cores, --max_horizons=0 one: it leaves out the second part. --problem=mnist reads TensorFlow Datasets:

    python -m benchmarks.meta_training --problem=mnist --data_dir=~/tensorflow_datasets --coordinates=1000,4000
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import app, flags

import learned_opt
from benchmarks import common, naive, racing
from learned_opt import data
from learned_opt.evaluation import environment, timing
from learned_opt.meta import episode
from learned_opt.meta import gradient as gradient_lib

_PROBLEM = flags.DEFINE_enum(
    "problem", "digits", data.DATASETS, "The data set that the optimizee learns."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS directory that has the data set; not needed for digits."
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 0.01, "Meta-learning rate of Adam, constant.", lower_bound=1e-12
)
_width = common.define_count("width", 20, 4, "Width of the optimizee's hidden layer")
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


def make_course(quick):
    """The `racing.Course` that the flags ask for.

    Raises:
      UsageError: unless a whole number of validations fits.
    """
    if _max_horizons() % _per_validation():
        raise app.UsageError(
            f"--max_horizons={_max_horizons()} must be a multiple of "
            f"--horizons_per_validation={_per_validation()}."
        )
    num_steps, window = (10, 5) if quick else (100, 20)
    dataset = data.load(_PROBLEM.value, _DATA_DIR.value).train
    return racing.Course(
        learned_opt.lstm("mnist"),
        learned_opt.optimizees.mlp(dataset, width=_width()),
        num_steps,
        window,
        _num_problems(),
        _LEARNING_RATE.value,
        _max_horizons(),
        _per_validation(),
        _num_validation(),
        _tune_runs(),
    )


def num_coordinates(course):
    """Parameters of all optimizees that live at once."""
    return course.num_problems * common.num_coordinates(course.problem)


def estimates(coordinates):
    """Dict from name to `coordinates` of `learned_opt.meta_train`, the whole gradient first."""
    return {racing.WHOLE: None, **{f"coordinates={n}": n for n in coordinates}}


def programs(course, methods):
    """Dict from name to `(compiled program of a horizon, its arguments)`."""
    windows = {
        "naive": gradient_lib.Windows(naive.begin, naive.window),
        "autodiff": gradient_lib.windows_of("autodiff"),
        **{name: gradient_lib.windows_of(coordinates=n) for name, n in methods.items()},
    }
    bar = tqdm.tqdm(windows.items(), "compiling", unit="method", leave=False)
    return {name: _program(course, w) for name, w in bar}


def _program(course, windows):
    plan = episode.Plan(
        course.opt,
        windows,
        course.num_steps // course.window,
        (),
        course.window,
        course.num_problems,
        clip_norm=1.0,
        schedule=episode.FOREVER,
        selection="last",
        validation_steps=course.num_steps,
        imitation=None,
    )
    args = (
        course.problem,
        jax.random.key(1),
        jnp.ones((plan.num_windows, plan.window)),
        episode.init(plan, jax.random.key(0), None, course.learning_rate),
    )
    return common.compiled(functools.partial(episode.run, plan), *args), args


def measure_speed(course, methods, rounds):
    """Times a horizon of every method; returns one dict for each."""
    every = programs(course, methods)
    times = timing.interleaved(
        {name: functools.partial(program, *args) for name, (program, args) in every.items()},
        rounds,
        "steps a second",
    )
    steps = course.num_steps * course.num_problems
    return [
        {
            "method": name,
            "seconds": times[name],
            "steps_per_second": common.spread(np.divide(steps, times[name])),
            "naive_over_time": common.ratio(times, "naive", name),
            "temporary_bytes": common.temporary_bytes(program),
        }
        for name, (program, _) in every.items()
    ]


def speed_table(results):
    """Steps a second as a Markdown table."""
    header = ["method", "naive / time", "temporary MiB"]
    rows = [
        [r["method"], r["naive_over_time"], common.number(r["temporary_bytes"] / common.MIB)]
        for r in results
    ]
    if common.show_milliseconds():
        header.append("steps / s")
        rows = [[*row, r["steps_per_second"]] for row, r in zip(rows, results, strict=True)]
    return common.table(header, rows)


def race_table(summaries):
    """The time to Adam as a Markdown table."""
    header = ["method", "beaten", "horizons", f"time / {racing.WHOLE}", "best / Adam"]
    rows = [
        [
            s["method"],
            f"{s['reached']} of {s['seeds']}",
            s["horizons_to_adam"] or "not reached",
            s["time_over_whole"],
            s["loss_over_adam"],
        ]
        for s in summaries
    ]
    if common.show_milliseconds():
        header.append("seconds")
        rows = [[*row, s["seconds_to_adam"]] for row, s in zip(rows, summaries, strict=True)]
    return common.table(header, rows)


def as_text(course, speed, summaries, adam):
    """Both tables, each under a line that says what it is."""
    parts = [
        f"Steps a second, {_PROBLEM.value}, {num_coordinates(course):,} coordinates:",
        speed_table(speed),
    ]
    if summaries:
        parts += [
            f"Time to Adam, tuned to a learning rate of {adam.learning_rate:.3g}, in at most "
            f"{course.max_horizons} horizons:",
            race_table(summaries),
        ]
    return "\n\n".join(parts)


def as_figure(speed, runs):
    """Steps a second beside naive's, and the validation loss against the time."""
    fig, axes = common.new_axes(2 if runs else 1)
    _draw_speed(axes[0], speed)
    if runs:
        _draw_race(axes[1], runs)
    return fig


def _draw_speed(ax, results):
    low, median, high = np.transpose([r["naive_over_time"] for r in results])
    ax.set(
        xscale="linear", yscale="linear", xlabel="steps a second / naive", title="Steps a second"
    )
    ax.barh([r["method"] for r in results], median, xerr=[median - low, high - median], capsize=3)
    ax.invert_yaxis()


def _draw_race(ax, runs):
    unit = 1.0 if common.show_milliseconds() else _mean_horizon(runs)
    for i, name in enumerate(dict.fromkeys(r["method"] for r in runs)):
        mine = [r for r in runs if r["method"] == name]
        times = np.array([r["seconds"] for r in mine]) / unit
        losses = np.array(
            [np.minimum.accumulate(r["validation_losses"]) / r["adam_loss"] for r in mine]
        )
        ax.plot(times.T, losses.T, color=f"C{i}", linewidth=0.7, alpha=0.5)
        ax.plot(
            np.median(times, axis=0),
            np.median(losses, axis=0),
            color=f"C{i}",
            linewidth=2,
            label=name,
        )
    ax.axhline(1, color="black", linestyle="--", label="tuned Adam")
    ax.set(
        xscale="linear",
        ylabel="best validation loss so far / Adam's",
        title="Time to Adam",
        xlabel="seconds of training"
        if unit == 1.0
        else f"time of training, in horizons of {racing.WHOLE}",
    )
    for axis_format in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis_format("{x:g}")  # never a power of ten: the losses lie close together
    ax.legend()


def _mean_horizon(runs):
    return float(
        np.mean([r["seconds"][-1] / r["horizons"][-1] for r in runs if r["method"] == racing.WHOLE])
    )


def main():
    """Measures what the flags ask for, and reports."""
    settings = common.settings("meta_training")
    course = make_course(settings.quick)
    whole = num_coordinates(course)
    methods = estimates(
        _coordinates() or [max(1, whole // n) for n in ((4,) if settings.quick else (16, 4))]
    )
    speed = measure_speed(course, methods, settings.rounds)
    adam, runs = racing.race(course, methods, _seeds()) if course.max_horizons else (None, [])
    summaries = racing.summarize(runs)
    record = {
        "benchmark": "meta_training",
        "rounds": settings.rounds,
        "quick": settings.quick,
        "problem": _PROBLEM.value,
        "coordinates": whole,
        "course": _plain(course),
        "adam": adam and _plain(adam),
        "environment": environment.record(),
        "speed": speed,
        "time_to_adam": summaries,
        "runs": runs,
    }
    common.report(
        settings.output, as_text(course, speed, summaries, adam), record, as_figure(speed, runs)
    )


def _plain(settings):
    """The numbers and names of a NamedTuple."""
    return {
        name: value
        for name, value in settings._asdict().items()
        if isinstance(value, (int, float, str))
    }


if __name__ == "__main__":
    common.run(main)
