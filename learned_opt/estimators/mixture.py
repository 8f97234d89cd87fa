"""Lives of several horizons side by side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.estimators import base
from learned_opt.optimizees.base import Family
from learned_opt.optimizers.base import LearnedOptimizer, Phi


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Another estimator on lives of several horizons at once.

    In every window the gradient is the mean over horizons. While a problem of the longest horizon
    lives, the others begin anew as often as theirs end. So the beginning of a life, which is all
    that short runs have, is in what is learned as often as the rest, and is not forgotten over it.

    Attributes:
      estimator: what runs the windows.
      horizons: in steps, ascending: those beside the longest one, which is the `num_steps` of
        meta-training.

    Raises:
      ValueError: for horizons that do not ascend or are no whole number of windows.

    Example:
      >>> from learned_opt import estimators
      >>> estimators.Mixture(estimators.Adjoint(window=25), horizons=(100, 1_000)).window
      25
    """

    estimator: Any
    horizons: tuple[int, ...] = (100, 1_000)

    def __post_init__(self) -> None:
        _checks.instance_of(
            "estimator", self.estimator, base.Estimator, "give one, such as Adjoint()."
        )
        object.__setattr__(self, "horizons", check_horizons(self.horizons))
        for horizon in self.horizons:
            base.check_horizon(self.window, horizon)

    @property
    def window(self) -> int:
        """Steps of one window."""
        return self.estimator.window

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError unless `num_steps` is the longest horizon; see `base.Estimator`."""
        if num_steps <= self.horizons[-1]:
            raise ValueError(
                f"num_steps must be above all horizons of the mixture, {self.horizons}, got "
                f"{num_steps}."
            )
        self.estimator.check(opt, family, key, num_steps)

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> tuple:
        """Lives of the longest horizon, then of the others; see `base.Estimator`."""
        lives = []
        for i, horizon in enumerate((num_steps, *self.horizons)):
            mine = _keys_of(keys, i)
            lives.append(self.estimator.begin(opt, phi, family, mine, horizon))
        return tuple(lives)

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: tuple,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window of every horizon, and the mean of their gradients; see `base.Estimator`."""
        estimates = []
        for i, mine in enumerate(lives):
            own_key = jax.random.fold_in(key, i) if i else key
            estimates.append(self.estimator.run(opt, phi, family, mine, own_key, weights, done))
        gradients = [estimate.gradient for estimate in estimates]
        mean = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
        losses = jnp.concatenate([estimate.losses for estimate in estimates], axis=1)
        return base.Estimate(losses, mean, tuple(estimate.lives for estimate in estimates))

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it; see `base.Estimator`."""
        estimator = self.estimator.plain(family, key)
        return base.plain_of(self, estimator=estimator, horizons=list(self.horizons))


def check_horizons(horizons: Any) -> tuple[int, ...]:
    """The horizons as a tuple; raises ValueError unless they are whole numbers that ascend."""
    if not isinstance(horizons, (tuple, list)) or not horizons:
        raise ValueError(
            f"horizons must be one number of steps or several, as a tuple, got {horizons!r}."
        )
    checked = tuple(_checks.positive_int("horizons", horizon) for horizon in horizons)
    if list(checked) != sorted(set(checked)):
        raise ValueError(f"horizons must ascend, got {horizons}.")
    return checked


def _keys_of(keys: jax.Array, i: int) -> jax.Array:
    """The keys of the lives of the i-th horizon; the longest has the keys themselves."""
    return jax.vmap(lambda key: jax.random.fold_in(key, i))(keys) if i else keys
