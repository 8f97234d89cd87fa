"""The meta-gradient as an adjoint: no derivative ever runs through the optimizee.

With the gradients of the optimizee held constant (Andrychowicz et al. 2016, section 2, figure 2),
theta_t = theta_0 + u_1 + .. + u_t, and the derivative of sum_t w_t f(theta_t) is

    sum_s < lambda_s, d u_s / d phi >,    lambda_s = sum_{t = s..T} w_t grad f(theta_t).

grad f(theta_t) is g_{t+1}, which the next step reads anyway. So a window is run forward without
derivatives, and the gradients g_1 .. g_{T+1} are kept. Then one vector-Jacobian product of the
optimizer alone, over the recorded sequence, gives the meta-gradient (`second_pass`).

Where the optimizer reads theta as well, a step's update also depends on the updates before it. The
same product is then taken of theta_1 .. theta_T, with cotangents w_t grad f(theta_t).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.estimators import base, drawing, second_pass
from learned_opt.estimators import groups as groups_lib
from learned_opt.estimators.drawing import Drawn
from learned_opt.estimators.groups import Group
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi


class AdjointLives(NamedTuple):
    """Several lives between two windows; leaves of `theta` are `[problems, *shape]`."""

    problems: Problem  # without theta_0
    t: jax.Array
    horizon: jax.Array
    theta: Theta
    statistics: Any
    states: list  # one for each group
    gradient: Theta  # grad f(theta_t) = g_{t+1}
    first: jax.Array  # what the meta-loss is made of, at time 0, [problems]


class Measured(NamedTuple):
    """What a step gives of all problems."""

    gradient: Theta  # g_{t+1}
    statistics: Any
    term: jax.Array  # of the meta-loss at time t, [problems]
    slope: Theta  # its gradient


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """The exact meta-gradient of truncated windows, several times faster than reverse mode.

    It holds the optimizee's gradients constant, as the papers do. It sees no further than its
    window: what a step does to losses after the window's end does not count.

    Attributes:
      window: steps of one window.
      coordinates: from how many coordinates, of all parameters and problems together, the gradient
        is estimated; None for all. A draw takes one coordinate from each of so many strata. The
        mean over all draws is the whole gradient, and the losses are always whole. Time and memory
        of the second pass shrink in proportion. Parts of the parameters that are updated apart
        each give their share, at least one coordinate; parts that are not coordinatewise are never
        estimated.
      block_size: how many coordinates are differentiated at a time; None chooses for the device.

    Raises:
      ValueError: for sizes that are not positive whole numbers.

    Example:
      >>> from learned_opt import estimators
      >>> estimators.Adjoint(window=20, coordinates=1_000)
      Adjoint(window=20, coordinates=1000, block_size=None)
    """

    window: int = 20
    coordinates: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        _checks.positive_int("window", self.window)
        for name in ("coordinates", "block_size"):
            if getattr(self, name) is not None:
                _checks.positive_int(name, getattr(self, name))

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError for an optimizer or for coordinates that it cannot serve.

        See `base.Estimator`.
        """
        base.check_horizon(self.window, num_steps)
        base.refuse_reading("Adjoint", ("value",), opt, family, key)
        if self.coordinates is not None:
            theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
            sizes = groups_lib.sizes(groups_lib.groups_of(opt, theta), theta)
            drawing.shares(sizes, self.coordinates)

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> AdjointLives:
        """Fresh problems, one for each of `keys`; see `base.Estimator`."""
        return begin(opt, phi, family, keys, base.count(num_steps))

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AdjointLives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window and its meta-gradient; see `base.Estimator`."""
        del done
        lives = renewed(opt, phi, family, lives, key)
        return self.differentiate(opt, phi, family, lives, weights)

    def differentiate(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AdjointLives,
        weights: jax.Array,
    ) -> base.Estimate:
        """`run` for lives of which none has ended."""
        return _window(opt, phi, family, lives, weights, self.coordinates, self.block_size)

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it; see `base.Estimator`."""
        del family, key
        return base.plain_of(self)


def begin(
    opt: LearnedOptimizer,
    phi: Phi,
    family: Family,
    keys: jax.Array,
    horizon: jax.Array,
) -> AdjointLives:
    """Fresh problems, one for each of `keys`, that live for `horizon` steps."""
    problems, theta = base.stacked(family, keys)
    leaves = jax.tree.leaves(theta)
    states = [g.transform(phi).init(g.pack(leaves)) for g in groups_for(opt, theta)]
    t = base.count(0)
    first, gradient, statistics = first_of(family, problems, theta, t)
    return AdjointLives(problems, t, horizon, theta, statistics, states, gradient, first)


def renewed(
    opt: LearnedOptimizer,
    phi: Phi,
    family: Family,
    lives: AdjointLives,
    key: jax.Array,
) -> AdjointLives:
    """Fresh problems in the place of lives that have reached their horizon."""
    num_problems = lives.first.shape[0]

    def fresh() -> AdjointLives:
        keys = jax.random.split(key, num_problems)
        return begin(opt, phi, family, keys, lives.horizon)

    return base.renewed(lives.t >= lives.horizon, fresh, lives)


def groups_for(opt: LearnedOptimizer, theta: Theta) -> list[Group]:
    """The groups of parameters whose leaves are `[problems, *shape]`."""

    def of_one_problem(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    return groups_lib.groups_of(opt, jax.tree.map(of_one_problem, theta))


def first_of(
    family: Family,
    problems: Problem,
    theta: Theta,
    t: jax.Array,
) -> tuple[jax.Array, Theta, Any]:
    """At time 0: what the meta-loss is made of, the gradients g_1, and the statistics."""

    def one(problem: Problem, theta: Theta) -> tuple[jax.Array, Theta, Any]:
        loss, gradient, statistics = optimizee_base.value_and_grad_at(
            family, problem, theta, t, problem.statistics
        )
        target = optimizee_base.target_at(family, problem, theta, t, statistics, loss)
        return target, gradient, statistics

    return jax.vmap(one)(problems, theta)


def measure(
    family: Family,
    lives: AdjointLives,
    theta: Theta,
    t: jax.Array,
) -> Measured:
    """Loss, gradient and the term of the meta-loss with its slope, of all problems at time t."""

    def one(
        problem: Problem,
        theta: Theta,
        statistics: Any,
        first: jax.Array,
    ) -> Measured:
        loss, gradient, after = optimizee_base.value_and_grad_at(
            family, problem, theta, t, statistics
        )
        if family.target is None and family.shape is None:
            return Measured(gradient, after, loss, gradient)
        if family.target is None and family.shape is not None:  # the loss's slope is at hand
            term, factor = jax.value_and_grad(family.shape)(loss, first)
            slope = jax.tree.map(lambda g: factor * g, gradient)
            return Measured(gradient, after, term, slope)

        def term_of(theta: Theta) -> jax.Array:
            return optimizee_base.term_at(family, problem, theta, t, after, loss, first)

        return Measured(gradient, after, *jax.value_and_grad(term_of)(theta))

    return jax.vmap(one)(lives.problems, theta, lives.statistics, lives.first)


def _window(
    opt: LearnedOptimizer,
    phi: Phi,
    family: Family,
    lives: AdjointLives,
    weights: jax.Array,
    coordinates: int | None,
    block_size: int | None,
) -> base.Estimate:
    """Runs a window and differentiates its meta-loss."""
    groups = groups_for(opt, lives.theta)
    drawn = drawing.draw(groups, lives, coordinates)
    start = states_of(groups, drawn, phi, lives)
    # The slope of the loss at t is the gradient that the next step reads: it is kept once.
    is_shared = family.target is None and family.shape is None

    def step(lives: AdjointLives, _: None) -> tuple[AdjointLives, tuple]:
        packed = packed_by(groups, lives.gradient)
        updates, states = apply(groups, phi, packed, lives)
        theta = optax.apply_updates(lives.theta, unpacked(groups, updates, lives.theta))
        t = lives.t + 1
        measured = measure(family, lives, theta, t)
        slopes = () if is_shared else taken(drawn, packed_by(groups, measured.slope))
        lives = lives._replace(
            t=t,
            theta=theta,
            statistics=measured.statistics,
            states=states,
            gradient=measured.gradient,
        )
        return lives, (measured.term, taken(drawn, packed), slopes)

    after, (losses, gradients, slopes) = jax.lax.scan(step, lives, length=weights.shape[0])
    if is_shared:
        last = taken(drawn, packed_by(groups, after.gradient))
        slopes = [_shifted(g, g_last) for g, g_last in zip(gradients, last, strict=True)]
    weights = weights / losses.shape[1]
    recorded = []
    for i, group in enumerate(groups):
        of_block = _weighted if group.reads_theta else accumulated
        cotangents = functools.partial(cotangents_of, slopes[i], weights, of_block)
        theta: Any = ()
        if group.reads_theta:
            theta = drawn[i].take(group.pack(jax.tree.leaves(lives.theta)))
        one = second_pass.Recorded(
            group=group,
            drawn=drawn[i],
            state=start[i],
            theta=theta,
            gradients=gradients[i],
            cotangents=cotangents,
        )
        recorded.append(one)
    return base.Estimate(losses, second_pass.pull_back(phi, recorded, block_size), after)


def packed_by(groups: list[Group], tree: Theta) -> list:
    """A tree like theta as each group's optimizer sees it."""
    leaves = jax.tree.leaves(tree)
    return [group.pack(leaves) for group in groups]


def apply(
    groups: list[Group],
    phi: Phi,
    packed: list,
    lives: Any,
) -> tuple[list, list]:
    """One step of every group's optimizer: `(updates, states)`.

    Args:
      groups: the groups.
      phi: the weights.
      packed: the gradients as each group sees them.
      lives: have the states and theta.
    """
    leaves = jax.tree.leaves(lives.theta)
    updates, states = [], []
    for group, gradient, state in zip(groups, packed, lives.states, strict=True):
        theta = group.pack(leaves) if group.reads_theta else None
        update, state = group.transform(phi).update(gradient, state, theta)
        updates.append(update)
        states.append(state)
    return updates, states


def unpacked(
    groups: list[Group],
    updates: list,
    theta: Theta,
) -> Theta:
    """Every group's updates as one tree like theta."""
    leaves, treedef = jax.tree.flatten(theta)
    new = [jnp.zeros_like(x) for x in leaves]  # leaves without coordinates belong to no group
    for group, packed in zip(groups, updates, strict=True):
        for i, leaf in group.unpack(packed, leaves):
            new[i] = leaf
    return treedef.unflatten(new)


def taken(drawn: list[Drawn], packed: list) -> list:
    """The drawn coordinates of every group."""
    return [d.take(x) for d, x in zip(drawn, packed, strict=True)]


def states_of(
    groups: list[Group],
    drawn: list[Drawn],
    phi: Phi,
    lives: Any,
) -> list:
    """The states of the drawn coordinates of every group.

    They are drawn before the window runs: nothing of the others is kept.
    """
    rows = zip(groups, drawn, lives.states, strict=True)
    return [_state_of(group, d, phi, lives, state) for group, d, state in rows]


def _state_of(
    group: Group,
    drawn: Drawn,
    phi: Phi,
    lives: Any,
    state: Any,
) -> Any:
    if drawn.index is None:
        return state
    vector = jax.eval_shape(group.pack, jax.tree.leaves(lives.gradient))
    axes = second_pass.coordinate_axes(group.opt.transform(group.phi(phi)), vector)
    leaves, treedef = jax.tree.flatten(state)
    mine = [
        leaf if axis is None else drawn.take(leaf, axis)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    return treedef.unflatten(mine)


class Shifted(NamedTuple):
    """Gradients of a window and the one after it; the slope at step t is the gradient of t + 1."""

    gradients: jax.Array  # g_1 .. g_T, [T, ...]
    last: jax.Array  # g_{T+1}


def _shifted(gradients: Any, last: Any) -> Any:
    return jax.tree.map(Shifted, gradients, last)


def cotangents_of(
    slopes: Any,
    weights: jax.Array,
    of_block: Any,
    cut: second_pass.Cut,
) -> Any:
    """The cotangents of the coordinates that `cut` cuts out."""

    def of_leaf(slope: jax.Array | Shifted) -> jax.Array:
        if isinstance(slope, Shifted):
            block, last = cut(slope.gradients, axis=1), cut(slope.last, axis=0)
            block = jnp.concatenate([block[1:], last[None]])
        else:
            block = cut(slope, axis=1)
        return of_block(block, weights)

    return jax.tree.map(of_leaf, slopes, is_leaf=lambda x: isinstance(x, Shifted))


def _weighted(slopes: jax.Array, weights: jax.Array) -> jax.Array:
    """w_t times the slope at step t, in float32 at least; `slopes` `[T, ...]`."""
    dtype = jnp.result_type(jnp.float32, slopes, weights)
    return slopes.astype(dtype) * weights.astype(dtype).reshape((-1,) + (1,) * (slopes.ndim - 1))


def accumulated(slopes: jax.Array, weights: jax.Array) -> jax.Array:
    """lambda_1 .. lambda_T: sums from the end of w_t times the slope at step t."""

    def add(later: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = later + x
        return total, total

    scaled = _weighted(slopes, weights)
    return jax.lax.scan(add, jnp.zeros_like(scaled[0]), scaled, reverse=True)[1]
