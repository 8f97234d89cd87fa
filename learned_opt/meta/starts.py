"""Learning where to start: theta_0 as a network of the instance."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tqdm

from learned_opt import _checks, devices
from learned_opt.meta import programs, unrolling
from learned_opt.meta.unrolling import Rule, Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees import starts
from learned_opt.optimizees.base import Family, Optimizee
from learned_opt.optimizees.starts import Start

_AT_ONCE = 50  # updates in one call of the program


def learn_start(
    problem: Optimizee,
    key: jax.Array,
    *,
    hidden_sizes: Sequence[int] | None = (64, 64),
    tx: Transformation | None = None,
    num_steps: int = 0,
    num_updates: int = 2_000,
    num_problems: int = 256,
    learning_rate: float = 3e-3,
    floor: float | None = None,
    start: Start | None = None,
    progress_bar: bool = True,
) -> Start:
    """Learns a starting point for every instance of a family: the network of `with_start`.

    It minimizes the mean loss at theta_0; or after `num_steps` steps of `tx` from there, with the
    full gradient through them. With a constant start and steps of gradient descent the latter is
    what is known as MAML (Finn et al. 2017).

    Args:
      problem: an `Optimizee`.
      key: draws weights and problems.
      hidden_sizes: units of its layers; () is linear; None is a constant.
      tx: an optax transformation or a pair `(opt, phi)`, which stays as it is; None for no steps.
      num_steps: of `tx`.
      num_updates: of the network's weights, by Adam with a cosine decay.
      num_problems: fresh problems for each update.
      learning_rate: Adam's at first.
      floor: None for the mean of the losses; a number for the mean of log(loss + floor). Where
        losses of instances are of different sizes, the mean is about the large ones alone; with a
        floor an instance counts by its relative change, down to losses of about the floor. Losses
        must lie above -floor.
      start: weights to go on from, with their own sizes; None for fresh ones.
      progress_bar: whether to show one, on stderr.

    Returns:
      The weights, for `learned_opt.optimizees.with_start(problem, start)`.

    Raises:
      ValueError: for sizes that are not positive, steps without a `tx`, or a loss that is not
        finite.

    Source:
      Amos 2023, Tutorial on amortized optimization, section 2.2 (objective-based learning).

    Example:
      >>> import jax, learned_opt
      >>> family = learned_opt.optimizees.quadratic(dim=2)
      >>> start = learned_opt.learn_start(
      ...     family, jax.random.key(0), hidden_sizes=None, num_updates=5, progress_bar=False)
      >>> start["offset"].shape
      (2,)
    """
    _checks.random_key(key)
    num_steps = _checks.positive_int("num_steps", num_steps, minimum=0)
    if (tx is None) != (num_steps == 0):
        given = "no tx" if tx is None else "a tx"
        raise ValueError(
            f"num_steps and tx belong together, got num_steps={num_steps} and {given}: give both, "
            "or neither."
        )
    tx = optax.identity() if tx is None else tx
    unrolling.check_transformation("tx", tx)
    num_updates = _checks.positive_int("num_updates", num_updates)
    num_problems = _checks.positive_int("num_problems", num_problems)
    learning_rate = _checks.positive_float("learning_rate", learning_rate)
    if floor is not None:
        floor = _checks.not_negative_float("floor", floor)
    start_key, key = jax.random.split(key)
    if start is None:
        start = starts.begin_start(problem, start_key, hidden_sizes)
    starts.check_start(problem, start)
    family = optimizee_base.as_family(problem)
    rule, phi = unrolling.separate(tx)
    schedule = (learning_rate, num_updates)
    measure, remedy = "loss", "lower learning_rate"
    if floor is not None:
        measure, remedy = "log loss", "lower learning_rate, or raise floor"
    state = _adam(*schedule).init(start)
    with tqdm.tqdm(
        total=num_updates,
        desc="learning the start",
        unit="update",
        disable=not progress_bar or not devices.is_first(),
    ) as bar:
        for first in range(0, num_updates, _AT_ONCE):
            count = min(_AT_ONCE, num_updates - first)
            sizes = (num_steps, num_problems, count)
            update_key = jax.random.fold_in(key, first)
            start, state, loss = _updates(
                rule, schedule, sizes, floor, phi, family, start, state, update_key
            )
            if not math.isfinite(float(loss)):
                raise ValueError(
                    f"the loss at the start is {float(loss)} after {first + count} updates: leave "
                    f"instances with a NaN out of what `sample` draws from, or {remedy}."
                )
            bar.set_postfix_str(f"{measure} {float(loss):.4g}", refresh=False)
            bar.update(count)
    return start


def _adam(learning_rate: float, num_updates: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(learning_rate, num_updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@functools.partial(programs.jit, static_argnums=(0, 1, 2, 3))
def _updates(
    rule: Rule,
    schedule: tuple[float, int],
    sizes: tuple[int, int, int],
    floor: float | None,
    phi: Any,
    family: Family,
    start: Start,
    state: Any,
    key: jax.Array,
) -> tuple[Start, Any, jax.Array]:
    """Some updates of the start, and the mean over them of what they minimize."""
    num_steps, num_problems, count = sizes
    tx = unrolling.join(rule, phi)
    adam = _adam(*schedule)

    def mean_loss(start: Start, keys: jax.Array) -> jax.Array:
        losses = jax.vmap(lambda key: final_loss(start, key))(keys)
        return jnp.mean(losses if floor is None else jnp.log(losses + floor))

    def final_loss(start: Start, key: jax.Array) -> jax.Array:
        moved = _with_start(family, start)
        begun = optimizee_base.begin(moved, key)
        if not num_steps:
            return optimizee_base.loss_at(moved, begun, begun.theta_0, 0, begun.statistics)[0]
        return unrolling.life(tx, moved, begun, num_steps).losses[-1]

    def update(carry: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
        start, state = carry
        loss, slope = jax.value_and_grad(mean_loss)(start, jax.random.split(key, num_problems))
        step, state = adam.update(slope, state, start)
        return (optax.apply_updates(start, step), state), loss

    (start, state), losses = jax.lax.scan(update, (start, state), jax.random.split(key, count))
    return start, state, jnp.mean(losses)


def _with_start(family: Family, start: Start) -> Family:
    """`with_start` of a `Family`."""
    return family._replace(init=jax.tree_util.Partial(starts.started, family.init, start))
