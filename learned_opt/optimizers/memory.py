"""The memory that coordinates share.

Andrychowicz et al. 2016, appendix D, and appendix B of its first version. It is a matrix M over all
coordinates. A read multiplies it by a vector, a write adds outer products to it:

    read:  M_t r_t              write:  M_{t+1} = M_t + sum over heads of a_t b_t^T

The papers do not say how it begins. Here M_0 is a multiple of the identity, as the estimate of the
inverse Hessian in BFGS. What is stored is M_t - M_0, so that an empty memory is all zeros.

Vectors are `Leaves` `[heads, *parameter.shape]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.optimizers import base
from learned_opt.optimizers.communicating import Coordinates, Leaves


class Memory(NamedTuple):
    """A way to keep the matrix.

    Attributes:
      init: `init(zeros) -> memory`, see `communicating.TreeRule`.
      read: `read(memory, r, coordinates) -> M r`; `coordinates` adds up over all of them.
      write: `write(memory, a, b) -> memory`.
      across_devices: see `communicating.TreeRule`.
    """

    init: Callable[[Callable], Any]
    read: Callable[[Any, Leaves, Coordinates], Leaves]
    write: Callable[[Any, Leaves, Leaves], Any]
    across_devices: bool


class Pairs(NamedTuple):
    """The last K pairs of vectors, the newest last; `Leaves` `[K, *parameter.shape]`."""

    left: Leaves
    right: Leaves


def dense(scale: float) -> Memory:
    """The whole matrix: for n coordinates `n^2` numbers, and as many products for each read.

    It is kept by rows, `Leaves` `[n, *parameter.shape]` with the columns first. So the rows of each
    parameter are sharded as the parameter is, and only vectors go from device to device. Inside a
    `jax.shard_map` every device must hold all coordinates.

    Args:
      scale: M_0 is the identity times this.
    """
    return Memory(_empty_rows, base.bind(_read_rows, scale), _write_rows, across_devices=False)


def limited(scale: float, num_pairs: int) -> Memory:
    """The last pairs that were written, as in L-BFGS: a read costs an inner product for each.

    It is the same as `dense` as long as no more pairs have been written. Then the oldest are
    forgotten.

    Args:
      scale: M_0 is the identity times this.
      num_pairs: K, how many pairs are kept.
    """
    return Memory(
        base.bind(_empty_pairs, num_pairs),
        base.bind(_read_pairs, scale),
        base.bind(_write_pairs, num_pairs),
        across_devices=True,
    )


def _empty_rows(zeros):
    num_coordinates = sum(x.size for x in zeros())
    return zeros(num_coordinates)


def _read_rows(scale, rows, r, coordinates):
    del coordinates
    vectors = _joined(r)

    def of_parameter(m, own):
        return scale * own + jnp.tensordot(vectors, m, axes=1)

    return rows.map(of_parameter, r)


def _write_rows(rows, a, b):
    vectors = _joined(b)

    def of_parameter(m, own):
        return m + jnp.tensordot(vectors, own, axes=[0, 0])

    return rows.map(of_parameter, a)


def _empty_pairs(num_pairs, zeros):
    return Pairs(zeros(num_pairs), zeros(num_pairs))


def _read_pairs(scale, pairs, r, coordinates):
    def inner_products(b, own):
        return jnp.sum(b[:, None] * own[None], range(2, 1 + b.ndim))

    products = coordinates.total(pairs.right.map(inner_products, r))  # [pairs, heads]

    def of_parameter(a, own):
        return scale * own + jnp.tensordot(products, a, axes=[0, 0])

    return pairs.left.map(of_parameter, r)


def _write_pairs(num_pairs, pairs, a, b):
    def slide(old, new):
        return jnp.concatenate([old, new])[-num_pairs:]

    return Pairs(pairs.left.map(slide, a), pairs.right.map(slide, b))


def _joined(vectors):
    """Each device gets the whole of the vectors: `[heads, n]`."""
    flat = [_replicated(x).reshape(x.shape[0], -1) for x in vectors]
    return jnp.concatenate(flat, axis=1)


def _replicated(x):
    """An explicitly sharded array cannot be reshaped before it is whole."""
    if all(axis is None for axis in jax.typeof(x).sharding.spec):
        return x
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec())
