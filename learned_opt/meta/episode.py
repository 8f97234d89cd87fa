"""Meta-training on the device: one window after another, pure functions of a `MetaState`.

An episode is one horizon's worth of windows. What a window does with its lives is its estimator's
business: nothing here knows one estimator from another.

The problems of a family are cut into shards, each with lives of its own. On several devices every
device runs its shards by itself, and all of them meet once in a window, for the mean of what the
shards estimate. Everything else is the same on all of them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.devices import Shards
from learned_opt.estimators import Estimator
from learned_opt.meta import evaluating
from learned_opt.meta.optimizer import Bound
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family
from learned_opt.optimizers.base import LearnedOptimizer, Phi


class Sums(NamedTuple):
    """What an epoch adds up; everything else of its history is made of these.

    Attributes:
      loss: finite meta-losses, each the mean loss of a step.
      weighted: the same of sum_t w_t f(theta_t).
      weight: of sum_t w_t.
      count: how many windows are in them.
    """

    loss: jax.Array
    weighted: jax.Array
    weight: jax.Array
    count: jax.Array  # type: ignore[assignment]


class MetaState(NamedTuple):
    """Everything that meta-training carries on the device; what a checkpoint holds.

    Attributes:
      phi: the weights.
      optimizer: the state of phi's optimizer.
      learning_rate: of phi's optimizer, before any schedule.
      window: how many windows are done.
      lives: the estimator's lives, one entry for each family; where there are several shards,
        these are on the first axis.
      sums: the `Sums` of this epoch.
      average_loss: moving average over epochs of the weighted meta-loss, decay 0.9, not yet divided
        by 1 - 0.9^epochs.
      average_count: epochs in it.
      skipped: how many meta-gradients were not finite and not applied, in all.
      skipped_in_a_row: and without a finite one in between.
      best_phi: the weights with the best loss, as `Plan.selection` has it; the newest, until one is
        finite.
      best_loss: that loss.
      best_validation: the validation loss of `best_phi`.
    """

    phi: Phi
    optimizer: Any
    learning_rate: jax.Array
    window: jax.Array
    lives: tuple
    sums: Sums
    average_loss: jax.Array
    average_count: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    best_phi: Phi
    best_loss: jax.Array
    best_validation: jax.Array


class Share(NamedTuple):
    """The part of all meta-training that a stage of it is; what decays, decays over all of it.

    Attributes:
      start: the part of all that was done before this stage, in [0, 1].
      end: the part that is done after it.
      num_episodes: of this stage.
    """

    start: float
    end: float
    num_episodes: int

    def done(self, episode: jax.Array) -> jax.Array:
        """The part of all meta-training that is done after so many episodes of this stage."""
        return self.start + (self.end - self.start) * jnp.minimum(episode / self.num_episodes, 1)


class Plan(NamedTuple):
    """What a window and a validation do; static under jit.

    Attributes:
      opt: the `LearnedOptimizer`.
      estimator: the estimator.
      optimizer: of phi, without its learning rate.
      num_steps: the horizon.
      num_problems: problems of a family at once, over all shards.
      family_weights: by what each family counts.
      share: the `Share` of all meta-training.
      selection: see `settings.Validation`.
      validation_steps: the horizon of validation.
      validation_weights: by what each family of validation counts.
      shards: the `devices.Shards` of the problems.
    """

    opt: LearnedOptimizer
    estimator: Estimator
    optimizer: Bound
    num_steps: int
    num_problems: int
    family_weights: tuple[float, ...]
    share: Share
    selection: str
    validation_steps: int
    validation_weights: tuple[float, ...]
    shards: Shards = Shards()

    @property
    def num_windows(self) -> int:
        """Windows of an episode."""
        return self.num_steps // self.estimator.window


def init(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    phi: Phi,
    learning_rate: jax.Array,
) -> MetaState:
    """The state in which meta-training begins.

    Args:
      plan: the plan.
      families: the families of problems.
      key: the run's key; draws the first problems.
      phi: the weights to begin with.
      learning_rate: of phi's optimizer.
    """
    dtype = jnp.result_type(float)
    rate = jnp.asarray(learning_rate, dtype)
    zero, no_count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    never = jnp.asarray(jnp.inf, dtype)
    first_key = jax.random.fold_in(key, no_count)
    return MetaState(
        phi=phi,
        optimizer=plan.optimizer(rate).init(phi),
        learning_rate=rate,
        window=no_count,
        lives=_begin(plan, families, first_key, phi),
        sums=Sums(zero, zero, zero, no_count),
        average_loss=zero,
        average_count=no_count,
        skipped=no_count,
        skipped_in_a_row=no_count,
        best_phi=phi,
        best_loss=never,
        best_validation=never,
    )


def own(x: jax.Array) -> jax.Array:
    """A copy of a leaf of the state, with a dtype that is named.

    The state is donated: no two leaves may share a buffer. And a weak dtype would have the program
    compiled twice.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.copy(x)
    return jnp.array(x, x.dtype)


def _begin(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    phi: Phi,
) -> tuple:
    num_problems = plan.num_problems // plan.shards.num

    def begin(shard: jax.Array) -> tuple:
        lives = []
        for i, family in enumerate(families):
            own_key = plan.shards.key(_key_of(key, i), shard)
            keys = jax.random.split(own_key, num_problems)
            lives.append(plan.estimator.begin(plan.opt, phi, family, keys, plan.num_steps))
        return tuple(lives)

    return plan.shards.each(begin)


def _key_of(key: jax.Array, i: int) -> jax.Array:
    """The key of the i-th family; the first has the key itself."""
    return jax.random.fold_in(key, i) if i else key


def run(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    weights: jax.Array,
    first: jax.Array,
    num: jax.Array,
    state: MetaState,
) -> MetaState:
    """Some windows: after each, one update of phi along the estimate of the meta-gradient.

    How many run in one call does not change what they compute.

    Args:
      plan: the `Plan`.
      families: the families of problems.
      key: the run's key; the window's number is folded into it.
      weights: w_t, `[num_windows, window]`.
      first: how many windows are done, `state.window`.
      num: how many more to run.
      state: the `MetaState`.

    Returns:
      The next `MetaState`.
    """
    end = first + num

    def part_of_episode(carry: tuple[jax.Array, MetaState]) -> tuple[jax.Array, MetaState]:
        start, state = carry
        episode = start // plan.num_windows
        stop = jnp.minimum(end, (episode + 1) * plan.num_windows)
        # What is the same in all windows of an episode is computed once.
        episode_key = jax.random.fold_in(key, episode)
        done = plan.share.done(episode)

        def one(window: jax.Array, state: MetaState) -> MetaState:
            number = window % plan.num_windows
            # The first window of an episode has the episode's key itself.
            own_key = jax.random.fold_in(episode_key, number)
            own_key = jnp.where(number > 0, own_key, episode_key)
            return _window(plan, families, own_key, weights[number], done, state)

        return stop, jax.lax.fori_loop(start, stop, one, state)

    def is_before_end(carry: tuple[jax.Array, MetaState]) -> jax.Array:
        return carry[0] < end

    _, state = jax.lax.while_loop(is_before_end, part_of_episode, (first, state))
    return state


def _window(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    weights: jax.Array,
    done: jax.Array,
    state: MetaState,
) -> MetaState:
    """One window of every family, and one update of phi."""

    def estimated(shard: jax.Array, lives: tuple) -> tuple:
        estimates = []
        for i, family in enumerate(families):
            own_key = plan.shards.key(_key_of(key, i), shard)
            estimate = plan.estimator.run(
                plan.opt, state.phi, family, lives[i], own_key, weights, done
            )
            estimates.append(estimate)
        after = tuple(estimate.lives for estimate in estimates)
        gradient = _weighted_mean([e.gradient for e in estimates], plan.family_weights)
        loss = _weighted_mean([jnp.mean(e.losses) for e in estimates], plan.family_weights)
        sums_of_window = [jnp.mean(weights @ e.losses) for e in estimates]
        weighted = _weighted_mean(sums_of_window, plan.family_weights)
        return after, (gradient, loss, weighted)

    lives, found = plan.shards.each(estimated, state.lives)
    gradient, loss, weighted = plan.shards.mean(found)
    state = state._replace(lives=lives)
    state = _meta_update(plan, state, gradient, loss, done)
    finite = state.skipped_in_a_row == 0
    sums = Sums(
        loss=state.sums.loss + jnp.where(finite, loss, 0),
        weighted=state.sums.weighted + jnp.where(finite, weighted, 0),
        weight=state.sums.weight + jnp.where(finite, jnp.sum(weights), 0),
        count=state.sums.count + finite.astype(jnp.int32),
    )
    return state._replace(sums=sums, window=state.window + 1)


def _weighted_mean(trees: list, weights: tuple[float, ...]) -> Any:
    if len(trees) == 1:
        return trees[0]

    def mean(*leaves: jax.Array) -> jax.Array:
        total = jnp.zeros_like(leaves[0])
        for weight, leaf in zip(weights, leaves, strict=True):
            total = total + weight * leaf
        return total

    return jax.tree.map(mean, *trees)


def _meta_update(
    plan: Plan,
    state: MetaState,
    gradient: Phi,
    loss: jax.Array,
    done: jax.Array,
) -> MetaState:
    """phi's optimizer; a meta-gradient that is not finite changes nothing but the counts."""
    finite = jnp.isfinite(optax.tree.norm(gradient)) & jnp.isfinite(loss)
    tx = plan.optimizer(state.learning_rate)
    updates, optimizer = tx.update(gradient, state.optimizer, state.phi, done=done)
    phi = optax.apply_updates(state.phi, updates)
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
    return state._replace(
        phi=choose(phi, state.phi),
        optimizer=choose(optimizer, state.optimizer),
        skipped=state.skipped + (~finite).astype(jnp.int32),
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )


def end_epoch(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    num_runs: int,
    state: MetaState,
) -> tuple[jax.Array, jax.Array, MetaState]:
    """After an epoch: phi is validated, and the best phi is kept.

    Args:
      plan: the plan.
      families: the families of validation.
      key: draws the validation problems.
      num_runs: how many, of each family.
      state: the state.

    Returns:
      The validation loss, the moving average of the training loss, and the next state with the
      epoch's sums back at zero.
    """
    loss = _validation_loss(plan, families, key, num_runs, state)
    state, average = _average(state)
    selected = average if plan.selection == "training" else loss
    # Until one is finite, the newest is kept.
    better = (selected < state.best_loss) | ~jnp.isfinite(state.best_loss)
    better |= plan.selection == "last"
    state = _kept(state, better, selected, loss)
    sums = jax.tree.map(jnp.zeros_like, state.sums)
    return loss, average, state._replace(sums=sums)


def validate_first(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    num_runs: int,
    state: MetaState,
) -> MetaState:
    """Before the first epoch: the weights that training starts from are the first candidate."""
    loss = _validation_loss(plan, families, key, num_runs, state)
    return _kept(state, jnp.isfinite(loss), loss, loss)


def _kept(
    state: MetaState,
    better: jax.Array,
    selected: jax.Array,
    validation: jax.Array,
) -> MetaState:
    """The state with its newest phi as the best one, where it is better."""
    return state._replace(
        best_phi=jax.tree.map(
            lambda new, old: jnp.where(better, new, old), state.phi, state.best_phi
        ),
        best_loss=jnp.where(better, selected, state.best_loss),
        best_validation=jnp.where(better, validation, state.best_validation),
    )


def _validation_loss(
    plan: Plan,
    families: tuple[Family, ...],
    key: jax.Array,
    num_runs: int,
    state: MetaState,
) -> jax.Array:
    """The mean final loss of phi, frozen, on validation problems."""
    tx = plan.opt.transform(state.phi)
    all_keys = []
    for i in range(len(families)):
        all_keys.append(optimizee_base.problem_keys(_key_of(key, i), num_runs))
    of_shard = -(-num_runs // plan.shards.num)

    def finals(shard: jax.Array) -> tuple:
        final_losses = []
        for family, keys in zip(families, all_keys, strict=True):
            if plan.shards.num > 1:
                # Where the runs are no multiple of the shards, the first of them come twice.
                keys = keys[(shard * of_shard + jnp.arange(of_shard)) % num_runs]
            begun = optimizee_base.begin_all(family, keys)
            curves, _ = evaluating.runs(tx, None, family, begun, plan.validation_steps)
            final_losses.append(curves[:, -1])
        return tuple(final_losses)

    every = plan.shards.gathered(plan.shards.each(finals))
    losses = [jnp.mean(x.reshape(-1)[:num_runs]) for x in every]
    mean = _weighted_mean(losses, plan.validation_weights)
    return mean.astype(state.best_loss.dtype)


def _average(state: MetaState) -> tuple[MetaState, jax.Array]:
    """The moving average of the training loss (Lv, Jiang, Li 2017, section 5) with this epoch."""
    any_finite = state.sums.weight > 0
    count = state.average_count + any_finite.astype(jnp.int32)
    mean = state.sums.weighted / jnp.where(any_finite, state.sums.weight, 1)
    total = jnp.where(any_finite, 0.9 * state.average_loss + 0.1 * mean, state.average_loss)
    epochs = jnp.maximum(count, 1).astype(total.dtype)
    average = jnp.where(count > 0, total / (1 - 0.9**epochs), jnp.inf)
    state = state._replace(average_loss=total, average_count=count)
    return state, average.astype(state.best_loss.dtype)
