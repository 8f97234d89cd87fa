"""Learning from another optimizer, off policy (Chen et al. 2020, arXiv 2010.09089, section 4.2).

The teacher moves theta, and the learned optimizer reads the gradients along that way. What it
would have done is compared with what the teacher does:

    1 / (T n) sum_t |u_t - u*_t|^2 / (mean square of u*)

over the T steps of a window and the n coordinates. The division makes the loss of doing nothing 1,
whatever the teacher's rate. Its gradient is the same vector-Jacobian product as the meta-gradient's
(`second_pass`), with other cotangents.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks, _fingerprint
from learned_opt.estimators import adjoint, base, drawing, second_pass
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi, check_transformation


class Taught(NamedTuple):
    """Several problems that the teacher moves, between two windows; see `adjoint.AdjointLives`."""

    problems: Problem  # without theta_0
    t: jax.Array
    horizon: jax.Array
    theta: Theta
    statistics: Any
    states: list  # of the learned optimizer, one for each group
    gradient: Theta
    teacher: Any  # its state, stacked over problems


class ImitateLives(NamedTuple):
    """The problems that the teacher moves, and the lives of the estimator beside it, or ()."""

    taught: Taught
    beside: Any


@dataclasses.dataclass(frozen=True)
class Imitate:
    """Imitation of another optimizer, alone or beside an estimator of the meta-gradient.

    Alone, what is learned is the teacher, over any horizon: the losses of a window are then the
    loss of imitation. Beside another estimator, `weight` times the gradient of imitation is added
    to the meta-gradient, and fades to nothing.

    Attributes:
      teacher: an optax transformation, such as `optax.adam(0.01)`, or a learned one.
      window: steps of one window.
      coordinates: from how many coordinates loss and gradient are estimated; see `Adjoint`.
      block_size: see `Adjoint`.
      beside: an estimator with the same window, or None for imitation alone.
      weight: of the imitation's gradient beside the meta-gradient, at the beginning.
      fraction: the share of meta-training after which it has faded to nothing, linearly.

    Raises:
      ValueError: for settings that are not possible.

    Example:
      >>> import optax
      >>> from learned_opt import estimators
      >>> teacher = optax.adam(0.01)
      >>> alone = estimators.Imitate(teacher, window=25)
      >>> both = estimators.Imitate(teacher, beside=estimators.Adjoint())
    """

    teacher: optax.GradientTransformation
    window: int = 20
    coordinates: int | None = None
    block_size: int | None = None
    beside: Any = None
    weight: float = 1.0
    fraction: float = 0.5

    def __post_init__(self) -> None:
        adjoint.Adjoint(self.window, self.coordinates, self.block_size)  # its checks are the same
        check_transformation("teacher", self.teacher)
        _checks.positive_float("weight", self.weight)
        if not 0 < _checks.positive_float("fraction", self.fraction) <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}.")
        if self.beside is None:
            return
        _checks.instance_of(
            "beside", self.beside, base.Estimator, "give an estimator, such as Adjoint()."
        )
        if self.beside.window != self.window:
            raise ValueError(
                f"beside must have the window of the imitation, {self.window}, got "
                f"{self.beside.window}."
            )

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError for an optimizer that it cannot differentiate; see `base.Estimator`."""
        adjoint.Adjoint(self.window, self.coordinates).check(opt, family, key, num_steps)
        base.refuse_reading("Imitate", ("params", "value"), opt, family, key)
        if self.beside is not None:
            self.beside.check(opt, family, key, num_steps)

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> ImitateLives:
        """Fresh problems, one for each of `keys`; see `base.Estimator`."""
        beside = ()
        if self.beside is not None:
            beside = self.beside.begin(opt, phi, family, keys, num_steps)
        return ImitateLives(self._begin(opt, phi, family, keys, base.count(num_steps)), beside)

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: ImitateLives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window, and the gradient of what it minimizes; see `base.Estimator`."""

        def imitate(taught: Taught) -> tuple[jax.Array, Phi, Taught]:
            return self._imitate(opt, phi, family, taught, key)

        if self.beside is None:
            loss, gradient, taught = imitate(lives.taught)
            losses = jnp.broadcast_to(loss, (self.window, 1))
            return base.Estimate(losses, gradient, ImitateLives(taught, ()))
        estimate = self.beside.run(opt, phi, family, lives.beside, key, weights, done)
        weight = self.weight * jnp.maximum(1 - done / self.fraction, 0)

        def add(taught: Taught) -> tuple[Phi, Taught]:
            _, gradient, taught = imitate(taught)
            both = jax.tree.map(
                lambda g, i: g + (weight * i).astype(g.dtype), estimate.gradient, gradient
            )
            return both, taught

        def leave_out(taught: Taught) -> tuple[Phi, Taught]:  # it costs as much as the window
            return estimate.gradient, taught

        gradient, taught = jax.lax.cond(weight > 0, add, leave_out, lives.taught)
        return base.Estimate(estimate.losses, gradient, ImitateLives(taught, estimate.lives))

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it; the teacher is known by what it computes. See `base.Estimator`."""
        theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
        beside = self.beside and self.beside.plain(family, key)
        teacher = _fingerprint.of_transformation(self.teacher, theta)
        return base.plain_of(self, teacher=teacher, beside=beside)

    def _begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        horizon: jax.Array,
    ) -> Taught:
        lives = adjoint.begin(opt, phi, family, keys, horizon)
        teacher = jax.vmap(self.teacher.init)(lives.theta)
        return Taught(
            problems=lives.problems,
            t=lives.t,
            horizon=lives.horizon,
            theta=lives.theta,
            statistics=lives.statistics,
            states=lives.states,
            gradient=lives.gradient,
            teacher=teacher,
        )

    def _imitate(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: Taught,
        key: jax.Array,
    ) -> tuple[jax.Array, Phi, Taught]:
        """The loss of imitation on the next window, its gradient, and the lives after it."""
        num_problems = lives.problems.key.shape[0]

        def fresh() -> Taught:
            keys = jax.random.split(key, num_problems)
            return self._begin(opt, phi, family, keys, lives.horizon)

        lives = base.renewed(lives.t >= lives.horizon, fresh, lives)
        groups = adjoint.groups_for(opt, lives.theta)
        drawn = drawing.draw(groups, lives, self.coordinates)
        start = adjoint.states_of(groups, drawn, phi, lives)

        def step(lives: Taught, _: None) -> tuple[Taught, tuple]:
            packed = adjoint.packed_by(groups, lives.gradient)
            updates, states = adjoint.apply(groups, phi, packed, lives)
            lives, taught = self._taught_step(family, lives._replace(states=states))
            wanted = adjoint.packed_by(groups, taught)
            differences = jax.tree.map(lambda u, v: u - v.astype(u.dtype), updates, wanted)
            square = sum(jnp.sum(jnp.square(v)) for v in jax.tree.leaves(taught))
            kept = adjoint.taken(drawn, packed), adjoint.taken(drawn, differences), square
            return lives, kept

        lives, kept = jax.lax.scan(step, lives, length=self.window)
        gradients, differences, squares = kept
        factor = 1 / jnp.maximum(jnp.sum(squares), 1e-30)
        squared, recorded = [], []
        for i, group in enumerate(groups):
            squared.append(_sum_of_squares(differences[i], drawn[i].scale))
            cotangents = _cut_of(jax.tree.map(lambda x: 2 * factor * x, differences[i]))
            one = second_pass.Recorded(
                group=group,
                drawn=drawn[i],
                state=start[i],
                theta=(),
                gradients=gradients[i],
                cotangents=cotangents,
            )
            recorded.append(one)
        gradient = second_pass.pull_back(phi, recorded, self.block_size)
        return factor * sum(squared), gradient, lives

    def _taught_step(self, family: Family, lives: Taught) -> tuple[Taught, Theta]:
        """The teacher's step: the lives after it, and its updates."""
        taught, teacher = jax.vmap(self.teacher.update)(lives.gradient, lives.teacher, lives.theta)
        theta = optax.apply_updates(lives.theta, taught)
        t = lives.t + 1

        def one(
            problem: Problem,
            theta: Theta,
            statistics: Any,
        ) -> tuple:
            return optimizee_base.value_and_grad_at(family, problem, theta, t, statistics)

        _, gradient, statistics = jax.vmap(one)(lives.problems, theta, lives.statistics)
        lives = lives._replace(
            t=t, theta=theta, statistics=statistics, gradient=gradient, teacher=teacher
        )
        return lives, taught


def _sum_of_squares(tree: Any, scale: jax.Array | None) -> jax.Array:
    factor = 1.0 if scale is None else scale[None]  # drawn groups are one vector: [T, N]
    squares = [jnp.sum(jnp.square(x) * factor) for x in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(squares))


def _cut_of(tree: Any) -> Any:
    return lambda cut: jax.tree.map(lambda x: cut(x, axis=1), tree)
