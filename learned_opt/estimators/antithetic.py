"""Antithetic pairs of lives: what PES and NRES are made of.

A pair is one problem that lives twice, under phi + e and under phi - e, with the same data and the
same keys. The difference of the two losses, times the perturbation, over 2 sigma^2, estimates the
gradient of the loss, smoothed by the perturbation. Nothing is differentiated: the optimizee may
jump, and the horizon may be as long as one likes.

Lives are staggered. Every pair has a horizon of its own, drawn log-uniformly, and begins anew when
that is over; the first horizons are cut at random. So one program trains short runs and long ones,
beginnings and ends, at the same time.
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

OBJECTIVES = ("mean", "late", "final")


class Side(NamedTuple):
    """One of the two lives of every pair; every leaf is `[pairs, ...]`."""

    theta: Theta
    statistics: Any
    state: Any


class PairedLives(NamedTuple):
    """Pairs between two windows; every leaf but `longest` is stacked over pairs.

    Attributes:
      problems: without theta_0.
      t: steps taken, `[pairs]`.
      horizon: steps of this life, `[pairs]`.
      longest: the largest horizon that is drawn.
      plus: the lives under phi + e.
      minus: the lives under phi - e.
      first: what the meta-loss is made of, at time 0, `[pairs]`.
      noise: like phi, `[pairs, ...]`: the perturbations that an estimator remembers.
    """

    problems: Problem
    t: jax.Array
    horizon: jax.Array
    longest: jax.Array
    plus: Side
    minus: Side
    first: jax.Array
    noise: Phi


@dataclasses.dataclass(frozen=True)
class Antithetic:
    """What `PES` and `NRES` have in common; see them.

    Attributes:
      window: steps of one window.
      sigma: standard deviation of the perturbations of phi.
      shortest: the shortest horizon that is drawn; the longest is the `num_steps` of
        meta-training. None for lives that are all as long as that.
      objective: what is minimized over a life: "mean", the weighted sum of its losses; "late", the
        same with each loss counted 2 t / T times, T the life's horizon; or "final", its last loss
        alone (the weights then have no part).
      clip: a loss counts at most this many times the first one of its life, and one that is not a
        number counts as that; None for no limit. For losses that are never negative.
      staggered: whether the first horizons are cut at random, so that pairs are at different times
        of their lives. Off, all pairs begin together.
      only: the entries of phi that are perturbed, by their names, such as `("decay",)`; the others
        stay as they are. The variance grows with the number of weights that are. None for all.

    Raises:
      ValueError: for settings that are not possible.
    """

    window: int = 50
    sigma: float = 0.01
    shortest: int | None = 100
    objective: str = "mean"
    clip: float | None = 1.5
    staggered: bool = True
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _checks.positive_int("window", self.window)
        _checks.positive_float("sigma", self.sigma)
        _checks.choice("objective", self.objective, OBJECTIVES)
        _checks.boolean("staggered", self.staggered)
        if self.clip is not None and _checks.positive_float("clip", self.clip) < 1:
            raise ValueError(f"clip must be at least 1, got {self.clip}.")
        if self.shortest is not None:
            base.check_horizon(self.window, self.shortest, "shortest")

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError unless the settings are possible; see `base.Estimator`."""
        del family
        phi = jax.eval_shape(opt.init, key)
        for name in self.only or ():
            if not isinstance(phi, dict):
                raise ValueError(
                    f"only must be None for an optimizer whose weights have no names, got "
                    f"{self.only}: leave it out."
                )
            _checks.choice("entry of phi in only", name, phi)
        base.check_horizon(self.window, num_steps)
        if self.shortest is not None and self.shortest > num_steps:
            raise ValueError(
                f"shortest must be at most num_steps={num_steps}, got {self.shortest}; None makes "
                "all lives as long as num_steps."
            )

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> PairedLives:
        """Fresh pairs, one for each of `keys`; see `base.Estimator`."""
        longest = base.count(num_steps)
        return self._begin(opt, phi, family, keys, longest, self.staggered)

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: PairedLives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window and its estimate; see `base.Estimator`."""
        del done
        num_pairs = lives.t.shape[0]
        renewal_key, noise_key = jax.random.split(key)
        lives = self._renewed(opt, phi, family, lives, renewal_key)
        fresh = self._draw_noise(noise_key, phi, num_pairs)
        perturbation, credited = self._perturb(lives, fresh)
        (plus_terms, minus_terms), sides = self._advance(opt, phi, perturbation, family, lives)
        plus, minus = (jax.tree.map(lambda x, i=i: x[i], sides) for i in range(2))
        end = lives.t + self.window
        counts = self._counts(weights, end, lives.horizon)
        difference = jnp.sum(counts * (plus_terms - minus_terms), axis=0)  # [pairs]
        scale = difference / (2 * self.sigma**2 * num_pairs)
        gradient = jax.tree.map(lambda e: jnp.tensordot(scale.astype(e.dtype), e, axes=1), credited)
        lives = lives._replace(t=end, plus=plus, minus=minus, noise=credited)
        return base.Estimate((plus_terms + minus_terms) / 2, gradient, lives)

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it; see `base.Estimator`."""
        del family, key
        return base.plain_of(self)

    def _perturb(self, lives: PairedLives, fresh: Phi) -> tuple[Phi, Phi]:
        """The perturbations of this window, and those to which its losses are credited."""
        raise NotImplementedError

    def _draw_noise(
        self,
        key: jax.Array,
        phi: Phi,
        num_pairs: int,
    ) -> Phi:
        """Gaussian perturbations of the weights, leaves `[pairs, ...]`."""
        leaves, treedef = jax.tree.flatten(phi)
        keys = jax.random.split(key, len(leaves))
        draws = [
            self.sigma * jax.random.normal(k, (num_pairs, *x.shape), x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
        noise = treedef.unflatten(draws)
        if self.only is None:
            return noise
        still = {name: jax.tree.map(jnp.zeros_like, noise[name]) for name in noise}
        return {**still, **{name: noise[name] for name in self.only}}

    def _begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        longest: jax.Array,
        cut_at_random: bool,
    ) -> PairedLives:
        num_pairs = keys.shape[0]
        problems, theta = base.stacked(family, keys)
        # Problems draw from their keys themselves; horizons from another stream of them.
        horizon_keys = jax.vmap(lambda key: jax.random.fold_in(key, num_pairs))(keys)
        horizon = jax.vmap(self._draw_horizon, (0, None, None))(
            horizon_keys, longest, cut_at_random
        )

        def side() -> Side:
            return Side(theta, problems.statistics, jax.vmap(opt.transform(phi).init)(theta))

        first = base.first_targets(family, problems, theta)
        t = jnp.zeros(num_pairs, jnp.int32)
        noise = jax.tree.map(lambda x: jnp.zeros((num_pairs, *x.shape), x.dtype), phi)
        return PairedLives(problems, t, horizon, longest, side(), side(), first, noise)

    def _draw_horizon(
        self,
        key: jax.Array,
        longest: jax.Array,
        cut_at_random: bool,
    ) -> jax.Array:
        """A horizon, log-uniform between the shortest and the longest, in whole windows."""
        length_key, cut_key = jax.random.split(key)
        horizon = longest
        if self.shortest is not None:
            low, high = jnp.log(float(self.shortest)), jnp.log(longest.astype(float))
            drawn = jnp.exp(jax.random.uniform(length_key, minval=low, maxval=high))
            windows = jnp.round(drawn / self.window).astype(jnp.int32)
            horizon = self.window * jnp.maximum(windows, 1)
        if not cut_at_random:
            return horizon
        windows = jax.random.randint(cut_key, (), 1, horizon // self.window + 1)
        return self.window * windows

    def _renewed(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: PairedLives,
        key: jax.Array,
    ) -> PairedLives:
        """Fresh pairs in the place of those whose lives have ended, and of no others."""
        ended = lives.t >= lives.horizon

        def renew(lives: PairedLives) -> PairedLives:
            keys = jax.random.split(key, ended.shape[0])
            fresh = self._begin(opt, phi, family, keys, lives.longest, cut_at_random=False)

            def choose(new: jax.Array, old: jax.Array) -> jax.Array:
                if old.ndim == 0 and not jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
                    return old  # `longest`, which all pairs share
                return base.chosen(ended, new, old)

            return jax.tree.map(choose, fresh, lives)

        return jax.lax.cond(jnp.any(ended), renew, lambda same: same, lives)

    def _advance(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        perturbation: Phi,
        family: Family,
        lives: PairedLives,
    ) -> tuple[jax.Array, Side]:
        """Carries both sides through a window, in one program.

        Returns:
          The terms of the meta-loss, `[2, T, pairs]`, and the sides, leaves `[2, pairs, ...]`.
        """

        def one(
            sign: jax.Array,
            noise: Phi,
            problem: Problem,
            t: jax.Array,
            horizon: jax.Array,
            side: Side,
        ) -> tuple:
            moved = jax.tree.map(lambda p, e: p + sign.astype(e.dtype) * e, phi, noise)
            tx = opt.transform(moved)
            return advance(tx, family, problem, t, horizon, side, self.window)

        of_pairs = jax.vmap(one, (None, 0, 0, 0, 0, 0))
        of_sides = jax.vmap(of_pairs, (0, None, None, None, None, 0))
        both = jax.tree.map(lambda plus, minus: jnp.stack([plus, minus]), lives.plus, lives.minus)
        signs = jnp.asarray([1.0, -1.0])
        targets, sides = of_sides(signs, perturbation, lives.problems, lives.t, lives.horizon, both)
        terms = self._clipped(targets, lives.first[None, :, None])
        if family.shape is not None:
            shapes = jax.vmap(jax.vmap(jax.vmap(family.shape, (0, None))), (0, None))
            terms = shapes(terms, lives.first)
        return jnp.moveaxis(terms, 1, 2), sides

    def _clipped(self, losses: jax.Array, first: jax.Array) -> jax.Array:
        if self.clip is None:
            return losses
        limit = self.clip * jnp.abs(first)
        return jnp.where(jnp.isnan(losses), limit, jnp.minimum(losses, limit))

    def _counts(
        self,
        weights: jax.Array,
        end: jax.Array,
        horizon: jax.Array,
    ) -> jax.Array:
        """By what each term of a window counts, `[T, pairs]`; `end` is its last step."""
        shape = self.window, *end.shape
        if self.objective == "final":
            # The last loss comes once in so many windows, and counts that many times.
            last = jnp.where(end >= horizon, horizon / self.window, 0.0)
            return jnp.zeros(shape).at[-1].set(last)
        counts = jnp.broadcast_to(weights[:, None], shape)
        if self.objective == "mean":
            return counts
        left = jnp.arange(self.window - 1, -1, -1)[:, None]
        return counts * 2 * (end[None] - left) / horizon[None]


def advance(
    tx: optax.GradientTransformation,
    family: Family,
    problem: Problem,
    t: jax.Array,
    horizon: jax.Array,
    side: Side,
    num_steps: int,
) -> tuple[jax.Array, Side]:
    """Carries one life through some steps, without derivatives.

    Args:
      tx: the transformation.
      family: the problem's family.
      problem: the problem.
      t: steps taken so far.
      horizon: steps of the whole life, for an optimizer with a schedule.
      side: the life.
      num_steps: how many steps T.

    Returns:
      What the meta-loss is made of at the times t + 1 .. t + T, `[T]`, and the life after them.
    """
    tx = optax.with_extra_args_support(tx)

    def step(side: Side, t: jax.Array) -> tuple[Side, jax.Array]:
        loss, gradient, statistics = optimizee_base.value_and_grad_at(
            family, problem, side.theta, t, side.statistics
        )
        target = optimizee_base.target_at(family, problem, side.theta, t, statistics, loss)
        updates, state = tx.update(gradient, side.state, side.theta, value=loss, horizon=horizon)
        theta = optax.apply_updates(side.theta, updates)
        return Side(theta, statistics, state), target

    side, targets = jax.lax.scan(step, side, t + jnp.arange(num_steps))
    end = t + num_steps
    loss, after = optimizee_base.loss_at(family, problem, side.theta, end, side.statistics)
    last = optimizee_base.target_at(family, problem, side.theta, end, after, loss)
    return jnp.append(targets[1:], last), side
