import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.optimizees import base, wrappers


def network():
    def init(key, instance):
        return {"w": jax.random.normal(key, (3, 2)) + instance, "b": jnp.ones(()), "none": None}

    def loss(theta, instance, key):
        return jnp.sum(theta["w"] ** 2 * instance) + theta["b"] + jax.random.normal(key)

    return learned_opt.Optimizee(jax.random.normal, init, loss)


def test_scaling_leaves_the_loss_at_the_start_alone_and_scales_gradients():
    scaled = learned_opt.optimizees.random_scaling(network(), 2.0)
    problem, key = base.begin(base.as_family(scaled), jax.random.key(0)), jax.random.key(5)
    c, inner = problem.instance.c, problem.instance.instance
    theta = jax.tree.map(jnp.multiply, c, problem.theta_0)
    np.testing.assert_allclose(theta["b"], 1.0, rtol=1e-6)
    value, gradient = jax.value_and_grad(scaled.loss)(problem.theta_0, problem.instance, key)
    want, inner_gradient = jax.value_and_grad(network().loss)(theta, inner, key)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b * c, rtol=1e-5), gradient, inner_gradient, c
    )


def test_factors_are_log_uniform_and_fresh():
    scaled = learned_opt.optimizees.random_scaling(learned_opt.optimizees.quadratic(dim=500), 3.0)
    p = np.log([scaled.sample(jax.random.key(seed)).c for seed in range(4)])
    assert np.all(np.abs(p) <= 3)
    # Of 2,000 uniform numbers: mean 0 and variance 3 within five standard errors.
    assert abs(p.mean()) < 5 * np.sqrt(3 / p.size)
    assert abs(p.var() - 3) < 5 * np.sqrt((81 / 5 - 9) / p.size)
    assert len({row.tobytes() for row in p}) == 4


def test_the_convex_function_has_its_minimum_at_v():
    combined = learned_opt.optimizees.with_convex(network(), dim=7, log_range=None)
    problem, key = base.begin(base.as_family(combined), jax.random.key(3)), jax.random.key(1)
    v, x = problem.instance.g, problem.theta_0.g
    assert v.shape == x.shape == (7,)
    assert np.all(np.abs(np.concatenate([v, x])) <= 1)
    assert np.linalg.norm(v - x) > 0.1
    f = network().loss(problem.theta_0.f, problem.instance.f, key)
    total = combined.loss(problem.theta_0, problem.instance, key)
    np.testing.assert_allclose(total - f, np.mean(np.square(np.asarray(x) - v)), rtol=1e-5)
    np.testing.assert_allclose(
        combined.loss(problem.theta_0._replace(g=v), problem.instance, key), f, rtol=1e-6
    )


def test_the_papers_family_is_learnable_and_batches():
    problem = learned_opt.optimizees.with_convex(
        learned_opt.optimizees.random_scaling(learned_opt.optimizees.quadratic(dim=3))
    )
    losses = learned_opt.evaluate(optax.adam(0.1), problem, jax.random.key(0), 20, 8)
    assert losses.shape == (8, 21)
    assert jnp.all(jnp.isfinite(losses))
    opt = learned_opt.rnnprop(hidden_sizes=(3,), input_size=2)
    gradient = learned_opt.meta_gradient(
        opt, opt.init(jax.random.key(1)), problem, jax.random.key(2), 5, 2
    )[1]
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(gradient))


def test_equal_families_share_their_programs():
    one, other = (
        learned_opt.optimizees.with_convex(
            learned_opt.optimizees.random_scaling(learned_opt.optimizees.quadratic())
        )
        for _ in range(2)
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: wrappers.random_scaling(network(), 0),
            "log_range must be a finite number above 0, got 0",
        ),
        (lambda: wrappers.random_scaling(3), "problem must be an Optimizee"),
        (
            lambda: wrappers.with_convex(network(), dim=0),
            "dim must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_random_start_moves_the_beginning_and_not_the_function():
    plain = network()
    moved = learned_opt.optimizees.random_start(plain, 0.7)
    key = jax.random.key(3)
    instance = plain.sample(key)
    first, other = plain.init(key, instance), moved.init(key, instance)
    logs = []
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        ratio = np.asarray(after) / np.asarray(before)
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)  # one factor for a whole array
        logs.append(np.log(ratio.flat[0]))
    assert np.all(np.abs(logs) <= 0.7)
    assert len(set(np.round(logs, 5))) == len(logs)
    np.testing.assert_array_equal(
        moved.loss(other, instance, key), plain.loss(other, instance, key)
    )
    with pytest.raises(ValueError, match="log_range must be a finite number above 0, got 0"):
        learned_opt.optimizees.random_start(plain, 0)
