"""The suite's Flax networks, each with its own initialisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from learned_opt.optimizees import convolution
from learned_opt.optimizees.networks import Conv

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
NORMALISATIONS = ("none", "batch", "layer", "group")
NUM_GROUPS = 4
MOMENTUM = 0.9  # of the running averages, for runs of a few thousand steps


class Normalisation(nn.Module):
    """What stands between a layer and its activation.

    Attributes:
      kind: one of `NORMALISATIONS`. "layer" is over all but the batch.
    """

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns an array like `x`."""
        if self.kind == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(x)
        if self.kind == "layer":
            return nn.GroupNorm(num_groups=1)(x)
        if self.kind == "group":
            return nn.GroupNorm(num_groups=NUM_GROUPS)(x)
        return x


class Perceptron(nn.Module):
    """Images `[batch, ...]` to logits `[batch, num_classes]`."""

    widths: tuple[int, ...]
    num_classes: int
    activation: str = "relu"
    normalisation: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits of a batch of images."""
        x = centred(images).reshape(images.shape[0], -1)
        for width in self.widths:
            x = Normalisation(self.normalisation)(nn.Dense(width)(x), train)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.num_classes)(x)


class Autoencoder(nn.Module):
    """Images `[batch, ...]` to images of that shape, through few units in the middle."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """The images again."""
        x = centred(images).reshape(images.shape[0], -1)
        num_pixels = x.shape[1]
        for width in (*self.widths, *self.widths[-2::-1]):
            x = nn.relu(nn.Dense(width)(x))
        return nn.sigmoid(nn.Dense(num_pixels)(x)).reshape(images.shape)


class ConvNet(nn.Module):
    """Convolutions, each followed by a pooling, then one linear layer."""

    channels: tuple[int, ...]
    num_classes: int
    normalisation: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits of a batch of images."""
        x = centred(images)
        for channels in self.channels:
            x = nn.relu(Normalisation(self.normalisation)(Conv(channels)(x), train))
            x = convolution.max_pool(x)
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; with `shrink` the image gets half as wide and high."""

    channels: int
    normalisation: str
    shrink: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[batch, height, width, channels]`."""
        y = Conv(self.channels)(x)
        if self.shrink:
            x, y = every_second(x), every_second(y)
        y = nn.relu(Normalisation(self.normalisation)(y, train))
        y = Normalisation(self.normalisation)(Conv(self.channels)(y), train)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, use_bias=False)(x)  # a convolution of 1 x 1
        return nn.relu(x + y)


def every_second(x: jax.Array) -> jax.Array:
    """Every second pixel in both directions, which makes a convolution one of stride two."""
    batch, height, width, channels = x.shape
    # Slices of contiguous pairs: XLA has no fast program for the derivative of strided ones.
    pairs = x.reshape(batch, height // 2, 2, width // 2, 2 * channels)
    return pairs[:, :, 0, :, :channels]


class ResNet(nn.Module):
    """A residual network of `2 + 2 * blocks * len(channels)` layers (He et al. 2016)."""

    channels: tuple[int, ...]
    blocks: int
    num_classes: int
    normalisation: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits of a batch of images."""
        x = Conv(self.channels[0])(centred(images))
        x = nn.relu(Normalisation(self.normalisation)(x, train))
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                shrink = stage > 0 and block == 0
                x = ResidualBlock(channels, self.normalisation, shrink)(x, train)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Attention(nn.Module):
    """Attention of several heads, with matrices as parameters."""

    num_heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x` `[batch, time, units]`."""
        batch, time, units = x.shape
        heads = (batch, time, self.num_heads, units // self.num_heads)
        query, key, value = (nn.Dense(units, name=name)(x).reshape(heads) for name in "qkv")
        scores = jnp.einsum("bthd,bshd->bhts", query, key) / heads[-1] ** 0.5
        if self.causal:
            past = jnp.tril(jnp.ones((time, time), bool))
            scores = jnp.where(past[None, None], scores, -jnp.inf)
        mixed = jnp.einsum("bhts,bshd->bthd", nn.softmax(scores), value)
        return nn.Dense(units, name="out")(mixed.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each behind a normalisation and beside a shortcut."""

    num_heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x` `[batch, time, units]`."""
        units = x.shape[-1]
        x = x + Attention(self.num_heads, self.causal)(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(4 * units)(nn.LayerNorm()(x)))
        return x + nn.Dense(units)(hidden)


class Positions(nn.Module):
    """Adds a learned vector to each place of a sequence `[batch, time, units]`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x`."""
        shape = x.shape[1:]
        return x + self.param("embedding", nn.initializers.normal(0.02), shape)[None]


class Transformer(nn.Module):
    """Symbols `[batch, time]` to logits of the next one, `[batch, time, vocabulary]`."""

    layers: int
    units: int
    num_heads: int
    vocabulary: int

    @nn.compact
    def __call__(self, symbols: jax.Array) -> jax.Array:
        """Logits at every place."""
        x = nn.Embed(self.vocabulary, self.units)(symbols.astype(jnp.int32))
        x = Positions()(x)
        for _ in range(self.layers):
            x = TransformerBlock(self.num_heads, causal=True)(x)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


class GRU(nn.Module):
    """Symbols `[batch, time]` to logits of the next one, `[batch, time, vocabulary]`."""

    units: int
    vocabulary: int

    @nn.compact
    def __call__(self, symbols: jax.Array) -> jax.Array:
        """Logits at every place."""
        x = nn.Embed(self.vocabulary, self.units)(symbols.astype(jnp.int32))
        x = nn.RNN(nn.GRUCell(self.units))(x)
        return nn.Dense(self.vocabulary)(x)


class VisionTransformer(nn.Module):
    """Squares of an image as a sequence; the mean over them is read (Dosovitskiy et al. 2021).

    Attributes:
      squares: how many squares stand side by side.
    """

    squares: int
    layers: int
    units: int
    num_heads: int
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of a batch of images `[batch, height, width, channels]`."""
        batch, height, _, channels = images.shape  # as wide as high
        side = height // self.squares
        rows = centred(images).reshape(batch, self.squares, side, self.squares, side, channels)
        squares = rows.swapaxes(2, 3).reshape(batch, self.squares**2, side * side * channels)
        x = Positions()(nn.Dense(self.units)(squares))
        for _ in range(self.layers):
            x = TransformerBlock(self.num_heads, causal=False)(x)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(1))


def centred(images: jax.Array) -> jax.Array:
    """Pixels in [0, 1] as numbers in [-1, 1]."""
    return 2 * images - 1
