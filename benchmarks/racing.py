"""Meta-training until tuned Adam is beaten, by whole meta-gradients and by estimates of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import learned_opt
from benchmarks import common
from learned_opt.estimators import Estimator
from learned_opt.evaluation import baselines
from learned_opt.meta import training
from learned_opt.meta.training import MetaTrainResult

WHOLE = "adjoint"  # the method's name where every coordinate counts
TUNE_SEED = 2**31 - 1  # none of the seeds that are raced


class Course(NamedTuple):
    """What is learned, and for how long; `horizons_per_validation` divides `max_horizons`."""

    opt: learned_opt.LearnedOptimizer
    problem: Any
    num_steps: int
    window: int
    num_problems: int
    learning_rate: float
    max_horizons: int
    horizons_per_validation: int
    num_validation: int
    tune_runs: int


def race(
    course: Course,
    methods: dict[str, Estimator],
    num_seeds: int,
) -> tuple[baselines.Tuned, list[dict]]:
    """Meta-trains with every method from every seed.

    Args:
      course: the `Course`.
      methods: dict from name to estimator; `WHOLE` is one of the names.
      num_seeds: from how many seeds.

    Returns:
      `(tuned Adam, one dict for each method and seed)`; see `_run`.
    """
    key = jax.random.key(TUNE_SEED)
    adam = baselines.tune("Adam", course.problem, key, course.num_steps, course.tune_runs)
    for estimator in tqdm.tqdm(methods.values(), "compiling", unit="method", leave=False):
        # No run's clock sees a compilation: later calls with the same settings find the programs.
        _meta_train(course, jax.random.key(0), estimator, callback=_stop, progress_bar=False)
    turns = []
    for seed in range(num_seeds):
        # All methods of a seed run one after another: a busy hour of the machine falls on all.
        turns += [(seed, name) for name in _rotated(list(methods), seed)]
    runs = []
    for seed, name in tqdm.tqdm(turns, "meta-training until Adam is beaten", unit="run"):
        runs.append(_run(course, adam, name, methods[name], seed))
    return adam, runs


def _stop(progress: learned_opt.Progress) -> bool:
    del progress
    return True


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _run(
    course: Course,
    adam: baselines.Tuned,
    name: str,
    estimator: Estimator,
    seed: int,
) -> dict:
    """One meta-training, validated as it goes, beside Adam on the same validation problems."""
    key = jax.random.key(seed)
    adam_loss = _final_loss(course, adam.tx, training.validation_key(key))
    shown = f"Adam {adam_loss:.4g}"
    history = _meta_train(course, key, estimator, progress_bar=shown).history
    losses = common.column(history, "validation_loss")
    seconds = common.column(history, "seconds")
    horizons = [course.horizons_per_validation * entry["epoch"] for entry in history]
    at = overtaken(losses, adam_loss)
    return {
        "method": name,
        "seed": seed,
        "adam_loss": adam_loss,
        "horizons": horizons,
        "seconds": seconds,
        "validation_losses": losses,
        "skipped": history[-1]["skipped"],
        "horizons_to_adam": None if at is None else horizons[at],
        "seconds_to_adam": None if at is None else seconds[at],
    }


def _meta_train(
    course: Course,
    key: jax.Array,
    estimator: Estimator,
    callback: Callable | None = None,
    progress_bar: bool | str = True,
) -> MetaTrainResult:
    return learned_opt.meta_train(
        course.opt,
        course.problem,
        key,
        num_steps=course.num_steps,
        num_problems=course.num_problems,
        num_epochs=course.max_horizons // course.horizons_per_validation,
        episodes_per_epoch=course.horizons_per_validation,
        estimator=estimator,
        # The rate stays: so the time to Adam does not depend on how long the race may last.
        optimizer=learned_opt.ClippedAdam(schedule="constant"),
        learning_rate=course.learning_rate,
        validation=learned_opt.Validation(course.num_validation),
        callback=callback,
        progress_bar=progress_bar,
    )


def _final_loss(
    course: Course,
    tx: optax.GradientTransformation,
    key: jax.Array,
) -> float:
    curves = learned_opt.evaluate(tx, course.problem, key, course.num_steps, course.num_validation)
    return float(jnp.mean(curves[:, -1]))


def overtaken(losses: Any, adam_loss: float) -> int | None:
    """At which validation the loss is below Adam's for the first time, or None."""
    below = np.flatnonzero(np.asarray(losses) < adam_loss)
    return int(below[0]) if below.size else None


def summarize(runs: list[dict]) -> list[dict]:
    """One dict for each method: over its seeds, how long it took to Adam and how far it came.

    Returns:
      Dicts of `method`, `seeds`, `reached` (in how many of them Adam was beaten), and the `Spread`s
      `horizons_to_adam`, `seconds_to_adam`, `time_over_whole` (of the seconds, seed by seed, where
      both got there) and `loss_over_adam` (the best validation loss of a run); None where there are
      no seeds to take it over.
    """
    methods = common.grouped(runs, "method")
    whole = {run["seed"]: run["seconds_to_adam"] for run in methods[WHOLE]} if runs else {}
    return [_summary(name, mine, whole) for name, mine in methods.items()]


def _summary(
    name: str,
    runs: list[dict],
    whole: dict[int, float | None],
) -> dict:
    there = [run for run in runs if run["seconds_to_adam"] is not None]
    both = [run for run in there if whole[run["seed"]] is not None]
    ratios = [run["seconds_to_adam"] / whole[run["seed"]] for run in both]
    best = [min(run["validation_losses"]) / run["adam_loss"] for run in runs]
    return {
        "method": name,
        "seeds": len(runs),
        "reached": len(there),
        "horizons_to_adam": _spread(common.column(there, "horizons_to_adam")),
        "seconds_to_adam": _spread(common.column(there, "seconds_to_adam")),
        "time_over_whole": _spread(ratios),
        "loss_over_adam": _spread(best),
    }


def _spread(values: list[float]) -> common.Spread | None:
    return common.spread(values) if values else None
