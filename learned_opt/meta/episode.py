"""Meta-training on the device: one horizon after another, pure functions of a `MetaState`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.meta import evaluating
from learned_opt.meta import gradient as gradient_lib
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import base


class MetaState(NamedTuple):
    """Everything that meta-training carries on the device; what a checkpoint holds.

    Attributes:
      phi: the weights.
      adam: state of the meta-optimizer.
      learning_rate: of the meta-optimizer, before its schedule.
      episode: how many horizons are done.
      loss_sum: sum over this epoch's finite meta-losses, each the mean loss of a step; `loss_count` of them.
      loss_count: see `loss_sum`.
      skipped: how many meta-gradients were not finite and not applied, in all.
      skipped_in_a_row: and without a finite one in between.
      best_phi: the weights with the best validation loss; the newest, until one is finite.
      best_loss: that loss.
    """

    phi: Any
    adam: Any
    learning_rate: jax.Array
    episode: jax.Array
    loss_sum: jax.Array
    loss_count: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    best_phi: Any
    best_loss: jax.Array


class Plan(NamedTuple):
    """What an episode does, static under jit.

    Attributes:
      opt: the `LearnedOptimizer`.
      windows: how windows are differentiated (`gradient.Windows`).
      num_windows: windows of a horizon.
      window: steps of a window.
      num_problems: problems at once.
      clip_norm: meta-gradients are clipped to this global norm.
      cosine_episodes: the meta-learning rate decays to zero as a cosine over so many episodes; 0 for a constant rate.
    """

    opt: base.LearnedOptimizer
    windows: gradient_lib.Windows
    num_windows: int
    window: int
    num_problems: int
    clip_norm: float
    cosine_episodes: int


def init(plan, key, learning_rate):
    """The state in which meta-training begins."""
    phi = plan.opt.init(key)
    dtype = jnp.result_type(float)
    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    state = MetaState(phi, optax.scale_by_adam().init(phi), jnp.asarray(learning_rate, dtype), count, zero, count,
                      count, count, phi, jnp.asarray(jnp.inf, dtype))
    return jax.tree.map(jnp.copy, state)  # the state is donated: no two leaves may share a buffer


def run(plan, problem, key, weights, state):
    """One horizon: fresh problems, one meta-gradient and one meta-update after each window (truncated BPTT).

    Args:
      plan: the `Plan`.
      problem: an `Optimizee` of `Partial`s.
      key: the run's key; the episode's number is folded into it.
      weights: `[num_windows, window]`, the w_t.
      state: the `MetaState`.

    Returns:
      The next `MetaState`.
    """
    keys = jax.random.split(jax.random.fold_in(key, state.episode), plan.num_problems)
    lives = plan.windows.begin(plan.opt, state.phi, problem, keys)

    def window(carry, w):
        state, lives = carry
        losses, gradient, lives = plan.windows.run(plan.opt, state.phi, problem, lives, w)
        return (_meta_update(plan, state, jnp.mean(losses), gradient), lives), None

    (state, _), _ = jax.lax.scan(window, (state, lives), weights)
    return state._replace(episode=state.episode + 1)


def _meta_update(plan, state, loss, gradient):
    """Adam on phi; a meta-gradient that is not finite changes nothing but the counts."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    scale = jnp.minimum(1.0, plan.clip_norm / jnp.maximum(norm, 1e-20))
    updates, adam = optax.scale_by_adam().update(jax.tree.map(lambda g: g * scale, gradient), state.adam)
    rate = state.learning_rate * _schedule(plan, state.episode)
    phi = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), state.phi, updates)
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
    return state._replace(
        phi=choose(phi, state.phi), adam=choose(adam, state.adam),
        loss_sum=state.loss_sum + jnp.where(finite, loss, 0), loss_count=state.loss_count + finite,
        skipped=state.skipped + ~finite, skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1))


def _schedule(plan, episode):
    if not plan.cosine_episodes:
        return 1.0
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(episode / plan.cosine_episodes, 1)))


def validate(plan, problem, key, num_runs, state):
    """After an epoch: phi frozen, the mean final loss on `num_runs` validation problems; keeps the best phi.

    Returns:
      `(validation loss, the next state)`, the epoch's sums back at zero.
    """
    tx = plan.opt.transform(state.phi)
    begun = optimizee_base.begin_all(problem, key, num_runs)
    curves, _ = evaluating.runs(tx, None, problem, begun, plan.num_windows * plan.window)
    loss = jnp.mean(curves[:, -1]).astype(state.best_loss.dtype)
    better = (loss < state.best_loss) | ~jnp.isfinite(state.best_loss)  # until one is finite, the newest is kept
    best_phi = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.phi, state.best_phi)
    return loss, state._replace(
        best_phi=best_phi, best_loss=jnp.minimum(loss, state.best_loss),
        loss_sum=jnp.zeros_like(state.loss_sum), loss_count=jnp.zeros_like(state.loss_count))
