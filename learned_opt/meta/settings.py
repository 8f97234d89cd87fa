"""The settings of meta-training, and their checks."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from learned_opt import _checks, _fingerprint
from learned_opt.estimators import Adjoint, Estimator, MetaLoss
from learned_opt.estimators.mixture import check_horizons
from learned_opt.meta.optimizer import ClippedAdam, is_transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee
from learned_opt.optimizers.base import LearnedOptimizer, check_optimizer

SELECTIONS = ("validation", "training", "last")
FORMAT = 2  # of a work directory


class RandomSearch(NamedTuple):
    """Random search of the meta-learning rate.

    All trials run as one program, from the same initial weights. The rate with the best validation
    loss is then used from the start.

    Attributes:
      low: smallest rate; rates are drawn uniformly in their logarithm.
      high: largest rate.
      num_trials: how many rates are tried.
      num_epochs: how long each is tried.
    """

    low: float = 1e-4
    high: float = 3e-2
    num_trials: int = 8
    num_epochs: int = 2


class Curriculum(NamedTuple):
    """A curriculum over horizons (Chen et al. 2020, arXiv 2010.09089, section 4.1).

    It stands in the place of `num_steps`. Stage i trains on `horizons[i]` and validates on the next
    one, the last on its own. A stage goes on from the best phi of the one before. An epoch of every
    stage takes about as many steps as one of the first.

    Attributes:
      horizons: in steps, ascending.
      patience: epochs without a better validation loss after which the next stage begins. The last
        stage has the patience of `Validation`.
    """

    horizons: tuple = (100, 200, 500, 1_000)
    patience: int = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """How phi is validated after every epoch, and which phi is kept.

    Attributes:
      num_problems: validation problems, of each family.
      problem: the family to validate on, or a list of them, which count alike; None for the
        families that are trained on, with their weights.
      num_steps: the horizon of validation; None for that of training.
      patience: training ends after so many epochs without a better validation loss; None for never.
      selection: which phi is kept: that with the best "validation" loss; that with the lowest
        moving average of the "training" loss (Lv, Jiang, Li 2017, section 5; decay 0.9, over
        epochs); or the "last", which has come to rest where the rate decays to zero.

    Raises:
      ValueError: for settings that are not possible.
    """

    num_problems: int = 64
    problem: Any = None
    num_steps: int | None = None
    patience: int | None = None
    selection: str = "validation"

    def __post_init__(self) -> None:
        _checks.positive_int("num_problems", self.num_problems)
        for name in ("num_steps", "patience"):
            if getattr(self, name) is not None:
                _checks.positive_int(name, getattr(self, name))
        _checks.choice("selection", self.selection, SELECTIONS)


class Weighted(NamedTuple):
    """A family, and by what its meta-gradient counts; weights of several add up to one."""

    family: Family
    weight: float


@dataclasses.dataclass(frozen=True, eq=False)
class MetaTrainSettings:
    """The checked arguments of `meta_train`."""

    opt: LearnedOptimizer
    families: tuple[Weighted, ...]  # bound to the meta-loss
    validation_families: tuple[Weighted, ...]  # not bound
    horizons: tuple[int, ...]  # of the stages, one after the other
    stage_patience: int | None  # of all stages but the last
    num_problems: int
    num_epochs: int
    episodes_per_epoch: int
    estimator: Estimator
    meta_loss: MetaLoss
    optimizer: Any
    learning_rate: Any
    validation: Validation
    max_skipped: int
    shards: int

    @property
    def is_searched(self) -> bool:
        """Whether the learning rate is searched for."""
        return isinstance(self.learning_rate, RandomSearch)

    @property
    def total_episodes(self) -> int:
        """Horizons of the search and of all stages, at most."""
        search_epochs = self.learning_rate.num_epochs if self.is_searched else 0
        stages = range(len(self.horizons))
        per_epoch = sum(self.episodes_of_stage(stage) for stage in stages)
        return search_epochs * self.episodes_per_epoch + self.num_epochs * per_epoch

    @property
    def total_windows(self) -> int:
        """Windows of the search and of all stages, at most."""
        stages = range(len(self.horizons))
        return self.windows_of_search + self.num_epochs * sum(map(self.windows_of_epoch, stages))

    @property
    def windows_of_search(self) -> int:
        """Windows of a search, side by side in all its trials."""
        search_epochs = self.learning_rate.num_epochs if self.is_searched else 0
        return search_epochs * self.windows_of_epoch(0)

    def episodes_of_stage(self, stage: int) -> int:
        """Horizons in an epoch of a stage: about as many steps as in one of the first."""
        return max(1, round(self.episodes_per_epoch * self.horizons[0] / self.horizons[stage]))

    def windows_of_epoch(self, stage: int) -> int:
        """Windows in an epoch of a stage."""
        return self.episodes_of_stage(stage) * self.num_windows(stage)

    def num_windows(self, stage: int) -> int:
        """Windows in a horizon of a stage."""
        return self.horizons[stage] // self.estimator.window

    def validation_steps(self, stage: int) -> int:
        """The horizon on which a stage validates."""
        following = self.horizons[min(stage + 1, len(self.horizons) - 1)]
        return self.validation.num_steps or following

    def plain(self, key: jax.Array) -> dict:
        """As JSON can hold it: what tells one run from another."""
        theta = jax.eval_shape(optimizee_base.begin, self.families[0].family, key).theta_0
        family = self.families[0].family
        rate = self.learning_rate
        validation = self.validation
        # One shard is what there was before there were several.
        shards = {} if self.shards == 1 else {"shards": self.shards}
        return {
            "format": FORMAT,
            **shards,
            "num_steps": list(self.horizons),
            "stage_patience": self.stage_patience,
            "num_problems": self.num_problems,
            "num_epochs": self.num_epochs,
            "episodes_per_epoch": self.episodes_per_epoch,
            "estimator": self.estimator.plain(family, key),
            "meta_loss": self.meta_loss.plain(),
            "optimizer_of_phi": self._plain_optimizer(key),
            "learning_rate": list(rate) if self.is_searched else rate,
            "validation": {
                "num_problems": validation.num_problems,
                "num_steps": validation.num_steps,
                "patience": validation.patience,
                "selection": validation.selection,
                "problem": validation.problem and _plain_families(self.validation_families),
            },
            "optimizer": _fingerprint.of_optimizer(self.opt, theta),
            "problem": _plain_families(self.families),
            "key": _fingerprint.of_key(key),
        }

    def _plain_optimizer(self, key: jax.Array) -> Any:
        if isinstance(self.optimizer, ClippedAdam):
            return dataclasses.asdict(self.optimizer)
        phi = jax.eval_shape(self.opt.init, key)
        if is_transformation(self.optimizer):
            return _fingerprint.of_transformation(self.optimizer, phi)
        return _fingerprint.of_transformation(self.optimizer(0.01, self.total_windows), phi)


def check(
    opt: LearnedOptimizer,
    problem: Any,
    key: jax.Array,
    *,
    num_steps: Any = 100,
    num_problems: int = 16,
    num_epochs: int = 40,
    episodes_per_epoch: int = 50,
    estimator: Estimator | None = None,
    meta_loss: MetaLoss | None = None,
    optimizer: Any = None,
    learning_rate: Any = 0.003,
    validation: Validation | None = None,
    max_skipped: int = 100,
    shards: int = 1,
) -> MetaTrainSettings:
    """The checks of `meta_train`'s arguments, for programs that have other work to do before it.

    Args, Raises:
      See `meta_train`.

    Returns:
      The `MetaTrainSettings`.
    """
    check_optimizer("opt", opt)
    _checks.random_key(key)
    if not jax.tree.leaves(jax.eval_shape(opt.init, key)):
        name = opt.spec["name"] if opt.spec else "an optax transformation"
        raise ValueError(
            f"opt must have weights to learn, got {name}, which has none: build one with "
            "learned_opt.lstm()."
        )
    estimator = Adjoint() if estimator is None else estimator
    _checks.instance_of(
        "estimator", estimator, Estimator, "give one of learned_opt.estimators, such as Adjoint()."
    )
    meta_loss = MetaLoss() if meta_loss is None else meta_loss
    _checks.instance_of("meta_loss", meta_loss, MetaLoss, "give learned_opt.MetaLoss(...).")
    validation = Validation() if validation is None else validation
    _checks.instance_of("validation", validation, Validation, "give learned_opt.Validation(...).")
    horizons, stage_patience = _check_horizons(num_steps)
    families = as_weighted(problem)
    bound = tuple(Weighted(meta_loss.bound(f.family), f.weight) for f in families)
    for horizon in horizons:
        # Which windows and horizons are possible, the estimator knows.
        for weighted in bound:
            estimator.check(opt, weighted.family, key, horizon)
        meta_loss.of_windows(estimator.window, horizon)
    validated = families if validation.problem is None else as_weighted(validation.problem)
    num_problems = _checks.positive_int("num_problems", num_problems)
    shards = _checks.positive_int("shards", shards)
    _checks.divides("shards", shards, "num_problems", num_problems)
    return MetaTrainSettings(
        opt=opt,
        families=bound,
        validation_families=validated,
        horizons=horizons,
        stage_patience=stage_patience,
        num_problems=num_problems,
        num_epochs=_checks.positive_int("num_epochs", num_epochs),
        episodes_per_epoch=_checks.positive_int("episodes_per_epoch", episodes_per_epoch),
        estimator=estimator,
        meta_loss=meta_loss,
        optimizer=_check_optimizer(optimizer, learning_rate),
        learning_rate=_check_learning_rate(learning_rate),
        validation=validation,
        max_skipped=_checks.positive_int("max_skipped", max_skipped),
        shards=shards,
    )


def as_weighted(problem: Any) -> tuple[Weighted, ...]:
    """One family, or a list of families or of pairs `(family, weight)`, with weights that add to 1.

    Raises:
      ValueError: for anything else, and for weights that are not positive.
    """
    is_family = isinstance(problem, (Optimizee, Family)) or hasattr(problem, "loss")
    members = [problem] if is_family or not isinstance(problem, Sequence) else list(problem)
    if not members:
        raise ValueError(
            "problem must be a family of problems, or several, got an empty list: give one, such "
            "as learned_opt.optimizees.quadratic()."
        )
    pairs = []
    for member in members:
        is_pair = isinstance(member, tuple) and not hasattr(member, "loss") and len(member) == 2
        family, weight = member if is_pair else (member, 1.0)
        weight = _checks.positive_float("the weight of a family", weight)
        pairs.append((optimizee_base.as_family(family), weight))
    total = sum(weight for _, weight in pairs)
    return tuple(Weighted(family, weight / total) for family, weight in pairs)


def _plain_families(families: tuple[Weighted, ...]) -> list:
    return [[_fingerprint.of_family(f.family), f.weight] for f in families]


def _check_horizons(num_steps: Any) -> tuple[tuple[int, ...], int | None]:
    """The horizons of the stages, and the patience of a curriculum or None."""
    if not isinstance(num_steps, Curriculum):
        return (_checks.positive_int("num_steps", num_steps),), None
    patience = _checks.positive_int("patience", num_steps.patience)
    return check_horizons(num_steps.horizons), patience


def _check_optimizer(optimizer: Any, learning_rate: Any) -> Any:
    if optimizer is None:
        return ClippedAdam()
    if is_transformation(optimizer):
        if isinstance(learning_rate, (str, RandomSearch)):
            raise ValueError(
                "a search of the learning rate needs an optimizer that takes one: give a function "
                "(learning_rate, num_updates) -> optax transformation."
            )
        return optimizer
    if not callable(optimizer):
        raise ValueError(
            "optimizer must be an optax transformation or a function (learning_rate, num_updates) "
            f"-> optax transformation, got {type(optimizer).__name__}."
        )
    return optimizer


def _check_learning_rate(value: Any) -> Any:
    if value == "search":
        return RandomSearch()
    if isinstance(value, str):
        raise ValueError(f"learning_rate must be a number above 0 or 'search', got {value!r}.")
    if not isinstance(value, RandomSearch):
        return _checks.positive_float("learning_rate", value)
    if _checks.positive_float("low", value.low) > _checks.positive_float("high", value.high):
        raise ValueError(f"low must not be above high={value.high}, got {value.low}.")
    for name in ("num_trials", "num_epochs"):
        _checks.positive_int(name, getattr(value, name))
    return value
