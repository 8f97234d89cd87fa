"""Meta-training until tuned Adam is beaten, by whole meta-gradients and by estimates of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import learned_opt
from benchmarks import common
from learned_opt.evaluation import baselines
from learned_opt.meta import training

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


def race(course, methods, num_seeds):
    """Meta-trains with every method from every seed.

    Args:
      course: the `Course`.
      methods: dict from name to `coordinates` of `learned_opt.meta_train`; `WHOLE` is one of the names.
      num_seeds: from how many seeds.

    Returns:
      `(tuned Adam, one dict for each method and seed)`; see `_run`.
    """
    adam = baselines.tune(
        "Adam", course.problem, jax.random.key(TUNE_SEED), course.num_steps, course.tune_runs
    )
    for coordinates in tqdm.tqdm(methods.values(), "compiling", unit="method", leave=False):
        # No run's clock sees a compilation: a second call with the same settings finds the programs of the first.
        _meta_train(
            course,
            jax.random.key(0),
            coordinates,
            num_epochs=1,
            episodes_per_epoch=1,
            progress_bar=False,
        )
    turns = [(seed, name) for seed in range(num_seeds) for name in _rotated(list(methods), seed)]
    # All methods of a seed run one after another, so that a busy hour of the machine falls on all of them.
    return adam, [
        _run(course, adam, name, methods[name], seed)
        for seed, name in tqdm.tqdm(turns, "meta-training until Adam is beaten", unit="run")
    ]


def _rotated(names, by):
    by %= len(names)
    return names[by:] + names[:by]


def _run(course, adam, name, coordinates, seed):
    """One meta-training, validated as it goes, beside Adam on the same validation problems."""
    key = jax.random.key(seed)
    adam_loss = _final_loss(course, adam.tx, training.validation_key(key))
    result = _meta_train(
        course,
        key,
        coordinates,
        num_epochs=course.max_horizons // course.horizons_per_validation,
        episodes_per_epoch=course.horizons_per_validation,
        reference=("Adam", adam_loss),
    )
    losses = [entry["validation_loss"] for entry in result.history]
    seconds = [entry["seconds"] for entry in result.history]
    at = overtaken(losses, adam_loss)
    return {
        "method": name,
        "coordinates": coordinates,
        "seed": seed,
        "adam_loss": adam_loss,
        "horizons": [course.horizons_per_validation * entry["epoch"] for entry in result.history],
        "seconds": seconds,
        "validation_losses": losses,
        "skipped": result.skipped,
        "horizons_to_adam": None if at is None else course.horizons_per_validation * (at + 1),
        "seconds_to_adam": None if at is None else seconds[at],
    }


def _meta_train(course, key, coordinates, **settings):
    # A rate that stays lets the time to Adam not depend on how long the race may last.
    return learned_opt.meta_train(
        course.opt,
        course.problem,
        key,
        num_steps=course.num_steps,
        window=course.window,
        num_problems=course.num_problems,
        num_validation=course.num_validation,
        learning_rate=course.learning_rate,
        schedule="constant",
        coordinates=coordinates,
        **settings,
    )


def _final_loss(course, tx, key):
    curves = learned_opt.evaluate(tx, course.problem, key, course.num_steps, course.num_validation)
    return float(jnp.mean(curves[:, -1]))


def overtaken(losses, adam_loss):
    """At which validation the loss is below Adam's for the first time, or None."""
    below = np.flatnonzero(np.asarray(losses) < adam_loss)
    return int(below[0]) if below.size else None


def summarize(runs):
    """One dict for each method: over its seeds, how long it took to Adam and how far it came.

    Returns:
      Dicts of `method`, `seeds`, `reached` (in how many of them Adam was beaten), and the `Spread`s
      `horizons_to_adam`, `seconds_to_adam`, `time_over_whole` (of the seconds, seed by seed, where both got there) and
      `loss_over_adam` (the best validation loss of a run); None where there are no seeds to take it over.
    """
    whole = {r["seed"]: r["seconds_to_adam"] for r in runs if r["method"] == WHOLE}
    return [
        _summary(name, [r for r in runs if r["method"] == name], whole)
        for name in dict.fromkeys(r["method"] for r in runs)
    ]


def _summary(name, runs, whole):
    there = [r for r in runs if r["seconds_to_adam"] is not None]
    ratios = [
        r["seconds_to_adam"] / whole[r["seed"]] for r in there if whole[r["seed"]] is not None
    ]
    return {
        "method": name,
        "seeds": len(runs),
        "reached": len(there),
        "horizons_to_adam": _spread([r["horizons_to_adam"] for r in there]),
        "seconds_to_adam": _spread([r["seconds_to_adam"] for r in there]),
        "time_over_whole": _spread(ratios),
        "loss_over_adam": _spread([min(r["validation_losses"]) / r["adam_loss"] for r in runs]),
    }


def _spread(values):
    return common.spread(values) if values else None
