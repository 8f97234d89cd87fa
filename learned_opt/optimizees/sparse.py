"""Sparse coding: the LASSO with one dictionary for all problems."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import constraints, starting
from learned_opt.optimizees.base import Optimizee


def lasso(
    num_rows: int = 100,
    num_columns: int = 200,
    penalty: float = 0.1,
    sparsity: float = 0.1,
    noise: float = 0.05,
    seed: int = 0,
) -> Optimizee:
    """f(x) = 1/2 ||D x - y||^2 + penalty ||x||_1: the codes x of a signal y in a dictionary D.

    The dictionary is Gaussian with columns of norm one, and the same for all problems. A signal is
    D times a code of which few numbers are not zero, and these are standard Gaussian, plus noise.
    The penalty lies near the universal threshold of the noise, sigma sqrt(2 log n).

    Args:
      num_rows: the length of a signal. The benchmark has 256 rows and 512 columns, or 25 and 50.
      num_columns: the length of a code.
      penalty: the weight of the l1 norm.
      sparsity: the probability that a number of a code is not zero.
      noise: the standard deviation of the noise over that of D times a code; 0.05 is a
        signal-to-noise ratio of 26 dB.
      seed: draws the dictionary.

    Returns:
      An `Optimizee` with theta `[num_columns]`, which starts at zero. An instance is y
      `[num_rows]`. See `proximal`, with 1 over the largest eigenvalue of D^T D as the step.

    Raises:
      ValueError: for a size or a number that is not possible.

    Source:
      Chen et al. 2021, Learning to Optimize: A Primer and a Benchmark (Open-L2O). Sizes, penalty
      and noise are arguments here, with defaults that are not the benchmark's.

    Example:
      >>> import jax, learned_opt
      >>> from learned_opt.optimizees import sparse
      >>> family = sparse.lasso(num_rows=5, num_columns=10)
      >>> family.init(jax.random.key(0), family.sample(jax.random.key(1))).shape
      (10,)
    """
    penalty = _checks.positive_float("penalty", penalty)
    sample = _Sample(_fraction("sparsity", sparsity), _checks.not_negative_float("noise", noise))
    columns = dictionary(num_rows, num_columns, seed)
    as_array = jnp.asarray(columns, jnp.float32)
    return constraints.proximal(
        Partial(sample, as_array),
        Partial(_half_squared_distance, as_array),
        Partial(_SoftThreshold(penalty)),
        Partial(_L1(penalty)),
        step=1 / largest_eigenvalue(columns),
        init=starting.VectorInit(num_columns, 0.0),
    )


def dictionary(
    num_rows: int,
    num_columns: int,
    seed: int = 0,
) -> np.ndarray:
    """The Gaussian dictionary `[num_rows, num_columns]` of a seed, with columns of norm one.

    Its float64 values are those of float32, so that every precision sees the same problem.

    Raises:
      ValueError: for a size that is not positive.
    """
    num_rows = _checks.positive_int("num_rows", num_rows)
    num_columns = _checks.positive_int("num_columns", num_columns)
    draws = np.random.default_rng(seed).normal(size=(num_rows, num_columns))
    columns = draws / np.linalg.norm(draws, axis=0)
    return columns.astype(np.float32).astype(np.float64)


def largest_eigenvalue(columns: np.ndarray) -> float:
    """That of D^T D: the Lipschitz constant of the gradient of the squared distance."""
    return float(np.linalg.norm(columns, 2) ** 2)


def soft_threshold(x: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """The proximal operator of the l1 norm: every number moves towards zero, at most to it."""
    return x - jnp.clip(x, -threshold, threshold)


def _fraction(name: str, value: float) -> float:
    value = _checks.positive_float(name, value)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, got {value!r}.")
    return value


@dataclasses.dataclass(frozen=True)
class _Sample:
    sparsity: float
    noise: float

    def __call__(self, columns: jax.Array, key: jax.Array) -> jax.Array:
        """Returns y `[num_rows]`."""
        num_rows, num_columns = columns.shape
        support_key, code_key, noise_key = jax.random.split(key, 3)
        support = jax.random.bernoulli(support_key, self.sparsity, (num_columns,))
        code = support * jax.random.normal(code_key, (num_columns,))
        # The standard deviation of a number of D x.
        scale = (self.sparsity * num_columns / num_rows) ** 0.5
        return columns @ code + self.noise * scale * jax.random.normal(noise_key, (num_rows,))


def _half_squared_distance(
    columns: jax.Array,
    theta: jax.Array,
    instance: jax.Array,
) -> jax.Array:
    return jnp.sum(jnp.square(columns @ theta - instance)) / 2


@dataclasses.dataclass(frozen=True)
class _SoftThreshold:
    penalty: float

    def __call__(
        self,
        theta: jax.Array,
        step: float,
        instance: jax.Array,
    ) -> jax.Array:
        del instance
        return soft_threshold(theta, step * self.penalty)


@dataclasses.dataclass(frozen=True)
class _L1:
    penalty: float

    def __call__(self, theta: jax.Array, instance: jax.Array) -> jax.Array:
        del instance
        return self.penalty * jnp.sum(jnp.abs(theta))
