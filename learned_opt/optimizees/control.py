"""Model-predictive control: the same small plan made again and again, from where the last one is.

States and plans of many problems have the problems on their last axis where they are named
`[..., problems]`: all is elementwise over problems then.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee

# A rod of three metres with a motor at its end, in units of its inertia: its swings take about
# three seconds. Angles are zero where it stands up.
STEP = 0.05  # seconds
GRAVITY = 5.0
MAX_TORQUE = 3.0
# Weights of the cost: of the height, of the velocity, of the torque, and of the first two at the
# end over those on the way.
VELOCITY_COST = 0.05
TORQUE_COST = 0.05
TERMINAL_COST = 1.0
_FIRST_DAMPING, _LESS, _MORE = 1e-2, 8.0, 6.0  # of `ddp`: the last two change it


class Control(NamedTuple):
    """An instance: where the pendulum is, and the plan that is there already.

    Attributes:
      state: angle and velocity, `[2]`.
      plan: the last step's plan without its first torque, `[horizon]`, as theta.
    """

    state: jax.Array
    plan: jax.Array


def pendulum(bank: Control) -> Optimizee:
    """Plans that swing a pendulum up and hold it, by direct shooting, as in predictive control.

    The motor cannot lift the pendulum: it has to swing back first. The cost of a plan is the mean
    over its horizon of 2 (1 - cos(angle)) + 0.05 velocity^2 + 0.05 torque^2, plus the first two at
    its end. Theta `[horizon]` is mapped to torques by 3 tanh(theta). A plan starts as the last
    step's plan, shifted by one step.

    Args:
      bank: what instances are drawn from, states `[size, 2]` and plans `[size, horizon]`, for
        example from `closed_loop`.

    Returns:
      An `Optimizee`. Its `solution` is the torques `[horizon]`.

    Raises:
      ValueError: for arrays of other shapes.

    Example:
      >>> import jax
      >>> from learned_opt.optimizees import control
      >>> bank = control.closed_loop(jax.random.key(0), num_episodes=4, num_steps=3, horizon=10)
      >>> bank.plan.shape
      (12, 10)
      >>> control.pendulum(bank).sample(jax.random.key(1)).state.shape
      (2,)
    """
    states, plans = jnp.shape(bank.state), jnp.shape(bank.plan)
    if len(plans) != 2 or states != (plans[0], 2) or not plans[0]:
        raise ValueError(
            "bank must have states [size, 2] and plans [size, horizon], got "
            f"{list(states)} and {list(plans)}."
        )
    return starting.optimizee(Partial(_drawn, bank), _init, _loss, solution=solution)


def torques(theta: jax.Array) -> jax.Array:
    """The torques of a plan, between the limits."""
    return MAX_TORQUE * jnp.tanh(theta)


def solution(theta: jax.Array, instance: Any = None) -> jax.Array:
    """What the user wants of a plan: its torques."""
    del instance
    return torques(theta)


def moved(
    angle: jax.Array,
    velocity: jax.Array,
    torque: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Angle and velocity one step later (semi-implicit Euler)."""
    velocity = velocity + STEP * (GRAVITY * jnp.sin(angle) + torque)
    return angle + STEP * velocity, velocity


def state_cost(angle: jax.Array, velocity: jax.Array) -> jax.Array:
    """The cost of a state on the way."""
    # The same as 2 (1 - cos(angle)), without the cancellation.
    return jnp.square(2 * jnp.sin(angle / 2)) + VELOCITY_COST * jnp.square(velocity)


def cost(theta: jax.Array, state: jax.Array) -> jax.Array:
    """The cost of plans.

    Args:
      theta: `[horizon]` or `[horizon, problems]`.
      state: `[2]` or `[2, problems]`.
    """
    return cost_of(torques(theta), state)


def cost_of(torque: jax.Array, state: jax.Array) -> jax.Array:
    """The cost of torques, as `cost`."""

    def step(at: tuple[jax.Array, jax.Array], torque: jax.Array) -> tuple[tuple, jax.Array]:
        angle, velocity = at
        paid = state_cost(angle, velocity) + TORQUE_COST * jnp.square(torque)
        return moved(angle, velocity, torque), paid

    end, paid = jax.lax.scan(step, (state[0], state[1]), torque)
    return jnp.mean(paid, 0) + TERMINAL_COST * state_cost(*end)


def closed_loop(
    key: jax.Array,
    num_episodes: int = 128,
    num_steps: int = 64,
    horizon: int = 30,
    disturbance: float = 0.02,
    num_iterations: int = 10,
) -> Control:
    """What a controller meets that makes a plan, applies its first torque, and plans again.

    Episodes start with an angle anywhere and a velocity between -1 and 1. The first plan of an
    episode is the best of several. All plans are made by `ddp`, from the last plan and from others.

    Args:
      key: draws the first states and the disturbances.
      num_episodes: the number of episodes.
      num_steps: the number of plans in each episode after the first one.
      horizon: the number of torques in a plan; of one and a half seconds by default.
      disturbance: the standard deviation of what is added to angle and to velocity at each step,
        the latter with twice of it. It is what makes the last step's plan wrong.
      num_iterations: of `ddp` at each step.

    Returns:
      States and shifted plans, `[num_episodes * num_steps, ...]`.

    Raises:
      ValueError: for numbers that are not positive.
    """
    shape = tuple(
        _checks.positive_int(name, value)
        for name, value in (
            ("num_episodes", num_episodes),
            ("num_steps", num_steps),
            ("horizon", horizon),
        )
    )
    disturbance = _checks.positive_float("disturbance", disturbance)
    num_iterations = _checks.positive_int("num_iterations", num_iterations)
    return _closed_loop(key, *shape, disturbance, num_iterations)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 5))
def _closed_loop(
    key: jax.Array,
    num_episodes: int,
    num_steps: int,
    horizon: int,
    disturbance: float,
    num_iterations: int,
) -> Control:
    start_key, key = jax.random.split(key)
    low_high = jnp.array([[jnp.pi], [1.0]])
    state = low_high * jax.random.uniform(start_key, (2, num_episodes), minval=-1, maxval=1)
    noise = disturbance * jax.random.normal(key, (num_steps, 2, num_episodes))
    noise = noise * jnp.array([1.0, 2.0])[None, :, None]
    torque = best_of(state, cold_starts(state, horizon), 3 * num_iterations)

    def step(at: tuple, noise: jax.Array) -> tuple:
        state, torque = at
        state = jnp.stack(moved(state[0], state[1], torque[0])) + noise
        # States repeat after a full turn, and are to look alike.
        state = state.at[0].set(jnp.remainder(state[0] + jnp.pi, 2 * jnp.pi) - jnp.pi)
        torque = shifted(torque)
        here = Control(state.T, as_theta(torque).T)
        starts = jnp.concatenate([torque[None], cold_starts(state, horizon)])
        return (state, best_of(state, starts, num_iterations)), here

    bank: Control = jax.lax.scan(step, (state, torque), noise)[1]
    return jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), bank)


def as_theta(torque: jax.Array) -> jax.Array:
    """Theta of torques; those at a limit stop short of it by 1 %, for theta would be infinite."""
    return jnp.arctanh(jnp.clip(torque / MAX_TORQUE, -0.99, 0.99))


def shifted(torque: jax.Array) -> jax.Array:
    """A plan without its first torque, and with none at its end."""
    return jnp.concatenate([torque[1:], jnp.zeros_like(torque[:1])])


def cold_starts(state: jax.Array, horizon: int) -> jax.Array:
    """Torques `[4, horizon, problems]` of simple controllers, for states `[2, problems]`.

    One holds the pendulum upright where it is near, and else pumps energy into it; one only holds;
    two push one way, and later hold. Torques that do not depend on what happens let it fall.
    """

    def step(at: tuple, time: jax.Array) -> tuple:
        angle, velocity = at
        wrapped = jnp.remainder(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
        hold = -12 * wrapped - 5 * velocity
        short = GRAVITY * (1 - jnp.cos(angle)) - jnp.square(velocity) / 2
        pump = MAX_TORQUE * jnp.where(velocity >= 0, 1.0, -1.0) * jnp.where(short > 0, 1.0, -1.0)
        early = time < 0.35
        torque = jnp.stack(
            [
                jnp.where(jnp.abs(wrapped[0]) < 0.6, hold[0], pump[0]),
                hold[1],
                jnp.where(early, MAX_TORQUE, hold[2]),
                jnp.where(early, -MAX_TORQUE, hold[3]),
            ]
        )
        torque = jnp.clip(torque, -MAX_TORQUE, MAX_TORQUE).astype(angle.dtype)
        return moved(angle, velocity, torque), torque

    at = (jnp.stack([state[0]] * 4), jnp.stack([state[1]] * 4))
    return jax.lax.scan(step, at, jnp.arange(horizon) / horizon)[1].swapaxes(0, 1)


def best_of(
    state: jax.Array,
    starts: jax.Array,
    num_iterations: int,
) -> jax.Array:
    """The best torques `[horizon, problems]` of those that `ddp` finds from each of the starts.

    Args:
      state: `[2, problems]`.
      starts: torques `[starts, horizon, problems]`.
      num_iterations: of each `ddp`.
    """

    def found(start: jax.Array) -> tuple[jax.Array, jax.Array]:
        torque = ddp(state, start, num_iterations)
        return torque, cost_of(torque, state)

    torque, costs = jax.lax.map(found, starts)
    best = jnp.argmin(costs, 0)
    return jnp.take_along_axis(torque, best[None, None], 0)[0]


def ddp(
    state: jax.Array,
    torque: jax.Array,
    num_iterations: int,
    second_order: float = 0.0,
) -> jax.Array:
    """Control-limited differential dynamic programming of many plans together.

    An iteration makes the quadratic model of the cost-to-go from the end to the start, and tries
    the torques that it proposes, between their limits. A trial that costs more is refused, and the
    next one of this problem is shorter. The 2 x 2 matrices are written out.

    Args:
      state: `[2, problems]`.
      torque: where to start, `[horizon, problems]`.
      num_iterations: the number of iterations, refused ones too.
      second_order: how much of the curvature of dynamics and height is in the model: 1 for all
        (DDP), 0 for none (iLQR).

    Returns:
      Torques `[horizon, problems]`.

    Source:
      Tassa, Mansard, Todorov 2014.
    """
    zeros = jnp.zeros_like(torque)
    still = _Steps(torque, zeros, zeros, zeros, zeros)
    steps, end, loss = _forward(still, (zeros, zeros, zeros), state)

    def iterate(_: int, at: tuple) -> tuple:
        steps, end, loss, damping = at
        new = _forward(steps, _backward(steps, end, damping, second_order), state)
        taken = new[2] < loss
        damping = jnp.where(taken, damping / _LESS, jnp.maximum(damping, 1e-3) * _MORE)
        old = (steps, end, loss)
        at = jax.tree.map(lambda a, b: jnp.where(_as_rank(taken, a), a, b), new, old)
        return *at, jnp.clip(damping, 1e-7, 1e7)

    damping = jnp.full(torque.shape[1], _FIRST_DAMPING, torque.dtype)
    at = (steps, end, loss, damping)
    return jax.lax.fori_loop(0, num_iterations, iterate, at)[0].torque


class _Steps(NamedTuple):
    """A plan and what it leads to, `[horizon, problems]` each."""

    torque: jax.Array
    angle: jax.Array
    velocity: jax.Array
    sin_half: jax.Array  # of half the angle
    cos_half: jax.Array


class _Value(NamedTuple):
    """A quadratic model of the cost-to-go, in angle a and velocity w."""

    a: jax.Array
    w: jax.Array
    aa: jax.Array
    aw: jax.Array
    ww: jax.Array


def _as_rank(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    return mask.reshape((1,) * (leaf.ndim - 1) + mask.shape)


def _forward(
    steps: _Steps,
    gains: tuple,
    state: jax.Array,
) -> tuple[_Steps, tuple, jax.Array]:
    """What happens with changed plans: the new steps, the states at their end, their cost."""
    num_steps = len(steps.torque)

    # Sine and cosine are carried, not computed where they are needed: XLA would compute them again
    # for each of the results that they go into.
    def step(at: tuple, old: tuple) -> tuple:
        angle, velocity, sin, cos, total = at
        before, (change, to_angle, to_velocity) = old
        torque = before.torque + change
        torque += to_angle * (angle - before.angle) + to_velocity * (velocity - before.velocity)
        torque = jnp.clip(torque, -MAX_TORQUE, MAX_TORQUE)
        here = jnp.square(2 * sin) + VELOCITY_COST * jnp.square(velocity)
        total += (here + TORQUE_COST * jnp.square(torque)) / num_steps
        now = _Steps(torque, *at[:4])
        velocity = velocity + STEP * (GRAVITY * 2 * sin * cos + torque)
        angle = angle + STEP * velocity
        return (angle, velocity, jnp.sin(angle / 2), jnp.cos(angle / 2), total), now

    half = state[0] / 2
    first = (state[0], state[1], jnp.sin(half), jnp.cos(half), jnp.zeros_like(half))
    (angle, velocity, *_, total), steps = jax.lax.scan(step, first, (steps, gains))
    return steps, (angle, velocity), total + TERMINAL_COST * state_cost(angle, velocity)


def _backward(
    steps: _Steps,
    end: tuple,
    damping: jax.Array,
    second_order: float,
) -> tuple:
    """The change of each torque, and how it follows angle and velocity."""
    angle, velocity = end
    num_steps = len(steps.torque)
    cos = jnp.cos(angle)
    first = _Value(
        TERMINAL_COST * 2 * jnp.sin(angle),
        TERMINAL_COST * 2 * VELOCITY_COST * velocity,
        TERMINAL_COST * (1 + cos + second_order * (cos - 1)),
        jnp.zeros_like(angle),
        jnp.full_like(angle, TERMINAL_COST * 2 * VELOCITY_COST),
    )

    def step(value: _Value, now: _Steps) -> tuple:
        return _backward_step(value, now, damping, second_order, 1 / num_steps)

    return jax.lax.scan(step, first, steps, reverse=True)[1]


def _backward_step(
    value: _Value,
    now: _Steps,
    damping: jax.Array,
    second_order: float,
    weight: float,
) -> tuple[_Value, tuple]:
    """One step of the Riccati recursion.

    A change of the velocity moves the angle by `STEP` of it, so that the derivatives of the next
    state by velocity and by torque are multiples of one vector (STEP, 1).
    """
    q, mixed = _expanded(value, now, second_order, weight)
    push = STEP
    u = 2 * TORQUE_COST * weight * now.torque + push * (STEP * value.a + value.w)
    uu = 2 * TORQUE_COST * weight + push**2 * mixed[1]
    ua, uw = push * mixed[0], push * mixed[1]
    inverse = 1 / (jnp.maximum(uu, 2 * TORQUE_COST * weight) + damping)
    change = -u * inverse
    allowed = jnp.clip(change, -MAX_TORQUE - now.torque, MAX_TORQUE - now.torque)
    # At a limit the torque does not follow the state.
    free = jnp.where(allowed == change, inverse, 0)
    to_a, to_w = -ua * free, -uw * free
    value = _Value(
        q.a + to_a * (uu * allowed + u) + ua * allowed,
        q.w + to_w * (uu * allowed + u) + uw * allowed,
        q.aa + to_a * (uu * to_a + 2 * ua),
        q.aw + to_a * (uu * to_w + uw) + ua * to_w,
        q.ww + to_w * (uu * to_w + 2 * uw),
    )
    return value, (allowed, to_a, to_w)


def _expanded(
    value: _Value,
    now: _Steps,
    second_order: float,
    weight: float,
) -> tuple[_Value, tuple]:
    """The cost-to-go one step earlier, before the torque is chosen.

    Returns:
      The model in the earlier state, and what multiplies the force in it, by angle and velocity.
    """
    sin, cos = 2 * now.sin_half * now.cos_half, 1 - 2 * jnp.square(now.sin_half)
    pull = STEP * GRAVITY * cos  # the derivative of the next velocity by the angle
    along = STEP * value.a + value.w
    a_along, w_along = STEP * value.aa + value.aw, STEP * value.aw + value.ww
    both = STEP * a_along + w_along
    mixed = a_along + pull * both
    bend = second_order * ((cos - 1) * weight - along * STEP * GRAVITY * sin)
    q = _Value(
        weight * 2 * sin + value.a + pull * along,
        weight * 2 * VELOCITY_COST * now.velocity + along,
        weight * (1 + cos) + bend + value.aa + pull * (a_along + mixed),
        mixed,
        weight * 2 * VELOCITY_COST + both,
    )
    return q, (mixed, both)


def _drawn(bank: Control, key: jax.Array) -> Control:
    index = jax.random.randint(key, (), 0, len(bank.state))
    return jax.tree.map(lambda leaf: leaf[index], bank)


def _init(key: jax.Array, instance: Control) -> jax.Array:
    del key
    return instance.plan


def _loss(
    theta: jax.Array,
    instance: Control,
    key: jax.Array,
) -> jax.Array:
    del key  # no minibatches
    return cost(theta, instance.state)
