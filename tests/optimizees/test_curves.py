"""Bi-exponential decays against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizees import curves

B = np.asarray(curves.B_VALUES)
THETA = np.array([0.1, -0.6, 0.2, 1.9])


def signal_of(theta):
    s0, f = np.exp(theta[0]), 1 / (1 + np.exp(-theta[1]))
    slow = np.exp(theta[2])
    fast = slow * (1 + np.exp(theta[3]))
    return s0 * (f * np.exp(-B * fast) + (1 - f) * np.exp(-B * slow))


def test_signal_and_loss():
    family = curves.biexponential(noise=0.02)
    instance = family.sample(jax.random.key(0))
    assert instance.signal.shape == B.shape
    theta = jnp.asarray(THETA, jnp.float32)
    np.testing.assert_allclose(
        curves.signal(family.solution(theta, instance)), signal_of(THETA), rtol=1e-5
    )
    error = (signal_of(THETA) - np.asarray(instance.signal, np.float64)) / 0.02
    np.testing.assert_allclose(curves.residuals(theta, instance, 0.02), error, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        family.loss(theta, instance, jax.random.key(1)), np.sum(error**2) / 2, rtol=1e-5
    )


def test_literal_solution():
    decay = curves.solution(jnp.array([0.0, 0.0, 0.0, jnp.log(9.0)]))
    np.testing.assert_allclose(decay, [1.0, 0.5, 10.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(curves.signal(decay)[0], 1.0)
    np.testing.assert_allclose(curves.signal(decay)[-1], (np.exp(-10) + np.exp(-1)) / 2, rtol=1e-5)


def test_many_at_once_are_as_one_after_the_other():
    thetas = jnp.asarray(THETA[:, None] + 0.1 * np.arange(3)[None], jnp.float32)
    together = curves.signal(curves.solution(thetas))
    alone = jnp.stack([curves.signal(curves.solution(theta)) for theta in thetas.T], 1)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gradient_against_finite_differences():
    family = curves.biexponential()
    signal = signal_of(THETA) + 0.01 * np.sin(np.arange(len(B)))
    instance = curves.Measured(jnp.asarray(signal))
    key = jax.random.key(0)
    theta = THETA + np.array([0.05, -0.1, 0.1, 0.2])
    gradient = jax.grad(family.loss)(jnp.asarray(theta), instance, key)
    for i, step in enumerate(1e-5 * np.eye(4)):
        up, down = (family.loss(jnp.asarray(theta + s), instance, key) for s in (step, -step))
        np.testing.assert_allclose(gradient[i], (up - down) / 2e-5, rtol=1e-5)


def test_distribution():
    family = curves.biexponential(noise=0.01)
    keys = jax.random.split(jax.random.key(0), 2000)
    instances = jax.vmap(family.sample)(keys)
    # S0 is uniform between 0.8 and 1.2: a standard deviation of 0.115.
    np.testing.assert_allclose(np.mean(instances.signal[:, 0]), 1.0, atol=0.01)
    np.testing.assert_allclose(np.std(instances.signal[:, 0]), 0.116, atol=0.01)
    thetas = jax.vmap(family.init)(keys, instances)
    assert np.all(thetas == thetas[:1])
    decay = family.solution(thetas[0], None)
    np.testing.assert_allclose(decay, [1.0, 0.3, 10.0, 1.0], rtol=1e-3)


def test_noise_is_what_it_says():
    keys = jax.random.split(jax.random.key(0), 2000)
    quiet, loud = (
        np.asarray(jax.vmap(curves.biexponential(noise).sample)(keys).signal)
        for noise in (0.01, 0.03)
    )
    np.testing.assert_allclose(np.std(loud - quiet), 0.02, rtol=0.02)


@pytest.mark.parametrize("noise", [0.0, -1.0, np.nan])
def test_bad_noise(noise):
    with pytest.raises(ValueError, match="noise must be a finite number above 0"):
        curves.biexponential(noise)
