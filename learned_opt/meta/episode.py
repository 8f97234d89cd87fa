"""Meta-training on the device: one horizon after another, pure functions of a `MetaState`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.meta import evaluating, imitation
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
      loss_sum: sum over this epoch's finite meta-losses, each the mean loss of a step (with imitation alone, its
        loss); `loss_count` of them.
      loss_count: see `loss_sum`.
      weighted_sum: the same of sum_t w_t f(theta_t), and `weight_sum` of sum_t w_t.
      weight_sum: see `weighted_sum`.
      imitation_sum: the same of the losses of imitation.
      average_loss: moving average over epochs of the weighted meta-loss, decay 0.9, not yet divided by 1 - 0.9^epochs.
      average_count: epochs in it.
      skipped: how many meta-gradients were not finite and not applied, in all.
      skipped_in_a_row: and without a finite one in between.
      best_phi: the weights with the best loss, as `Plan.selection` has it; the newest, until one is finite.
      best_loss: that loss.
    """

    phi: Any
    adam: Any
    learning_rate: jax.Array
    episode: jax.Array
    loss_sum: jax.Array
    loss_count: jax.Array
    weighted_sum: jax.Array
    weight_sum: jax.Array
    imitation_sum: jax.Array
    average_loss: jax.Array
    average_count: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    best_phi: Any
    best_loss: jax.Array


class Schedule(NamedTuple):
    """The part of all meta-training that a stage of it is; what decays, decays over all of it.

    Attributes:
      cosine: whether the meta-learning rate decays to zero as a cosine.
      start: the part of all that was done before this stage, in [0, 1].
      end: the part that is done after it.
      num_episodes: of this stage.
    """

    cosine: bool
    start: float
    end: float
    num_episodes: int

    def done(self, episode):
        """The part of all meta-training that is done after so many episodes of this stage."""
        return self.start + (self.end - self.start) * jnp.minimum(episode / self.num_episodes, 1)


FOREVER = Schedule(cosine=False, start=0.0, end=1.0, num_episodes=1)


class Plan(NamedTuple):
    """What an episode does, static under jit.

    Attributes:
      opt: the `LearnedOptimizer`.
      windows: how windows are differentiated (`gradient.Windows`).
      num_windows: windows of a horizon.
      shorter: windows of other horizons that are mixed with it.
      window: steps of a window.
      num_problems: problems of a horizon at once.
      clip_norm: meta-gradients are clipped to this global norm.
      schedule: the `Schedule` of the meta-learning rate.
      selection: "validation" or "training", by which loss the best phi is kept, or "last" for the newest.
      validation_steps: horizon of validation.
      imitation: an `imitation.Imitation`, or None.
    """

    opt: base.LearnedOptimizer
    windows: gradient_lib.Windows
    num_windows: int
    shorter: tuple
    window: int
    num_problems: int
    clip_norm: float
    schedule: Schedule
    selection: str
    validation_steps: int
    imitation: imitation.Imitation | None


def init(plan, key, phi, learning_rate):
    """The state in which meta-training begins: from the weights `phi`, or from fresh ones where it is None."""
    phi = plan.opt.init(key) if phi is None else phi
    dtype = jnp.result_type(float)
    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    state = MetaState(
        phi,
        optax.scale_by_adam().init(phi),
        jnp.asarray(learning_rate, dtype),
        episode=count,
        loss_sum=zero,
        loss_count=count,
        weighted_sum=zero,
        weight_sum=zero,
        imitation_sum=zero,
        average_loss=zero,
        average_count=count,
        skipped=count,
        skipped_in_a_row=count,
        best_phi=phi,
        best_loss=jnp.asarray(jnp.inf, dtype),
    )
    # The state is donated: no two leaves may share a buffer. A dtype that is named is no weak one, with which the
    # program would be compiled twice.
    return jax.tree.map(lambda x: jnp.array(x, x.dtype), state)


def next_stage(plan, key, state):
    """The state in which another stage begins: from the best phi of the one before."""
    return init(plan, key, state.best_phi, state.learning_rate)._replace(adam=state.adam)


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
    key = jax.random.fold_in(key, state.episode)
    lengths = (plan.num_windows, *plan.shorter)
    everyone = [_begin(plan, problem, key, i, 0, state.phi) for i in range(len(lengths))]

    def window(carry, inputs):
        (state, everyone), (number, w) = carry, inputs
        everyone = [
            _begin_anew(plan, problem, key, i, lives, number, length, state.phi)
            for i, (lives, length) in enumerate(zip(everyone, lengths, strict=True))
        ]
        losses, imitated, gradients, everyone = zip(
            *(_window(plan, problem, state, lives, w) for lives in everyone), strict=True
        )
        gradient = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
        state = _meta_update(
            plan, state, jnp.concatenate(losses, axis=1), w, sum(imitated) / len(imitated), gradient
        )
        return (state, list(everyone)), None

    (state, _), _ = jax.lax.scan(window, (state, everyone), (jnp.arange(plan.num_windows), weights))
    return state._replace(episode=state.episode + 1)


def _begin(plan, problem, key, horizon, life, phi):
    """Fresh problems: `(lives under the optimizer, lives under its teacher)`, () for what there is not.

    `horizon` is the number of their horizon, 0 for the longest, and `life` how many problems of it were before.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, horizon), life) if horizon else key
    keys = jax.random.split(key, plan.num_problems)
    teacher = plan.imitation and plan.imitation.teacher
    lives = (
        ()
        if imitation.is_alone(plan.imitation)
        else plan.windows.begin(plan.opt, phi, problem, keys)
    )
    return lives, imitation.begin(plan.opt, phi, problem, keys, teacher) if teacher else ()


def _begin_anew(plan, problem, key, horizon, lives, number, length, phi):
    """Fresh problems where the window `number` of the longest horizon comes after the last of these lives."""
    if length == plan.num_windows:
        return lives
    return jax.lax.cond(
        (number > 0) & (number % length == 0),
        lambda _: _begin(plan, problem, key, horizon, number // length, phi),
        lambda same: same,
        lives,
    )


def _window(plan, problem, state, lives, weights):
    """One window of problems of one horizon: `(losses [T, problems], imitation's loss, gradient, lives)`."""
    lives, taught = lives
    if imitation.is_alone(plan.imitation):
        imitated, gradient, taught = _imitate(plan, problem, state, taught)
        return jnp.broadcast_to(imitated, (plan.window, 1)), imitated, gradient, (lives, taught)
    losses, gradient, lives = plan.windows.run(plan.opt, state.phi, problem, lives, weights)
    imitated, gradient, taught = _add_imitation(plan, problem, state, gradient, taught)
    return losses, imitated, gradient, (lives, taught)


def _imitate(plan, problem, state, taught):
    """The imitation's loss on the next window, its gradient, and the lives after it."""
    return plan.windows.imitate(
        plan.opt, state.phi, problem, taught, plan.imitation.teacher, plan.window
    )


def _add_imitation(plan, problem, state, gradient, taught):
    """The imitation's loss on the next window, the meta-gradient with its gradient added, and the lives after it."""
    if plan.imitation is None:
        return 0.0, gradient, taught
    faded = 1 - plan.schedule.done(state.episode) / plan.imitation.fraction
    weight = plan.imitation.weight * jnp.maximum(faded, 0)

    def imitate(taught):
        loss, toward_teacher, taught = _imitate(plan, problem, state, taught)
        gradients = jax.tree.map(
            lambda g, i: g + (weight * i).astype(g.dtype), gradient, toward_teacher
        )
        return loss.astype(jnp.result_type(float)), gradients, taught

    def leave_out(taught):  # it costs as much as the window itself
        return jnp.zeros((), jnp.result_type(float)), gradient, taught

    return jax.lax.cond(weight > 0, imitate, leave_out, taught)


def _meta_update(plan, state, losses, weights, imitated, gradient):
    """Adam on phi; a meta-gradient that is not finite changes nothing but the counts."""
    loss = jnp.mean(losses)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    scale = jnp.minimum(1.0, plan.clip_norm / jnp.maximum(norm, 1e-20))
    updates, adam = optax.scale_by_adam().update(
        jax.tree.map(lambda g: g * scale, gradient), state.adam
    )
    rate = state.learning_rate * _rate_factor(plan.schedule, state.episode)
    phi = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), state.phi, updates)
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
    return state._replace(
        phi=choose(phi, state.phi),
        adam=choose(adam, state.adam),
        loss_sum=state.loss_sum + jnp.where(finite, loss, 0),
        loss_count=state.loss_count + finite,
        weighted_sum=state.weighted_sum + jnp.where(finite, jnp.mean(weights @ losses), 0),
        weight_sum=state.weight_sum + jnp.where(finite, jnp.sum(weights), 0),
        imitation_sum=state.imitation_sum + jnp.where(finite, imitated, 0),
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )


def _rate_factor(schedule, episode):
    return 0.5 * (1 + jnp.cos(jnp.pi * schedule.done(episode))) if schedule.cosine else 1.0


def validate(plan, problem, key, num_runs, state):
    """After an epoch: phi frozen, the mean final loss on `num_runs` validation problems; keeps the best phi.

    Returns:
      `(validation loss, moving average of the training loss, the next state)`, the epoch's sums back at zero.
    """
    tx = plan.opt.transform(state.phi)
    begun = optimizee_base.begin_all(problem, key, num_runs)
    curves, _ = evaluating.runs(tx, None, problem, begun, plan.validation_steps)
    loss = jnp.mean(curves[:, -1]).astype(state.best_loss.dtype)
    state, average = _average(state)
    selected = average if plan.selection == "training" else loss
    better = (selected < state.best_loss) | ~jnp.isfinite(
        state.best_loss
    )  # until one is finite, the newest is kept
    better |= plan.selection == "last"
    best_phi = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.phi, state.best_phi)
    zero = jnp.zeros_like(state.loss_sum)
    return (
        loss,
        average,
        state._replace(
            best_phi=best_phi,
            best_loss=jnp.where(better, selected, state.best_loss),
            loss_sum=zero,
            weighted_sum=zero,
            weight_sum=zero,
            imitation_sum=zero,
            loss_count=jnp.zeros_like(state.loss_count),
        ),
    )


def _average(state):
    """The moving average of the training loss (Lv, Jiang, Li 2017, section 5) with this epoch in it."""
    any_finite = state.weight_sum > 0
    count = state.average_count + any_finite
    mean = state.weighted_sum / jnp.where(any_finite, state.weight_sum, 1)
    total = jnp.where(any_finite, 0.9 * state.average_loss + 0.1 * mean, state.average_loss)
    average = jnp.where(count > 0, total / (1 - 0.9 ** jnp.maximum(count, 1)), jnp.inf)
    return state._replace(average_loss=total, average_count=count), average.astype(
        state.best_loss.dtype
    )
