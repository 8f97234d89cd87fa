"""What a coordinatewise optimizer makes of gradients, in numbers.

Gradients that were recorded along its own trajectories are shown again, to it and to others. Since
coordinates do not depend on each other, all of them, of all runs, are one vector of parameters.
Source of the questions: Andrychowicz et al. 2016, appendix B.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.evaluation import statistics
from learned_opt.meta import programs, unrolling
from learned_opt.meta.unrolling import Rule, Transformation
from learned_opt.optimizers.base import Phi

NUM_POINTS = 101  # gradients that are asked about
REACH = 2.0  # how far they go, in units of a coordinate's largest gradient
NUM_LAGS = 30  # steps for which the answer to one gradient is looked at
# A curve is a step where this share of its range lies within one standard deviation of the
# coordinate's gradients. The paper says "step-like" and gives no number.
STEP = 0.5

Array = np.ndarray


class Recorded(NamedTuple):
    """Gradients and parameters along trajectories, `[num_steps, coordinates, runs]` each."""

    gradients: Array
    theta: Array


class Habits(NamedTuple):
    """What one optimizer makes of recorded gradients.

    Attributes:
      updates: `[num_steps, coordinates, runs]`.
      answers: what a push at one step adds to the updates of that step and the following ones,
        `[pushes, lags, coordinates, runs]`. A push is one standard deviation of the coordinate's
        gradients, so a step downhill is negative.
      proposed: updates for other gradients of a step, `[steps, points, coordinates, runs]`.
    """

    updates: Array
    answers: Array
    proposed: Array


def observe(
    tx: Transformation,
    recorded: Recorded,
    at: Array,
    pushes: Array,
) -> Habits:
    """Shows recorded gradients to an optimizer.

    Args:
      tx: an optax transformation or a pair `(opt, phi)`; its coordinates must not depend on each
        other.
      recorded: a `Recorded`.
      at: the steps, counted from 1, at which other gradients are proposed, `[steps]`.
      pushes: the steps, counted from 1, at which a gradient is pushed, `[pushes]`.
    """
    _, *shape = recorded.gradients.shape
    flat = [jnp.asarray(values.reshape(len(values), -1)) for values in recorded]
    rule, phi = unrolling.separate(tx)
    seen = _observe(rule, phi, *flat, jnp.asarray(at), jnp.asarray(pushes))
    return Habits(
        *(np.asarray(values, np.float64).reshape(*values.shape[:-1], *shape) for values in seen)
    )


def grid_of(gradients: jax.Array) -> jax.Array:
    """The gradients that each coordinate is asked about, `[points, ...]`."""
    points = jnp.linspace(-REACH, REACH, NUM_POINTS)
    largest = jnp.max(jnp.abs(gradients), 0)
    return points.reshape(-1, *(1,) * largest.ndim) * largest[None]


@functools.partial(programs.jit, static_argnums=(0,))
def _observe(
    rule: Rule,
    phi: Phi,
    gradients: jax.Array,
    theta: jax.Array,
    at: jax.Array,
    pushes: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    tx = optax.with_extra_args_support(unrolling.join(rule, phi))
    grid = grid_of(gradients)
    num_steps = len(gradients)

    def step(state: Any, now: tuple) -> tuple[Any, tuple]:
        gradient, place = now
        update, after = tx.update(gradient, state, place)
        return after, (update, state)

    start = tx.init(theta[0])
    _, (updates, states) = jax.lax.scan(step, start, (gradients, theta))

    def propose(t: jax.Array) -> jax.Array:
        state = jax.tree.map(lambda x: x[t - 1], states)
        return jax.lax.map(lambda g: tx.update(g, state, theta[t - 1])[0], grid)

    size = jnp.std(gradients, 0)

    def answer(t: jax.Array) -> jax.Array:
        is_pushed = (jnp.arange(num_steps) == t - 1)[:, None]
        pushed = gradients + is_pushed * size[None]
        _, (after, _) = jax.lax.scan(step, start, (pushed, theta))
        return jax.lax.dynamic_slice_in_dim(after - updates, t - 1, NUM_LAGS + 1)

    return updates, jax.lax.map(answer, pushes), jax.lax.map(propose, at)


def asked(num_steps: int) -> tuple[Array, Array]:
    """At which steps other gradients are proposed, and at which one is pushed."""
    at = np.unique(np.linspace(1, num_steps, 8).astype(np.int32))
    last = num_steps - NUM_LAGS
    if last < 1:
        raise ValueError(f"num_steps must be more than {NUM_LAGS}, got {num_steps}.")
    return at, np.unique(np.linspace(max(1, last // 8), last, 4).astype(np.int32))


def time_scale(answers: Array) -> Array:
    """The mean lag of the answer to one gradient, in steps, `[coordinates, runs]`."""
    sizes = np.abs(answers).sum(axis=0)
    lags = np.arange(len(sizes))[:, None, None]
    return (lags * sizes).sum(axis=0) / np.maximum(sizes.sum(axis=0), 1e-300)


def weight_of_past(answers: Array) -> Array:
    """Which share of the answer comes after its own step and goes downhill, likewise."""
    sizes = np.abs(answers).sum(axis=(0, 1))
    return -answers[:, 1:].sum(axis=(0, 1)) / np.maximum(sizes, 1e-300)


def is_step(proposed: Array, recorded: Recorded) -> Array:
    """Which curves are step-like, `[steps, coordinates, runs]`."""
    gradients = recorded.gradients
    spacing = 2 * REACH * np.abs(gradients).max(axis=0) / (NUM_POINTS - 1)
    widths = np.maximum(1, np.round(gradients.std(axis=0) / spacing)).astype(int)
    ranges = np.ptp(proposed, axis=1)
    crossed = np.zeros_like(ranges)
    for width in np.unique(widths):
        windows = np.lib.stride_tricks.sliding_window_view(proposed, width + 1, axis=1)
        steepest = np.ptp(windows, axis=-1).max(axis=1)
        crossed = np.where(widths[None] == width, steepest, crossed)
    return crossed >= STEP * np.maximum(ranges, 1e-300)


def rises(proposed: Array) -> Array:
    """Which curves end higher than they begin: the larger the gradient, the larger the update."""
    return proposed[:, -1] > proposed[:, 0]


def numbers(
    ours: Habits,
    others: dict[str, Habits],
    recorded: Recorded,
) -> dict[str, dict[str, float]]:
    """What decides the claims, each with its 95 % interval over coordinates and runs.

    Args:
      ours: of the optimizer.
      others: of "SGD" and "Adam", at the rates to which they were tuned.
      recorded: what all of them were shown.

    Returns:
      Dict from the name of a number to a `statistics.Summary` as a dict.
    """
    found = {}
    size = np.abs(ours.updates).mean(axis=0)
    for name, other in others.items():
        times = statistics.ratio(size, np.abs(other.updates).mean(axis=0))
        found[f"size of updates over tuned {name}'s"] = _ratio(times)
    adam = others["Adam"]
    scale, adams = time_scale(ours.answers), time_scale(adam.answers)
    found["weight of past gradients"] = _mean(weight_of_past(ours.answers))
    found["weight of past gradients in Adam"] = _mean(weight_of_past(adam.answers))
    found["time scale in steps"] = _mean(scale)
    found["time scale of Adam in steps"] = _mean(adams)
    found["time scale over Adam's"] = _ratio(statistics.ratio(scale, adams))
    found["share of curves that are step-like"] = _mean(
        is_step(ours.proposed, recorded).mean(axis=0)
    )
    found["share of Adam's curves that are step-like"] = _mean(
        is_step(adam.proposed, recorded).mean(axis=0)
    )
    found["share of curves that rise with the gradient"] = _mean(rises(ours.proposed).mean(axis=0))
    uphill = ours.updates * recorded.gradients > 0
    found["share of steps against the gradient of their moment"] = _mean(uphill.mean(axis=0))
    found["the same share of Adam"] = _mean((adam.updates * recorded.gradients > 0).mean(axis=0))
    first = ours.proposed[0]
    at_zero = first[NUM_POINTS // 2] / np.maximum(np.abs(first).mean(axis=0), 1e-300)
    found["first update at a gradient of zero over its size"] = _mean(at_zero)
    return found


def _mean(values: Array) -> dict[str, float]:
    return statistics.summarize(values)._asdict()


def _ratio(times: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), times, strict=True))
