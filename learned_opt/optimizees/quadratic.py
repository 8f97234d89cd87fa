"""Random quadratic functions: those of Andrychowicz et al. 2016, section 3.1, and rotated ones."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee


class Quadratic(NamedTuple):
    """An instance: `W` `[dim, dim]` and `y` `[dim]`."""

    w: jax.Array
    y: jax.Array


def quadratic(dim: int = 10, init_scale: float = 1.0) -> Optimizee:
    """f(theta) = ||W theta - y||^2 with W and y of independent standard Gaussians.

    The paper does not say where theta_0 lies. Here it is Gaussian, as W and y are.

    Args:
      dim: the number of parameters, and of rows of W.
      init_scale: the standard deviation of theta_0, or 0 to start at the origin.

    Returns:
      An `Optimizee` with theta `[dim]`.

    Raises:
      ValueError: for a size that is not positive or a negative scale.

    Source:
      Andrychowicz et al. 2016, section 3.1.

    Example:
      >>> import jax, learned_opt
      >>> family = learned_opt.optimizees.quadratic(dim=3)
      >>> family.init(jax.random.key(0), family.sample(jax.random.key(1))).shape
      (3,)
    """
    dim = _checks.positive_int("dim", dim)
    init_scale = _checks.not_negative_float("init_scale", init_scale)
    return starting.optimizee(_Sample(dim), starting.VectorInit(dim, init_scale), _loss)


class Rotated(NamedTuple):
    """An instance: the Hessian `[dim, dim]` and the minimum `[dim]`."""

    hessian: jax.Array
    minimum: jax.Array


def rotated_quadratic(
    dim: int = 10,
    condition: float = 1e3,
    init_scale: float = 1.0,
) -> Optimizee:
    """f(theta) = 1/2 (theta - m)^T Q L Q^T (theta - m), ill-conditioned along rotated axes.

    Q is a rotation drawn uniformly, and m is Gaussian. The eigenvalues L are the same for all
    functions, evenly spaced on a logarithmic scale from 1 down to 1 / condition. An optimizer that
    scales each coordinate for itself, as Adam does, cannot undo the conditioning. Not in the
    papers.

    Args:
      dim: the number of parameters, two or more.
      condition: the largest eigenvalue over the smallest, at least 1.
      init_scale: the standard deviation of theta_0, or 0 to start at the origin.

    Returns:
      An `Optimizee` with theta `[dim]`.

    Raises:
      ValueError: for a size, a condition or a scale that is not possible.
    """
    dim = _checks.positive_int("dim", dim, minimum=2)
    condition = _checks.positive_float("condition", condition)
    if condition < 1:
        raise ValueError(f"condition must be at least 1, got {condition!r}.")
    init_scale = _checks.not_negative_float("init_scale", init_scale)
    sample = _SampleRotated(dim, condition)
    return starting.optimizee(sample, starting.VectorInit(dim, init_scale), _rotated_loss)


def _matrix_and_vector(key: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
    """Standard Gaussian `[dim, dim]` and `[dim]`."""
    # One long draw for both: random numbers are most of what a small program takes to compile.
    draws = jax.random.normal(key, (dim * (dim + 1),))
    matrix, vector = jnp.split(draws, [dim**2])
    return matrix.reshape(dim, dim), vector


@dataclasses.dataclass(frozen=True)
class _Sample:
    dim: int

    def __call__(self, key: jax.Array) -> Quadratic:
        w, y = _matrix_and_vector(key, self.dim)
        return Quadratic(w, y)


@dataclasses.dataclass(frozen=True)
class _SampleRotated:
    dim: int
    condition: float

    def __call__(self, key: jax.Array) -> Rotated:
        draws, minimum = _matrix_and_vector(key, self.dim)
        q, r = jnp.linalg.qr(draws)
        # Without these signs Q would not be uniform (Mezzadri 2007).
        q = q * jnp.sign(jnp.diagonal(r))[None]
        exponents = -jnp.arange(self.dim) / (self.dim - 1)
        eigenvalues = self.condition**exponents
        return Rotated((q * eigenvalues[None]) @ q.T, minimum)


def _loss(
    theta: jax.Array,
    instance: Quadratic,
    key: jax.Array,
) -> jax.Array:
    del key  # no minibatches
    return jnp.sum(jnp.square(instance.w @ theta - instance.y))


def _rotated_loss(
    theta: jax.Array,
    instance: Rotated,
    key: jax.Array,
) -> jax.Array:
    del key  # no minibatches
    distance = theta - instance.minimum
    return distance @ (instance.hessian @ distance) / 2
