import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.optimizees import base


def test_unroll_of_sgd_is_gradient_descent_in_numpy():
    problem = learned_opt.optimizees.quadratic(4)
    key = jax.random.key(3)
    run = learned_opt.unroll(optax.sgd(0.02), problem, key, 6)
    begun = base.begin(base.as_family(problem), key)
    w, y = (np.asarray(x, np.float64) for x in begun.instance)
    theta = np.asarray(begun.theta_0, np.float64)
    losses = []
    for _ in range(7):
        residual = w @ theta - y
        losses.append(residual @ residual)
        last, theta = theta, theta - 0.02 * 2 * w.T @ residual
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(run.theta, last, rtol=1e-5)


def test_a_longer_run_begins_with_the_shorter_one():
    problem = learned_opt.optimizees.mlp(width=4)
    short, long = (
        learned_opt.unroll(optax.adam(0.01), problem, jax.random.key(0), n).losses for n in (3, 8)
    )
    np.testing.assert_array_equal(short, long[:4])


def test_loss_and_gradient_of_a_step_share_their_minibatch():
    # f(theta) = theta * z with z drawn by the key: its gradient z is what the loss shows.
    problem = learned_opt.Optimizee(
        lambda key: (),
        lambda key, instance: jnp.ones(()),
        lambda theta, instance, key: theta * jax.random.normal(key),
    )
    losses = learned_opt.unroll(optax.sgd(1.0), problem, jax.random.key(1), 5).losses
    theta = 1.0
    for loss in losses:
        z = loss / theta
        theta -= z
    final = learned_opt.unroll(optax.sgd(1.0), problem, jax.random.key(1), 6).theta
    np.testing.assert_allclose(final, theta, rtol=1e-5)


def with_statistics(held_out=None):
    """theta is drawn to a running average of noise, which it does not move itself."""

    def loss(theta, instance, key, statistics):
        noise = jax.random.normal(key, (2,))
        average = 0.75 * statistics["average"] + 0.25 * noise
        return jnp.sum((theta - average) ** 2), {"average": average}

    return learned_opt.Optimizee(
        sample=lambda key: jax.random.normal(key, (2,)),
        init=lambda key, instance: jax.random.normal(key, (2,)),
        loss=loss,
        statistics=lambda key, instance: {"average": instance},
        held_out=held_out,
    )


def test_statistics_are_carried_from_step_to_step():
    """Gradient descent written out in NumPy. What the last loss makes of them is not kept."""
    problem, key = with_statistics(), jax.random.key(5)
    run = learned_opt.unroll(optax.sgd(0.1), problem, key, 4)
    begun = base.begin(base.as_family(problem), key)
    theta, average = np.asarray(begun.theta_0), np.asarray(begun.instance)
    losses = []
    for t in range(5):
        noise = np.asarray(jax.random.normal(base.minibatch_key(begun.key, t), (2,)))
        last_theta, last_average = theta, average
        average = 0.75 * average + 0.25 * noise
        losses.append(np.sum((theta - average) ** 2))
        theta = theta - 0.1 * 2 * (theta - average)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(run.theta, last_theta, rtol=1e-5)
    np.testing.assert_allclose(run.statistics["average"], last_average, rtol=1e-5)


def test_a_line_search_sees_the_loss_of_its_step():
    """`value_fn` is the loss on the same minibatch, with the same statistics."""
    seen = []

    def update(updates, state, params, *, value, value_fn, grad, **_):
        again, slope = jax.value_and_grad(value_fn)(params)
        jax.debug.callback(lambda *x: seen.append(x), value, again, grad, slope)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    jax.block_until_ready(learned_opt.unroll(tx, with_statistics(), jax.random.key(1), 3))
    jax.effects_barrier()
    assert len(seen) == 3
    for value, again, grad, slope in seen:
        np.testing.assert_allclose(value, again, rtol=1e-6)
        np.testing.assert_allclose(grad, slope, rtol=1e-6)


def test_a_pair_is_its_transformation():
    opt = learned_opt.rnnprop(hidden_sizes=(3,))
    phi = opt.init(jax.random.key(0))
    arguments = learned_opt.optimizees.quadratic(3), jax.random.key(1), 5
    pair = learned_opt.unroll((opt, phi), *arguments)
    alone = learned_opt.unroll(opt.transform(phi), *arguments)
    np.testing.assert_allclose(pair.losses, alone.losses, rtol=1e-5)
    assert pair.statistics == ()


def test_weights_of_another_architecture_are_refused():
    opt, other = learned_opt.rnnprop(), learned_opt.lstm()
    pair = opt, other.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"phi .* the weights of rnnprop"):
        learned_opt.unroll(pair, learned_opt.optimizees.quadratic(), jax.random.key(1), 2)


def test_unroll_can_be_vmapped_and_differentiated():
    problem = learned_opt.optimizees.quadratic(3)
    keys = jax.random.split(jax.random.key(0), 4)
    together = jax.vmap(lambda k: learned_opt.unroll(optax.sgd(0.01), problem, k, 5).losses)(keys)
    np.testing.assert_allclose(
        together[2], learned_opt.unroll(optax.sgd(0.01), problem, keys[2], 5).losses, rtol=1e-5
    )

    def final(rate):
        return learned_opt.unroll(optax.sgd(rate), problem, keys[0], 5).losses[-1]

    slope = (final(0.0101) - final(0.0099)) / 2e-4
    np.testing.assert_allclose(jax.grad(final)(0.01), slope, rtol=1e-2)


def test_a_second_unroll_does_not_compile_again():
    traces = []

    def update(updates, state, params=None):
        del params
        traces.append(1)
        return jax.tree.map(lambda g: -0.01 * g, updates), state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    for seed in range(3):
        learned_opt.unroll(tx, learned_opt.optimizees.quadratic(3), jax.random.key(seed), 4)
    assert len(traces) == 1


def test_the_transformation_gets_the_loss_as_value():
    tx = optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
    losses = learned_opt.unroll(
        tx, learned_opt.optimizees.quadratic(), jax.random.key(0), 20
    ).losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": -3}, "got -3"),
        ({"num_steps": 2.5}, "got 2.5"),
        ({"key": 7}, "key must be a random key, got 7"),
        ({"tx": learned_opt.lstm()}, "transform"),
        ({"problem": "quadratic"}, "Optimizee"),
    ],
)
def test_bad_input(arguments, message):
    good = {
        "tx": optax.sgd(0.1),
        "problem": learned_opt.optimizees.quadratic(),
        "key": jax.random.key(0),
        "num_steps": 2,
    }
    with pytest.raises(ValueError, match=message):
        learned_opt.unroll(**{**good, **arguments})


def test_integer_theta_is_refused():
    problem = learned_opt.optimizees.quadratic(3)._replace(init=lambda key, instance: jnp.arange(3))
    with pytest.raises(ValueError, match="theta_0 must be real floating-point arrays, got int32"):
        learned_opt.unroll(optax.sgd(0.1), problem, jax.random.key(0), 2)
