"""Bounds, projections and penalties: against SciPy and textbook algorithms in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import learned_opt
from learned_opt import optimizees

KEY = jax.random.key(0)
ROWS, COLUMNS, PENALTY = 12, 20, 0.1


def shrunk(x, t):
    return np.sign(x) * np.maximum(np.abs(x) - t, 0)


@pytest.fixture(scope="module")
def lasso():
    d = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32) / ROWS**0.5
    step = 1 / np.linalg.norm(d, 2) ** 2
    family = optimizees.proximal(
        lambda key: jax.random.normal(key, (ROWS,)),
        lambda x, y: jnp.sum((d @ x - y) ** 2) / 2,
        lambda x, t, y: jnp.sign(x) * jnp.maximum(jnp.abs(x) - PENALTY * t, 0.0),
        lambda x, y: PENALTY * jnp.sum(jnp.abs(x)),
        step=step,
        init=lambda key, y: jnp.zeros(COLUMNS),
    )
    return d, step, family


def objective(d, x, y):
    return np.sum((d @ x - y) ** 2) / 2 + PENALTY * np.sum(np.abs(x))


def test_gradient_descent_is_ista(lasso):
    d, step, family = lasso
    y = np.asarray(family.sample(KEY))
    solve = learned_opt.solver(optax.sgd(step), None, family, num_steps=9, keep_best=False)
    found = solve(y[None])
    x = np.zeros(COLUMNS)
    for _ in range(10):  # the answer is the point after one more proximal step
        x = shrunk(x - step * d.T @ (d @ x - y), PENALTY * step)
    np.testing.assert_allclose(found.theta[0], x, atol=2e-6)
    np.testing.assert_allclose(found.value[0], objective(d, x, y), rtol=1e-5)


def test_nesterovs_momentum_is_fista(lasso):
    """With the momentum of a constant; the gradient is seen at the point that moves ahead."""
    d, step, family = lasso
    y = np.asarray(family.sample(KEY))
    beta = 0.6
    theta, last = jnp.zeros(COLUMNS), np.zeros(COLUMNS)
    z = np.zeros(COLUMNS)
    for _ in range(8):
        mapping = jax.grad(family.loss)(theta, y, KEY)
        point = theta - step * mapping
        x = shrunk(z - step * d.T @ (d @ z - y), PENALTY * step)
        np.testing.assert_allclose(point, x, atol=2e-6)
        z, last = x + beta * (x - last), x
        theta = jnp.asarray(z, jnp.float32)


def test_the_gradient_mapping_vanishes_at_the_minimizer(lasso):
    d, step, family = lasso
    y = np.asarray(family.sample(KEY))
    x = np.zeros(COLUMNS)
    for _ in range(20_000):
        x = shrunk(x - step * d.T @ (d @ x - y), PENALTY * step)
    mapping = jax.grad(family.loss)(jnp.asarray(x, jnp.float32), y, KEY)
    assert np.max(np.abs(mapping)) < 1e-5
    np.testing.assert_allclose(family.solution(jnp.asarray(x, jnp.float32), y), x, atol=1e-5)


def test_a_projection_onto_a_box():
    """Against SciPy's bounded least squares."""
    rng = np.random.default_rng(1)
    a, target = rng.normal(size=(8, 4)), rng.normal(size=8)
    step = 1 / np.linalg.norm(a, 2) ** 2
    family = optimizees.proximal(
        lambda key: jax.random.normal(key, (8,)),
        lambda x, y: jnp.sum((jnp.asarray(a, jnp.float32) @ x - y) ** 2) / 2,
        lambda x, t, y: jnp.clip(x, -0.2, 0.1),
        step=step,
        init=lambda key, y: jnp.zeros(4),
    )
    solve = learned_opt.solver(optax.sgd(step), None, family, num_steps=2_000, keep_best=False)
    expected = scipy.optimize.lsq_linear(a, target, (-0.2, 0.1)).x
    np.testing.assert_allclose(solve(target[None]).theta[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("lower", "upper"), [(-0.3, 0.4), (0.1, None), (None, 0.1), (np.array([0.0, -1.0]), 2.0)]
)
def test_bounds_hold_and_the_loss_is_that_of_the_parameters(lower, upper):
    family = optimizees.quadratic(2)
    box = optimizees.bounded(family, lower, upper)
    instance = family.sample(KEY)
    z = jax.random.normal(KEY, (50, 2)) * 5
    theta = np.asarray(jax.vmap(lambda z: box.solution(z, instance))(z))
    assert lower is None or np.all(theta >= lower)
    assert upper is None or np.all(theta <= upper)
    np.testing.assert_allclose(
        box.loss(z[0], instance, KEY), family.loss(theta[0], instance, KEY), rtol=1e-6
    )


def test_a_start_within_bounds_is_kept_and_one_beyond_is_moved_within():
    family = optimizees.quadratic(3)._replace(
        init=lambda key, instance: jnp.array([0.25, 7.0, -3.0])
    )
    box = optimizees.bounded(family, 0.0, 1.0)
    instance = family.sample(KEY)
    begun = box.solution(box.init(KEY, instance), instance)
    np.testing.assert_allclose(begun, [0.25, 0.999, 0.001], rtol=1e-4)
    half = optimizees.bounded(family, 0.0)
    np.testing.assert_allclose(
        half.solution(half.init(KEY, instance), instance), [0.25, 7.0, 0.001], rtol=1e-4
    )


def test_the_bounded_minimum_is_scipys():
    family = optimizees.quadratic(4, init_scale=0.1)
    instance = family.sample(KEY)
    box = optimizees.bounded(family, -0.2, 0.3)
    stacked = jax.tree.map(lambda x: x[None], instance)
    found = learned_opt.solver(optax.adam(0.1), None, box, num_steps=800)(stacked)
    w, y = (np.asarray(x, np.float64) for x in instance)
    expected = scipy.optimize.lsq_linear(w, y, (-0.2, 0.3)).x
    np.testing.assert_allclose(found.theta[0], expected, atol=5e-3)


def test_wrappers_keep_the_solution():
    box = optimizees.bounded(optimizees.quadratic(2), 0.0, 1.0)
    scaled = optimizees.random_scaling(box)
    instance = scaled.sample(KEY)
    theta = scaled.init(KEY, instance)
    inner = box.solution(theta * instance.c, instance.instance)
    np.testing.assert_allclose(scaled.solution(theta, instance), inner)
    both = optimizees.with_convex(box)
    instance = both.sample(KEY)
    theta = both.init(KEY, instance)
    np.testing.assert_allclose(both.solution(theta, instance), box.solution(theta.f, instance.f))


def test_each_parameter_has_its_own_bounds():
    family = learned_opt.Optimizee(
        lambda key: jnp.zeros(()),
        lambda key, _: {"rate": jnp.asarray(1), "shape": jnp.zeros(3)},
        lambda theta, _, key: theta["rate"] + jnp.sum(theta["shape"]),
    )
    box = optimizees.bounded(
        family, {"rate": 0.5, "shape": -1.0}, {"rate": 1.5, "shape": np.array([1.0, 2.0, 3.0])}
    )
    z = box.init(KEY, jnp.zeros(()))
    begun = box.solution(z, jnp.zeros(()))
    np.testing.assert_allclose(begun["rate"], 1.0)  # a whole number does not cut off the bounds
    np.testing.assert_allclose(begun["shape"], np.zeros(3), atol=1e-6)
    far = box.solution(jax.tree.map(lambda x: x + 100, z), jnp.zeros(()))
    np.testing.assert_allclose(far["shape"], [1.0, 2.0, 3.0], rtol=1e-6)


def test_messages():
    family = optimizees.quadratic(2)
    with pytest.raises(ValueError, match="upper must be finite, got array"):
        optimizees.bounded(family, 0.0, np.inf)
    with pytest.raises(ValueError, match=r"of the shape \[2\] of its parameter, got \[3\]"):
        optimizees.bounded(family, np.zeros(3)).init(KEY, family.sample(KEY))
    with pytest.raises(ValueError, match="bounded needs lower or upper, or both"):
        optimizees.bounded(family)
    with pytest.raises(ValueError, match=r"lower must be below upper, got 2.0 and 1.0"):
        optimizees.bounded(family, 2.0, 1.0)
    with pytest.raises(ValueError, match="step must be a finite number above 0, got 0"):
        optimizees.proximal(family.sample, jnp.sum, lambda x, t, y: x, step=0, init=family.init)
