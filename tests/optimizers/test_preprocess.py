"""Appendix A of Andrychowicz et al. 2016 against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizers import preprocess


def oracle(g, p):
    """Appendix A, case by case, in float64."""
    g = np.asarray(g, np.float64)
    large = np.abs(g) >= np.exp(-p)
    log = np.log(np.where(large, np.abs(g), 1.0)) / p
    return np.stack([np.where(large, log, -1.0), np.where(large, np.sign(g), np.exp(p) * g)])


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_against_the_formula(p):
    magnitudes = np.logspace(-12, 4, 65)
    g = np.concatenate([-magnitudes, [0.0], magnitudes]).astype(np.float32)
    np.testing.assert_allclose(
        preprocess.log_and_sign(jnp.asarray(g), p), oracle(g, p), rtol=1e-6, atol=1e-6
    )


def test_literal_values():
    g = jnp.array([1.0, -np.e, 0.0, np.exp(-10.0) / 2])
    expected = [[0.0, 0.1, -1.0, -1.0], [1.0, -1.0, 0.0, 0.5]]
    np.testing.assert_allclose(preprocess.log_and_sign(g, 10.0), expected, atol=1e-6)


def test_shape_has_the_features_first():
    assert preprocess.log_and_sign(jnp.ones((3, 4)), 10.0).shape == (2, 3, 4)
    assert preprocess.log_and_sign(jnp.float32(1), 10.0).shape == (2,)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_continuous_at_the_border(x64, sign):
    border = sign * np.exp(-5.0)
    inside, outside = (
        preprocess.log_and_sign(jnp.float64(border * s), 5.0) for s in (1 - 1e-9, 1 + 1e-9)
    )
    np.testing.assert_allclose(inside, outside, atol=1e-8)
    np.testing.assert_allclose(inside, [-1.0, sign], atol=1e-8)


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_derivatives_are_finite_everywhere(p):
    tiny = np.finfo(np.float32).tiny
    border = np.exp(-p)
    g = np.array(
        [0.0, -0.0, tiny, -tiny, border, -border, 0.9 * border, 1.1 * border, 1.0, 1e30, -1e30],
        np.float32,
    )
    jacobian = jax.vmap(jax.jacrev(lambda x: preprocess.log_and_sign(x, p)))(jnp.asarray(g))
    assert np.all(np.isfinite(jacobian))
    np.testing.assert_allclose(jacobian[0], [0.0, np.exp(p)], rtol=1e-6)
    np.testing.assert_allclose(jacobian[8], [1 / p, 0.0], rtol=1e-6)
