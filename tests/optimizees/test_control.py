"""The pendulum against NumPy and SciPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from learned_opt.optimizees import control

PLAN = np.sin(np.arange(8.0))


def cost_of(torque, angle, velocity):
    """One plan, one step after the other."""
    total = 0.0
    for u in torque:
        total += 2 * (1 - math.cos(angle)) + 0.05 * velocity**2 + 0.05 * u**2
        velocity += 0.05 * (5.0 * math.sin(angle) + u)
        angle += 0.05 * velocity
    return total / len(torque) + 2 * (1 - math.cos(angle)) + 0.05 * velocity**2


def bank_of(plan):
    return control.Control(jnp.array([[0.4, -1.0]]), jnp.asarray(plan[None]))


@pytest.fixture(scope="module")
def bank():
    return control.closed_loop(jax.random.key(0), num_episodes=16, num_steps=60)


def test_cost_and_solution():
    family = control.pendulum(bank_of(PLAN))
    instance = family.sample(jax.random.key(0))
    theta = family.init(jax.random.key(1), instance)
    np.testing.assert_allclose(theta, PLAN, rtol=1e-6)
    torque = family.solution(theta, instance)
    np.testing.assert_allclose(torque, 3 * np.tanh(PLAN), rtol=1e-5)
    np.testing.assert_allclose(
        family.loss(theta, instance, jax.random.key(2)),
        cost_of(3 * np.tanh(PLAN), 0.4, -1.0),
        rtol=1e-5,
    )


def test_literal_cost():
    # Hanging still costs 4 on the way and 4 at the end.
    np.testing.assert_allclose(control.cost(jnp.zeros(5), jnp.array([jnp.pi, 0.0])), 8, rtol=1e-5)
    assert float(control.cost(jnp.zeros(5), jnp.zeros(2))) == 0.0


def test_many_at_once_are_as_one_after_the_other():
    states = np.array([[0.1, 2.0, -3.0], [0.0, 1.0, -0.5]])
    plans = PLAN[:, None] * np.array([[0.5, 1.0, 2.0]])
    costs = control.cost(jnp.asarray(plans), jnp.asarray(states))
    alone = [
        cost_of(3 * np.tanh(plan), *state) for plan, state in zip(plans.T, states.T, strict=True)
    ]
    np.testing.assert_allclose(costs, alone, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gradient_against_finite_differences():
    state = jnp.array([2.0, 0.5])
    gradient = jax.grad(control.cost)(jnp.asarray(PLAN), state)
    cost = jax.jit(control.cost)
    for i, step in enumerate(1e-5 * np.eye(len(PLAN))):
        up, down = (cost(jnp.asarray(PLAN + s), state) for s in (step, -step))
        np.testing.assert_allclose(gradient[i], (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("second_order", [0.0, 1.0])
def test_ddp_finds_what_scipy_finds(second_order):
    states = np.array([[0.3, -0.8, 1.2], [0.0, 1.0, -2.5]])
    start = jnp.zeros((12, 3))
    torque = jax.jit(functools.partial(control.ddp, num_iterations=60, second_order=second_order))(
        jnp.asarray(states), start
    )
    for found, state in zip(np.asarray(torque).T, states.T, strict=True):
        best = scipy.optimize.minimize(
            cost_of,
            np.zeros(12),
            args=tuple(state),
            bounds=[(-3, 3)] * 12,
            options={"ftol": 1e-14, "gtol": 1e-9},
        )
        np.testing.assert_allclose(cost_of(found, *state), best.fun, rtol=1e-7)
        np.testing.assert_allclose(found, best.x, atol=1e-3)
    assert np.max(np.abs(torque)) == 3.0  # a limit is met


def test_plans_of_the_bank_are_shifted(bank):
    assert bank.state.shape == (960, 2)
    assert bank.plan.shape == (960, 30)
    assert np.all(np.isfinite(bank.plan))
    assert np.max(np.abs(bank.state[:, 0])) <= np.float32(np.pi)
    assert np.all(bank.plan[:, -1] == 0)
    np.testing.assert_array_equal(control.shifted(jnp.array([1.0, 2.0, 3.0])), [2.0, 3.0, 0.0])


def test_the_loop_swings_up_and_balances(bank):
    angle = np.abs(np.asarray(bank.state[:, 0])).reshape(60, 16)
    assert np.mean(angle[0] < 0.4) < 0.5
    assert np.mean(angle[-1] < 0.4) > 0.7


def test_a_torque_at_its_limit_has_a_theta():
    theta = control.as_theta(jnp.array([-3.0, 0.0, 1.0, 3.0]))
    np.testing.assert_allclose(control.torques(theta), [-2.97, 0.0, 1.0, 2.97], atol=1e-5)


@pytest.mark.parametrize(
    ("state", "plan"), [((3, 2), (2, 5)), ((3, 1), (3, 5)), ((2,), (5,)), ((0, 2), (0, 5))]
)
def test_bad_bank(state, plan):
    with pytest.raises(ValueError, match="bank must have states"):
        control.pendulum(control.Control(jnp.zeros(state), jnp.zeros(plan)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_episodes": 0}, "num_episodes must be a whole number of at least 1"),
        ({"num_steps": 0.5}, "num_steps must be a whole number of at least 1"),
        ({"disturbance": 0.0}, "disturbance must be a finite number above 0"),
        ({"num_iterations": 0}, "num_iterations must be a whole number of at least 1"),
    ],
)
def test_bad_loop(kwargs, message):
    with pytest.raises(ValueError, match=message):
        control.closed_loop(jax.random.key(0), **kwargs)
