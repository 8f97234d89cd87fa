"""The LASSO family against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizees import sparse


def test_loss_is_that_of_the_solution():
    family = sparse.lasso(num_rows=6, num_columns=9, penalty=0.2, seed=3)
    columns = sparse.dictionary(6, 9, seed=3)
    y = family.sample(jax.random.key(0))
    theta = np.random.default_rng(0).normal(size=9)
    step = 1 / np.linalg.eigvalsh(columns.T @ columns)[-1]
    moved = theta - step * columns.T @ (columns @ theta - np.asarray(y))
    point = np.sign(moved) * np.maximum(np.abs(moved) - step * 0.2, 0.0)
    loss = np.sum((columns @ point - np.asarray(y)) ** 2) / 2 + 0.2 * np.sum(np.abs(point))
    theta = jnp.asarray(theta, jnp.float32)
    np.testing.assert_allclose(family.solution(theta, y), point, atol=1e-5)
    np.testing.assert_allclose(family.loss(theta, y, jax.random.key(1)), loss, rtol=1e-5)


def test_smooth_part_against_finite_differences():
    """The gradient mapping is the gradient where no number is thresholded."""
    columns = sparse.dictionary(4, 5)
    y = np.array([1.0, -1.0, 0.5, 2.0])
    theta = np.array([0.3, -2.0, 1.0, 0.0, 0.7])

    def smooth(x):
        return float(np.sum((columns @ x - y) ** 2) / 2)

    numeric = [(smooth(theta + 1e-5 * e) - smooth(theta - 1e-5 * e)) / 2e-5 for e in np.eye(5)]
    arrays = (jnp.asarray(x, jnp.float32) for x in (columns, theta, y))
    gradient = jax.grad(sparse._half_squared_distance, argnums=1)(*arrays)
    np.testing.assert_allclose(gradient, numeric, atol=1e-4)


def test_soft_threshold():
    x = jnp.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    np.testing.assert_allclose(sparse.soft_threshold(x, 0.75), [-1.25, 0.0, 0.0, 0.0, 1.25])


def test_dictionary():
    columns = sparse.dictionary(30, 50, seed=1)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(columns, sparse.dictionary(30, 50, seed=1))
    assert np.abs(columns - sparse.dictionary(30, 50, seed=2)).max() > 0.1
    eigenvalue = np.linalg.eigvalsh(columns.T @ columns)[-1]
    np.testing.assert_allclose(sparse.largest_eigenvalue(columns), eigenvalue, rtol=1e-9)


def test_signals():
    """Their variance is that of 10 % of 40 codes in 20 rows, and of the noise."""
    family = sparse.lasso(num_rows=20, num_columns=40, noise=0.5)
    signals = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 2000))
    assert signals.shape == (2000, 20)
    np.testing.assert_allclose(np.var(signals), 0.2 * 1.25, rtol=0.1)
    theta = family.init(jax.random.key(0), signals[0])
    np.testing.assert_array_equal(theta, np.zeros(40))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_rows": 0}, "num_rows must be a whole number of at least 1, got 0"),
        ({"num_columns": 1.5}, "num_columns must be a whole number of at least 1, got 1.5"),
        ({"penalty": 0.0}, "penalty must be a finite number above 0, got 0.0"),
        ({"sparsity": 2.0}, "sparsity must be at most 1, got 2.0"),
        ({"noise": -1.0}, "noise must be 0 or a finite number above it, got -1.0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sparse.lasso(**kwargs)
