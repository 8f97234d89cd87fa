"""The meta-gradient of one unroll."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.estimators import Adjoint, Autodiff
from learned_opt.estimators.meta_loss import check_weights
from learned_opt.meta import programs
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family
from learned_opt.optimizers.base import LearnedOptimizer, Phi, check_optimizer

METHODS = ("adjoint", "autodiff")


def meta_gradient(
    opt: LearnedOptimizer,
    phi: Phi,
    problem: Any,
    key: jax.Array,
    num_steps: int,
    num_problems: int = 1,
    weights: Any = None,
    method: str | None = None,
    block_size: int | None = None,
    stop_gradient: bool = True,
    coordinates: int | None = None,
) -> tuple[jax.Array, Phi]:
    """The meta-loss of a whole unroll on fresh problems, and its gradient with respect to phi.

    The meta-loss is the mean over problems of sum_t w_t f(theta_t) (Andrychowicz et al. 2016,
    equation 3). This is one window of `estimators.Adjoint` or `estimators.Autodiff`.

    Args:
      opt: a `LearnedOptimizer`.
      phi: its weights.
      problem: a family of problems, an `Optimizee`.
      key: draws the problems. A single one is that of `unroll` with this key, several are those of
        `jax.random.split(key, num_problems)`.
      num_steps: the length T of the unroll.
      num_problems: how many problems at once.
      weights: w_1 .. w_T, or w_0 .. w_T (f(theta_0) counts in the loss and has no gradient); None
        for w_1 .. w_T = 1.
      method: "adjoint" (the default; `estimators.Adjoint`) or "autodiff", reverse mode through the
        whole unroll: slower and larger, for second derivatives and for updates that depend on the
        loss.
      block_size: see `estimators.Adjoint`.
      stop_gradient: whether the optimizee's gradients count as constants (the papers' choice).
        False gives the full gradient, through second derivatives, which "autodiff" alone can.
      coordinates: from how many coordinates the adjoint method estimates the gradient, None for
        all; see `estimators.Adjoint`. The key draws them.

    Returns:
      `(loss, gradient)`: a scalar, and a pytree like phi.

    Raises:
      ValueError: for sizes that are not positive, weights of another length, an unknown method, phi
        of another architecture, "adjoint" without `stop_gradient` or for an optimizer that it
        cannot differentiate, or `coordinates` for "autodiff" or for an optimizer that is not
        coordinatewise.

    Example:
      >>> import jax, learned_opt
      >>> opt, problem = learned_opt.lstm(hidden_sizes=(4,)), learned_opt.optimizees.quadratic(2)
      >>> phi = opt.init(jax.random.key(0))
      >>> loss, gradient = learned_opt.meta_gradient(opt, phi, problem, jax.random.key(1), 5)
      >>> jax.tree.structure(gradient) == jax.tree.structure(phi)
      True
    """
    check_optimizer("opt", opt)
    _checks.random_key(key)
    num_steps = _checks.positive_int("num_steps", num_steps)
    num_problems = _checks.positive_int("num_problems", num_problems)
    weights, w_0 = _split_weights(weights, num_steps)
    estimator = estimator_of(num_steps, method, block_size, stop_gradient, coordinates)
    family = optimizee_base.as_family(problem)
    estimator.check(opt, family, key, num_steps)
    return _meta_gradient(opt, estimator, num_problems, phi, family, key, weights, w_0)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def _meta_gradient(
    opt: LearnedOptimizer,
    estimator: Adjoint | Autodiff,
    num_problems: int,
    phi: Phi,
    family: Family,
    key: jax.Array,
    weights: jax.Array,
    w_0: jax.Array,
) -> tuple[jax.Array, Phi]:
    keys = optimizee_base.problem_keys(key, num_problems)
    lives: Any = estimator.begin(opt, phi, family, keys, estimator.window)
    estimate = estimator.differentiate(opt, phi, family, lives, weights)
    loss = w_0 * jnp.mean(lives.first) + jnp.mean(weights @ estimate.losses)
    return loss, estimate.gradient


def estimator_of(
    window: int,
    method: str | None = None,
    block_size: int | None = None,
    stop_gradient: bool = True,
    coordinates: int | None = None,
) -> Adjoint | Autodiff:
    """The estimator that a method's name and its loose options stand for; see `meta_gradient`."""
    if method is None:
        method = "adjoint" if stop_gradient else "autodiff"
    _checks.choice("method", method, METHODS)
    if method == "autodiff":
        for name, value in (("block_size", block_size), ("coordinates", coordinates)):
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} has no meaning for method='autodiff': leave it out."
                )
        return Autodiff(window, bool(stop_gradient))
    if not stop_gradient:
        raise ValueError(
            "method='adjoint' holds the optimizee's gradients constant: stop_gradient=False needs "
            "method='autodiff'."
        )
    return Adjoint(window, coordinates, block_size)


def _split_weights(weights: Any, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """w_1 .. w_T, and w_0."""
    if weights is None:
        return jnp.ones(num_steps), jnp.zeros(())
    weights = check_weights(weights, (num_steps, num_steps + 1))
    if weights.shape[0] == num_steps:
        return weights, jnp.zeros(())
    return weights[1:], weights[0]
