"""What a recipe is: one meta-training as data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

import learned_opt
from experiments import teachers
from experiments.families import FamilySpec
from learned_opt import _checks, optimizers
from learned_opt.estimators import Adjoint, Autodiff, Estimator, Imitate, MetaLoss, Mixture
from learned_opt.meta.optimizer import ClippedAdam
from learned_opt.meta.settings import Curriculum, Validation
from learned_opt.optimizers import LearnedOptimizer

WINDOW = 20  # of the papers

# What most recipes have.
BASE_MLP = FamilySpec("mlp")
SOME_COORDINATES = Adjoint(WINDOW, coordinates=1_000)
ALL_STEPS = MetaLoss()
CLIPPED_ADAM = ClippedAdam()
LAST_WEIGHTS = Validation(num_problems=10, selection="last")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One meta-training.

    Attributes:
      about: one line.
      architecture: of the optimizer, one of `learned_opt.optimizers.ARCHITECTURES`.
      source: paper and section.
      preset: of the architecture, or None for an architecture without presets.
      arguments: other arguments of the architecture.
      parts: dict from a pattern of parameters' paths to a label, where each label has an optimizer
        of this architecture with weights of its own, see `learned_opt.partition`; empty for one
        optimizer of all parameters.
      family: what it is trained on.
      dataset: the data set that is meant; it can be another one by `experiments.train --dataset`.
      num_steps: the horizon, or a `Curriculum`.
      num_problems: problems that live at once.
      num_epochs: epochs.
      episodes_per_epoch: horizons of an epoch.
      estimator: of the meta-gradient; with a teacher, a function from the teacher to the estimator.
      teacher: which optimizer is imitated, one of `teachers.TEACHERS`, or empty.
      meta_loss: what is minimized.
      optimizer: of phi, see `learned_opt.meta_train`.
      learning_rate: of phi's optimizer.
      validation: how phi is validated, and which phi is kept.
      validation_family: what it is validated on; None for the family that it is trained on.
      start: weights that come with the library, from which the training goes on; empty for none.
        Those of one optimizer are where each of several `parts` begins.
      shards: into how many shards the problems are cut, see `learned_opt.meta_train`.
      embedded: other values in some places, as `changed` takes them, where embedded pictures stand
        in for a folder of one's own: so a training takes minutes.
      good_for: for the card.
      not_for: for the card.
    """

    about: str
    architecture: str
    source: str
    preset: str | None = "mnist"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    family: FamilySpec = BASE_MLP
    dataset: str = "mnist"
    num_steps: int | Curriculum = 100
    num_problems: int = 1
    num_epochs: int = 100
    episodes_per_epoch: int = 40
    estimator: Estimator | Callable[[optax.GradientTransformation], Estimator] = SOME_COORDINATES
    teacher: str = ""
    meta_loss: MetaLoss = ALL_STEPS
    optimizer: Any = CLIPPED_ADAM
    learning_rate: Any = 0.001
    validation: Validation = LAST_WEIGHTS
    validation_family: FamilySpec | None = None
    start: str = ""
    shards: int = 1
    embedded: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    good_for: str = ""
    not_for: str = ""

    @property
    def needs_data(self) -> bool:
        """Whether it trains on a data set."""
        return self.family.builder.needs_data

    def learned_optimizer(self) -> LearnedOptimizer:
        """The optimizer that is trained."""
        known = optimizers.ARCHITECTURES
        build = known[_checks.choice("architecture", self.architecture, known)]
        preset = {} if self.preset is None else {"preset": self.preset}
        optimizers.check_arguments(self.architecture, build, {**preset, **self.arguments})
        opt = build(**preset, **self.arguments)
        if not self.parts:
            return opt
        return learned_opt.partition(dict.fromkeys(self.parts.values(), opt), dict(self.parts))

    def settings(self) -> dict[str, Any]:
        """The arguments of `meta_train`."""
        estimator = self.estimator
        if self.teacher:
            known = teachers.TEACHERS
            teach = known[_checks.choice("teacher", self.teacher, known)]
            estimator = estimator(teach())
        return {
            "num_steps": self.num_steps,
            "num_problems": self.num_problems,
            "num_epochs": self.num_epochs,
            "episodes_per_epoch": self.episodes_per_epoch,
            "estimator": estimator,
            "meta_loss": self.meta_loss,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "validation": self.validation,
            "shards": self.shards,
        }

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """The recipe with other values in some places.

        Args:
          changes: dict from a place to plain data. A place is a field, or one within a field's
            value: `learning_rate`, `estimator.window`, `family.arguments.dim`.

        Raises:
          ValueError: for a place that is not there.
        """
        recipe = self
        for place, value in changes.items():
            recipe = _replaced(recipe, place.split("."), value, place)
        return recipe

    def weights(self) -> Any:
        """The weights from which the training goes on; None for fresh ones."""
        if not self.start:
            return None
        there, phi = learned_opt.load_pretrained(self.start)
        if self.parts and there.parts is None:
            return dict.fromkeys(self.parts.values(), phi)
        return phi

    def trained_on(self, dataset: str | None) -> str:
        """What a card says of the problems; `dataset` is the name of the data set."""
        at_once = f", {self.num_problems} at once" if self.num_problems > 1 else ""
        return f"{self.family.words(dataset)}{at_once}"

    def card(self, dataset: str | None) -> dict[str, Any]:
        """What a card says of the recipe, as JSON can hold it."""
        return {
            "about": self.about,
            "source": self.source,
            "good_for": self.good_for,
            "not_for": self.not_for,
            "dataset": dataset,
            "trained_on": self.trained_on(dataset),
            "architecture": self.architecture,
            "preset": self.preset,
            "arguments": dict(self.arguments),
            **({"parts": dict(self.parts)} if self.parts else {}),
            **self.family.plain(),
            "num_problems": self.num_problems,
            "teacher": self.teacher,
            "start": self.start,
            "departures": self.departures(),
        }

    def departures(self) -> list[str]:
        """In what the training differs from that of the papers, a line each.

        They take the exact gradient of a window, as it is, and a rate by random search; the
        weights are selected (Andrychowicz et al. 2016, section 3; Lv, Jiang, Li 2017, section 5).
        """
        found = []
        estimator = self.estimator
        if isinstance(estimator, Mixture):
            beside = ", ".join(f"{horizon:,}" for horizon in estimator.horizons)
            found.append(f"lives of {beside} steps are trained on beside the whole ones")
            estimator = estimator.estimator
        if isinstance(estimator, Imitate) and estimator.beside is not None:
            share = f"the first {100 * estimator.fraction:.0f} % of the training"
            found.append(f"{share} imitate another optimizer besides")
        coordinates = getattr(estimator, "coordinates", None)
        if coordinates is not None:
            found.append(f"meta-gradients are estimates from {coordinates:,} coordinates")
        elif not isinstance(estimator, (Adjoint, Autodiff)):
            found.append("it is not trained by the gradient of its windows")
        if isinstance(self.optimizer, ClippedAdam):
            if self.optimizer.clip_norm is not None:
                norm = self.optimizer.clip_norm
                found.append(f"meta-gradients are clipped to the norm {norm:g}")
            if self.optimizer.schedule == "cosine":
                found.append("the meta-rate decays to zero")
        rate = self.learning_rate
        if isinstance(rate, float):
            found.append(f"the meta-rate, {rate:g} at first, is not from a random search")
        if self.validation.selection == "last":
            found.append("the last weights are kept, and not selected")
        if self.family.shrink > 1:
            found.append(f"the sides of the images are shrunk by {self.family.shrink}")
        if self.family.largest_side:
            found.append(f"images have at most {self.family.largest_side} pixels a side")
        if self.start:
            found.append(f"it goes on from the weights of {self.start}")
        return found


# Fields that plain data cannot replace as a whole.
_WITH_SETTINGS = ("family", "estimator", "meta_loss", "optimizer", "validation")


def _replaced(
    holder: Any,
    names: Sequence[str],
    value: Any,
    place: str,
) -> Any:
    """A dataclass, a NamedTuple or a mapping with another value in one place of it."""
    name, *inner = names
    is_open = isinstance(holder, Mapping)
    if not is_open:
        _checks.choice(f"place {place!r} of a recipe:", name, _names_in(holder, place))
    is_plain = isinstance(value, (str, bool, int, float, list, Mapping))
    if not is_open and name in _WITH_SETTINGS and is_plain and not inner:
        within = _names_in(getattr(holder, name), place)[0]
        raise ValueError(
            f"{place} of a recipe has settings of its own: change one of them, as in "
            f"{place}.{within}={_checks.shown(value)}."
        )
    if inner:
        old = holder.get(name, {}) if is_open else getattr(holder, name)
        value = _replaced(old, inner, value, place)
    elif not is_open:
        value = _like(getattr(holder, name), value)
    if is_open:
        return {**holder, name: value}
    if dataclasses.is_dataclass(holder):
        return dataclasses.replace(holder, **{name: value})
    return holder._replace(**{name: value})


def _names_in(holder: Any, place: str) -> list[str]:
    """What can be changed in a value."""
    if dataclasses.is_dataclass(holder):
        return [field.name for field in dataclasses.fields(holder)]
    names = getattr(holder, "_fields", None)
    if names is None:
        raise ValueError(
            f"{place} of this recipe cannot be changed: it would be within {holder!r}, which is no "
            "setting with names."
        )
    return list(names)


def _like(old: Any, value: Any) -> Any:
    """Plain data in the form of what they replace: JSON knows no tuples, and 1 may mean 1.0."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
