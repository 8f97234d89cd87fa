"""Rosenbrock's function, from random starts."""

from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee


def rosenbrock(dim: int = 10, init_scale: float = 0.5) -> Optimizee:
    """f(theta) = sum_i 100 (theta_{i+1} - theta_i^2)^2 + (1 - theta_i)^2.

    This is Rosenbrock's function of 1960, in more dimensions: a curved valley with a flat floor,
    where each coordinate's best value depends on its neighbours'. The minimum is 0 at (1, .., 1).
    Problems of the family differ in theta_0, which is Gaussian around the origin. Not in the
    papers.

    Args:
      dim: the number of parameters, two or more.
      init_scale: the standard deviation of theta_0.

    Returns:
      An `Optimizee` with theta `[dim]`.

    Raises:
      ValueError: for a size or a scale that is not possible.

    Example:
      >>> import jax.numpy as jnp, learned_opt
      >>> float(learned_opt.optimizees.rosenbrock(dim=3).loss(jnp.zeros(3), (), None))
      2.0
    """
    dim = _checks.positive_int("dim", dim, minimum=2)
    init = starting.VectorInit(dim, _checks.positive_float("init_scale", init_scale))
    return starting.optimizee(starting.no_instance, init, _loss)


def _loss(
    theta: jax.Array,
    instance: Any,
    key: jax.Array,
) -> jax.Array:
    del instance, key  # one function, no minibatches
    here = theta[:-1]
    following = theta[1:]
    terms = 100 * jnp.square(following - jnp.square(here)) + jnp.square(1 - here)
    return jnp.sum(terms)
