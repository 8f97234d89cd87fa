"""Random quadratic functions: those of Andrychowicz et al. 2016, section 3.1, and rotated ones."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import base, starting


class Quadratic(NamedTuple):
    """An instance: `W` `[dim, dim]` and `y` `[dim]`."""

    w: jax.Array
    y: jax.Array


def quadratic(dim=10, init_scale=1.0):
    """f(theta) = ||W theta - y||^2 with W and y of independent standard Gaussians.

    The paper does not say where theta_0 lies; here it is Gaussian, as W and y are.

    Args:
      dim: number of parameters, and of rows of W.
      init_scale: standard deviation of theta_0, or 0 to start at the origin.

    Returns:
      An `Optimizee` with `theta` `[dim]`.

    Raises:
      ValueError: for a size that is not positive or a negative scale.
    """
    dim = _checks.positive_int("dim", dim)
    init_scale = 0.0 if init_scale == 0 else _checks.positive_float("init_scale", init_scale)
    return base.as_partials(
        base.Optimizee(_Sample(dim), starting.VectorInit(dim, init_scale), _loss)
    )


class Rotated(NamedTuple):
    """An instance: the Hessian `[dim, dim]` and the minimum `[dim]`."""

    hessian: jax.Array
    minimum: jax.Array


def rotated_quadratic(dim=10, condition=1e3, init_scale=1.0):
    """f(theta) = 1/2 (theta - m)^T Q L Q^T (theta - m), ill-conditioned in directions that are no coordinate's.

    Q is a rotation drawn uniformly, m Gaussian; the eigenvalues L are the same for all functions, evenly spaced on a
    logarithmic scale from 1 down to 1 / condition. An optimizer that scales each coordinate for itself, as Adam does,
    cannot undo the conditioning. Not in the papers.

    Args:
      dim: number of parameters, two or more.
      condition: the largest eigenvalue over the smallest, at least 1.
      init_scale: standard deviation of theta_0, or 0 to start at the origin.

    Returns:
      An `Optimizee` with `theta` `[dim]`.

    Raises:
      ValueError: for a size, a condition or a scale that is not possible.
    """
    dim, condition = (
        _checks.positive_int("dim", dim, minimum=2),
        _checks.positive_float("condition", condition),
    )
    if condition < 1:
        raise ValueError(f"condition must be at least 1, got {condition!r}.")
    init_scale = 0.0 if init_scale == 0 else _checks.positive_float("init_scale", init_scale)
    sample, init = _SampleRotated(dim, condition), starting.VectorInit(dim, init_scale)
    return base.as_partials(base.Optimizee(sample, init, _rotated_loss))


@dataclasses.dataclass(frozen=True)
class _Sample:
    dim: int

    def __call__(self, key):
        # One long draw for both: random numbers are most of what a small program takes to compile.
        w, y = jnp.split(jax.random.normal(key, (self.dim * (self.dim + 1),)), [self.dim**2])
        return Quadratic(w.reshape(self.dim, self.dim), y)


@dataclasses.dataclass(frozen=True)
class _SampleRotated:
    dim: int
    condition: float

    def __call__(self, key):
        draws, minimum = jnp.split(
            jax.random.normal(key, (self.dim * (self.dim + 1),)), [self.dim**2]
        )
        q, r = jnp.linalg.qr(draws.reshape(self.dim, self.dim))
        q = q * jnp.sign(jnp.diagonal(r))[None]  # without it Q would not be uniform (Mezzadri 2007)
        eigenvalues = self.condition ** (-jnp.arange(self.dim) / (self.dim - 1))
        return Rotated((q * eigenvalues[None]) @ q.T, minimum)


def _loss(theta, instance, key):
    del key  # no minibatches
    return jnp.sum(jnp.square(instance.w @ theta - instance.y))


def _rotated_loss(theta, instance, key):
    del key  # no minibatches
    distance = theta - instance.minimum
    return distance @ (instance.hessian @ distance) / 2
