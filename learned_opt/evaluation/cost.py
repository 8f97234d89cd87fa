"""What an optimizer costs beside its quality: time a step and memory a parameter."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from learned_opt.evaluation import timing
from learned_opt.meta import programs, unrolling
from learned_opt.meta.unrolling import Rule, Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem, Theta
from learned_opt.optimizers.base import Phi

GRADIENT_SCALE = 0.01  # the gradient that an update is timed with, as a multiple of theta_0
# Steps that an optimizer has taken before it is timed: it may do more in the first ones.
STEPS_BEFORE = 60


class Cost(NamedTuple):
    """Cost of a training step; times are medians in seconds.

    Attributes:
      step: the gradient, the update and applying it.
      update: the optimizer alone.
      state_bytes_per_parameter: the optimizer's memory.
    """

    step: float
    update: float
    state_bytes_per_parameter: float


def state_bytes_per_parameter(tx: Transformation, theta: Theta) -> float:
    """Bytes of optimizer state divided by the number of parameters.

    Args:
      tx: an optax transformation or a pair `(opt, phi)`.
      theta: the parameters, arrays or shapes.

    Returns:
      The quotient.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from learned_opt.evaluation import cost
      >>> cost.state_bytes_per_parameter(optax.trace(0.9), jnp.zeros(5))  # one float32
      4.0
    """
    rule, phi = unrolling.separate(tx)
    state = jax.eval_shape(unrolling.join(rule, phi).init, theta)
    num_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    num_parameters = sum(x.size for x in jax.tree.leaves(theta))
    return num_bytes / max(1, num_parameters)


def measure(
    transformations: dict[str, Transformation],
    problem: Optimizee,
    key: jax.Array,
    num_rounds: int = 7,
) -> dict[str, Cost]:
    """Times several optimizers on one problem side by side, in interleaved rounds.

    Args:
      transformations: dict from name to an optax transformation or a pair `(opt, phi)`.
      problem: an `Optimizee`.
      key: draws the problem.
      num_rounds: rounds of which the median is taken.

    Returns:
      Dict from name to `Cost`.
    """
    family = optimizee_base.as_family(problem)
    one = _begin(family, key)
    timed = {}
    for name, tx in transformations.items():
        step, update = _timed(tx, family, one)
        timed[name, "step"] = step
        timed[name, "update"] = update
    seconds = timing.interleaved(timed, num_rounds)
    costs = {}
    for name, tx in transformations.items():
        step_seconds = float(np.median(seconds[name, "step"]))
        update_seconds = float(np.median(seconds[name, "update"]))
        num_bytes = state_bytes_per_parameter(tx, one.theta_0)
        costs[name] = Cost(step_seconds, update_seconds, num_bytes)
    return costs


def _timed(
    tx: Transformation,
    family: Family,
    problem: Problem,
) -> tuple[Callable, Callable]:
    """A step and an update of one optimizer, as functions without arguments."""
    rule, phi = unrolling.separate(tx)
    theta = problem.theta_0
    gradient = jax.tree.map(lambda x: GRADIENT_SCALE * x, theta)
    state = _init(rule, phi, theta)
    step = _step.program(rule, phi, family, problem, state)
    update = _update.program(rule, phi, family, problem, state, gradient)
    for _ in range(STEPS_BEFORE):
        _, state = update(phi, family, problem, state, gradient)
    return (
        functools.partial(step, phi, family, problem, state),
        functools.partial(update, phi, family, problem, state, gradient),
    )


@programs.jit
def _begin(family: Family, key: jax.Array) -> Problem:
    return optimizee_base.begin(family, key)


@functools.partial(programs.jit, static_argnums=(0,))
def _init(
    rule: Rule,
    phi: Phi,
    theta: Theta,
) -> Any:
    return unrolling.join(rule, phi).init(theta)


@functools.partial(programs.jit, static_argnums=(0,))
def _step(
    rule: Rule,
    phi: Phi,
    family: Family,
    problem: Problem,
    state: Any,
) -> tuple[Theta, Any]:
    theta = problem.theta_0
    loss, gradient, _ = optimizee_base.value_and_grad_at(
        family, problem, theta, 0, problem.statistics
    )
    updates, state = _updated(rule, phi, family, problem, state, loss, gradient)
    return optax.apply_updates(theta, updates), state


@functools.partial(programs.jit, static_argnums=(0,))
def _update(
    rule: Rule,
    phi: Phi,
    family: Family,
    problem: Problem,
    state: Any,
    gradient: Theta,
) -> tuple[Theta, Any]:
    return _updated(rule, phi, family, problem, state, 0.0, gradient)


def _updated(
    rule: Rule,
    phi: Phi,
    family: Family,
    problem: Problem,
    state: Any,
    loss: jax.Array | float,
    gradient: Theta,
) -> tuple[Theta, Any]:
    def value_fn(theta: Theta) -> jax.Array:
        value, _ = optimizee_base.loss_at(family, problem, theta, 0, problem.statistics)
        return value

    # A line search evaluates the function again: that belongs to its update.
    tx = unrolling.join(rule, phi)
    return tx.update(gradient, state, problem.theta_0, value=loss, grad=gradient, value_fn=value_fn)
