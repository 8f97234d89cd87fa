"""The meta-gradient by reverse-mode differentiation through the whole unroll: the oracle of the adjoint method.

It is also what gives the full gradient, through the optimizee's second derivatives, and what serves optimizers whose
update depends on theta itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.optimizees import base as optimizee_base


class Lives(NamedTuple):
    """Several optimizees between two windows; every leaf is stacked over problems."""

    problems: optimizee_base.Problem
    t: jax.Array
    theta: Any
    state: Any


def begin(opt, phi, problem, keys):
    """Fresh problems, one for each of `keys`."""
    problems = jax.vmap(optimizee_base.begin, in_axes=(None, 0))(problem, keys)
    state = jax.vmap(opt.transform(phi).init)(problems.theta_0)
    return Lives(problems, jnp.zeros(keys.shape[0], jnp.int32), problems.theta_0, state)


def window(opt, phi, problem, lives, weights, stop_gradient):
    """Runs a window and differentiates its meta-loss; see `adjoint.window`."""

    def meta_loss(phi):
        losses, after = jax.vmap(
            lambda life: _life(opt, phi, problem, life, weights.shape[0], stop_gradient)
        )(lives)
        return jnp.mean(losses @ weights), (losses.T, after)

    gradient, (losses, lives) = jax.grad(meta_loss, has_aux=True)(phi)
    return losses, gradient, lives


def _life(opt, phi, problem, life, num_steps, stop_gradient):
    tx = opt.transform(phi)

    def loss_fn(theta, t):
        return problem.loss(
            theta, life.problems.instance, optimizee_base.minibatch_key(life.problems.key, t)
        )

    def step(carry, t):
        theta, state = carry
        gradient = jax.grad(loss_fn)(theta, t)
        if stop_gradient:
            gradient = jax.lax.stop_gradient(gradient)
        updates, state = tx.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), loss_fn(theta, t + 1)

    (theta, state), losses = jax.lax.scan(
        step, (life.theta, life.state), life.t + jnp.arange(num_steps)
    )
    return losses, Lives(life.problems, life.t + num_steps, theta, state)
