"""The users' classifiers against NumPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizees import users


def _loss_in_numpy(theta, x, y, l2):
    margins = y * (x @ theta[:-1] + theta[-1])
    return np.mean(np.log1p(np.exp(-margins))) + l2 / 2 * np.sum(theta**2)


def test_loss_and_gradient():
    family = users.personal_classifiers(num_images=10, l2=0.3)
    instance = family.sample(jax.random.key(0))
    x, y = (np.asarray(leaf, np.float64) for leaf in instance)
    theta = 0.1 * np.random.default_rng(0).normal(size=65)
    loss, gradient = jax.value_and_grad(family.loss)(
        jnp.asarray(theta, jnp.float32), instance, jax.random.key(1)
    )
    differences = [
        (_loss_in_numpy(theta + e, x, y, 0.3) - _loss_in_numpy(theta - e, x, y, 0.3)) / 2e-5
        for e in 1e-5 * np.eye(65)
    ]
    np.testing.assert_allclose(loss, _loss_in_numpy(theta, x, y, 0.3), rtol=1e-5)
    np.testing.assert_allclose(gradient, differences, atol=1e-5)


def test_default_penalty_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    family = users.personal_classifiers()
    instance = family.sample(jax.random.key(2))
    x, y = (np.asarray(leaf, np.float64) for leaf in instance)
    model = linear_model.LogisticRegression(fit_intercept=False, tol=1e-8, max_iter=1000)
    theta = model.fit(np.concatenate([x, np.ones((40, 1))], axis=1), y).coef_[0]
    gradient = jax.grad(family.loss)(jnp.asarray(theta, jnp.float32), instance, jax.random.key(1))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


def test_users():
    family = users.personal_classifiers()
    drawn = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), 500))
    assert drawn.x.shape == (500, 40, 64)
    assert drawn.y.shape == (500, 40)
    assert set(np.unique(drawn.y)) == {-1.0, 1.0}
    # Users blur the images, so that they vary a little less than they did.
    assert 0.5 < np.std(drawn.x) < 1.5
    np.testing.assert_allclose(np.mean(drawn.x), 0.0, atol=0.2)
    theta = family.init(jax.random.key(0), drawn)
    np.testing.assert_array_equal(theta, np.zeros(65))


def test_users_differ_in_what_they_like():
    """Without individuality, the same images get the same labels, but for the wrong ones."""
    keys = jax.random.split(jax.random.key(0), 200)
    likes = {}
    for individuality in (0.0, 1.0):
        family = users.personal_classifiers(individuality=individuality)
        y = jax.jit(jax.vmap(family.sample))(keys).y
        likes[individuality] = np.std(np.mean(y, axis=1))
    assert likes[1.0] > 1.5 * likes[0.0]


def test_writing_without_deviation_is_the_image(monkeypatch):
    for name in ("STRETCH", "SLANT", "SHIFT", "CONTRAST"):
        monkeypatch.setattr(users, name, 0.0)
    np.testing.assert_allclose(users._writing(jax.random.key(0)), np.eye(64), atol=1e-6)


def test_a_shift_moves_the_image():
    """A place half a row further on is the mean of two rows."""
    nearness = users._nearness(jnp.array([0.5, 3.0, -2.0]))
    expected = np.zeros((3, 8))
    expected[0, :2] = 0.5
    expected[1, 3] = 1.0
    np.testing.assert_allclose(nearness, expected)


def test_splits_have_no_image_in_common():
    train, test = (users._images(split).pixels for split in ("train", "test"))
    assert len(train) == 1437
    assert len(test) == 360
    assert np.abs(np.asarray(train[:360]) - np.asarray(test)).max() > 0.5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_images": 0}, "num_images must be a whole number of at least 1, got 0"),
        ({"num_images": 400, "split": "test"}, "num_images must be at most 360, got 400"),
        ({"l2": 0.0}, "l2 must be a finite number above 0, got 0.0"),
        ({"individuality": -1.0}, "individuality must be 0 or a finite number above it, got -1.0"),
        ({"split": "valid"}, "unknown split 'valid'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        users.personal_classifiers(**kwargs)
