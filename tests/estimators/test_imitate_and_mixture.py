"""Imitation against autodiff of its definition, and mixtures of horizons written out."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import learned_opt
from learned_opt import estimators
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(5)


def small_lstm():
    return learned_opt.lstm(hidden_sizes=(3,))


def family_of(dim=3):
    return optimizee_base.as_family(learned_opt.optimizees.quadratic(dim))


@pytest.mark.parametrize("coordinates", [None, 3])
def test_imitation_s_gradient_is_that_of_its_loss(coordinates):
    """Adam moves theta, the LSTM reads the same gradients."""
    opt, family, teacher, num_steps = small_lstm(), family_of(), optax.adam(0.1), 4
    phi = opt.init(jax.random.key(1))
    keys = jax.random.split(KEY, 2)
    problems = [optimizee_base.begin(family, key) for key in keys]

    def loss_of(phi, problem):
        theta, tx = problem.theta_0, opt.transform(phi)
        state, teacher_state, wrong, size = tx.init(theta), teacher.init(theta), 0.0, 0.0
        for t in range(num_steps):
            _, g, _ = optimizee_base.value_and_grad_at(family, problem, theta, t, ())
            u, state = tx.update(g, state)
            taught, teacher_state = teacher.update(g, teacher_state, theta)
            wrong += jnp.sum((u - taught) ** 2)
            size += jnp.sum(taught**2)
            theta = theta + taught
        return wrong, size

    def definition(phi):
        (wrong_0, size_0), (wrong_1, size_1) = (loss_of(phi, problem) for problem in problems)
        return (wrong_0 + wrong_1) / (size_0 + size_1)

    def windowed(phi):
        estimator = estimators.Imitate(teacher, num_steps, coordinates)
        lives = estimator.begin(opt, phi, family, keys, num_steps)
        estimate = estimator.run(opt, phi, family, lives, KEY, jnp.ones(num_steps))
        return estimate.losses[0, 0], estimate.gradient

    expected = jax.jit(jax.value_and_grad(definition))(phi)
    loss, gradient = jax.jit(windowed)(phi)
    if coordinates is None:
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
        chex.assert_trees_all_close(gradient, expected[1], rtol=1e-4, atol=1e-6)
    else:  # an estimate: finite, and not the whole
        chex.assert_tree_all_finite(gradient)
        assert loss != expected[0]


def test_imitation_alone_learns_the_teacher():
    """The updates come near to the teacher's; the teacher's rate alone says how fast."""
    result = learned_opt.meta_train(
        small_lstm(),
        learned_opt.optimizees.quadratic(2),
        KEY,
        num_steps=4,
        num_problems=3,
        num_epochs=10,
        episodes_per_epoch=30,
        estimator=estimators.Imitate(optax.sgd(0.01), window=4),
        learning_rate=0.01,
        validation=learned_opt.Validation(num_problems=2, selection="last"),
        progress_bar=False,
    )
    losses = [entry["meta_loss"] for entry in result.history]
    assert losses[-1] < 0.1 * losses[0]


def test_imitation_beside_another_estimator_fades():
    """Its gradient is added with a weight that falls to nothing, and the losses are the other's."""
    opt, family, adjoint = small_lstm(), family_of(), estimators.Adjoint(window=4)
    phi, keys = opt.init(KEY), jax.random.split(KEY, 2)
    alone = estimators.Imitate(optax.sgd(0.1), window=4)
    both = estimators.Imitate(optax.sgd(0.1), window=4, beside=adjoint, weight=2.0, fraction=0.5)

    @functools.partial(jax.jit, static_argnums=0)
    def run(estimator, done):
        lives = estimator.begin(opt, phi, family, keys, 4)
        return estimator.run(opt, phi, family, lives, KEY, jnp.ones(4), done)

    g, i = run(adjoint, 0.0), run(alone, 0.0)
    for done, share in ((0.0, 2.0), (0.25, 1.0), (0.5, 0.0), (0.9, 0.0)):
        got = run(both, done)
        want = jax.tree.map(lambda a, b, s=share: a + s * b, g.gradient, i.gradient)
        chex.assert_trees_all_close(got.gradient, want, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got.losses, g.losses, rtol=1e-6)


def test_a_mixture_takes_the_mean_over_horizons_whose_problems_begin_anew():
    """Five windows: one life of ten steps, and beside it two of four and one that is cut."""
    opt, family = small_lstm(), family_of(2)
    inner = estimators.Autodiff(window=2)
    mixture = estimators.Mixture(inner, (4,))
    phi, keys = opt.init(KEY), jax.random.split(KEY, 3)
    short_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    lives = mixture.begin(opt, phi, family, keys, 10)
    long = inner.begin(opt, phi, family, keys, 10)
    short = inner.begin(opt, phi, family, short_keys, 4)
    weights = jnp.ones(2)
    run = jax.jit(
        lambda est, phi, lives, key: est.run(opt, phi, family, lives, key, weights),
        static_argnums=0,
    )
    for number in range(5):
        key = jax.random.fold_in(KEY, number)
        estimate = run(mixture, phi, lives, key)
        if number in (2, 4):
            fresh = jax.random.split(jax.random.fold_in(key, 1), 3)
            short = inner.begin(opt, phi, family, fresh, 4)
        a, b = run(inner, phi, long, key), run(inner, phi, short, key)
        want = jax.tree.map(lambda x, y: (x + y) / 2, a.gradient, b.gradient)
        chex.assert_trees_all_close(estimate.gradient, want, rtol=1e-4, atol=1e-5)
        both = np.concatenate([a.losses, b.losses], axis=1)
        np.testing.assert_allclose(estimate.losses, both, rtol=1e-4)
        lives, long, short = estimate.lives, a.lives, b.lives
    np.testing.assert_array_equal([lives[0].t, lives[1].t], [10, 2])


def test_lives_begin_anew_on_fresh_problems():
    opt, family = small_lstm(), family_of()
    phi, keys = opt.init(KEY), jax.random.split(KEY, 2)

    @functools.partial(jax.jit, static_argnums=0)
    def two_lives(estimator):
        lives = estimator.begin(opt, phi, family, keys, 2)
        once = estimator.run(opt, phi, family, lives, jax.random.key(1), jnp.ones(2))
        twice = estimator.run(opt, phi, family, once.lives, jax.random.key(2), jnp.ones(2))
        return once, twice

    for estimator in (
        estimators.Adjoint(window=2),
        estimators.Autodiff(window=2),
        estimators.NRES(window=2, shortest=None, staggered=False),
    ):
        once, twice = two_lives(estimator)
        assert not np.allclose(once.losses, twice.losses)
        np.testing.assert_array_equal(twice.lives.t, 2)
        assert not np.allclose(twice.lives.problems.instance.y, once.lives.problems.instance.y)


def test_every_estimator_is_one():
    for estimator in (
        estimators.Adjoint(),
        estimators.Autodiff(),
        estimators.PES(),
        estimators.NRES(),
        estimators.Imitate(optax.sgd(0.1)),
        estimators.Mixture(estimators.Adjoint()),
        estimators.Sharded(jax.make_mesh((1,), ("x",), (AxisType.Auto,)), lambda *leaf: P()),
    ):
        assert isinstance(estimator, estimators.Estimator)
        plain = estimator.plain(family_of(), KEY)
        assert plain["name"] == type(estimator).__name__
        assert hash(estimator) == hash(estimator)
