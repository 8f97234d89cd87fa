"""One optimizee's life under one optimizer."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import base as optimizer_base


class Run(NamedTuple):
    """What is left of an optimizee's life.

    Attributes:
      losses: `[num_steps + 1]`, f(theta_t) for t = 0 .. num_steps, each on the minibatch of its step.
      theta: the parameters theta_T.
    """

    losses: jax.Array
    theta: Any


def unroll(tx, problem, key, num_steps):
    """Runs `num_steps` steps of an optimizer on a fresh problem (Andrychowicz et al. 2016, equation 3).

    The minibatch of step t depends on the key and on t alone: a longer run of the same key begins with the shorter
    one. It can be jitted, vmapped over keys, and differentiated.

    Args:
      tx: an optax transformation; it is given the parameters, and as extra arguments the loss `value`, its gradient
        `grad` and the function `value_fn` of the parameters, for optimizers that search along a line.
      problem: an `Optimizee`.
      key: draws the problem, theta_0 and the minibatches.
      num_steps: the horizon T.

    Returns:
      A `Run`.

    Raises:
      ValueError: for a horizon that is not positive, or arguments of another kind.
    """
    num_steps = check_run(tx, problem, key, num_steps)
    return _jitted(tx, optimizee_base.as_partials(problem), key, num_steps)


def check_run(tx, problem, key, num_steps):
    """The checks that `unroll` and `evaluate` share; returns `num_steps`."""
    optimizer_base.check_transformation("tx", tx)
    optimizee_base.as_partials(problem)
    _checks.random_key(key)
    return _checks.positive_int("num_steps", num_steps)


def life(tx, problem, begun, num_steps):
    """`unroll` of a problem that `optimizees.base.begin` has drawn, without checks or jit, for use inside others."""
    tx = optax.with_extra_args_support(tx)

    def loss_fn(theta, t):
        return problem.loss(theta, begun.instance, optimizee_base.minibatch_key(begun.key, t))

    def step(carry, t):
        theta, state = carry
        loss, gradient = jax.value_and_grad(loss_fn)(theta, t)
        updates, state = tx.update(
            gradient,
            state,
            theta,
            value=loss,
            grad=gradient,
            value_fn=functools.partial(loss_fn, t=t),
        )
        return (optax.apply_updates(theta, updates), state), loss

    (theta, _), losses = jax.lax.scan(
        step, (begun.theta_0, tx.init(begun.theta_0)), jnp.arange(num_steps)
    )
    return Run(jnp.append(losses, loss_fn(theta, num_steps)), theta)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _jitted(tx, problem, key, num_steps):
    return life(tx, problem, optimizee_base.begin(problem, key), num_steps)
