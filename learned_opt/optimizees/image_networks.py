"""The papers' networks on images, each with the family of problems that trains it."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from learned_opt import _checks, data
from learned_opt.optimizees import linen
from learned_opt.optimizees.base import Optimizee
from learned_opt.optimizees.classifier import classifier


class NetworkFamily(NamedTuple):
    """A family of problems, and the network that each of them trains.

    Attributes:
      family: the `Optimizee`.
      network: the `flax.linen.Module`, for `accuracy` and `mean_loss`.
    """

    family: Optimizee
    network: linen.Module


def network_family(
    network: str | linen.Module | Callable[..., linen.Module],
    dataset: Any = "digits",
    *,
    batch_size: int = 128,
    init_scale: float | None = 0.1,
    held_out: Any = None,
    **settings: Any,
) -> NetworkFamily:
    """A network on a data set: the family of problems, and the network itself.

    Args:
      network: "mlp", "cnn" or "normalized_cnn"; or a function `(num_classes, **settings)` that
        builds a `flax.linen.Module`; or such a module itself.
      dataset: the name of a data set, whose training split it is, or data as in `classifier`.
      batch_size, init_scale, held_out: see `classifier`. 0.1 is the papers' scale; a network with
        batch normalization wants None.
      **settings: of the network: those of `mlp_network`, `cnn_network` or `normalized_cnn_network`,
        or of the function.

    Returns:
      A `NetworkFamily`.

    Raises:
      ValueError: for an unknown name, or settings of the network that are not possible.

    Example:
      >>> from learned_opt import data, optimizees
      >>> train, test = data.load("digits")
      >>> family, network = optimizees.network_family("mlp", train, width=5)
      >>> network.hidden_sizes
      (5,)
      >>> measure = optimizees.accuracy(network, test)
    """
    dataset = data.training_data(dataset)
    module = _built(network, dataset.num_classes, settings)
    family = classifier(module, dataset, batch_size, init_scale, held_out)
    return NetworkFamily(family, module)


def _built(
    network: Any,
    num_classes: int,
    settings: dict,
) -> linen.Module:
    if isinstance(network, str):
        build = NETWORKS[_checks.choice("network", network, NETWORKS)]
        return build(num_classes, **settings)
    linen_module = _checks.extra("flax.linen", "flax", "a network").Module
    if not isinstance(network, linen_module) and callable(network):
        return network(num_classes, **settings)
    if settings:
        names = ", ".join(settings)
        raise ValueError(
            f"network has its settings already, got {names} beside a module: set them in the "
            "module."
        )
    return network


def mlp(
    dataset: Any = "digits",
    *,
    width: int = 20,
    depth: int = 1,
    activation: str = "sigmoid",
    batch_size: int = 128,
    init_scale: float | None = 0.1,
    held_out: Any = None,
) -> Optimizee:
    """The papers' small network: a perceptron with one hidden layer of 20 sigmoid units.

    theta_0 ~ N(0, 0.1), the 0.1 read as the standard deviation.

    Args:
      dataset: the name of a data set, whose training split it is, or data as in `classifier`.
      width: the number of units of each hidden layer.
      depth: the number of hidden layers.
      activation: "sigmoid", "relu", "elu" or "tanh".
      batch_size: the number of examples of a minibatch.
      init_scale: the standard deviation of theta_0, or None for the network's own initializers.
      held_out: see `classifier`.

    Returns:
      An `Optimizee`. `network_family("mlp", ...)` also returns the network.

    Raises:
      ValueError: for an unknown name or sizes that are not positive.

    Source:
      Andrychowicz et al. 2016, section 3.2; Lv, Jiang, Li 2017, section 5, for theta_0.
    """
    return network_family(
        "mlp",
        dataset,
        batch_size=batch_size,
        init_scale=init_scale,
        held_out=held_out,
        width=width,
        depth=depth,
        activation=activation,
    ).family


def mlp_network(
    num_classes: int,
    *,
    width: int = 20,
    depth: int = 1,
    activation: str = "sigmoid",
) -> linen.Module:
    """The Flax module of `mlp`."""
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    width = _checks.positive_int("width", width)
    depth = _checks.positive_int("depth", depth)
    return networks.MLP(
        hidden_sizes=(width,) * depth,
        activation=_checks.choice("activation", activation, networks.ACTIVATIONS),
        num_classes=_checks.positive_int("num_classes", num_classes),
    )


def cnn(
    dataset: Any = "digits",
    *,
    structure: str = "c-c-p-f",
    channels: int = 16,
    growth: int = 2,
    hidden_size: int | None = None,
    activation: str = "relu",
    pixel_offset: float = 0.0,
    batch_size: int = 128,
    init_scale: float | None = 0.1,
    held_out: Any = None,
) -> Optimizee:
    """The convolutional networks of Lv, Jiang, Li 2017, named by their structure.

    In a structure c is a convolution with 3 x 3 filters, p max-pooling of 2 x 2 with stride 2, and
    f a fully connected layer. The last f gives the logits. The paper has "c-c-p-f" and
    "c-c-p-c-c-p-f-f", and says no more than "similar structure as VGGNet". The rest is that of the
    authors' code (github.com/vfleaking/rnnprop):

    - 16 channels, doubled after each pooling.
    - A hidden fully connected layer has as many units as a next convolution would have channels,
      64 in the larger network.
    - Convolutions keep the size of images, with zeros around them.
    - A ReLU follows every layer but poolings and the last.
    - theta_0 ~ N(0, 0.1), biases too; 0.1 is the standard deviation.
    - Minibatches of 128. There they come from shuffled epochs, here they are drawn with
      replacement.
    - Pixels are in [0, 1] on MNIST, and in [-0.5, 0.5] on CIFAR-10: `pixel_offset=0.5`.

    Args:
      dataset: the name of a data set, whose training split it is, or data as in `classifier`, with
        images `[n, height, width, channels]`.
      structure: letters c and p in any order, then at least one f, joined by "-".
      channels: the number of channels of the convolutions before the first pooling.
      growth: the factor by which channels grow after each pooling.
      hidden_size: the number of units of each fully connected layer but the last; None for
        `channels * growth**poolings`.
      activation: "sigmoid", "relu", "elu" or "tanh".
      pixel_offset: what is subtracted from pixels.
      batch_size: the number of examples of a minibatch.
      init_scale: the standard deviation of theta_0, or None for the network's own initializers.
      held_out: see `classifier`.

    Returns:
      An `Optimizee`. Its loss has derivatives in reverse mode only, of any order.
      `network_family("cnn", ...)` also returns the network.

    Raises:
      ValueError: for an unknown name, sizes that are not positive, another structure or other
        images.

    Source:
      Lv, Jiang, Li 2017, section 5.4.1.
    """
    return network_family(
        "cnn",
        dataset,
        batch_size=batch_size,
        init_scale=init_scale,
        held_out=held_out,
        structure=structure,
        channels=channels,
        growth=growth,
        hidden_size=hidden_size,
        activation=activation,
        pixel_offset=pixel_offset,
    ).family


def cnn_network(
    num_classes: int,
    *,
    structure: str = "c-c-p-f",
    channels: int = 16,
    growth: int = 2,
    hidden_size: int | None = None,
    activation: str = "relu",
    pixel_offset: float = 0.0,
) -> linen.Module:
    """The Flax module of `cnn`."""
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    _check_structure(structure)
    channels = _checks.positive_int("channels", channels)
    growth = _checks.positive_int("growth", growth)
    if hidden_size is None:
        hidden_size = channels * growth ** structure.count("p")
    return networks.CNN(
        structure=structure,
        channels=channels,
        growth=growth,
        hidden_size=_checks.positive_int("hidden_size", hidden_size),
        activation=_checks.choice("activation", activation, networks.ACTIVATIONS),
        pixel_offset=_checks.not_negative_float("pixel_offset", pixel_offset),
        num_classes=_checks.positive_int("num_classes", num_classes),
    )


def normalized_cnn(
    dataset: Any = "digits",
    *,
    channels: Sequence[int] = (8, 8, 8),
    hidden_sizes: Sequence[int] = (32,),
    pixel_offset: float = 0.5,
    batch_size: int = 32,
    init_scale: float | None = None,
    held_out: Any = None,
) -> Optimizee:
    """The network on CIFAR-10 of Andrychowicz et al. 2016: convolutions with batch normalization.

    Three convolutions with max-pooling, then a fully connected layer of 32 units; all of these have
    batch normalization and ReLU. The paper says no more. The rest is ours:

    - Filters of 3 x 3 with zeros around images, 8 of them in each convolution.
    - Each convolution is pooled by 2 x 2, then normalized, then goes through ReLU.
    - Layers that are normalized have no bias beside that of the normalization.
    - theta_0 is drawn by Flax's own initializers.
    - Minibatches of 32, drawn with replacement; pixels in [-0.5, 0.5].

    **Batch statistics.** The mean and the variance are those of the minibatch itself, in training
    and at test time: a test image is normalized by the test batch that it stands in, and its logits
    depend on that batch. There are no running averages, so the loss is a function of theta and a
    minibatch alone. `accuracy` and `mean_loss` take test batches of at most 1,000 images.

    Args:
      dataset: the name of a data set, whose training split it is, or data as in `classifier`, with
        images `[n, height, width, channels]`.
      channels: the number of filters of each convolution.
      hidden_sizes: the number of units of each fully connected layer but the last.
      pixel_offset: what is subtracted from pixels.
      batch_size: the number of examples of a minibatch.
      init_scale: the standard deviation of theta_0, or None for the network's own initializers.
      held_out: see `classifier`.

    Returns:
      An `Optimizee`. Its loss has derivatives in reverse mode only, of any order.
      `network_family("normalized_cnn", ...)` also returns the network.

    Raises:
      ValueError: for an unknown name, sizes that are not positive, or other images.

    Source:
      Andrychowicz et al. 2016, section 3.3.
    """
    return network_family(
        "normalized_cnn",
        dataset,
        batch_size=batch_size,
        init_scale=init_scale,
        held_out=held_out,
        channels=channels,
        hidden_sizes=hidden_sizes,
        pixel_offset=pixel_offset,
    ).family


def normalized_cnn_network(
    num_classes: int,
    *,
    channels: Sequence[int] = (8, 8, 8),
    hidden_sizes: Sequence[int] = (32,),
    pixel_offset: float = 0.5,
) -> linen.Module:
    """The Flax module of `normalized_cnn`."""
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    return networks.NormalizedCNN(
        channels=_sizes("channels", channels),
        hidden_sizes=_sizes("hidden_sizes", hidden_sizes),
        pixel_offset=_checks.not_negative_float("pixel_offset", pixel_offset),
        num_classes=_checks.positive_int("num_classes", num_classes),
    )


def _sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    return tuple(_checks.positive_int(name, value) for value in values)


def _check_structure(structure: Any) -> None:
    if not isinstance(structure, str) or not re.fullmatch("([cp]-)*(f-)*f", structure):
        raise ValueError(
            "structure must be convolutions c and poolings p, then fully connected layers f, as "
            f"in 'c-c-p-f', got {structure!r}."
        )


NETWORKS: dict[str, Callable[..., linen.Module]] = {
    "mlp": mlp_network,
    "cnn": cnn_network,
    "normalized_cnn": normalized_cnn_network,
}
