"""Families of problems as data: what a recipe trains on, and what a figure's case measures on."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments import art, held_out, tiny_tasks
from learned_opt import _checks, data, optimizees
from learned_opt.optimizees import NetworkFamily, Optimizee, style_transfer

ACCURACY = "test accuracy"
ALL_DATA = "loss on all data"
TEST_LOSS = "test loss"
TEST_COURSE = "test loss over the run"
TRAINING_LOSS = "training loss"
# What the training loss is measured on, where the test loss is: as many as CIFAR-10 has to test on.
TRAINING_EXAMPLES = 10_000


class Builder(NamedTuple):
    """How families of one kind are built.

    Attributes:
      build: a function of the family's arguments that returns an `Optimizee` or a `NetworkFamily`.
        Where `needs_data` is true, it also gets the training split as `dataset`.
      words: what a card says of the family: a format of the arguments, and of `theta_0` for how the
        initial parameters are drawn.
      needs_data: whether the family is made of a data set.
      signature: a function with the defaults of the arguments; None for `build` itself.
      of_pictures: whether the data are an `art.Source`, which the builder gets whole, as `source`.
    """

    build: Callable[..., Any]
    words: str
    needs_data: bool = False
    signature: Callable[..., Any] | None = None
    of_pictures: bool = False

    @property
    def has_minibatches(self) -> bool:
        """Whether a loss is that of a minibatch of data."""
        return self.needs_data and not self.of_pictures


_NETWORK_WORDS = "minibatches of {batch_size}, {theta_0}"

# The next kind of family goes here; a recipe can also hold a `Builder` of its own.
BUILDERS = {
    "mlp": Builder(
        functools.partial(optimizees.network_family, "mlp"),
        "a perceptron with {depth} x {width} hidden {activation} units, " + _NETWORK_WORDS,
        needs_data=True,
        signature=optimizees.mlp,
    ),
    "cnn": Builder(
        functools.partial(optimizees.network_family, "cnn"),
        "a convolutional network {structure} with {channels} channels and {activation} units, "
        + _NETWORK_WORDS,
        needs_data=True,
        signature=optimizees.cnn,
    ),
    "normalized_cnn": Builder(
        functools.partial(
            optimizees.network_family, "normalized_cnn", batch_size=32, init_scale=None
        ),
        "a convolutional network with batch normalization, channels {channels} and fully connected "
        "{hidden_sizes}, " + _NETWORK_WORDS,
        needs_data=True,
        signature=optimizees.normalized_cnn,
    ),
    # Any Flax network: `network` is a function (num_classes, **settings) -> flax.linen.Module.
    "classifier": Builder(
        optimizees.network_family, "the network {network}, " + _NETWORK_WORDS, needs_data=True
    ),
    "sine_lstm": Builder(
        optimizees.sine_lstm,
        "an LSTM with {num_layers} x {hidden_size} units that predicts a sine with noise {noise}, "
        + _NETWORK_WORDS,
    ),
    "quadratic": Builder(optimizees.quadratic, "random quadratics in {dim} dimensions"),
    "rotated_quadratic": Builder(
        optimizees.rotated_quadratic,
        "rotated quadratics in {dim} dimensions with condition number {condition:g}",
    ),
    "tiny": Builder(
        tiny_tasks.tiny_tasks,
        "tiny networks: {num_perceptrons} perceptrons, a convolutional one, an autoencoder, a "
        "Transformer of Markov chains",
        needs_data=True,
    ),
    "rosenbrock": Builder(optimizees.rosenbrock, "Rosenbrock's function in {dim} dimensions"),
    "neural_art": Builder(
        art.family,
        "{pool} crops of {split} photographs, {size} x {size}, in the {style} style, theta_0 is "
        "{start}",
        needs_data=True,
        of_pictures=True,
    ),
}


class Subject(NamedTuple):
    """What an optimizer is trained on or measured on.

    Attributes:
      family: the `Optimizee`.
      network: the network that its problems train, or None where theta is not the parameters of a
        network that classifies.
      splits: the `data.Splits` that the network reads, or None.
      own: measures of a run that the family brings with it, by name.
    """

    family: Optimizee
    network: Any
    splits: data.Splits | None
    own: Mapping[str, Callable] = types.MappingProxyType({})

    def measures(self, all_data: bool = False) -> dict[str, Callable]:
        """Functions by name: the test accuracy, the loss on the training split, the family's own.

        Those of the data are functions of theta_T.
        """
        if self.network is None:
            return dict(self.own)
        measures = {ACCURACY: optimizees.accuracy(self.network, self.splits.test)}
        if all_data:
            measures[ALL_DATA] = optimizees.mean_loss(self.network, self.splits.train)
        return measures

    def test_measures(self) -> dict[str, Callable]:
        """Of a run: the loss on all test data and that on training data, and the mean of its curve.

        See `held_out.shown` for a curve on held-out data.
        """
        train = self.splits.train
        some = train._replace(
            images=train.images[:TRAINING_EXAMPLES], labels=train.labels[:TRAINING_EXAMPLES]
        )
        return {
            TEST_LOSS: optimizees.mean_loss(self.network, self.splits.test),
            TEST_COURSE: held_out.over_the_run,
            TRAINING_LOSS: optimizees.mean_loss(self.network, some),
        }


@dataclasses.dataclass(frozen=True)
class FamilySpec:
    """A family of problems as data.

    Attributes:
      kind: one of `BUILDERS`, or a `Builder` of your own.
      arguments: of the builder.
      shrink: the factor by which the sides of the images are shrunk.
      largest_side: images with longer sides, in pixels, are shrunk to it, or below it; 0 for none.
      labels: the labels whose examples the data set is restricted to; none for all.
      scaling: the range L of Random Scaling, 0 for none (Lv, Jiang, Li 2017, section 4.1).
      convex: whether convex functions are combined with the problems (section 4.2).
    """

    kind: str | Builder = "mlp"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shrink: int = 1
    largest_side: int = 0
    labels: tuple[int, ...] = ()
    scaling: float = 0.0
    convex: bool = False

    @property
    def builder(self) -> Builder:
        """How it is built."""
        if isinstance(self.kind, Builder):
            return self.kind
        return BUILDERS[_checks.choice("family", self.kind, BUILDERS)]

    def build(self, splits: Any = None, has_held_out: bool = False) -> Subject:
        """The family, and what belongs to it.

        Args:
          splits: the data set, for a family that needs one: `data.Splits` or an `art.Source`.
          has_held_out: whether the test split is the family's held-out data.
        """
        self._check_arguments()
        built, splits = self._built(splits, has_held_out)
        own: Mapping[str, Callable] = {}
        if isinstance(built, style_transfer.Art):
            own = built.measures()
            built = built.family
        if not isinstance(built, NetworkFamily):
            built = NetworkFamily(built, None)
        family, network = built
        if self.scaling:
            family = optimizees.random_scaling(family, self.scaling)
        if self.convex:
            family = optimizees.with_convex(family)
        is_plain = family is built.family
        return Subject(family, network if is_plain else None, splits, own if is_plain else {})

    def _check_arguments(self) -> None:
        """Raises ValueError for an argument that the builder does not take."""
        parameters = inspect.signature(self.builder.signature or self.builder.build).parameters
        if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
            return  # those of a network, which are its own
        for argument in self.arguments:
            _checks.choice(f"argument of the family {self.kind!r}:", argument, parameters)

    def _built(self, splits: Any, has_held_out: bool) -> tuple[Any, data.Splits | None]:
        if not self.builder.needs_data:
            return self.builder.build(**self.arguments), None
        if self.builder.of_pictures:
            return self.builder.build(source=splits, **self.arguments), None
        factor = self.shrink
        if self.largest_side:
            side = max(splits.train.images.shape[1:3])
            factor *= -(-side // (factor * self.largest_side))
        if factor > 1:
            splits = data.shrink(splits, factor)
        if self.labels:
            splits = data.with_labels(splits, self.labels)
        arguments = dict(self.arguments)
        if has_held_out:
            arguments["held_out"] = splits.test
        return self.builder.build(dataset=splits.train, **arguments), splits

    def words(self, dataset: str | None = None) -> str:
        """What a card says of it; `dataset` is the name of the data set."""
        parts = []
        if self.builder.needs_data:
            shrunk = f" with images shrunk by {self.shrink}" if self.shrink > 1 else ""
            if self.largest_side:
                shrunk += f" with images of at most {self.largest_side} pixels a side"
            if self.labels:
                shrunk += f", the labels {', '.join(map(str, self.labels))} alone"
            parts.append(f"{dataset}{shrunk}")
        parts.append(self.builder.words.format(**self._settings()))
        if self.scaling:
            parts.append(f"Random Scaling with L = {self.scaling:g}")
        if self.convex:
            parts.append("combined with convex functions")
        return ", ".join(parts)

    def _settings(self) -> dict[str, Any]:
        """The arguments and the defaults of those that are not given, as a card shows them."""
        signature = inspect.signature(self.builder.signature or self.builder.build)
        settings = {name: parameter.default for name, parameter in signature.parameters.items()}
        settings.update(self.arguments)
        settings = {name: _shown(value) for name, value in settings.items()}
        return {**settings, "theta_0": _start(settings.get("init_scale"))}

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it, for a card."""
        name = self.kind if isinstance(self.kind, str) else _shown(self.kind.build)
        # What only some families have is on no other's card.
        cut: dict[str, Any] = {}
        if self.largest_side:
            cut["largest_side"] = self.largest_side
        if self.labels:
            cut["labels"] = list(self.labels)
        return {
            "family": name,
            "family_arguments": {name: _shown(value) for name, value in self.arguments.items()},
            "shrink": self.shrink,
            **cut,
            "scaling": self.scaling,
            "convex": self.convex,
        }


def _shown(value: Any) -> Any:
    """Plain data as they are; a function or a class by its name, anything else as it prints."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else repr(value)


def _start(init_scale: float | None) -> str:
    if init_scale is None:
        return "theta_0 of the network's own initializers"
    return f"theta_0 ~ N(0, {init_scale:g})"
