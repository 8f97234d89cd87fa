"""Convolutional networks whose features tell content and style: what they are, as data.

A network is a tuple of layers without weights; weights are arrays by name beside it. Features are
those after a layer's ReLU. Pooling takes averages, also where a network was trained with maxima
(Gatys et al. 2015 recommend that for pictures that are made).
"""

import dataclasses
import functools
import operator
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.optimizees import convolution

Weights = dict[str, jax.Array]  # "conv1/kernel" [height, width, inputs, outputs], "conv1/bias"

# Below this many inputs a convolution is faster as one product of all patches.
_FEW_CHANNELS = 32


class Conv(NamedTuple):
    """A convolution with a bias and a ReLU.

    Attributes:
      name: of the layer, and of its features.
      size: the side of its filters.
      inputs: channels that it reads.
      outputs: channels that it gives.
      stride: between two places of a filter.
      padded: whether there are zeros around the picture, so that it keeps its size.
    """

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    padded: bool = True

    def parts(self) -> tuple["Conv", ...]:
        """The convolutions that it is made of."""
        return (self,)


class Fire(NamedTuple):
    """A module of SqueezeNet: a squeezing convolution, and two that expand, side by side.

    Attributes:
      name: of the module, and of its features.
      inputs: channels that it reads.
      squeezed: channels between.
      outputs: channels that it gives, half of them from each expanding convolution.
    """

    name: str
    inputs: int
    squeezed: int
    outputs: int

    def parts(self) -> tuple[Conv, ...]:
        """The convolutions that it is made of: one that squeezes, two that expand."""
        half = self.outputs // 2
        return (
            Conv(f"{self.name}/squeeze1x1", 1, self.inputs, self.squeezed),
            Conv(f"{self.name}/expand1x1", 1, self.squeezed, half),
            Conv(f"{self.name}/expand3x3", 3, self.squeezed, half),
        )


class Pool(NamedTuple):
    """Averages of squares.

    Attributes:
      size: the side of a square.
      stride: between two squares.
    """

    size: int
    stride: int


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """What a network computes.

    Attributes:
      about: what it is, in a few words.
      layers: its layers, in their order.
      mean: what is subtracted from red, green and blue, of pixels from 0 to 255.
      scale: by what they are divided then.
      is_bgr: whether it reads blue first.
    """

    about: str
    layers: tuple[Conv | Fire | Pool, ...]
    mean: tuple[float, float, float]
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_bgr: bool = False

    def names(self) -> list[str]:
        """The names of all features, from the picture on."""
        return [layer.name for layer in self.layers if not isinstance(layer, Pool)]

    def convolutions(self) -> list[Conv]:
        """All convolutions, those within modules as well."""
        found: list[Conv] = []
        for layer in self.layers:
            if not isinstance(layer, Pool):
                found += layer.parts()
        return found

    def up_to(self, names: Collection[str]) -> "FeatureNetwork":
        """The network without what lies behind the last of some features.

        Raises:
          ValueError: for names that it does not have, or none.
        """
        if not names:
            raise ValueError(
                "style and content must name at least one layer, got none: give one of "
                f"{', '.join(self.names())}."
            )
        for name in names:
            _checks.choice("layer", name, self.names())
        last = max(i for i, layer in enumerate(self.layers) if _name_of(layer) in names)
        return dataclasses.replace(self, layers=self.layers[: last + 1])


class Features(NamedTuple):
    """A network with its weights, and which of its layers tell what.

    Attributes:
      network: the `FeatureNetwork`.
      weights: its arrays by name.
      style: dict from a layer to its weight in the style term.
      content: dict from a layer to its weight in the content term.
    """

    network: FeatureNetwork
    weights: Weights
    style: Mapping[str, float]
    content: Mapping[str, float]


def features(
    network: FeatureNetwork,
    weights: Weights,
    picture: jax.Array,
) -> dict[str, jax.Array]:
    """All features of a picture.

    Args:
      network: the network.
      weights: its arrays.
      picture: `[height, width, 3]`, red, green and blue from 0 to 255, at least 16 x 16.

    Returns:
      Dict from the name of a layer to `[height, width, channels]`.
    """
    offset = jnp.asarray(network.mean, picture.dtype)[None, None]
    x = (picture - offset) / jnp.asarray(network.scale, picture.dtype)[None, None]
    if network.is_bgr:
        x = x[..., ::-1]
    x = x[None]
    found = {}
    for layer in network.layers:
        if isinstance(layer, Pool):
            x = _average(x, layer)
            continue
        x = _convolved(layer, weights, x) if isinstance(layer, Conv) else _fire(layer, weights, x)
        found[layer.name] = x[0]
    return found


def random_features(num_filters: int = 32, seed: int = 0) -> Features:
    """A network of random filters, which needs no file: three scales of 3 x 3 filters.

    Textures can be made with filters that nothing was learned for (Ustyuzhaninov et al. 2016, arXiv
    1606.00021, who take larger ones in a single layer). Contents come out coarser than with a
    network that was trained on photographs.

    Args:
      num_filters: of each layer.
      seed: of the filters.

    Returns:
      `Features`; all three layers are style, and the second is content.

    Raises:
      ValueError: for a number of filters that is not positive.
    """
    num_filters = _checks.positive_int("num_filters", num_filters)
    layers = (
        Conv("random1", 3, 3, num_filters),
        Pool(2, 2),
        Conv("random2", 3, num_filters, num_filters),
        Pool(2, 2),
        Conv("random3", 3, num_filters, num_filters),
    )
    middle = (127.5, 127.5, 127.5)
    network = FeatureNetwork("random filters", layers, mean=middle, scale=(64.0, 64.0, 64.0))
    draws = np.random.default_rng(seed)
    weights = {}
    for conv in network.convolutions():
        shape = (conv.size, conv.size, conv.inputs, conv.outputs)
        # The size of what comes in is kept by a ReLU behind such filters (He et al. 2015).
        scale = (2 / (conv.size**2 * conv.inputs)) ** 0.5
        kernel = scale * draws.normal(size=shape)
        weights[f"{conv.name}/kernel"] = jnp.asarray(kernel, jnp.float32)
        weights[f"{conv.name}/bias"] = jnp.zeros(conv.outputs)
    style = dict.fromkeys(network.names(), 1.0)
    return Features(network, weights, style, {"random2": 1.0})


def _name_of(layer: Conv | Fire | Pool) -> str | None:
    return None if isinstance(layer, Pool) else layer.name


def _convolved(conv: Conv, weights: Weights, x: jax.Array) -> jax.Array:
    kernel, bias = weights[f"{conv.name}/kernel"], weights[f"{conv.name}/bias"]
    y = _convolution(conv, x, kernel)
    return jax.nn.relu(y + bias[None, None, None])


def _convolution(conv: Conv, x: jax.Array, kernel: jax.Array) -> jax.Array:
    is_usual = conv.size == convolution.FILTER_SIZE and conv.stride == 1 and conv.padded
    if is_usual and conv.inputs > _FEW_CHANNELS:
        return convolution.convolve(x, kernel)
    if conv.padded:
        border = conv.size // 2
        x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    patches = jnp.concatenate(_shifted(x, conv.size, conv.stride), axis=-1)
    rows = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, conv.outputs)
    return rows.reshape(*patches.shape[:-1], conv.outputs)


def _fire(fire: Fire, weights: Weights, x: jax.Array) -> jax.Array:
    squeeze, *expand = fire.parts()
    squeezed = _convolved(squeeze, weights, x)
    return jnp.concatenate([_convolved(conv, weights, squeezed) for conv in expand], axis=-1)


def _average(x: jax.Array, pool: Pool) -> jax.Array:
    # Sums of slices: the derivative of `lax.reduce_window` is slow on a CPU.
    total = functools.reduce(operator.add, _shifted(x, pool.size, pool.stride))
    return total / pool.size**2


def _shifted(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """What every place of a window sees: `size**2` arrays, one for each pixel of the window."""
    batch, height, width, channels = x.shape
    rows = (height - size) // stride + 1
    columns = (width - size) // stride + 1
    found = []
    for i in range(size):
        for j in range(size):
            end = (batch, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, channels)
            found.append(jax.lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1)))
    return found
