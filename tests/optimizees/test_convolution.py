"""Convolutions and their derivatives against loops, and against what JAX derives by itself."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizees import convolution

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
W = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)


def oracle(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def objective(convolve):
    """A function of images and filters with derivatives of all orders that matter."""
    return lambda x, w: jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, w)), w[:, :, :2])))


def test_every_value_is_a_sum_of_products():
    bordered = np.pad(X.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = np.array(
        [
            [
                [np.einsum("ijc,ijcf->f", image[i : i + 3, j : j + 3], W) for j in range(4)]
                for i in range(5)
            ]
            for image in bordered
        ]
    )
    np.testing.assert_allclose(convolution.convolve(X, W), want, rtol=1e-5, atol=1e-5)


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def gradients(convolve):
    return jax.grad(objective(convolve), (0, 1))


def curvatures(convolve):
    """The gradient of a function of the gradients, as a step of an optimizer needs it."""

    def of_gradients(x, w):
        by_x, by_w = gradients(convolve)(x, w)
        return jnp.sum(jnp.sin(by_x)) + jnp.sum(jnp.sin(by_w))

    return jax.grad(of_gradients, (0, 1))


@pytest.mark.parametrize("derivative", [gradients, curvatures])
def test_derivatives(derivative):
    assert_same(jax.jit(derivative(convolution.convolve))(X, W), jax.jit(derivative(oracle))(X, W))


@pytest.mark.parametrize("derivative", [gradients, curvatures])
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=str)
def test_several_networks_at_once(derivative, axes):
    x, w = (
        a if axis is None else np.stack([a, a[::-1], -a])
        for a, axis in zip((X, W), axes, strict=True)
    )
    got, want = (
        jax.jit(jax.vmap(derivative(f), axes))(x, w) for f in (convolution.convolve, oracle)
    )
    assert_same(got, want)


def test_several_rates_of_several_networks():
    x, w = (
        np.stack([X, -X]),
        np.stack([np.stack([W, 2 * W]), np.stack([-W, 3 * W]), np.stack([W, W])]),
    )
    got, want = (
        jax.jit(jax.vmap(jax.vmap(gradients(f)), (None, 0)))(x, w)
        for f in (convolution.convolve, oracle)
    )
    assert_same(got, want)


def test_the_derivative_of_a_mapped_gradient():
    def through(convolve):
        one = gradients(convolve)
        return jax.jit(
            jax.grad(lambda x, w: sum(jnp.sum(jnp.sin(g)) for g in jax.vmap(one)(x, w)), (0, 1))
        )

    x, w = np.stack([X, -X]), np.stack([W, 2 * W])
    assert_same(through(convolution.convolve)(x, w), through(oracle)(x, w))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's programs for CPUs")
@pytest.mark.parametrize("lift", [lambda f: f, jax.vmap], ids=["one", "several"])
def test_all_convolutions_in_a_loop_are_of_the_kind_that_is_fast(lift):
    def descend(x, w):
        def step(w, _):
            return w - 0.1 * lift(gradients(convolution.convolve))(x, w)[1], None

        return jax.lax.scan(step, w, length=3)[0]

    x, w = (X, W) if lift is not jax.vmap else (np.stack([X, X]), np.stack([W, W]))
    text = jax.jit(descend).lower(x, w).compile().as_text()
    labels = re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text)
    assert len(labels) >= 4
    assert set(labels) == {"b01f_01io->b01f"}
    assert "feature_group_count" not in text
    assert "batch_group_count" not in text


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 7, 1), (1, 2, 3, 2)])
def test_max_pool(shape):
    x = rng.normal(size=shape).astype(np.float32)
    want = np.array(
        [
            [
                [image[i : i + 2, j : j + 2].max((0, 1)) for j in range(0, shape[2] - 1, 2)]
                for i in range(0, shape[1] - 1, 2)
            ]
            for image in x
        ]
    )
    np.testing.assert_array_equal(convolution.max_pool(jnp.asarray(x)), want)
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(convolution.max_pool(x) ** 2))(jnp.asarray(x)))
    np.testing.assert_allclose(
        np.sort(gradient[gradient != 0]), np.sort(2 * want.ravel()), rtol=1e-6
    )
    np.testing.assert_allclose(x[gradient != 0], gradient[gradient != 0] / 2, rtol=1e-6)
