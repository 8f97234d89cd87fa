"""What an estimator of the meta-gradient is, and what estimators share.

An estimator is a frozen dataclass, equal by value. It owns its options and two pure functions:
`begin` draws fresh problems and starts their lives, and `run` carries these lives through one
window and estimates the gradient of the meta-loss of that window with respect to phi. A life that
has reached its horizon begins anew, on a fresh problem, inside `run`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi, reads_of

Lives = Any  # what an estimator carries from window to window: a pytree of arrays


class Estimate(NamedTuple):
    """What a window gives.

    Attributes:
      losses: the terms of the meta-loss, `[window, problems]`. The meta-loss is the mean over
        problems of `sum_t w_t losses[t]`.
      gradient: the estimate of its gradient, a pytree like phi.
      lives: the lives after the window.
    """

    losses: jax.Array
    gradient: Phi
    lives: Lives


@runtime_checkable
class Estimator(Protocol):
    """An estimator of the meta-gradient; the next one is a file beside this one.

    Attributes:
      window: steps of one window.
    """

    @property
    def window(self) -> int:
        """Steps of one window."""

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError where this estimator cannot serve, before anything runs."""

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> Lives:
        """Starts one life for each of `keys` `[problems]`, of at most `num_steps` steps."""

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: Lives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> Estimate:
        """Carries lives through a window, and estimates the gradient of its meta-loss.

        Args:
          opt: the optimizer.
          phi: its weights.
          family: the problems' family.
          lives: from `begin`, or from the window before.
          key: a key of this window alone.
          weights: w_t of the window's steps, `[window]`.
          done: the share of the whole meta-training that lies behind, in [0, 1], for what fades.
        """

    def plain(self, family: Family, key: jax.Array) -> dict:
        """The estimator as JSON can hold it: for cards, and to tell one run from another."""


def plain_of(estimator: Any, /, **instead: Any) -> dict:
    """The plain form of a dataclass: its name and its fields, some of them in another form."""
    fields = {name: getattr(estimator, name) for name in estimator.__dataclass_fields__}
    return {"name": type(estimator).__name__, **fields, **instead}


def check_horizon(
    window: int,
    num_steps: int,
    name: str = "num_steps",
) -> None:
    """Raises ValueError unless a horizon, called `name`, is a whole number of windows."""
    _checks.positive_int(name, num_steps)
    _checks.divides("window", window, name, num_steps)


def refuse_reading(
    name: str,
    what: tuple[str, ...],
    opt: LearnedOptimizer,
    family: Family,
    key: jax.Array,
) -> None:
    """Raises ValueError if the optimizer reads something that an estimator cannot differentiate.

    Args:
      name: the estimator's name, for the message.
      what: what it cannot differentiate: "params", "value".
      opt: the optimizer.
      family: gives the shapes of the parameters.
      key: any key.
    """
    theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
    refused = sorted(reads_of(opt, theta) & set(what))
    if refused:
        raise ValueError(
            f"{name} cannot differentiate an optimizer whose update reads {' and '.join(refused)}:"
            " take Autodiff, PES or NRES (in meta_gradient, method='autodiff')."
        )


def stacked(family: Family, keys: jax.Array) -> tuple[Problem, Theta]:
    """Fresh problems and their theta_0, which is left out of them: lives need it only once."""
    problems = optimizee_base.begin_all(family, keys)
    return problems._replace(theta_0=()), problems.theta_0


def renewed(
    ended: jax.Array,
    fresh: Callable[[], Lives],
    lives: Lives,
) -> Lives:
    """`fresh()` in the place of lives that have ended, all of them at once."""
    return jax.lax.cond(ended, lambda _: fresh(), lambda same: same, lives)


def first_targets(family: Family, problems: Problem, theta: Theta) -> jax.Array:
    """What the meta-loss is made of, at time 0, `[problems]`."""

    def one(problem: Problem, theta: Theta) -> jax.Array:
        loss, after = optimizee_base.loss_at(family, problem, theta, 0, problem.statistics)
        return optimizee_base.target_at(family, problem, theta, 0, after, loss)

    return jax.vmap(one)(problems, theta)


def chosen(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` for the problems in `mask` `[problems]`, `old` for the others: `[problems, ...]`."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (old.ndim - 1)), new, old)


def count(value: int) -> jax.Array:
    """A number of steps as the arrays of lives hold it."""
    return jnp.asarray(value, jnp.int32)
