"""The settings of meta-training, and their checks."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.meta import drawing, fingerprint, groups
from learned_opt.meta import gradient as gradient_lib
from learned_opt.meta.imitation import Imitation, is_alone
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import base as optimizer_base

SCHEDULES = ("cosine", "constant")
SELECTIONS = ("validation", "training", "last")


class RandomSearch(NamedTuple):
    """Random search of the meta-learning rate: all trials run as one program, from the same initial weights.

    Attributes:
      low: smallest rate; rates are drawn uniformly in their logarithm.
      high: largest rate.
      num_trials: how many rates are tried.
      num_epochs: how long each is tried; the best by validation loss is then used from the start.
    """

    low: float = 1e-4
    high: float = 3e-2
    num_trials: int = 8
    num_epochs: int = 2


class Curriculum(NamedTuple):
    """A curriculum over horizons (Chen et al. 2020, arXiv 2010.09089, section 4.1), in the place of `num_steps`.

    Stage i trains on `horizons[i]` and validates on the next one, the last on its own; it goes on from the best phi of
    the stage before. An epoch of every stage takes about as many steps as one of the first.

    Attributes:
      horizons: in steps, ascending.
      patience: epochs without a better validation loss after which the next stage begins; `num_epochs` of a stage is
        the most. In the last stage the `patience` of `meta_train` counts instead.
    """

    horizons: tuple = (100, 200, 500, 1_000)
    patience: int = 5


class Mixture(NamedTuple):
    """Problems of several horizons side by side, in the place of `num_steps`.

    After every window phi takes one step along the mean over horizons of their meta-gradients; while a problem of the
    longest lives, the others begin anew as often as theirs end. So the beginning of a life, which is all that short
    runs have, is as often in what is learned as the rest, and not forgotten over it.

    Attributes:
      horizons: in steps, ascending. Validation is on the last.
    """

    horizons: tuple = (100, 1_000, 10_000)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The checked arguments of `meta_train`."""

    horizons: tuple  # of the stages, one after the other
    shorter: tuple  # horizons that are mixed with it
    stage_patience: int | None  # of all stages but the last
    window: int
    num_problems: int
    num_epochs: int
    episodes_per_epoch: int
    learning_rate: Any
    schedule: str
    clip_norm: float
    weights: Any  # [num_windows, window] of the first horizon, or [1, window] of every one
    num_validation: int
    patience: int | None
    max_skipped: int
    selection: str
    imitation: Any
    coordinates: int | None

    @property
    def total_episodes(self):
        """Horizons of the search and of all stages, at most."""
        search = (
            self.learning_rate.num_epochs if isinstance(self.learning_rate, RandomSearch) else 0
        )
        return search * self.episodes_per_epoch + self.num_epochs * sum(
            map(self.episodes_of_stage, range(len(self.horizons)))
        )

    def episodes_of_stage(self, stage):
        """Horizons in an epoch of a stage: about as many steps as in one of the first."""
        return max(1, round(self.episodes_per_epoch * self.horizons[0] / self.horizons[stage]))

    def weights_of_stage(self, stage):
        """`[num_windows, window]`."""
        return jnp.broadcast_to(self.weights, (self.horizons[stage] // self.window, self.window))

    def plain(self, problem, key):
        """As JSON can hold it."""
        rate, imitation = self.learning_rate, self.imitation
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shorter"
        }
        # What there was not in earlier versions stands there where it is used: their runs are resumed.
        values |= {"shorter": list(self.shorter)} if self.shorter else {}
        return {
            **values,
            "learning_rate": list(rate) if isinstance(rate, RandomSearch) else rate,
            "weights": np.asarray(self.weights).tolist(),
            "imitation": imitation
            and [
                fingerprint.of_transformation(imitation.teacher, problem, key),
                imitation.weight,
                imitation.fraction,
                *["alone"] * imitation.alone,
            ],
        }


def check(
    opt,
    problem,
    key,
    *,
    num_steps,
    window,
    num_problems,
    num_epochs,
    episodes_per_epoch,
    learning_rate,
    schedule="cosine",
    clip_norm=1.0,
    weights=None,
    num_validation,
    patience=None,
    max_skipped=100,
    selection="validation",
    imitation=None,
    method=None,
    coordinates=None,
):
    """The checks of `meta_train`'s arguments, for programs that have other work to do before it; returns settings."""
    optimizer_base.check_optimizer("opt", opt)
    optimizee_base.as_partials(problem)
    _checks.random_key(key)
    if not jax.tree.leaves(jax.eval_shape(opt.init, key)):
        raise ValueError(f"opt has no weights to learn: {opt.spec['name']}.")
    window = _checks.positive_int("window", window)
    horizons, shorter, stage_patience = _check_horizons(num_steps, window)
    lengths = (window,) if stage_patience or shorter else (*horizons, window)
    imitation = None if imitation is None else _check_imitation(imitation, method)
    if weights is not None and is_alone(imitation):
        raise ValueError("weights have no part in imitation alone: leave them out.")
    weights = jnp.ones(window) if weights is None else gradient_lib.check_weights(weights, lengths)
    return Settings(
        horizons=horizons,
        shorter=shorter,
        stage_patience=stage_patience,
        window=window,
        num_problems=_checks.positive_int("num_problems", num_problems),
        num_epochs=_checks.positive_int("num_epochs", num_epochs),
        episodes_per_epoch=_checks.positive_int("episodes_per_epoch", episodes_per_epoch),
        learning_rate=_check_learning_rate(learning_rate),
        schedule=_checks.choice("schedule", schedule, SCHEDULES),
        clip_norm=_checks.positive_float("clip_norm", clip_norm),
        weights=weights.reshape(-1, window),
        num_validation=_checks.positive_int("num_validation", num_validation),
        patience=None if patience is None else _checks.positive_int("patience", patience),
        max_skipped=_checks.positive_int("max_skipped", max_skipped),
        selection=_checks.choice("selection", selection, SELECTIONS),
        imitation=imitation,
        coordinates=None
        if coordinates is None
        else _check_coordinates(coordinates, opt, problem, key),
    )


def _check_horizons(num_steps, window):
    """The horizons of the stages, those that are mixed with the only one, and the patience of a curriculum or None."""
    if isinstance(num_steps, (Curriculum, Mixture)):
        if not isinstance(num_steps.horizons, (tuple, list)) or not num_steps.horizons:
            raise ValueError(
                "horizons must be one number of steps or several, as a tuple, got "
                f"{num_steps.horizons!r}."
            )
        horizons = tuple(_checks.positive_int("horizons", h) for h in num_steps.horizons)
        if list(horizons) != sorted(set(horizons)):
            raise ValueError(f"horizons must ascend, got {num_steps.horizons}.")
    else:
        horizons = (_checks.positive_int("num_steps", num_steps),)
    for horizon in horizons:
        _checks.divides("window", window, "num_steps", horizon)
    if isinstance(num_steps, Mixture):
        return horizons[-1:], horizons[:-1], None
    curriculum = isinstance(num_steps, Curriculum)
    return (
        horizons,
        (),
        _checks.positive_int("patience", num_steps.patience) if curriculum else None,
    )


def _check_imitation(value, method):
    _checks.instance_of(
        "imitation", value, Imitation, "give learned_opt.Imitation(optax.adam(0.01))."
    )
    optimizer_base.check_transformation("teacher", value.teacher)
    if method == "autodiff":
        raise ValueError("imitation needs method='adjoint': leave method out.")
    if not 0 < _checks.positive_float("fraction", value.fraction) <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {value.fraction}.")
    return Imitation(
        value.teacher,
        _checks.positive_float("weight", value.weight),
        float(value.fraction),
        _checks.boolean("alone", value.alone),
    )


def _check_learning_rate(value):
    if isinstance(value, str):
        _checks.choice("learning_rate", value, ["search"])
        return RandomSearch()
    if not isinstance(value, RandomSearch):
        return _checks.positive_float("learning_rate", value)
    if _checks.positive_float("low", value.low) > _checks.positive_float("high", value.high):
        raise ValueError(f"low must not be above high={value.high}, got {value.low}.")
    for name in ("num_trials", "num_epochs"):
        _checks.positive_int(name, getattr(value, name))
    return value


def _check_coordinates(value, opt, problem, key):
    value = _checks.positive_int("coordinates", value)
    theta = jax.eval_shape(optimizee_base.begin, problem, key).theta_0
    drawing.shares(
        groups.sizes(groups.groups_of(opt, theta), theta), value
    )  # before anything is written
    return value
