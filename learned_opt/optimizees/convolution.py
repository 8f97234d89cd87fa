"""Convolutions and max-pooling with fast derivatives on a CPU, also within loops and under vmap.

What automatic differentiation and `jax.vmap` make of a convolution is right, but XLA has no fast
program for it on a CPU. Within a loop, where an optimizee lives, XLA is fast only for arrays that
lie as `[batch, height, width, channels]`. It is never fast for grouped convolutions, which several
networks at once are. A step of the network c-c-p-f is thirty times slower with them. Here all
convolutions are of the one fast kind. Derivatives are those of reverse mode, of any order; forward
mode (`jax.jvp`) has none.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

FILTER_SIZE = 3


@jax.custom_vjp
def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolution (cross-correlation) of stride 1.

    There are zeros around images, so that they keep their size.

    Args:
      x: `[batch, height, width, channels]`.
      w: `[3, 3, channels, features]`.

    Returns:
      `[batch, height, width, features]`.
    """
    return _convolve(x, w)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2 x 2 square of pixels.

    An odd last row or column is left out. Of equal values each has an equal share in the gradient.

    Args:
      x: `[batch, height, width, channels]`.

    Returns:
      `[batch, height // 2, width // 2, channels]`.
    """
    batch, height, width, channels = x.shape
    half_height = height // 2
    half_width = width // 2
    # Slices of contiguous pairs: the derivative of `lax.reduce_window` takes fifteen times as long.
    even = x[:, : 2 * half_height, : 2 * half_width]
    rows = even.reshape(batch, half_height, 2, half_width, 2 * channels)
    pairs = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    return jnp.maximum(pairs[..., :channels], pairs[..., channels:])


def _plain(x: jax.Array, w: jax.Array) -> jax.Array:
    border = FILTER_SIZE // 2
    padding = [(border, border)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=layout)


def _plain_filter_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `sum(g * convolve(x, w))` by w.

    It is another convolution, over images and with batches as channels.
    """
    return jax.lax.platform_dependent(x, g, cpu=_correlate, default=_transposed)


def _correlate(x: jax.Array, g: jax.Array) -> jax.Array:
    images = x.transpose(3, 1, 2, 0)
    filters = g.transpose(1, 2, 0, 3)
    return _plain(images, filters).transpose(1, 2, 0, 3)


def _transposed(x: jax.Array, g: jax.Array) -> jax.Array:
    shape = (FILTER_SIZE, FILTER_SIZE, x.shape[-1], g.shape[-1])

    def of_filter(w: jax.Array) -> jax.Array:
        return _plain(x, w)

    transpose = jax.linear_transpose(of_filter, jax.ShapeDtypeStruct(shape, g.dtype))
    (gradient,) = transpose(g)
    return gradient


def _one_by_one(
    f: Callable,
    plain: Callable,
    size: int,
    is_batched: Sequence[bool],
    x: jax.Array,
    y: jax.Array,
) -> tuple[jax.Array, bool]:
    """A rule of `jax.vmap`: on a CPU one after another, elsewhere what `jax.vmap` itself does.

    Args:
      f: what is called for each on a CPU.
      plain: what is vmapped elsewhere.
      size: the length of the mapped axis.
      is_batched: whether x, and whether y, has this axis.
      x, y: the arguments of f.
    """
    x_batched, y_batched = is_batched

    def each(x: jax.Array, y: jax.Array) -> jax.Array:
        def one(i: jax.Array) -> jax.Array:
            x_i = x[i] if x_batched else x
            y_i = y[i] if y_batched else y
            return f(x_i, y_i)

        return jax.lax.map(one, jnp.arange(size))

    axes = tuple(0 if batched else None for batched in is_batched)
    together = jax.vmap(plain, axes)
    return jax.lax.platform_dependent(x, y, cpu=each, default=together), True


_convolve = custom_vmap(_plain)
_filter_gradient_of_one = custom_vmap(_plain_filter_gradient)


@_convolve.def_vmap
def _convolve_batched(
    size: int,
    is_batched: Sequence[bool],
    x: jax.Array,
    w: jax.Array,
) -> tuple[jax.Array, bool]:
    w_batched = is_batched[1]
    if w_batched:
        return _one_by_one(_convolve, _plain, size, is_batched, x, w)
    # One filter: several batches of images are one larger batch.
    images = x.reshape(-1, *x.shape[2:])
    return _convolve(images, w).reshape(*x.shape[:4], -1), True


@_filter_gradient_of_one.def_vmap
def _filter_gradient_batched(
    size: int,
    is_batched: Sequence[bool],
    x: jax.Array,
    g: jax.Array,
) -> tuple[jax.Array, bool]:
    return _one_by_one(_filter_gradient_of_one, _plain_filter_gradient, size, is_batched, x, g)


@jax.custom_vjp
def _filter_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    return _filter_gradient_of_one(x, g)


def _image_gradient(g: jax.Array, w: jax.Array) -> jax.Array:
    """The gradient of `sum(g * convolve(x, w))` by x."""
    turned = w[::-1, ::-1]
    return convolve(g, turned.swapaxes(2, 3))


def _convolve_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple]:
    return convolve(x, w), (x, w)


def _convolve_backward(kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    return _image_gradient(g, w), _filter_gradient(x, g)


def _filter_gradient_forward(x: jax.Array, g: jax.Array) -> tuple[jax.Array, tuple]:
    return _filter_gradient(x, g), (x, g)


def _filter_gradient_backward(kept: tuple, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    # `sum(w * _filter_gradient(x, g))` is `sum(g * convolve(x, w))`, linear in x and in g.
    x, g = kept
    return _image_gradient(g, w), convolve(x, w)


convolve.defvjp(_convolve_forward, _convolve_backward)
_filter_gradient.defvjp(_filter_gradient_forward, _filter_gradient_backward)
