"""Parameters as matrices, and the orthogonal matrix nearest to one, roughly."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from learned_opt import native

# The polynomial a x + b x^3 + c x^5 of Jordan et al. 2024 (Muon). In five steps it takes singular
# values from 0.002 up to 1 to about one, 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_STEPS = 5
# A matrix at least so many times as long as wide has no part in the steps after the first ones.
# They are made with its square alone, which is smaller. From the first step on that would cost
# digits: the square of a small value is less than the rounding of a large one's.
LONG = 3
WHOLE_STEPS = 2
# Up to so large matrices the C++ loops win: beyond them XLA's products are as fast, and shared
# between cores.
MAX_FAST_SIDE = 64
MAX_FAST_SIZE = 2**14


def split_of(shape: tuple[int, ...]) -> int | None:
    """After how many axes an array is split, to be seen as a matrix.

    It is split after the first axis or before the last one: where the matrix is closer to a square.
    So a convolution's kernel is outputs x rest, whether its outputs come first or last, and
    attention's kernels are inputs x (heads x units) and (heads x units) x outputs.

    Args:
      shape: of the array.

    Returns:
      The number of axes that make the rows, or None where the array is no matrix: it has fewer
      than two axes, or the matrix has one row or one column.
    """
    if len(shape) < 2:
        return None
    smaller_side = {split: min(sides_of(shape, split)) for split in (1, len(shape) - 1)}
    best = max(smaller_side, key=lambda split: smaller_side[split])
    return best if smaller_side[best] > 1 else None


def sides_of(shape: tuple[int, ...], split: int) -> tuple[int, int]:
    """Rows and columns of the matrix that an array is, split after so many axes."""
    return math.prod(shape[:split]), math.prod(shape[split:])


def orthogonalised(x: jax.Array, split: int = 1, num_steps: int = NUM_STEPS) -> jax.Array:
    """Nearly the orthogonal matrix nearest to `x`: its singular vectors, all values about one.

    A Newton-Schulz iteration: products of matrices alone.

    Args:
      x: an array that `split` makes a matrix. Its scale has no part; zeros stay zeros.
      split: after how many axes, see `split_of`.
      num_steps: how many steps of the iteration.

    Returns:
      An array like `x`.

    Source:
      Jordan et al.: Muon, an optimizer for hidden layers in neural networks, 2024. Steps with the
      square alone: Gram Newton-Schulz, https://dao-lab.ai/blog/2026/gram-newton-schulz.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.optimizers import orthogonal
      >>> y = orthogonal.orthogonalised(jnp.asarray([[3.0, 0.0], [0.0, 0.1]]))
      >>> bool(jnp.all(jnp.abs(jnp.abs(jnp.diag(y)) - 1) < 0.35))
      True
    """
    if _is_fast(x, split):
        return _compiled(split, num_steps)(x)
    return plain_orthogonalised(x, split, num_steps)


def _is_fast(x, split):
    """Whether the C++ loops can take this matrix, and are faster."""
    if x.size == 0:
        return False
    return (
        min(sides_of(x.shape, split)) <= MAX_FAST_SIDE
        and x.size <= MAX_FAST_SIZE
        and native.usable(x)
    )


@functools.cache
def _compiled(split, num_steps):
    """The C++ loops, kept so that a program is compiled once."""
    plain = functools.partial(plain_orthogonalised, split=split, num_steps=num_steps)

    def fast(x):
        sides = sides_of(x.shape, split)
        num_whole = _num_whole_steps(sides, num_steps)
        return native.orthogonalised(x, sides, num_whole, num_steps, COEFFICIENTS)

    return native.faster(plain, fast)


def _num_whole_steps(sides, num_steps):
    """How many of the steps are made with the whole matrix."""
    return min(WHOLE_STEPS, num_steps) if max(sides) >= LONG * min(sides) else num_steps


def plain_orthogonalised(
    x: jax.Array,
    split: int = 1,
    num_steps: int = NUM_STEPS,
) -> jax.Array:
    """`orthogonalised` in plain JAX: it says what is computed, and it is what is differentiated."""
    shape = x.shape
    spec = _explicit_spec(x)
    x = x if spec is None else jax.sharding.reshard(x, P(*(None,) * x.ndim))
    x = x.reshape(sides_of(shape, split)) if x.ndim > 2 else x
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    # The norm bounds the largest singular value. Of squares that underflow it would be zero.
    largest = jnp.max(jnp.abs(x))
    x = x / jnp.where(largest > 0, largest, 1)
    x = x / jnp.maximum(jnp.linalg.norm(x), 1)
    num_whole = _num_whole_steps(x.shape, num_steps)
    for _ in range(num_whole):
        x = COEFFICIENTS[0] * x + _polynomial(x @ x.T) @ x
    if num_whole < num_steps:
        x = _factor_of_steps(x @ x.T, num_steps - num_whole) @ x
    x = x.T if is_tall else x
    x = x.reshape(shape)
    return x if spec is None else jax.sharding.reshard(x, spec)


def _polynomial(square):
    """What a step multiplies a matrix by, but for its first coefficient."""
    _, b, c = COEFFICIENTS
    return b * square + c * square @ square


def _factor_of_steps(square, num_steps):
    """By what some steps multiply a matrix, from its square alone.

    All matrices here are polynomials of the square: they are symmetric and commute.
    """
    identity = jnp.eye(len(square), dtype=square.dtype)
    factor = COEFFICIENTS[0] * identity + _polynomial(square)
    product = factor
    for _ in range(num_steps - 1):
        square = square @ factor @ factor
        factor = COEFFICIENTS[0] * identity + _polynomial(square)
        product = product @ factor
    return product


def _explicit_spec(x: jax.Array) -> P | None:
    """How an array is sharded where JAX leaves no sharding to the compiler; None elsewhere.

    A product over an axis that is sharded has no sharding of its own there: the matrix is gathered.
    """
    sharding = jax.typeof(x).sharding
    if any(axis is not None for axis in sharding.spec) and sharding.mesh.explicit_axes:
        return sharding.spec
    return None
