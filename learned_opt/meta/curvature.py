"""Weights to begin with: the curvature that a family's problems have in common."""

import functools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.meta import programs
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem
from learned_opt.optimizers.base import LearnedOptimizer, Phi

SMALLEST = 1e-4  # of the largest curvature: what is flatter counts as this


def with_mean_curvature(
    opt: LearnedOptimizer,
    problem: Optimizee,
    key: jax.Array,
    num_problems: int = 512,
) -> Phi:
    """Weights of `preconditioned` by which a step is Newton's for the mean of a family's Hessians.

    The Hessians are those at theta_0: learn a start before (`learned_opt.learn_start`), so that
    they are of the region in which an optimizer will work. Directions of negative curvature count
    by its size.

    Args:
      opt: a dense `learned_opt.preconditioned`.
      problem: the family.
      key: draws problems, and the weights that mix matrices.
      num_problems: over how many problems the mean goes.

    Returns:
      Weights for `meta_train(..., phi=...)`.

    Raises:
      ValueError: for another optimizer, problems of another size, or a mean Hessian that is zero
        or not finite.

    Example:
      >>> import jax, learned_opt
      >>> family = learned_opt.optimizees.rotated_quadratic(dim=3)
      >>> opt = learned_opt.preconditioned(3)
      >>> phi = learned_opt.with_mean_curvature(opt, family, jax.random.key(0), 8)
    """
    spec = getattr(opt, "spec", None) or {}
    arguments = spec.get("args", {})
    if spec.get("name") != "preconditioned" or arguments["kind"] != "dense":
        given = f"learned_opt.{spec['name']}" if spec else type(opt).__name__
        kind = f" of the kind {arguments['kind']!r}" if "kind" in arguments else ""
        raise ValueError(
            f"opt must be a learned_opt.preconditioned of the kind 'dense', got {given}{kind}."
        )
    num_problems = _checks.positive_int("num_problems", num_problems)
    init_key, key = jax.random.split(key)
    family = optimizee_base.as_family(problem)
    begun = jax.eval_shape(optimizee_base.begin, family, key)
    num_arrays = len(jax.tree.leaves(begun.theta_0))
    if num_arrays != 1:
        raise ValueError(
            f"problem must have one array of parameters, got {num_arrays}: join them into one "
            "vector, as opt updates one array."
        )
    hessian = _mean_hessian(family, jax.random.split(key, num_problems))
    phi = opt.init(init_key)
    if hessian.shape != phi["matrices"].shape[1:]:
        raise ValueError(
            f"opt must have dim={len(hessian)} for these problems, got dim={arguments['dim']}."
        )
    if not jnp.all(jnp.isfinite(hessian)) or not jnp.any(hessian):
        raise ValueError(
            "the mean Hessian at theta_0 is zero or not finite: leave instances with a NaN out of "
            "what `sample` draws from, and start where the loss is curved."
        )
    newton = _inverse(hessian) / arguments["rate"]
    return {**phi, "matrices": phi["matrices"].at[0].set(newton)}


@functools.partial(programs.jit)
def _mean_hessian(family: Family, keys: jax.Array) -> jax.Array:
    def one(key: jax.Array) -> Any:
        problem: Problem = optimizee_base.begin(family, key)
        theta_0, unravel = jax.flatten_util.ravel_pytree(problem.theta_0)

        def loss(vector: jax.Array) -> jax.Array:
            theta = unravel(vector)
            return optimizee_base.loss_at(family, problem, theta, 0, problem.statistics)[0]

        return jax.hessian(loss)(theta_0)

    return jnp.mean(jax.vmap(one)(keys), 0)


def _inverse(hessian: jax.Array) -> jax.Array:
    """Of the curvature's size in each direction."""
    eigenvalues, directions = jnp.linalg.eigh((hessian + hessian.T) / 2)
    size = jnp.abs(eigenvalues)
    size = jnp.maximum(size, SMALLEST * jnp.max(size))
    return (directions / size[None]) @ directions.T
