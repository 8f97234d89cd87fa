"""The LSTM that predicts a sine against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizees
from learned_opt.optimizees import sequence


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_prediction(theta, values):
    """A hand-written LSTM over `[batch, time]` in float64; gates by their names in Flax."""
    theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    xs = list(np.asarray(values, np.float64).T[..., None])
    for name in sorted(k for k in theta if "LSTM" in k):
        cell = theta[name]
        h = c = np.zeros((len(values), len(cell["hi"]["bias"])))
        for t, x in enumerate(xs):
            i, f, g, o = (
                x @ cell[f"i{k}"]["kernel"] + h @ cell[f"h{k}"]["kernel"] + cell[f"h{k}"]["bias"]
                for k in "ifgo"
            )
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            xs[t] = h
    return (xs[-1] @ theta["Dense_0"]["kernel"] + theta["Dense_0"]["bias"])[:, 0]


@pytest.mark.parametrize("num_layers", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_loss_is_the_mean_squared_error(num_layers):
    problem = optimizees.sine_lstm(num_layers, hidden_size=4, batch_size=7, init_scale=1.0)
    theta, key = (
        problem.init(jax.random.key(0), problem.sample(jax.random.key(1))),
        jax.random.key(2),
    )
    loss, gradient = jax.jit(jax.value_and_grad(problem.loss))(theta, (), key)
    values, following = sequence.sines(key, 7, 0.1)
    want = np.mean((numpy_prediction(theta, values) - np.asarray(following, np.float64)) ** 2)
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    assert all(np.all(np.isfinite(x)) and np.any(x != 0) for x in jax.tree.leaves(gradient))


def test_sequences_are_sines():
    """Three values in a row: f(x-1) + f(x+1) = 2 cos(omega) f(x), with one omega a sequence."""
    values, following = sequence.sines(jax.random.key(0), 2000, 0.0)
    assert values.shape == (2000, 10)
    assert following.shape == (2000,)
    f = np.concatenate([values, following[:, None]], 1).astype(np.float64)
    inner, outer = f[:, 1:-1], f[:, :-2] + f[:, 2:]
    cosine = np.sum(inner * outer, 1) / np.sum(inner**2, 1) / 2
    np.testing.assert_allclose(outer, 2 * cosine[:, None] * inner, atol=1e-3)
    # Solved for f(x) = sine sin(omega x) + cosine cos(omega x), hence for amplitude and phase.
    omega = np.arccos(np.clip(cosine, -1, 1))
    slow = omega < 0.05  # these are no more told from straight lines
    phase = np.arctan2(
        f[:, 0], (f[:, 1] - f[:, 0] * np.cos(omega)) / np.where(slow, 1, np.sin(omega))
    )
    amplitude = np.hypot(
        f[:, 0], (f[:, 1] - f[:, 0] * np.cos(omega)) / np.where(slow, 1, np.sin(omega))
    )
    for drawn, low, high in ((amplitude, 0, 10), (omega, 0, np.pi / 2), (phase, -np.pi, np.pi)):
        kept = (drawn[~slow] - low) / (high - low)
        assert kept.min() > -0.01
        assert kept.max() < 1.01
        expected = (1 + 0.05 / (np.pi / 2)) / 2 if drawn is omega else 0.5
        np.testing.assert_allclose(kept.mean(), expected, atol=5 / np.sqrt(12 * kept.size))
        np.testing.assert_allclose(kept.std(), 1 / np.sqrt(12), rtol=0.07)


@pytest.mark.parametrize("noise", [0.1, 0.01])
def test_the_noise_is_in_what_is_read_alone(noise):
    key = jax.random.key(0)
    (clean, target), (noisy, same_target) = (sequence.sines(key, 500, s) for s in (0.0, noise))
    np.testing.assert_array_equal(target, same_target)
    np.testing.assert_allclose(np.std(noisy - clean), noise, rtol=0.05)  # standard error: 1 %
    np.testing.assert_allclose(np.mean(noisy - clean), 0, atol=0.07 * noise)


@pytest.mark.parametrize(
    ("num_layers", "size"), [(1, 80 + 1600 + 80 + 21), (2, 80 + 1600 + 80 + 2 * 1600 + 80 + 21)]
)
def test_sizes_of_the_papers_networks(num_layers, size):
    theta = jax.eval_shape(optimizees.sine_lstm(num_layers).init, jax.random.key(0), ())
    assert sum(x.size for x in jax.tree.leaves(theta)) == size


def test_scale_of_theta_0():
    theta = optimizees.sine_lstm(hidden_size=40).init(jax.random.key(0), ())
    every = np.concatenate([np.ravel(x) for x in jax.tree.leaves(theta)])
    np.testing.assert_allclose(np.std(every), 0.1, rtol=0.05)
    biases = np.concatenate([theta["OptimizedLSTMCell_0"][f"h{k}"]["bias"] for k in "ifgo"])
    np.testing.assert_allclose(np.std(biases), 0.1, rtol=0.2)
    own = optimizees.sine_lstm(init_scale=None).init(jax.random.key(0), ())
    np.testing.assert_array_equal(own["Dense_0"]["bias"], np.zeros(1))


def test_it_learns():
    problem = optimizees.sine_lstm()
    losses = learned_opt.unroll(optax.adam(0.03), problem, jax.random.key(0), 100).losses
    assert losses[0] > 10  # the mean of A^2 / 2 is 100 / 6
    assert jnp.mean(losses[-10:]) < 3


def test_equal_problems_share_their_programs():
    one, other, another = (optimizees.sine_lstm(noise=s) for s in (0.1, 0.1, 0.01))
    assert jax.tree.structure(one) == jax.tree.structure(other) != jax.tree.structure(another)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1, got 0"),
        ({"hidden_size": 2.5}, "hidden_size must be a whole number of at least 1, got 2.5"),
        ({"noise": -0.1}, "noise must be 0 or a finite number above it, got -0.1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"init_scale": np.inf}, "init_scale must be a finite number above 0, got inf"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimizees.sine_lstm(**kwargs)
