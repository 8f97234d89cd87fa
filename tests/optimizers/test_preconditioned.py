"""Learned matrices: against the formula in NumPy, Newton's method, and where optax goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizees
from learned_opt.estimators import Autodiff

KEY = jax.random.key(0)


def random_weights(opt, key=KEY):
    leaves, treedef = jax.tree.flatten(opt.init(key))
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, x.shape) / 3 for k, x in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize("kind", ["dense", "diagonal"])
@pytest.mark.parametrize("num_matrices", [1, 3])
def test_updates_are_the_formula(kind, num_matrices):
    opt = learned_opt.preconditioned(
        6, 3, kind=kind, num_matrices=num_matrices, hidden_size=5, rate=0.5
    )
    phi = random_weights(opt)
    tx = opt.transform(phi)
    theta = jnp.reshape(jnp.linspace(-1, 1, 6), (2, 3))
    state = tx.init(theta)
    p = {name: np.asarray(x) for name, x in phi.items()}
    last = np.zeros(6)
    for t in range(5):
        g = jax.random.normal(jax.random.fold_in(KEY, t), (2, 3))
        u, state = tx.update(g, state, theta)
        i = min(t, 2)  # the weights of the last step go on
        c = p["shares"][i]
        if num_matrices > 1:
            c = c + p["v"] @ np.tanh(p["w"] @ np.asarray(theta).ravel() + p["b"])
        full = [np.diag(m) if kind == "diagonal" else m for m in p["matrices"]]
        last = -0.5 * sum(c * m for c, m in zip(c, full, strict=True)) @ np.asarray(g).ravel() + (
            p["momentum"][i] * last
        )
        np.testing.assert_allclose(np.asarray(u).ravel(), last, rtol=2e-5, atol=1e-6)
        theta = theta + u


@pytest.mark.parametrize("num_matrices", [1, 4])
def test_an_untrained_one_is_gradient_descent(num_matrices):
    opt = learned_opt.preconditioned(10, num_matrices=num_matrices, rate=0.01)
    family = optimizees.quadratic()
    ours = learned_opt.evaluate((opt, opt.init(KEY)), family, KEY, 10, 3)
    theirs = learned_opt.evaluate(optax.sgd(0.01), family, KEY, 10, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_mean_curvature_is_newtons_method_where_all_problems_share_it():
    """Rotated quadratics of one Hessian: one step ends at the minimum."""
    shared = optimizees.rotated_quadratic(4, condition=100.0).sample(KEY)
    family = optimizees.rotated_quadratic(4, condition=100.0)._replace(
        sample=lambda key: shared._replace(minimum=jax.random.normal(key, (4,)))
    )
    opt = learned_opt.preconditioned(4, rate=0.1)
    phi = learned_opt.with_mean_curvature(opt, family, KEY, 8)
    losses = learned_opt.evaluate((opt, phi), family, KEY, 1, 5)
    assert np.all(losses[:, 1] < 1e-7)


def test_the_mean_is_over_problems():
    family = optimizees.quadratic(3)
    opt = learned_opt.preconditioned(3)
    phi = learned_opt.with_mean_curvature(opt, family, KEY, 6)
    keys = jax.random.split(jax.random.split(KEY)[1], 6)
    w = jnp.stack([family.sample(jax.random.split(k, 3)[0]).w for k in keys])
    hessian = np.mean(2 * np.einsum("nki,nkj->nij", w, w), 0)
    np.testing.assert_allclose(phi["matrices"][0] @ hessian, np.eye(3), atol=1e-4)


def test_it_learns_what_problems_share():
    """Meta-training finds a step that one rate for all coordinates cannot be."""
    family = optimizees.quadratic(2)._replace(
        sample=lambda key: (
            optimizees.quadratic(2).sample(key)._replace(w=jnp.diag(jnp.array([1.0, 0.1])))
        )
    )
    opt = learned_opt.preconditioned(2, 3, rate=0.5)
    result = learned_opt.meta_train(
        opt,
        family,
        KEY,
        num_steps=3,
        num_epochs=2,
        episodes_per_epoch=150,
        estimator=Autodiff(window=3, stop_gradient=False),
        learning_rate=0.1,
        progress_bar=False,
    )
    ours = learned_opt.evaluate((opt, result.phi), family, KEY, 3, 20)
    plain = learned_opt.evaluate(optax.sgd(0.5), family, KEY, 3, 20)
    assert ours[:, -1].mean() < 0.3 * plain[:, -1].mean()


def test_it_is_saved_and_read(tmp_path):
    opt = learned_opt.preconditioned(3, num_matrices=2)
    phi = random_weights(opt)
    learned_opt.save(tmp_path / "mine", opt, phi)
    again, weights = learned_opt.load(tmp_path / "mine")
    assert again == opt
    jax.tree.map(np.testing.assert_array_equal, weights, phi)


def test_messages():
    with pytest.raises(ValueError, match="dim must be a whole number of at least 1, got 0"):
        learned_opt.preconditioned(0)
    with pytest.raises(ValueError, match=r"unknown kind 'dens'. Did you mean 'dense'"):
        learned_opt.preconditioned(2, kind="dens")
    opt = learned_opt.preconditioned(3)
    tx = opt.transform(opt.init(KEY))
    with pytest.raises(
        ValueError, match="must be one array of 3 numbers for this optimizer, got an array of 4"
    ):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)))
    with pytest.raises(ValueError, match=r"must be a learned_opt.preconditioned of the kind"):
        learned_opt.with_mean_curvature(learned_opt.lstm(), optimizees.quadratic(), KEY)
    with pytest.raises(ValueError, match="opt must have dim=10 for these problems, got dim=3"):
        learned_opt.with_mean_curvature(opt, optimizees.quadratic(), KEY, 2)
    two = optimizees.quadratic(2)._replace(
        init=lambda key, instance: {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    )
    two = two._replace(loss=lambda theta, instance, key: jnp.sum(theta["a"] ** 2))
    with pytest.raises(ValueError, match="problem must have one array of parameters"):
        learned_opt.with_mean_curvature(opt, two, KEY, 2)
    line = optimizees.quadratic(3)._replace(loss=lambda theta, instance, key: jnp.sum(theta))
    with pytest.raises(ValueError, match="the mean Hessian at theta_0 is zero or not finite"):
        learned_opt.with_mean_curvature(opt, line, KEY, 2)
