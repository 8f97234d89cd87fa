"""The suite's families of problems, each with what is measured of it on held-out data."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from experiments.suite import networks
from experiments.suite.sources import VOCABULARY, Sources, Text
from learned_opt import optimizees
from learned_opt.data.transforms import as_float
from learned_opt.optimizees import linen, starting
from learned_opt.optimizees.base import Optimizee, Theta
from learned_opt.optimizees.classifier import cross_entropy
from learned_opt.optimizees.quadratic import Rotated

HELD_OUT_LOSS = "held-out loss"
ACCURACY = "accuracy"
HELD_OUT_WINDOWS = 64  # of a text, evenly spaced


class Built(NamedTuple):
    """A family, and what is measured at the end of a run: dict from name to a measure."""

    family: Optimizee
    measures: dict[str, Callable]


def classifier(
    sources: Sources,
    dataset: str,
    network: Callable[..., linen.Module],
    batch_size: int,
    **settings: Any,
) -> Built:
    """A network that learns to classify images."""
    train, test = sources.images(dataset)
    module = network(num_classes=train.num_classes, **settings)
    family = optimizees.classifier(module, train, batch_size)
    measures = {
        HELD_OUT_LOSS: optimizees.mean_loss(module, test),
        ACCURACY: optimizees.accuracy(module, test),
    }
    return Built(family, measures)


def autoencoder(
    sources: Sources,
    dataset: str,
    batch_size: int,
    widths: tuple[int, ...],
) -> Built:
    """The mean squared error of images that go through few units."""
    train, test = sources.images(dataset)
    shape = train.images.shape[1:]
    network = linen.network(networks.Autoencoder(widths), shape)
    loss = Partial(_Loss(network, _Images(batch_size), _mean_square), train.images)
    family = starting.optimizee(starting.no_instance, linen.Init(network, shape, None), loss)
    inputs = as_float(test.images)
    return Built(family, {HELD_OUT_LOSS: Partial(_Measure(network, _mean_square), inputs, inputs)})


def language_model(
    sources: Sources,
    network: Callable[..., linen.Module],
    batch_size: int,
    context: int,
    **settings: Any,
) -> Built:
    """The cross-entropy of every character of a window of text given those before it."""
    text: Text = sources.text()
    module = linen.network(network(vocabulary=VOCABULARY, **settings), (context,))
    loss = Partial(_Loss(module, _Windows(batch_size, context), _mean_cross_entropy), text.train)
    family = starting.optimizee(starting.no_instance, linen.Init(module, (context,), None), loss)
    last = len(text.held_out) - context - 1
    starts = jnp.linspace(0, last, HELD_OUT_WINDOWS).astype(int)
    inputs, targets = _windows(text.held_out, starts, context)
    measure = Partial(_Measure(module, _mean_cross_entropy), inputs, targets)
    return Built(family, {HELD_OUT_LOSS: measure})


def vector_quadratic(
    sources: Sources,
    dim: int,
    condition: float,
) -> Built:
    """An ill-conditioned quadratic function of a vector."""
    del sources
    return Built(optimizees.rotated_quadratic(dim, condition), {})


def matrix_quadratic(
    sources: Sources,
    dim: int,
    columns: int,
    condition: float,
) -> Built:
    """The mean of such a function over the columns of a matrix, with a minimum for each."""
    del sources
    vector = optimizees.rotated_quadratic(dim, condition)
    family = starting.optimizee(
        Partial(_SampleColumns(dim, columns), vector.sample),
        _MatrixInit(dim, columns),
        _columns_loss,
    )
    return Built(family, {})


def rescaled(built: Built, factor: float) -> Built:
    """The same functions of `factor` times the parameters: f'(theta') = f(theta' / factor)."""
    inner = starting.partials(built.family)
    family = Optimizee(
        inner.sample,
        Partial(_RescaledInit(factor), inner.init),
        Partial(_RescaledLoss(factor), inner.loss),
        inner.statistics,
    )
    measures = {}
    for name, measure in built.measures.items():
        of_run = getattr(measure.func, "of_run", False)
        kind = _RescaledOfRun if of_run else _RescaledMeasure
        measures[name] = Partial(kind(factor), measure)
    return Built(family, measures)


@dataclasses.dataclass(frozen=True)
class _Loss:
    """A network's error on a minibatch of inputs and targets."""

    network: linen.Network
    draw: Callable
    error: Callable

    def __call__(
        self,
        examples: jax.Array,
        theta: Theta,
        instance: Any,
        key: jax.Array,
    ) -> jax.Array:
        del instance
        inputs, targets = self.draw(examples, key)
        outputs, _ = self.network.train(theta, (), inputs, key)
        return self.error(outputs, targets)


@dataclasses.dataclass(frozen=True)
class _Measure:
    """A network's error on inputs and targets that stay."""

    network: linen.Network
    error: Callable

    def __call__(
        self,
        inputs: jax.Array,
        targets: jax.Array,
        theta: Theta,
    ) -> jax.Array:
        return self.error(self.network.evaluate(theta, (), inputs), targets)


@dataclasses.dataclass(frozen=True)
class _Images:
    """Draws images, which are their own targets."""

    batch_size: int

    def __call__(self, images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jax.random.randint(key, (self.batch_size,), 0, images.shape[0])
        drawn = as_float(images[index])
        return drawn, drawn


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Draws windows of a text; the target of each character is the next one."""

    batch_size: int
    context: int

    def __call__(self, text: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = text.shape[0] - self.context
        starts = jax.random.randint(key, (self.batch_size,), 0, last)
        return _windows(text, starts, self.context)


def _windows(
    text: jax.Array,
    starts: jax.Array,
    context: int,
) -> tuple[jax.Array, jax.Array]:
    places = starts[:, None] + jnp.arange(context + 1)[None]
    windows = text[places]
    return windows[:, :-1], windows[:, 1:]


def _mean_square(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(outputs - targets))


def _mean_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(cross_entropy(logits, targets))


@dataclasses.dataclass(frozen=True)
class _SampleColumns:
    """An instance: the Hessian, and a minimum `[dim, columns]`."""

    dim: int
    columns: int

    def __call__(self, sample: Callable, key: jax.Array) -> Rotated:
        hessian_key, minimum_key = jax.random.split(key)
        minimum = jax.random.normal(minimum_key, (self.dim, self.columns))
        return sample(hessian_key)._replace(minimum=minimum)


@dataclasses.dataclass(frozen=True)
class _MatrixInit:
    dim: int
    columns: int

    def __call__(self, key: jax.Array, instance: Any) -> jax.Array:
        del instance
        return jax.random.normal(key, (self.dim, self.columns))


def _columns_loss(
    theta: jax.Array,
    instance: Rotated,
    key: jax.Array,
) -> jax.Array:
    del key  # no minibatches
    distance = theta - instance.minimum
    return jnp.sum(distance * (instance.hessian @ distance)) / (2 * theta.shape[1])


@dataclasses.dataclass(frozen=True)
class _Rescaled:
    factor: float

    def back(self, theta: Theta) -> Theta:
        """The parameters that the inner function reads."""
        return jax.tree.map(lambda x: x / self.factor, theta)


class _RescaledInit(_Rescaled):
    def __call__(
        self,
        init: Callable,
        key: jax.Array,
        instance: Any,
    ) -> Theta:
        return jax.tree.map(lambda x: x * self.factor, init(key, instance))


class _RescaledLoss(_Rescaled):
    def __call__(
        self,
        loss: Callable,
        theta: Theta,
        *others: Any,
    ) -> Any:
        return loss(self.back(theta), *others)


class _RescaledMeasure(_Rescaled):
    def __call__(self, measure: Callable, theta: Theta) -> jax.Array:
        return measure(self.back(theta))


class _RescaledOfRun(_Rescaled):
    of_run = True  # see `learned_opt.meta.evaluating.evaluate_with`

    def __call__(
        self,
        measure: Callable,
        run: Any,
        problem: Any,
    ) -> jax.Array:
        return measure(run._replace(theta=self.back(run.theta)), problem)
