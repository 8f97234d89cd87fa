"""The random quadratics against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt.optimizees import base


def test_loss_and_gradient():
    problem = learned_opt.optimizees.quadratic(dim=4)
    instance = problem.sample(jax.random.key(0))
    w, y = (np.asarray(x, np.float64) for x in instance)
    theta = np.array([0.5, -1.0, 2.0, 0.0])
    loss, gradient = jax.value_and_grad(problem.loss)(
        jnp.asarray(theta, jnp.float32), instance, jax.random.key(1)
    )
    np.testing.assert_allclose(loss, np.sum((w @ theta - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(gradient, 2 * w.T @ (w @ theta - y), rtol=1e-5, atol=1e-5)


def test_literal_value():
    problem = learned_opt.optimizees.quadratic(dim=2)
    instance = problem.sample(jax.random.key(0))._replace(
        w=jnp.array([[1.0, 2.0], [3.0, 4.0]]), y=jnp.array([1.0, 1])
    )
    assert (
        float(problem.loss(jnp.array([1.0, -1.0]), instance, jax.random.key(1))) == 8.0
    )  # (-1 - 1)^2 + (-1 - 1)^2


def test_distributions():
    problem = learned_opt.optimizees.quadratic(dim=10)
    instances = jax.vmap(problem.sample)(jax.random.split(jax.random.key(0), 500))
    thetas = jax.vmap(lambda k: problem.init(k, None))(jax.random.split(jax.random.key(1), 500))
    assert instances.w.shape == (500, 10, 10)
    assert instances.y.shape == thetas.shape == (500, 10)
    for x in (*instances, thetas):
        np.testing.assert_allclose(
            np.mean(x), 0.0, atol=0.05
        )  # standard error of the means of 5,000: 0.014
        np.testing.assert_allclose(np.std(x), 1.0, rtol=0.04)
    correlation = np.mean(np.asarray(instances.w[:, 0]) * np.asarray(instances.y))
    np.testing.assert_allclose(correlation, 0.0, atol=0.05)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_scale_of_theta_0(scale):
    theta = learned_opt.optimizees.quadratic(dim=2000, init_scale=scale).init(
        jax.random.key(0), None
    )
    np.testing.assert_allclose(np.std(theta), scale, rtol=0.06)


def test_equal_problems_do_not_compile_twice():
    traces = []

    @jax.jit
    def start(problem, key):
        traces.append(1)
        begun = base.begin(base.as_family(problem), key)
        return problem.loss(begun.theta_0, begun.instance, key)

    for seed in range(3):
        start(learned_opt.optimizees.quadratic(), jax.random.key(seed))
    assert len(traces) == 1
    assert start._cache_size() == 1
    start(learned_opt.optimizees.quadratic(dim=5), jax.random.key(0))
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1, got 0"),
        ({"dim": 2.5}, "dim must be a whole number of at least 1, got 2.5"),
        ({"init_scale": -1.0}, "init_scale must be 0 or a finite number above it, got -1.0"),
        ({"init_scale": np.nan}, "init_scale must be 0 or a finite number above it, got nan"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.optimizees.quadratic(**kwargs)
