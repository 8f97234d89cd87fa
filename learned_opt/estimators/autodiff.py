"""The meta-gradient by reverse-mode differentiation through the whole window.

It is the oracle of the adjoint method. It also gives the full gradient, through the optimizee's
second derivatives, and serves optimizers whose updates depend on the loss.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.estimators import base
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi


class AutodiffLives(NamedTuple):
    """Several lives between two windows; every leaf but t and the horizon is stacked."""

    problems: Problem  # without theta_0
    t: jax.Array
    horizon: jax.Array
    theta: Theta
    statistics: Any
    state: Any
    first: jax.Array  # what the meta-loss is made of, at time 0


@dataclasses.dataclass(frozen=True)
class Autodiff:
    """Reverse mode through a window: slower and larger than `Adjoint`, and without its limits.

    Attributes:
      window: steps of one window.
      stop_gradient: whether the optimizee's gradients count as constants (the papers' choice).
        False gives the full gradient, through second derivatives.

    Raises:
      ValueError: for a window that is no positive whole number.

    Example:
      >>> from learned_opt import estimators
      >>> estimators.Autodiff(window=10)
      Autodiff(window=10, stop_gradient=True)
    """

    window: int = 20
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        _checks.positive_int("window", self.window)
        _checks.boolean("stop_gradient", self.stop_gradient)

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError unless windows fit into the horizon; see `base.Estimator`."""
        del opt, family, key
        base.check_horizon(self.window, num_steps)

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> AutodiffLives:
        """Fresh problems, one for each of `keys`; see `base.Estimator`."""
        return _begin(opt, phi, family, keys, base.count(num_steps))

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AutodiffLives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window and its meta-gradient; see `base.Estimator`."""
        del done
        num_problems = lives.first.shape[0]

        def fresh() -> AutodiffLives:
            return _begin(opt, phi, family, jax.random.split(key, num_problems), lives.horizon)

        lives = base.renewed(lives.t >= lives.horizon, fresh, lives)
        return self.differentiate(opt, phi, family, lives, weights)

    def differentiate(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AutodiffLives,
        weights: jax.Array,
    ) -> base.Estimate:
        """`run` for lives of which none has ended."""

        def meta_loss(phi: Phi) -> tuple[jax.Array, tuple]:
            losses, after = _window(opt, phi, family, lives, weights.shape[0], self.stop_gradient)
            return jnp.mean(weights @ losses), (losses, after)

        gradient, (losses, after) = jax.grad(meta_loss, has_aux=True)(phi)
        return base.Estimate(losses, gradient, after)

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it; see `base.Estimator`."""
        del family, key
        return base.plain_of(self)


def _begin(
    opt: LearnedOptimizer,
    phi: Phi,
    family: Family,
    keys: jax.Array,
    horizon: jax.Array,
) -> AutodiffLives:
    problems, theta = base.stacked(family, keys)
    state = jax.vmap(opt.transform(phi).init)(theta)
    first = base.first_targets(family, problems, theta)
    return AutodiffLives(problems, base.count(0), horizon, theta, problems.statistics, state, first)


def _window(
    opt: LearnedOptimizer,
    phi: Phi,
    family: Family,
    lives: AutodiffLives,
    num_steps: int,
    stop_gradient: bool,
) -> tuple[jax.Array, AutodiffLives]:
    """The terms of the meta-loss `[num_steps, problems]`, and the lives after a window."""
    tx = optax.with_extra_args_support(opt.transform(phi))

    def one(
        problem: Problem,
        theta: Theta,
        statistics: Any,
        state: Any,
        first: jax.Array,
    ) -> tuple:
        def step(carry: tuple, t: jax.Array) -> tuple[tuple, jax.Array]:
            theta, statistics, state = carry
            held = jax.lax.stop_gradient(theta) if stop_gradient else theta
            _, gradient, statistics = optimizee_base.value_and_grad_at(
                family, problem, held, t, statistics
            )
            # The loss that the optimizer may read depends on phi, whatever its gradient does.
            loss, _ = optimizee_base.loss_at(family, problem, theta, t, carry[1])
            updates, state = tx.update(gradient, state, theta, value=loss)
            theta = optax.apply_updates(theta, updates)
            loss, after = optimizee_base.loss_at(family, problem, theta, t + 1, statistics)
            term = optimizee_base.term_at(family, problem, theta, t + 1, after, loss, first)
            return (theta, statistics, state), term

        times = lives.t + jnp.arange(num_steps)
        return jax.lax.scan(step, (theta, statistics, state), times)

    stacked = lives.problems, lives.theta, lives.statistics, lives.state, lives.first
    (theta, statistics, state), losses = jax.vmap(one)(*stacked)
    t = lives.t + num_steps
    after = lives._replace(t=t, theta=theta, statistics=statistics, state=state)
    return losses.T, after
