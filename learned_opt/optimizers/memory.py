"""The memory that coordinates share (Andrychowicz et al. 2016, appendix D; appendix B of its first version).

A matrix M over all coordinates. A read multiplies it by a vector, a write adds outer products to it:

    read:  M_t r_t              write:  M_{t+1} = M_t + sum over heads of a_t b_t^T

The papers do not say how it begins. Here M_0 is a multiple of the identity, as the inverse Hessian's estimate in BFGS;
what is stored is M_t - M_0, so that an empty memory is all zeros.

Vectors are `Leaves` `[heads, *parameter.shape]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.optimizers.communicating import Leaves


class Memory(NamedTuple):
    """A way to keep the matrix.

    Attributes:
      init: `init(zeros) -> memory`, see `communicating.TreeRule`.
      read: `read(memory, r) -> M r`.
      write: `write(memory, a, b) -> memory`.
    """

    init: Callable[[Callable], Any]
    read: Callable[[Any, Leaves], Leaves]
    write: Callable[[Any, Leaves, Leaves], Any]


class Pairs(NamedTuple):
    """The last K pairs of vectors, the newest last; `Leaves` `[K, *parameter.shape]`."""

    left: Leaves
    right: Leaves


def dense(scale):
    """The whole matrix: for n coordinates `n^2` numbers, and as many products for a read or a write.

    It is kept by rows, `Leaves` `[n, *parameter.shape]` with the columns first: each parameter's rows are sharded as
    the parameter is, and only vectors go from device to device.

    Args:
      scale: M_0 is the identity times this.
    """

    def init(zeros):
        return zeros(sum(x.size for x in zeros()))

    def read(rows, r):
        vectors = _joined(r)
        return rows.map(lambda m, own: scale * own + jnp.tensordot(vectors, m, axes=1), r)

    def write(rows, a, b):
        vectors = _joined(b)
        return rows.map(lambda m, own: m + jnp.tensordot(vectors, own, axes=[0, 0]), a)

    return Memory(init, read, write)


def limited(scale, num_pairs):
    """Only the last pairs that were written, as in L-BFGS: a read costs one inner product for each of them.

    The same as `dense` as long as no more pairs have been written; then the oldest are forgotten.

    Args:
      scale: M_0 is the identity times this.
      num_pairs: K, how many pairs are kept.
    """

    def init(zeros):
        return Pairs(zeros(num_pairs), zeros(num_pairs))

    def read(pairs, r):
        products = sum(
            jnp.sum(b[:, None] * own[None], range(2, 1 + b.ndim))
            for b, own in zip(pairs.right, r, strict=True)
        )  # [pairs, heads]
        return pairs.left.map(
            lambda a, own: scale * own + jnp.tensordot(products, a, axes=[0, 0]), r
        )

    def write(pairs, a, b):
        def slide(old, new):
            return jnp.concatenate([old, new])[-num_pairs:]

        return Pairs(pairs.left.map(slide, a), pairs.right.map(slide, b))

    return Memory(init, read, write)


def _joined(vectors):
    """Each device gets the whole of the vectors: `[heads, n]`."""
    return jnp.concatenate([_replicated(x).reshape(x.shape[0], -1) for x in vectors], axis=1)


def _replicated(x):
    """An explicitly sharded array cannot be reshaped before it is whole."""
    if all(axis is None for axis in jax.typeof(x).sharding.spec):
        return x
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec())
