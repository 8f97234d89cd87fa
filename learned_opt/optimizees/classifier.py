"""Networks that learn to classify: the optimizees of the papers' MNIST and CIFAR studies."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks, data
from learned_opt.data.transforms import as_float
from learned_opt.optimizees import linen, starting
from learned_opt.optimizees.base import Optimizee, Theta

# What is folded into the key of a minibatch for other draws than the minibatch itself. Both lie far
# from the few numbers that drawing the minibatch uses.
NETWORK_STREAM = 2**30
HELD_OUT_STREAM = 2**30 + 1


def classifier(
    network: linen.Module,
    dataset: Any,
    batch_size: int = 128,
    init_scale: float | None = None,
    held_out: Any = None,
) -> Optimizee:
    """The cross-entropy of a Flax network on random minibatches.

    Two problems of the family differ in theta_0 and in their minibatches. The data are bound with
    `jax.tree_util.Partial`: they lie on the device once, whatever the number of problems.

    theta is the network's "params" collection. Its other collections, such as the running averages
    of batch normalization in "batch_stats", are the problem's statistics: every training step
    updates them, and no optimizer moves them. Dropout and every other random stream of the network
    draw from the key of the minibatch. If the network's `__call__` has an argument `train`,
    `training`, `deterministic` or `use_running_average`, it is told whether it trains.

    Args:
      network: a `flax.linen.Module` from images `[batch, ...]` to logits `[batch, num_classes]`.
      dataset: a `data.Dataset`, or a pair `(images [n, ...], labels [n])` of arrays. Images of
        dtype uint8 are scaled to [0, 1] as they are drawn, others are used as they are.
      batch_size: the number of examples of a minibatch, drawn with replacement inside the step.
      init_scale: the standard deviation of the Gaussian from which every parameter of theta_0 is
        drawn, or None for the network's own initializers. It goes for all parameters: the scales
        of a `BatchNorm` then start around 0 and not at 1. A network with normalization usually
        wants None.
      held_out: data that the optimizer does not see, like `dataset`. `Optimizee.held_out` is the
        loss of theta on a random minibatch of them, in evaluation: no dropout, running averages.
        None for none.

    Returns:
      An `Optimizee`.

    Raises:
      ValueError: for sizes that are not positive, a network of another kind or with other logits,
        or data that are no classification data.

    Source:
      Andrychowicz et al. 2016, section 3.2.

    Example:
      >>> import flax.linen as nn
      >>> import jax, learned_opt
      >>> class Normalized(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, images, train):
      ...         x = nn.Dense(8)(images.reshape(len(images), -1))
      ...         x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
      ...         x = nn.Dropout(0.1)(x, deterministic=not train)
      ...         return nn.Dense(10)(x)
      >>> train, test = learned_opt.data.load("digits")
      >>> family = learned_opt.optimizees.classifier(Normalized(), train, held_out=test)
      >>> statistics = family.statistics(jax.random.key(0), ())
      >>> jax.tree.map(jax.numpy.shape, statistics)
      {'batch_stats': {'BatchNorm_0': {'mean': (8,), 'var': (8,)}}}
    """
    dataset = data.as_dataset(dataset)
    batch_size = _checks.positive_int("batch_size", batch_size)
    if init_scale is not None:
        init_scale = _checks.positive_float("init_scale", init_scale)
    images = jnp.asarray(dataset.images)
    labels = jnp.asarray(dataset.labels)
    input_shape = images.shape[1:]
    described = linen.network(network, input_shape)
    _check_logits(described, input_shape, dataset.num_classes)
    loss = _LossWithStatistics if described.collections else _Loss
    statistics = linen.Statistics(described, input_shape) if described.collections else None
    return starting.optimizee(
        starting.no_instance,
        linen.Init(described, input_shape, init_scale),
        jax.tree_util.Partial(loss(described, batch_size), images, labels),
        statistics,
        _held_out(described, held_out, dataset, batch_size),
    )


def _check_logits(
    network: linen.Network,
    input_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    shape = linen.output_shape(network, input_shape)
    if shape != (1, num_classes):
        raise ValueError(
            f"network must give logits of shape (batch, {num_classes}) for these data, "
            f"got ({', '.join(['batch', *map(str, shape[1:])])})."
        )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross-entropy of every example, `[batch]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _held_out(
    network: linen.Network,
    held_out: Any,
    dataset: data.Dataset,
    batch_size: int,
) -> jax.tree_util.Partial | None:
    if held_out is None:
        return None
    linen.check_evaluation(network)
    held_out = data.as_dataset(held_out)
    _check_alike(held_out, dataset)
    images = jnp.asarray(held_out.images)
    labels = jnp.asarray(held_out.labels)
    return jax.tree_util.Partial(_HeldOut(network, batch_size), images, labels)


def _check_alike(held_out: data.Dataset, dataset: data.Dataset) -> None:
    shape = held_out.images.shape[1:]
    wanted = dataset.images.shape[1:]
    if shape != wanted:
        raise ValueError(f"held_out must have images of shape {wanted} each, got {shape}.")
    if held_out.num_classes > dataset.num_classes:
        raise ValueError(
            f"held_out must have the {dataset.num_classes} classes of dataset, got "
            f"{held_out.num_classes}."
        )


def _drawn(
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    batch_size: int,
) -> tuple[jax.Array, jax.Array]:
    """A random minibatch."""
    index = jax.random.randint(key, (batch_size,), 0, labels.shape[0])
    return as_float(images[index]), labels[index]


def _train(
    network: linen.Network,
    batch: tuple[jax.Array, jax.Array],
    theta: Theta,
    key: jax.Array,
    statistics: Any,
) -> tuple[jax.Array, Any]:
    """The loss on a minibatch and the statistics after it."""
    images, labels = batch
    if network.draws_in_training:
        key = jax.random.fold_in(key, NETWORK_STREAM)
    logits, statistics = network.train(theta, statistics, images, key)
    return jnp.mean(cross_entropy(logits, labels)), statistics


@dataclasses.dataclass(frozen=True)
class _Loss:
    network: linen.Network
    batch_size: int

    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array,
        theta: Theta,
        instance: Any,
        key: jax.Array,
    ) -> jax.Array:
        del instance
        batch = _drawn(images, labels, key, self.batch_size)
        loss, _ = _train(self.network, batch, theta, key, ())
        return loss


@dataclasses.dataclass(frozen=True)
class _LossWithStatistics:
    network: linen.Network
    batch_size: int

    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array,
        theta: Theta,
        instance: Any,
        key: jax.Array,
        statistics: Any,
    ) -> tuple[jax.Array, Any]:
        del instance
        batch = _drawn(images, labels, key, self.batch_size)
        return _train(self.network, batch, theta, key, statistics)


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    network: linen.Network
    batch_size: int

    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array,
        theta: Theta,
        instance: Any,
        key: jax.Array,
        statistics: Any = (),
    ) -> jax.Array:
        del instance
        key = jax.random.fold_in(key, HELD_OUT_STREAM)
        inputs, targets = _drawn(images, labels, key, self.batch_size)
        logits = self.network.evaluate(theta, statistics, inputs)
        return jnp.mean(cross_entropy(logits, targets))
