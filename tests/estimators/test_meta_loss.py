"""Meta-losses against automatic differentiation of their definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import estimators
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(11)


def small_lstm():
    return learned_opt.lstm(hidden_sizes=(3,))


def difference(got, want):
    """Largest difference of two meta-gradients, relative to the norm of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, got, want)) / optax.tree.norm(want))


def held_out_problem():
    """Trained on noisy targets, judged on others."""
    return learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (3,)),
        lambda key, target: jax.random.normal(key, (3,)),
        lambda theta, target, key: jnp.sum((theta - target - jax.random.normal(key, (3,))) ** 2),
        held_out=lambda theta, target, key: 1 + jnp.sum(jnp.cosh(theta - target)),
    )


@pytest.mark.parametrize(
    ("shape", "held_out"),
    [("loss", True), ("log", False), ("relative", True), (lambda f, first: f**2 / first, False)],
)
def test_meta_losses_against_autodiff_of_their_definition(shape, held_out):
    """Written out over unrolls whose gradients are held constant."""
    opt = small_lstm()
    phi, num_steps = opt.init(KEY), 5
    weights = np.array([0.5, 1.0, 0.0, 2.0, 1.0])
    meta_loss = estimators.MetaLoss(weights, shape, held_out)
    plain = optimizee_base.as_family(held_out_problem())
    family = meta_loss.bound(plain)
    keys = jax.random.split(KEY, 2)
    problems = [optimizee_base.begin(plain, key) for key in keys]
    s = {
        "loss": lambda f, first: f,
        "log": lambda f, first: jnp.log(f),
        "relative": lambda f, first: f / first,
    }.get(shape, shape)

    def value(problem, theta, t):
        key = optimizee_base.minibatch_key(problem.key, t)
        function = held_out_problem().held_out if held_out else held_out_problem().loss
        return function(theta, problem.instance, key)

    def definition(phi):
        total, tx = 0.0, opt.transform(phi)
        for problem in problems:
            theta, state = problem.theta_0, tx.init(problem.theta_0)
            first = value(problem, theta, 0)
            for t in range(num_steps):
                key = optimizee_base.minibatch_key(problem.key, t)
                g = jax.grad(held_out_problem().loss)(theta, problem.instance, key)
                u, state = tx.update(jax.lax.stop_gradient(g), state)
                theta = theta + u
                total += weights[t] * s(value(problem, theta, t + 1), first)
        return total / 2

    def window(estimator, phi):
        lives = estimator.begin(opt, phi, family, keys, num_steps)
        w = meta_loss.of_windows(num_steps, num_steps)[0]
        estimate = estimator.run(opt, phi, family, lives, KEY, w)
        return jnp.mean(w @ estimate.losses), estimate.gradient

    want = jax.jit(jax.value_and_grad(definition))(phi)
    for estimator in (estimators.Adjoint(num_steps), estimators.Autodiff(num_steps)):
        got = jax.jit(functools.partial(window, estimator))(phi)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        assert difference(got[1], want[1]) < 1e-5


def test_bad_meta_losses():
    with pytest.raises(ValueError, match="held_out=True needs problems with held-out data"):
        estimators.MetaLoss(held_out=True).bound(
            optimizee_base.as_family(learned_opt.optimizees.quadratic(2))
        )
    with pytest.raises(ValueError, match=r"unknown shape 'logg'\. Did you mean 'log'"):
        estimators.MetaLoss(shape="logg")
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        estimators.MetaLoss(weights=[1.0, -1.0])


def test_weights_of_the_windows_of_a_horizon():
    ones = estimators.MetaLoss().of_windows(2, 6)
    np.testing.assert_array_equal(ones, np.ones((3, 2)))
    of_horizon = estimators.MetaLoss(weights=range(6)).of_windows(2, 6)
    np.testing.assert_array_equal(of_horizon, [[0, 1], [2, 3], [4, 5]])
    of_window = estimators.MetaLoss(weights=[0, 1]).of_windows(2, 6)
    np.testing.assert_array_equal(of_window, [[0, 1], [0, 1], [0, 1]])
    with pytest.raises(ValueError, match="weights must be a vector of 6 or 2 numbers"):
        estimators.MetaLoss(weights=[1.0] * 3).of_windows(2, 6)


def test_its_plain_form_tells_one_function_from_another():
    square, cube = (estimators.MetaLoss(shape=lambda f, first, n=n: f**n) for n in (2, 3))
    assert square.plain()["shape"] != cube.plain()["shape"]
    assert estimators.MetaLoss(shape="log").plain() == {
        "weights": None,
        "shape": "log",
        "held_out": False,
    }
