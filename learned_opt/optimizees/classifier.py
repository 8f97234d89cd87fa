"""Networks that learn to classify: the optimizees of the papers' MNIST and CIFAR studies."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import _checks, data
from learned_opt.optimizees import base, starting


def classifier(network, dataset, batch_size=128, init_scale=None):
    """The cross-entropy of a Flax network on random minibatches (Andrychowicz et al. 2016, section 3.2).

    Two problems of the family differ in theta_0 and in their minibatches. The data are bound with
    `jax.tree_util.Partial`: they lie on the device once, whatever the number of problems.

    Args:
      network: a `flax.linen.Module` from images `[batch, ...]` to logits `[batch, num_classes]`.
      dataset: `data.Dataset`, or a pair `(images [n, ...], labels [n])` of arrays; images of dtype uint8 are scaled
        to [0, 1] as they are drawn, others are used as they are.
      batch_size: examples of a minibatch, drawn with replacement inside the step.
      init_scale: standard deviation of the Gaussian from which every parameter of theta_0 is drawn, or None for the
        network's own initializers.

    Returns:
      An `Optimizee`; theta is the network's "params" collection.

    Raises:
      ValueError: for sizes that are not positive, or data that are no classification data.
    """
    dataset = data.as_dataset(dataset)
    batch_size = _checks.positive_int("batch_size", batch_size)
    if init_scale is not None:
        init_scale = _checks.positive_float("init_scale", init_scale)
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    _check_logits(network, images, dataset.num_classes)
    return base.Optimizee(
        jax.tree_util.Partial(starting.no_instance),
        jax.tree_util.Partial(starting.NetworkInit(network, images.shape[1:], init_scale)),
        jax.tree_util.Partial(_Loss(network, batch_size), images, labels),
    )


def mlp(
    dataset="digits", *, width=20, depth=1, activation="sigmoid", batch_size=128, init_scale=0.1
):
    """The papers' small network: a perceptron with one hidden layer of 20 sigmoid units.

    Andrychowicz et al. 2016, section 3.2; theta_0 ~ N(0, 0.1) as in Lv, Jiang, Li 2017, section 5, the 0.1 read as
    the standard deviation.

    Args:
      dataset: "digits" (embedded), any other data set as in `classifier`.
      width: units of each hidden layer.
      depth: number of hidden layers.
      activation: "sigmoid", "relu", "elu" or "tanh".
      batch_size: examples of a minibatch.
      init_scale: standard deviation of theta_0.

    Returns:
      An `Optimizee`.

    Raises:
      ValueError: for an unknown name or sizes that are not positive.
    """
    if isinstance(dataset, str):
        dataset = data.load(dataset).train
    dataset = data.as_dataset(dataset)
    network = mlp_network(dataset.num_classes, width=width, depth=depth, activation=activation)
    return classifier(network, dataset, batch_size, init_scale)


def mlp_network(num_classes, *, width=20, depth=1, activation="sigmoid"):
    """The Flax module behind `mlp`, for use with `accuracy`."""
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    return networks.MLP(
        hidden_sizes=(_checks.positive_int("width", width),) * _checks.positive_int("depth", depth),
        activation=_checks.choice("activation", activation, networks.ACTIVATIONS),
        num_classes=_checks.positive_int("num_classes", num_classes),
    )


def cnn(
    dataset="digits",
    *,
    structure="c-c-p-f",
    channels=16,
    growth=2,
    hidden_size=None,
    activation="relu",
    pixel_offset=0.0,
    batch_size=128,
    init_scale=0.1,
):
    """The convolutional networks of Lv, Jiang, Li 2017, section 5.4.1, named by their structure.

    "c-c-p-f" and "c-c-p-c-c-p-f-f" are the paper's: c is a convolution with 3 x 3 filters, p max-pooling of 2 x 2 with
    stride 2, f a fully connected layer, of which the last gives the logits. The paper says no more than "similar
    structure as VGGNet". From the authors' code (github.com/vfleaking/rnnprop) are 16 channels, doubled after each
    pooling, and that hidden fully connected layers have as many units as a next convolution would have channels (64
    in the larger network); images keep their size in convolutions, zeros around them; a ReLU after every layer but
    poolings and the last; theta_0 ~ N(0, 0.1), 0.1 the standard deviation, biases too; minibatches of 128. Its pixels
    are in [0, 1] on MNIST, and in [-0.5, 0.5] on CIFAR-10: `pixel_offset=0.5`. It draws minibatches from shuffled
    epochs, here they are drawn with replacement.

    Args:
      dataset: "digits" (embedded), any other data set of images `[n, height, width, channels]` as in `classifier`.
      structure: letters c and p in any order, then at least one f, joined by "-".
      channels: of the convolutions before the first pooling.
      growth: by what channels are multiplied after each pooling.
      hidden_size: units of each fully connected layer but the last; None for `channels * growth**poolings`.
      activation: "sigmoid", "relu", "elu" or "tanh".
      pixel_offset: what is subtracted from pixels.
      batch_size: examples of a minibatch.
      init_scale: standard deviation of theta_0, or None for the network's own initializers.

    Returns:
      An `Optimizee`. Its loss has derivatives in reverse mode only, of any order.

    Raises:
      ValueError: for an unknown name, sizes that are not positive, another structure or other images.
    """
    dataset = data.as_dataset(data.load(dataset).train if isinstance(dataset, str) else dataset)
    network = cnn_network(
        dataset.num_classes,
        structure=structure,
        channels=channels,
        growth=growth,
        hidden_size=hidden_size,
        activation=activation,
        pixel_offset=pixel_offset,
    )
    return classifier(network, dataset, batch_size, init_scale)


def cnn_network(
    num_classes,
    *,
    structure="c-c-p-f",
    channels=16,
    growth=2,
    hidden_size=None,
    activation="relu",
    pixel_offset=0.0,
):
    """The Flax module behind `cnn`, for use with `accuracy`."""
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    if not isinstance(structure, str) or not re.fullmatch("([cp]-)*(f-)*f", structure):
        raise ValueError(
            f"structure must be convolutions c and poolings p, then fully connected layers f, as in "
            f"'c-c-p-f', got {structure!r}."
        )
    channels, growth = (
        _checks.positive_int("channels", channels),
        _checks.positive_int("growth", growth),
    )
    hidden_size = channels * growth ** structure.count("p") if hidden_size is None else hidden_size
    return networks.CNN(
        structure=structure,
        channels=channels,
        growth=growth,
        hidden_size=_checks.positive_int("hidden_size", hidden_size),
        activation=_checks.choice("activation", activation, networks.ACTIVATIONS),
        pixel_offset=_checks.positive_float("pixel_offset", pixel_offset)
        if pixel_offset != 0
        else 0.0,
        num_classes=_checks.positive_int("num_classes", num_classes),
    )


def accuracy(network, dataset):
    """A measure of theta: the fraction of a whole data set that the network classifies correctly.

    Args:
      network: as in `classifier`.
      dataset: as in `classifier`, usually the test split.

    Returns:
      A function of theta (a `jax.tree_util.Partial`), for `learned_opt.compare(..., measure=...)`.
    """
    dataset = data.as_dataset(dataset)
    return jax.tree_util.Partial(
        _Accuracy(network), jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    )


@dataclasses.dataclass(frozen=True)
class _Accuracy:
    network: Any

    def __call__(self, images, labels, theta):
        logits = self.network.apply({"params": theta}, as_float(images))
        return jnp.mean(jnp.argmax(logits, -1) == labels)


def as_float(images):
    """Images as a network reads them: bytes become [0, 1]."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


@dataclasses.dataclass(frozen=True)
class _Loss:
    network: Any
    batch_size: int

    def __call__(self, images, labels, theta, instance, key):
        del instance
        index = jax.random.randint(key, (self.batch_size,), 0, labels.shape[0])
        logits = self.network.apply({"params": theta}, as_float(images[index]))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]))


def _check_logits(network, images, num_classes):
    shapes = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))[0]
    )
    if shapes.shape != (1, num_classes):
        raise ValueError(
            f"network must give logits of shape (batch, {num_classes}) for these data, "
            f"got {('batch', *np.shape(shapes)[1:])}."
        )
