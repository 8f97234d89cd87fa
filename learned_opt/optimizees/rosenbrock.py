"""Rosenbrock's function, from random starts."""

import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import base, starting


def rosenbrock(dim=10, init_scale=0.5):
    """f(theta) = sum_i 100 (theta_{i+1} - theta_i^2)^2 + (1 - theta_i)^2 (Rosenbrock 1960, in more dimensions).

    A curved valley with a flat floor: each coordinate's best value depends on its neighbours'. The minimum is 0 at
    (1, .., 1). Problems of the family differ in theta_0, which is Gaussian around the origin. Not in the papers.

    Args:
      dim: number of parameters, two or more.
      init_scale: standard deviation of theta_0.

    Returns:
      An `Optimizee` with `theta` `[dim]`.

    Raises:
      ValueError: for a size or a scale that is not possible.
    """
    dim = _checks.positive_int("dim", dim, minimum=2)
    init = starting.VectorInit(dim, _checks.positive_float("init_scale", init_scale))
    return base.as_partials(base.Optimizee(starting.no_instance, init, _loss))


def _loss(theta, instance, key):
    del instance, key  # one function, no minibatches
    return jnp.sum(
        100 * jnp.square(theta[1:] - jnp.square(theta[:-1])) + jnp.square(1 - theta[:-1])
    )
