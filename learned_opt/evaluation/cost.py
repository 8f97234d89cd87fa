"""What an optimizer costs beside its quality: time a step and memory a parameter."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax

from learned_opt.evaluation import timing
from learned_opt.optimizees import base as optimizee_base


class Cost(NamedTuple):
    """Cost of a training step; times are medians in seconds."""

    step: float  # gradient, update and applying it
    update: float  # the optimizer alone
    state_bytes_per_parameter: float


def state_bytes_per_parameter(tx, theta):
    """Bytes of optimizer state divided by the number of parameters in `theta` (arrays or shapes)."""
    state = jax.eval_shape(tx.init, theta)
    num_parameters = max(1, sum(x.size for x in jax.tree.leaves(theta)))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / num_parameters


def measure(transformations, problem, key, num_rounds=7):
    """Times several optimizers on one problem side by side, in interleaved rounds.

    Args:
      transformations: dict from name to optax transformation.
      problem: an `Optimizee`.
      key: draws the problem.
      num_rounds: rounds of which the median is taken.

    Returns:
      Dict from name to `Cost`.
    """
    problem = optimizee_base.as_partials(problem)
    instance, theta, minibatches = jax.jit(optimizee_base.begin)(problem, key)
    programs = {}
    for name, tx in transformations.items():
        state = jax.jit(tx.init)(theta)
        step, update = _programs(optax.with_extra_args_support(tx))
        gradient = jax.tree.map(lambda x: 0.01 * x, theta)
        programs[name, "step"] = functools.partial(
            step, problem, instance, minibatches, theta, state
        )
        programs[name, "update"] = functools.partial(
            update, problem, instance, minibatches, theta, state, gradient
        )
    median = {
        place: float(np.median(t)) for place, t in timing.interleaved(programs, num_rounds).items()
    }
    return {
        name: Cost(
            median[name, "step"], median[name, "update"], state_bytes_per_parameter(tx, theta)
        )
        for name, tx in transformations.items()
    }


def _programs(tx):
    def updated(problem, instance, key, theta, state, loss, gradient):
        # A line search evaluates the function again: that belongs to its update.
        return tx.update(
            gradient,
            state,
            theta,
            value=loss,
            grad=gradient,
            value_fn=lambda theta: problem.loss(theta, instance, key),
        )

    @jax.jit
    def step(problem, instance, key, theta, state):
        loss, gradient = jax.value_and_grad(problem.loss)(theta, instance, key)
        updates, state = updated(problem, instance, key, theta, state, loss, gradient)
        return optax.apply_updates(theta, updates), state

    @jax.jit
    def update(problem, instance, key, theta, state, gradient):
        return updated(problem, instance, key, theta, state, 0.0, gradient)

    return step, update
