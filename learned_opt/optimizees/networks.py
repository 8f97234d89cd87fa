"""Flax networks to be optimized."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from learned_opt.optimizees import batch_last, convolution

ACTIVATIONS = {"sigmoid": nn.sigmoid, "relu": nn.relu, "elu": nn.elu, "tanh": nn.tanh}


class MLP(nn.Module):
    """A perceptron: flattened images `[batch, ...]` to logits `[batch, num_classes]`."""

    hidden_sizes: tuple[int, ...]
    activation: str
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of a batch of images."""
        activation = ACTIVATIONS[self.activation]
        x = images.reshape(images.shape[0], -1)
        for size in self.hidden_sizes:
            x = activation(nn.Dense(size)(x))
        return nn.Dense(self.num_classes)(x)


class Conv(nn.Module):
    """A convolution with 3 x 3 filters that keeps the size of images.

    Images are `[batch, height, width, channels]`.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, height, width, features]`."""
        size = convolution.FILTER_SIZE
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        return convolution.convolve(x, kernel) + jnp.expand_dims(bias, (0, 1, 2))


class CNN(nn.Module):
    """A convolutional network.

    It maps images `[batch, height, width, channels]` to logits `[batch, num_classes]`.

    Attributes:
      structure: as in "c-c-p-f", convolutions and max-poolings, then fully connected layers.
      channels: the number of channels of the convolutions before the first pooling.
      growth: the factor by which channels grow after each pooling.
      hidden_size: the number of units of each fully connected layer but the last.
      activation: one of `ACTIVATIONS`.
      pixel_offset: what is subtracted from pixels.
      num_classes: the number of logits.
    """

    structure: str
    channels: int
    growth: int
    hidden_size: int
    activation: str
    pixel_offset: float
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of a batch of images."""
        letters = self.structure.split("-")
        _check_images(images.shape, self.structure, letters.count("p"))
        num_hidden = letters.count("f") - 1
        activation = ACTIVATIONS[self.activation]
        channels = self.channels
        x = images - self.pixel_offset
        for letter in letters:
            if letter == "c":
                x = activation(Conv(channels)(x))
            elif letter == "p":
                x = convolution.max_pool(x)
                channels *= self.growth
        x = x.reshape(x.shape[0], -1)
        for _ in range(num_hidden):
            x = activation(nn.Dense(self.hidden_size)(x))
        return nn.Dense(self.num_classes)(x)


class Normalized(nn.Module):
    """Batch normalization by the statistics of the batch that it is given, and of nothing else.

    It has no running averages: what a network makes of an image depends on the others of its batch,
    in evaluation too. The batch is on the last axis, channels or units on the first, each with a
    scale and a bias.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns what has the shape of `x`."""
        size = x.shape[0]
        others = tuple(range(1, x.ndim))
        scale = self.param("scale", nn.initializers.ones, (size,))
        bias = self.param("bias", nn.initializers.zeros, (size,))
        centred = x - x.mean(others, keepdims=True)
        variance = jnp.square(centred).mean(others, keepdims=True)
        factor = jnp.expand_dims(scale, others) * jax.lax.rsqrt(variance + self.epsilon)
        return factor * centred + jnp.expand_dims(bias, others)


class NormalizedConv(nn.Module):
    """A convolution with 3 x 3 filters, max-pooling, batch normalization, and ReLU.

    Images are `[channels, height, width, batch]`.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[features, height // 2, width // 2, batch]`."""
        size = batch_last.FILTER_SIZE
        # Fans are those of `[3, 3, channels, features]`; a bias would be taken off again.
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (size, size, x.shape[0], self.features)
        )
        x = batch_last.max_pool(batch_last.convolve(x, kernel))
        return nn.relu(Normalized(name="norm")(x))


class NormalizedDense(nn.Module):
    """A fully connected layer, batch normalization, and ReLU; the batch is the last axis."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[features, batch]`."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[0], self.features))
        return nn.relu(Normalized(name="norm")(kernel.T @ x))


class NormalizedCNN(nn.Module):
    """Convolutions and fully connected layers with batch normalization.

    It maps images `[batch, height, width, channels]` to logits `[batch, num_classes]`.

    Attributes:
      channels: of each convolution; a pooling of 2 x 2 follows each.
      hidden_sizes: the units of each fully connected layer but the last.
      pixel_offset: what is subtracted from pixels.
      num_classes: the number of logits.
    """

    channels: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    pixel_offset: float
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of a batch of images."""
        structure = f"{len(self.channels)} convolutions"
        _check_images(images.shape, structure, len(self.channels))
        x = (images - self.pixel_offset).transpose(3, 1, 2, 0)
        for i, channels in enumerate(self.channels):
            x = NormalizedConv(channels, name=f"conv_{i}")(x)
        x = x.reshape(-1, x.shape[-1])
        for i, size in enumerate(self.hidden_sizes):
            x = NormalizedDense(size, name=f"dense_{i}")(x)
        return nn.Dense(self.num_classes, name="logits")(x.T)


class LSTM(nn.Module):
    """LSTM layers and a linear one: sequences `[batch, time]` to the next value `[batch]`."""

    num_layers: int
    hidden_size: int

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """The prediction after the last value of each sequence."""
        x: Any = values[..., None]
        for _ in range(self.num_layers):
            # The loop over time is no slower on a CPU than the same unrolled, and compiles sooner.
            layer = nn.RNN(nn.OptimizedLSTMCell(self.hidden_size))
            x = layer(x)
        last = x[:, -1]
        return nn.Dense(1)(last)[:, 0]


def _check_images(
    shape: tuple[int, ...],
    structure: str,
    num_poolings: int,
) -> None:
    if len(shape) != 4:
        raise ValueError(
            f"images must be [n, height, width, channels] for a convolutional network, got shape "
            f"({', '.join(['n', *map(str, shape[1:])])})."
        )
    smaller_side = min(shape[1:3])
    most = smaller_side.bit_length() - 1
    if num_poolings > most:
        raise ValueError(
            f"structure must have at most {most} poolings for images of {shape[1]} x {shape[2]} "
            f"pixels, got {structure!r}."
        )
