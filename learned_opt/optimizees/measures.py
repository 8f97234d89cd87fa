"""What a trained network is measured by on a whole data set."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import data
from learned_opt.data.transforms import as_float
from learned_opt.optimizees import linen
from learned_opt.optimizees.base import Theta
from learned_opt.optimizees.classifier import cross_entropy

# How many examples a network reads at once, so that a convolutional network's activations find
# room.
EXAMPLES_AT_ONCE = 1_000


def accuracy(network: linen.Module, dataset: Any) -> jax.tree_util.Partial:
    """A measure: the fraction of a whole data set that a network classifies correctly.

    Dropout is off, and batch normalization uses the run's running averages.

    Args:
      network: see `classifier`.
      dataset: see `classifier`; usually the test split.

    Returns:
      A measure for `learned_opt.compare(..., measure=...)`. It is a function of theta. For a
      network with statistics it is a function `(run, problem)` of what `learned_opt.unroll` returns
      and of a problem, which it does not use and which may be left out.

    Raises:
      ValueError: if the network or the data are of another kind, or the network draws random
        numbers also when it does not train.

    Example:
      >>> import jax, optax
      >>> from learned_opt import data, optimizees, unroll
      >>> train, test = data.load("digits")
      >>> family, network = optimizees.network_family("mlp", train)
      >>> run = unroll(optax.adam(0.03), family, jax.random.key(0), num_steps=100)
      >>> bool(optimizees.accuracy(network, test)(run.theta) > 0.8)
      True
    """
    return _mean(_is_right, network, dataset)


def mean_loss(network: linen.Module, dataset: Any) -> jax.tree_util.Partial:
    """A measure: the mean cross-entropy of a network over a whole data set.

    Dropout is off, and batch normalization uses the run's running averages.

    Args:
      network: see `classifier`.
      dataset: see `classifier`.

    Returns:
      A measure, see `accuracy`.

    Raises:
      ValueError: see `accuracy`.
    """
    return _mean(cross_entropy, network, dataset)


def _mean(
    function: Callable,
    network: linen.Module,
    dataset: Any,
) -> jax.tree_util.Partial:
    dataset = data.as_dataset(dataset)
    images = jnp.asarray(dataset.images)
    labels = jnp.asarray(dataset.labels)
    described = linen.network(network, images.shape[1:])
    linen.check_evaluation(described)
    _check_classes(described, dataset)
    measure = _MeanOfRun if described.collections else _Mean
    return jax.tree_util.Partial(measure(described, function), images, labels)


def _check_classes(network: linen.Network, dataset: data.Dataset) -> None:
    shape = linen.output_shape(network, dataset.images.shape[1:])
    if len(shape) != 2 or shape[1] < dataset.num_classes:
        raise ValueError(
            f"network must give logits of shape (batch, {dataset.num_classes}) for these data, "
            f"got ({', '.join(['batch', *map(str, shape[1:])])})."
        )


def _is_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.argmax(logits, -1) == labels


@dataclasses.dataclass(frozen=True)
class _Mean:
    """The mean of `function(logits, labels) -> [n]` over a data set, as a function of theta."""

    network: linen.Network
    function: Callable

    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array,
        theta: Theta,
    ) -> jax.Array:
        logits = _all_logits(self.network, theta, (), images)
        return jnp.mean(self.function(logits, labels))


@dataclasses.dataclass(frozen=True)
class _MeanOfRun:
    """The same as a function of a whole run, for networks with statistics."""

    network: linen.Network
    function: Callable
    of_run = True  # see `learned_opt.meta.evaluating.evaluate_with`

    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array,
        run: Any,
        problem: Any = None,
    ) -> jax.Array:
        del problem
        logits = _all_logits(self.network, run.theta, run.statistics, images)
        return jnp.mean(self.function(logits, labels))


def _all_logits(
    network: linen.Network,
    theta: Theta,
    statistics: Any,
    images: jax.Array,
) -> jax.Array:
    """Logits `[n, num_classes]` of images `[n, ...]`, batch after batch."""
    num_images = images.shape[0]
    num_batches = -(-num_images // EXAMPLES_AT_ONCE)
    if num_batches == 1:
        return network.evaluate(theta, statistics, as_float(images))
    # The first images fill up the last batch, so that one program is enough.
    batch_size = -(-num_images // num_batches)
    index = jnp.arange(num_batches * batch_size) % num_images

    def of_batch(index: jax.Array) -> jax.Array:
        return network.evaluate(theta, statistics, as_float(images[index]))

    logits = jax.lax.map(of_batch, index.reshape(num_batches, batch_size))
    return logits.reshape(num_batches * batch_size, -1)[:num_images]
