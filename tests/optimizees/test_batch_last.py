"""Convolutions with the batch last, and the normalized network that is made of them, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import data, optimizees
from learned_opt.optimizees import batch_last

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 5, 4, 2)).astype(np.float32)
W = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)


def oracle(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


def objective(convolve):
    return lambda x, w: jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, w)), w[:, :, :2])))


def curvature(convolve):
    """The gradient of a function of the gradients."""

    def of_gradients(x, w):
        by_x, by_w = jax.grad(objective(convolve), (0, 1))(x, w)
        return jnp.sum(jnp.sin(by_x)) + jnp.sum(jnp.sin(by_w))

    return jax.grad(of_gradients, (0, 1))


def test_values_and_derivatives_are_those_of_jax():
    def everything(convolve):
        @jax.jit
        def run(x, w):
            value = convolve(x, w)
            return value, jax.grad(objective(convolve), (0, 1))(x, w), curvature(convolve)(x, w)

        return run(X, W)

    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4),
        everything(batch_last.convolve),
        everything(oracle),
    )


def test_pooling_takes_the_largest_of_four():
    pooled = batch_last.max_pool(X)
    want = X[:, :4].reshape(3, 2, 2, 2, 2, 2).max((2, 4))
    np.testing.assert_array_equal(pooled, want)
    gradient = jax.grad(lambda x: jnp.sum(batch_last.max_pool(x)))(X)
    np.testing.assert_array_equal(np.sum(gradient), pooled.size)


def _normalized(x):
    """[batch, ...] with features last, by the statistics of the batch."""
    others = tuple(range(x.ndim - 1))
    centred = x - x.mean(others)
    return centred / np.sqrt((centred**2).mean(others) + 1e-5)


@pytest.fixture(scope="module")
def drawn():
    """`(family, module, theta, images, logits)`, all of one small program."""
    train, test = data.load("digits")
    family, module = optimizees.network_family(
        "normalized_cnn", train, channels=(4, 3), hidden_sizes=(6,), init_scale=None, batch_size=16
    )
    images = test.images[:8]

    @jax.jit
    def run(images):
        theta = family.init(jax.random.key(0), ())
        whole = module.apply({"params": theta}, images)
        return theta, whole, module.apply({"params": theta}, images[:4])

    theta, *logits = jax.tree.map(np.asarray, run(images))
    return family, theta, images, logits


def test_the_network_is_that_of_its_layers(drawn):
    """Its convolutions by the loop over a filter's places, all else in NumPy."""
    _, theta, images, logits = drawn
    x = images - np.float32(0.5)
    for name in ("conv_0", "conv_1"):
        kernel = theta[name]["kernel"]
        height, width = x.shape[1:3]
        bordered = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = sum(
            bordered[:, i : i + height, j : j + width] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        x = x.reshape(8, height // 2, 2, width // 2, 2, -1).max((2, 4))
        x = np.maximum(_normalized(x), 0)
    x = x.transpose(0, 3, 1, 2).reshape(8, -1)  # channels before pixels
    x = np.maximum(_normalized(x @ theta["dense_0"]["kernel"]), 0)
    want = x @ theta["logits"]["kernel"] + theta["logits"]["bias"]
    np.testing.assert_allclose(logits[0], want, rtol=1e-4, atol=1e-4)


def test_a_test_image_is_normalized_by_its_batch(drawn):
    """There are no running averages: theta is all that the family carries."""
    family, _, _, (whole, of_four) = drawn
    assert family.statistics is None
    assert np.abs(whole[:4] - of_four).max() > 1e-3


def test_sizes_that_are_not_possible():
    with pytest.raises(ValueError, match="channels must be a whole number of at least 1, got 0"):
        optimizees.normalized_cnn(channels=(8, 0))
    with pytest.raises(ValueError, match="at most 3 poolings for images of 8 x 8"):
        optimizees.normalized_cnn(channels=(1, 1, 1, 1))
