"""Learning where to start: theta_0 as a network of the instance."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax

from learned_opt import _checks
from learned_opt.meta import methods, unrolling
from learned_opt.meta.unrolling import Rule, Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees import starts
from learned_opt.optimizees.base import Family, Optimizee
from learned_opt.optimizees.starts import Start


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
    descent = methods.checked_descent(num_updates, num_problems, learning_rate, floor)
    start_key, key = jax.random.split(key)
    if start is None:
        start = starts.begin_start(problem, start_key, hidden_sizes)
    starts.check_start(problem, start)
    rule, phi = unrolling.separate(tx)
    family = optimizee_base.as_family(problem)
    loss = jax.tree_util.Partial(_FinalLoss(rule, num_steps), phi, family)
    return methods.descend(loss, start, key, descent, "the start", progress_bar)


@dataclasses.dataclass(frozen=True)
class _FinalLoss:
    """The loss of a fresh problem at its start, or after some steps from there."""

    rule: Rule
    num_steps: int

    def __call__(
        self,
        phi: Any,
        family: Family,
        start: Start,
        key: jax.Array,
    ) -> jax.Array:
        init = jax.tree_util.Partial(starts.started, family.init, start)
        moved = family._replace(init=init)
        begun = optimizee_base.begin(moved, key)
        if not self.num_steps:
            return optimizee_base.loss_at(moved, begun, begun.theta_0, 0, begun.statistics)[0]
        tx = unrolling.join(self.rule, phi)
        return unrolling.life(tx, moved, begun, self.num_steps).losses[-1]
