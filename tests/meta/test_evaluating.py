import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.meta import evaluating
from learned_opt.optimizees import base as optimizee_base

PROBLEM = learned_opt.optimizees.quadratic(3)
KEY = jax.random.key(2)


def test_every_run_is_the_unroll_of_its_key():
    losses = learned_opt.evaluate(optax.adam(0.1), PROBLEM, KEY, 5, 3)
    assert losses.shape == (3, 6)
    for row, key in zip(losses, jax.random.split(KEY, 3), strict=True):
        np.testing.assert_allclose(
            row, learned_opt.unroll(optax.adam(0.1), PROBLEM, key, 5).losses, rtol=1e-5
        )
    one = learned_opt.evaluate(optax.adam(0.1), PROBLEM, KEY, 5, 1)
    np.testing.assert_allclose(
        one[0], learned_opt.unroll(optax.adam(0.1), PROBLEM, KEY, 5).losses, rtol=1e-5
    )


def test_many_runs_in_batches_are_the_same_runs(monkeypatch):
    together = learned_opt.evaluate(optax.sgd(0.01), PROBLEM, KEY, 5, 7)
    # Two runs at a time, and one left over.
    monkeypatch.setitem(evaluating.COORDINATES_AT_ONCE, "cpu", 6)
    apart = learned_opt.evaluate(optax.sgd(0.01), PROBLEM, KEY, 5, 7)
    np.testing.assert_allclose(apart, together, rtol=1e-5)


def test_divergence_is_infinite_from_there_on():
    curves = jnp.asarray([[1.0, np.nan, 2.0], [3.0, 2.0, 1.0], [1.0, 2.0, np.inf]])
    np.testing.assert_array_equal(
        evaluating.infinite_once_diverged(curves),
        [[1.0, np.inf, np.inf], [3.0, 2.0, 1.0], [1.0, 2.0, np.inf]],
    )
    losses = learned_opt.evaluate(optax.sgd(1e6), PROBLEM, KEY, 20, 2)
    assert np.all(np.isinf(losses[:, -1]))
    assert not np.any(np.isnan(losses))


def test_a_measure_of_the_final_theta():
    losses, norms = evaluating.evaluate_with(
        lambda theta: jnp.sum(theta**2), optax.sgd(0.01), PROBLEM, KEY, 4, 2
    )
    keys = jax.random.split(KEY, 2)
    thetas = [learned_opt.unroll(optax.sgd(0.01), PROBLEM, k, 4).theta for k in keys]
    np.testing.assert_allclose(norms, [np.sum(np.asarray(t) ** 2) for t in thetas], rtol=1e-5)
    np.testing.assert_allclose(
        losses, learned_opt.evaluate(optax.sgd(0.01), PROBLEM, KEY, 4, 2), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("num_steps", "num_runs", "message"), [(0, 1, "num_steps"), (1, 0, "num_runs .* got 0")]
)
def test_bad_input(num_steps, num_runs, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.evaluate(optax.sgd(0.1), PROBLEM, KEY, num_steps, num_runs)


def test_the_loss_on_the_minibatches_of_the_run_itself():
    """Written out: theta_T frozen, the mean of its losses at the keys of steps 0 .. T - 1."""
    noisy = learned_opt.Optimizee(
        lambda key: (),
        lambda key, instance: jax.random.normal(key, (2,)),
        lambda theta, instance, key: jnp.sum((theta - jax.random.normal(key, (2,))) ** 2),
    )
    measure = {"seen": evaluating.seen_loss(noisy, 3), "norm": lambda theta: jnp.sum(theta**2)}
    _, measured = evaluating.evaluate_with(measure, optax.sgd(0.1), noisy, KEY, 3, 2)
    for i, key in enumerate(jax.random.split(KEY, 2)):
        theta = learned_opt.unroll(optax.sgd(0.1), noisy, key, 3).theta
        begun = optimizee_base.begin(optimizee_base.as_family(noisy), key)
        seen = [noisy.loss(theta, (), optimizee_base.minibatch_key(begun.key, t)) for t in range(3)]
        np.testing.assert_allclose(measured["seen"][i], np.mean(seen), rtol=1e-5)
        np.testing.assert_allclose(measured["norm"][i], jnp.sum(theta**2), rtol=1e-5)


def test_a_measure_of_the_whole_run():
    """It sees the losses, the final parameters and statistics, and the problem."""

    def whole(run, problem):
        return jnp.sum(run.theta) + run.losses[-1] + jnp.sum(problem.instance.y)

    whole.of_run = True
    measured = {"whole": whole, "theta": jnp.sum}
    losses, got = evaluating.evaluate_with(measured, optax.sgd(0.01), PROBLEM, KEY, 3, 2)
    for i, key in enumerate(jax.random.split(KEY, 2)):
        run = learned_opt.unroll(optax.sgd(0.01), PROBLEM, key, 3)
        begun = optimizee_base.begin(optimizee_base.as_family(PROBLEM), key)
        expected = jnp.sum(run.theta) + losses[i, -1] + jnp.sum(begun.instance.y)
        np.testing.assert_allclose(got["whole"][i], expected, rtol=1e-5)
        np.testing.assert_allclose(got["theta"][i], jnp.sum(run.theta), rtol=1e-5)


def test_the_seen_loss_of_a_family_with_statistics():
    """Theta and statistics stay as they are at the end of the run."""

    def loss(theta, instance, key, statistics):
        noise = jax.random.normal(key, ())
        return (theta - statistics - noise) ** 2, 0.5 * (statistics + noise)

    problem = learned_opt.Optimizee(
        lambda key: (), lambda key, i: jnp.float32(1), loss, lambda key, i: jnp.float32(3)
    )
    measure = evaluating.seen_loss(problem, 3)
    _, seen = evaluating.evaluate_with(measure, optax.sgd(0.1), problem, KEY, 3, 1)
    run = learned_opt.unroll(optax.sgd(0.1), problem, KEY, 3)
    begun = optimizee_base.begin(optimizee_base.as_family(problem), KEY)
    keys = [optimizee_base.minibatch_key(begun.key, t) for t in range(3)]
    noise = np.array([jax.random.normal(key, ()) for key in keys])
    expected = np.mean((run.theta - run.statistics - noise) ** 2)
    np.testing.assert_allclose(seen, [expected], rtol=1e-5)


def test_a_pair_is_its_transformation():
    opt = learned_opt.lstm(hidden_sizes=(3,))
    phi = opt.init(KEY)
    np.testing.assert_allclose(
        learned_opt.evaluate((opt, phi), PROBLEM, KEY, 4, 2),
        learned_opt.evaluate(opt.transform(phi), PROBLEM, KEY, 4, 2),
        rtol=1e-5,
    )
