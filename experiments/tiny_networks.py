"""Small Flax networks that a general optimizer is trained on."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu}


class Perceptron(nn.Module):
    """Hidden layers of any widths, with layer normalisation or without."""

    num_classes: int
    widths: Sequence[int] = (32,)
    activation: str = "relu"
    is_normalised: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `[batch, num_classes]`."""
        x = images.reshape(len(images), -1)
        for width in self.widths:
            x = nn.Dense(width)(x)
            if self.is_normalised:
                x = nn.LayerNorm()(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.num_classes)(x)


class Convolution(nn.Module):
    """A convolution of 3 x 3 with stride 2, as a product with patches.

    XLA's convolutions on a CPU are slow where every image of a batch of networks has its own
    kernel, as it is when many networks are trained at once. Products are not.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """From `[batch, height, width, channels]` to half the sides."""
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        height, width = x.shape[1] // 2, x.shape[2] // 2
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [
            padded[:, row : row + 2 * height : 2, column : column + 2 * width : 2]
            for row in range(3)
            for column in range(3)
        ]
        stacked = jnp.concatenate(patches, axis=-1)
        return stacked @ kernel.reshape(-1, self.channels) + bias[None, None, None]


class Convolutional(nn.Module):
    """Two convolutions with stride 2, and a layer."""

    num_classes: int
    channels: Sequence[int] = (8, 16)
    is_normalised: bool = True

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `[batch, num_classes]`."""
        x = images
        for channels in self.channels:
            x = Convolution(channels)(x)
            if self.is_normalised:
                x = nn.GroupNorm(num_groups=2)(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


class Transformer(nn.Module):
    """A causal Transformer of symbols."""

    num_symbols: int
    units: int = 16
    num_heads: int = 2
    num_layers: int = 1

    @nn.compact
    def __call__(self, symbols: jax.Array) -> jax.Array:
        """Logits `[batch, length, num_symbols]` of the next symbols."""
        x = nn.Embed(self.num_symbols, self.units)(symbols)
        places = self.param(
            "position_embedding", nn.initializers.normal(0.02), (symbols.shape[1], self.units)
        )
        x = x + places[None]
        mask = nn.make_causal_mask(symbols)
        for _ in range(self.num_layers):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.num_heads)(y, mask=mask)
            y = nn.Dense(4 * self.units)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.units)(nn.gelu(y))
        return nn.Dense(self.num_symbols)(nn.LayerNorm()(x))
