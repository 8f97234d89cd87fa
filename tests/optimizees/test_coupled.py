"""Rotated quadratics and Rosenbrock's function against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from learned_opt import optimizees
from learned_opt.optimizees import base


def test_rotated_quadratic_has_its_spectrum_and_its_minimum(x64):
    problem = optimizees.rotated_quadratic(dim=5, condition=100.0)
    instances = jax.vmap(problem.sample)(jax.random.split(jax.random.key(0), 400))
    eigenvalues = np.linalg.eigvalsh(instances.hessian)
    np.testing.assert_allclose(
        eigenvalues, np.broadcast_to(np.geomspace(0.01, 1, 5), (400, 5)), rtol=1e-9
    )
    instance = jax.tree.map(lambda x: x[0], instances)
    theta = np.linspace(-1, 1, 5)
    distance = theta - np.asarray(instance.minimum)
    loss, gradient = jax.value_and_grad(problem.loss)(
        jnp.asarray(theta), instance, jax.random.key(1)
    )
    np.testing.assert_allclose(
        loss, distance @ np.asarray(instance.hessian) @ distance / 2, rtol=1e-12
    )
    np.testing.assert_allclose(gradient, instance.hessian @ distance, rtol=1e-10)
    assert problem.loss(instance.minimum, instance, jax.random.key(1)) == 0


def test_rotations_have_no_preferred_direction():
    problem = optimizees.rotated_quadratic(dim=3, condition=1e4)
    hessians = jax.vmap(problem.sample)(jax.random.split(jax.random.key(0), 2_000)).hessian
    # The mean over all rotations is a multiple of the identity. An entry's standard error is 0.01.
    np.testing.assert_allclose(
        np.mean(hessians, axis=0), np.eye(3) * (1 + 0.01 + 1e-4) / 3, atol=0.04
    )


def test_rosenbrock_is_scipy_s(x64):
    problem = optimizees.rosenbrock(dim=6)
    for seed in range(3):
        begun = base.begin(base.as_family(problem), jax.random.key(seed))
        theta = jnp.asarray(begun.theta_0, jnp.float64)
        loss, gradient = jax.value_and_grad(problem.loss)(theta, begun.instance, begun.key)
        np.testing.assert_allclose(loss, scipy.optimize.rosen(np.asarray(theta)), rtol=1e-12)
        np.testing.assert_allclose(
            gradient, scipy.optimize.rosen_der(np.asarray(theta)), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("build", [optimizees.rotated_quadratic, optimizees.rosenbrock])
def test_scale_of_theta_0(build):
    theta = build(dim=2_000, init_scale=0.3).init(jax.random.key(0), None)
    np.testing.assert_allclose(np.std(theta), 0.3, rtol=0.06)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optimizees.rotated_quadratic(dim=1),
            "dim must be a whole number of at least 2, got 1",
        ),
        (
            lambda: optimizees.rotated_quadratic(condition=0.5),
            "condition must be at least 1, got 0.5",
        ),
        (lambda: optimizees.rosenbrock(dim=0), "dim must be a whole number of at least 2, got 0"),
        (
            lambda: optimizees.rosenbrock(init_scale=-1),
            "init_scale must be a finite number above 0, got -1",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
