"""Convolutions and max-pooling with fast derivatives on a CPU, also within loops and under `jax.vmap`.

What automatic differentiation and `jax.vmap` make of a convolution is right, but no convolution that XLA has a fast
program for on a CPU: within a loop (where an optimizee lives) it is so only for arrays that lie as `[batch, height,
width, channels]`, and never for grouped convolutions, which several networks at once are. A step of the network
c-c-p-f is thirty times slower with them. Here all of them are of that one kind. Derivatives are reverse mode's, of any
order; forward mode (`jax.jvp`) has none.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

FILTER_SIZE = 3


@jax.custom_vjp
def convolve(x, w):
    """Convolution (cross-correlation) of stride 1 with zeros around, so that images keep their size.

    Args:
      x: `[batch, height, width, channels]`.
      w: `[3, 3, channels, features]`.

    Returns:
      `[batch, height, width, features]`.
    """
    return _convolve(x, w)


def max_pool(x):
    """The largest of every 2 x 2 square: `[batch, height, width, c]` to `[batch, height // 2, width // 2, c]`.

    An odd last row or column is left out. Of equal values each has an equal share in the gradient.
    """
    n, height, width, channels = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
    # Slices of contiguous pairs: the derivative of `lax.reduce_window` takes fifteen times as long.
    rows = x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2 * channels)
    pairs = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    return jnp.maximum(pairs[..., :channels], pairs[..., channels:])


def _plain(x, w):
    border = FILTER_SIZE // 2
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), [(border, border)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _plain_filter_gradient(x, g):
    """The gradient of `sum(g * convolve(x, w))` by w: another convolution, over images and with batches as channels."""
    return jax.lax.platform_dependent(x, g, cpu=_correlate, default=_transposed)


def _correlate(x, g):
    return _plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def _transposed(x, g):
    w = jax.ShapeDtypeStruct((FILTER_SIZE, FILTER_SIZE, x.shape[-1], g.shape[-1]), g.dtype)
    return jax.linear_transpose(lambda w: _plain(x, w), w)(g)[0]


def _one_by_one(f, plain, size, is_batched, x, y):
    """A rule of `jax.vmap`: on a CPU f for one after another, elsewhere what `jax.vmap` makes of `plain`."""

    def each(x, y):
        return jax.lax.map(
            lambda i: f(*(a[i] if b else a for a, b in zip((x, y), is_batched, strict=True))),
            jnp.arange(size),
        )

    axes = tuple(0 if b else None for b in is_batched)
    return jax.lax.platform_dependent(x, y, cpu=each, default=jax.vmap(plain, axes)), True


_convolve = custom_vmap(_plain)
_filter_gradient_of_one = custom_vmap(_plain_filter_gradient)


@_convolve.def_vmap
def _convolve_batched(size, is_batched, x, w):
    if is_batched[1]:
        return _one_by_one(_convolve, _plain, size, is_batched, x, w)
    return _convolve(x.reshape(-1, *x.shape[2:]), w).reshape(
        *x.shape[:4], -1
    ), True  # more images, one filter


@_filter_gradient_of_one.def_vmap
def _filter_gradient_batched(size, is_batched, x, g):
    return _one_by_one(_filter_gradient_of_one, _plain_filter_gradient, size, is_batched, x, g)


@jax.custom_vjp
def _filter_gradient(x, g):
    return _filter_gradient_of_one(x, g)


def _image_gradient(g, w):
    """The gradient of `sum(g * convolve(x, w))` by x."""
    return convolve(g, w[::-1, ::-1].swapaxes(2, 3))


def _pull_back(arguments, g):
    x, w = arguments
    return _image_gradient(g, w), _filter_gradient(x, g)


def _pull_back_filter_gradient(arguments, w):
    """`sum(w * _filter_gradient(x, g))` is `sum(g * convolve(x, w))`, which is linear in x and in g."""
    x, g = arguments
    return _image_gradient(g, w), convolve(x, w)


convolve.defvjp(lambda x, w: (convolve(x, w), (x, w)), _pull_back)
_filter_gradient.defvjp(lambda x, g: (_filter_gradient(x, g), (x, g)), _pull_back_filter_gradient)
