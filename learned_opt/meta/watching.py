"""What an optimizer does: its updates beside those of others, and as functions of the gradient."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import _checks
from learned_opt.meta import programs, unrolling
from learned_opt.meta.unrolling import Rule, Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem, Theta
from learned_opt.optimizers.base import Phi

OWN = "itself"  # the watched optimizer among all


class Watched(NamedTuple):
    """What `watch` has seen. Arrays are NumPy's; coordinates are those that were chosen.

    Attributes:
      coordinates: their numbers, counted through all parameters in the order of `jax.tree.leaves`,
        `[coordinates]`.
      names: where each stands, such as `kernel[3, 1]`.
      losses: `[num_steps]`, f(theta_{t-1}) at step t = 1 .. num_steps.
      gradients: `[num_steps, coordinates]`, g_t.
      theta: `[num_steps, coordinates]`, theta_{t-1}.
      updates: dict from a name to `[num_steps, coordinates]`: of the optimizer, under "itself", and
        what each of the others would have done on the same gradients.
      at: the steps at which updates were asked for as functions of the gradient, `[steps]`.
      grid: the gradients asked about, `[steps, coordinates, points]`.
      proposed: dict from a name to the updates proposed, `[steps, coordinates, points]`.
    """

    coordinates: np.ndarray
    names: tuple[str, ...]
    losses: np.ndarray
    gradients: np.ndarray
    theta: np.ndarray
    updates: dict[str, np.ndarray]
    at: np.ndarray
    grid: np.ndarray
    proposed: dict[str, np.ndarray]


def watch(
    tx: Transformation,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
    *,
    coordinates: int | Sequence[int] = 2,
    others: Mapping[str, Transformation] | None = None,
    at: Sequence[int] | None = None,
    num_points: int = 61,
    reach: float = 2.0,
) -> Watched:
    """Looks at what an optimizer does along its own trajectory.

    Of some coordinates it records the updates, beside those that other optimizers would have made
    on the same gradients: each has a state of its own, but the parameters go where the watched one
    leads. At some steps it asks what the update would have been for another gradient of this one
    coordinate, all else as it was.

    Args:
      tx: the optimizer, an optax transformation or a pair `(opt, phi)`.
      problem: an `Optimizee`, or your own loss and parameters as one (see the example).
      key: draws the problem and the minibatches, as in `unroll`.
      num_steps: how many steps.
      coordinates: their numbers, counted through all parameters; or how many of them, drawn at
        random.
      others: dict from a name to an optimizer; None for SGD and Adam, as in the paper, at rates at
        which their updates are about as large as the watched one's.
      at: steps, counted from 1, at which updates are functions of the gradient; None for the first,
        the middle one and the last.
      num_points: how many gradients are asked about, evenly spaced.
      reach: how far they go on both sides of zero, in units of the coordinate's largest gradient
        along the trajectory.

    Returns:
      A `Watched`. `learned_opt.evaluation.plots.histories` and `proposals` draw it.

    Raises:
      ValueError: for coordinates or steps that there are not, a name that is taken, or settings
        that are not possible.

    Source:
      Andrychowicz et al. 2016, appendix B, figures 10 to 13.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> params = {"w": jnp.ones(3)}
      >>> mine = learned_opt.Optimizee(
      ...     lambda key: (), lambda key, _: params, lambda p, _, key: jnp.sum(p["w"] ** 2))
      >>> seen = learned_opt.watch(
      ...     learned_opt.pretrained("rnnprop-mnist"), mine, jax.random.key(0), num_steps=4)
      >>> seen.updates["itself"].shape, sorted(seen.updates)
      ((4, 2), ['Adam', 'SGD', 'itself'])
    """
    num_steps = unrolling.check_run(tx, problem, key, num_steps)
    family = optimizee_base.as_family(problem)
    begun = _begin(family, key)
    size = sum(x.size for x in jax.tree.leaves(begun.theta_0))
    chosen = _chosen(coordinates, size, key)
    asked = _steps(at, num_steps)
    num_points = _checks.positive_int("num_points", num_points, minimum=2)
    reach = _checks.positive_float("reach", reach)
    path = _follow(*unrolling.separate(tx), family, begun, chosen, num_steps)
    compared = {OWN: tx, **_others(others, path)}
    rules, phis = zip(*(unrolling.separate(other) for other in compared.values()), strict=True)
    largest = jnp.max(jnp.abs(path.gradients), 0)
    # A coordinate without a gradient, as of a black pixel, is asked about those of others.
    largest = jnp.where(largest > 0, largest, jnp.max(path.slopes))
    grid = reach * largest[:, None] * jnp.linspace(-1.0, 1.0, num_points)[None]
    updates, proposed = _compare(
        rules, phis, family, begun, chosen, jnp.asarray(asked), grid, num_steps
    )
    return Watched(
        coordinates=np.asarray(chosen),
        names=_names(begun.theta_0, np.asarray(chosen)),
        losses=np.asarray(path.losses),
        gradients=np.asarray(path.gradients),
        theta=np.asarray(path.theta),
        updates=dict(zip(compared, map(np.asarray, updates), strict=True)),
        at=asked,
        grid=np.asarray(jnp.broadcast_to(grid[None], (len(asked), *grid.shape))),
        proposed=dict(zip(compared, map(np.asarray, proposed), strict=True)),
    )


class _Path(NamedTuple):
    """The trajectory of the watched optimizer, of the chosen coordinates."""

    losses: jax.Array
    gradients: jax.Array
    theta: jax.Array
    scales: jax.Array  # mean size of the updates of all coordinates, [num_steps]
    slopes: jax.Array  # and of the gradients


@functools.partial(programs.jit)
def _begin(family: Family, key: jax.Array) -> Problem:
    return optimizee_base.begin(family, key)


def _chosen(
    coordinates: int | Sequence[int],
    size: int,
    key: jax.Array,
) -> jax.Array:
    if isinstance(coordinates, int):
        count = _checks.positive_int("coordinates", coordinates)
        if count > size:
            raise ValueError(f"coordinates must be at most {size}, got {count}.")
        return jnp.sort(jax.random.choice(key, size, (count,), replace=False))
    for number in coordinates:
        if not 0 <= number < size:
            raise ValueError(f"coordinates must be below {size}, the number of all, got {number}.")
    if not len(coordinates):
        raise ValueError("coordinates must name at least one, got none.")
    return jnp.asarray(coordinates, jnp.int32)


def _steps(at: Sequence[int] | None, num_steps: int) -> np.ndarray:
    if at is None:
        at = sorted({1, (num_steps + 1) // 2, num_steps})
    for step in at:
        if not 1 <= step <= num_steps:
            raise ValueError(f"at must be steps from 1 to num_steps={num_steps}, got {step}.")
    return np.asarray(at, np.int32)


def _others(others: Mapping[str, Transformation] | None, path: _Path) -> dict[str, Transformation]:
    """The optimizers beside the watched one."""
    if others is None:
        size = float(jnp.mean(path.scales))
        # A step of Adam is about as large as its rate.
        rate = size / max(float(jnp.mean(path.slopes)), 1e-30)
        return {"SGD": optax.sgd(rate), "Adam": optax.adam(size)}
    if OWN in others:
        raise ValueError(f"others must not have the name {OWN!r}, which is the watched one's.")
    for name, other in others.items():
        unrolling.check_transformation(f"others[{name!r}]", other)
    return dict(others)


@functools.partial(programs.jit, static_argnums=(0, 5))
def _follow(
    rule: Rule,
    phi: Phi,
    family: Family,
    problem: Problem,
    chosen: jax.Array,
    num_steps: int,
) -> _Path:
    """The trajectory, without asking anything."""
    tx = unrolling.join(rule, phi)

    def step(carry: tuple, t: jax.Array) -> tuple[tuple, _Path]:
        theta, state, statistics = carry
        moment = _moment(family, problem, theta, statistics, t)
        updates, state = _update(tx, state, moment)
        gradient, update = (_joined(tree) for tree in (moment.gradient, updates))
        sizes = jnp.mean(jnp.abs(update)), jnp.mean(jnp.abs(gradient))
        seen = _Path(moment.loss, gradient[chosen], _joined(theta)[chosen], *sizes)
        return (optax.apply_updates(theta, updates), state, moment.statistics), seen

    begun = problem.theta_0, tx.init(problem.theta_0), problem.statistics
    return jax.lax.scan(step, begun, jnp.arange(num_steps))[1]


class _Moment(NamedTuple):
    """What an update sees at one step."""

    theta: Theta
    loss: jax.Array
    gradient: Theta
    statistics: Any
    value_fn: Any


def _moment(
    family: Family,
    problem: Problem,
    theta: Theta,
    statistics: Any,
    t: jax.Array,
) -> _Moment:
    loss, gradient, after = optimizee_base.value_and_grad_at(family, problem, theta, t, statistics)

    def value_fn(theta: Theta) -> jax.Array:
        return optimizee_base.loss_at(family, problem, theta, t, statistics)[0]

    return _Moment(theta, loss, gradient, after, value_fn)


def _update(
    tx: optax.GradientTransformationExtraArgs,
    state: Any,
    moment: _Moment,
    gradient: Theta | None = None,
) -> tuple[Theta, Any]:
    """The update at this moment, for its gradient or for another one."""
    gradient = moment.gradient if gradient is None else gradient
    return tx.update(
        gradient,
        state,
        moment.theta,
        value=moment.loss,
        grad=gradient,
        value_fn=moment.value_fn,
    )


def _joined(tree: Theta) -> jax.Array:
    return jax.flatten_util.ravel_pytree(tree)[0]


@functools.partial(programs.jit, static_argnums=(0, 7))
def _compare(
    rules: tuple[Rule, ...],
    phis: tuple[Phi, ...],
    family: Family,
    problem: Problem,
    chosen: jax.Array,
    at: jax.Array,
    grid: jax.Array,
    num_steps: int,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Updates `[num_steps, coordinates]` and proposals `[steps, coordinates, points]` of each."""
    txs = [unrolling.join(rule, phi) for rule, phi in zip(rules, phis, strict=True)]

    def step(carry: tuple, t: jax.Array) -> tuple[tuple, list[jax.Array]]:
        theta, states, statistics, proposed = carry
        moment = _moment(family, problem, theta, statistics, t)
        is_asked = at == t + 1

        def propose() -> list[jax.Array]:
            pairs = zip(txs, states, strict=True)
            return [_proposals(tx, state, moment, chosen, grid) for tx, state in pairs]

        new = jax.lax.cond(jnp.any(is_asked), propose, lambda: [jnp.zeros_like(grid) for _ in txs])
        proposed = [
            jnp.where(is_asked[:, None, None], now[None], old)
            for now, old in zip(new, proposed, strict=True)
        ]
        made = [_update(tx, state, moment) for tx, state in zip(txs, states, strict=True)]
        theta = optax.apply_updates(theta, made[0][0])
        carry = theta, [state for _, state in made], moment.statistics, proposed
        return carry, [_joined(updates)[chosen] for updates, _ in made]

    states = [tx.init(problem.theta_0) for tx in txs]
    proposed = [jnp.zeros((len(at), *grid.shape), grid.dtype) for _ in txs]
    begun = problem.theta_0, states, problem.statistics, proposed
    (_, _, _, proposed), updates = jax.lax.scan(step, begun, jnp.arange(num_steps))
    return updates, proposed


def _proposals(
    tx: optax.GradientTransformationExtraArgs,
    state: Any,
    moment: _Moment,
    chosen: jax.Array,
    grid: jax.Array,
) -> jax.Array:
    """The updates of each chosen coordinate for the gradients of the grid."""
    gradient, unravel = jax.flatten_util.ravel_pytree(moment.gradient)

    def one(coordinate: jax.Array, value: jax.Array) -> jax.Array:
        changed = unravel(gradient.at[coordinate].set(value.astype(gradient.dtype)))
        updates, _ = _update(tx, state, moment, changed)
        return _joined(updates)[coordinate].astype(grid.dtype)

    # One after the other: an update may hold hundreds of numbers for every coordinate.
    return jax.lax.map(lambda pair: jax.lax.map(lambda v: one(pair[0], v), pair[1]), (chosen, grid))


def _names(theta: Theta, chosen: np.ndarray) -> tuple[str, ...]:
    """Where coordinates stand in the tree, such as `kernel[3, 1]`."""
    places = []
    first = 0
    for path, x in jax.tree_util.tree_leaves_with_path(theta):
        places.append((first, jax.tree_util.keystr(path, simple=True, separator="/"), x.shape))
        first += x.size
    names = []
    for number in chosen:
        start, name, shape = next(place for place in reversed(places) if place[0] <= number)
        index = ", ".join(str(i) for i in np.unravel_index(number - start, shape)) if shape else ""
        names.append(f"{name}[{index}]" if shape else name or "theta")
    return tuple(names)
