"""Random quadratic functions (Andrychowicz et al. 2016, section 3.1)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import base


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
    return base.as_partials(base.Optimizee(_Sample(dim), _Init(dim, init_scale), _loss))


@dataclasses.dataclass(frozen=True)
class _Sample:
    dim: int

    def __call__(self, key):
        # One long draw for both: random numbers are most of what a small program takes to compile.
        w, y = jnp.split(jax.random.normal(key, (self.dim * (self.dim + 1),)), [self.dim**2])
        return Quadratic(w.reshape(self.dim, self.dim), y)


@dataclasses.dataclass(frozen=True)
class _Init:
    dim: int
    scale: float

    def __call__(self, key, instance):
        del instance
        return self.scale * jax.random.normal(key, (self.dim,))


def _loss(theta, instance, key):
    del key  # no minibatches
    return jnp.sum(jnp.square(instance.w @ theta - instance.y))
