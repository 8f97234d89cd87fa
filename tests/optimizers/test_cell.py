"""The LSTM cell against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizers import cell

GATES = "ifgo"


def to_flax(weights, num_inputs):
    """Weights of `cell.lstm_cell` as the parameters of Flax's cells."""
    w, b = (np.split(np.asarray(weights[name]), 4) for name in "wb")
    inputs = {f"i{gate}": {"kernel": w[k][:, :num_inputs].T} for k, gate in enumerate(GATES)}
    recurrent = {
        f"h{gate}": {"kernel": w[k][:, num_inputs:].T, "bias": b[k]} for k, gate in enumerate(GATES)
    }
    return {**inputs, **recurrent}


@pytest.mark.parametrize(("num_inputs", "num_units"), [(1, 20), (2, 5), (20, 20)])
def test_against_flax(num_inputs, num_units):
    weights_key, bias_key, input_key = jax.random.split(jax.random.key(0), 3)
    weights = cell.init_lstm_cell(weights_key, num_inputs, num_units)
    weights["b"] += 0.3 * jax.random.normal(bias_key, weights["b"].shape)
    inputs = 3 * jax.random.normal(input_key, (6, num_inputs))
    flax_cell = nn.OptimizedLSTMCell(num_units)
    params = {"params": to_flax(weights, num_inputs)}
    h = c = jnp.zeros(num_units)
    carry = (c, h)
    for x in inputs:
        h, c = cell.lstm_cell(weights, x, h, c)
        carry, _ = flax_cell.apply(params, carry, x)
        np.testing.assert_allclose(c, carry[0], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(h, carry[1], atol=1e-6, rtol=1e-6)
    assert np.abs(h).max() > 0.1


def test_one_unit_by_hand():
    """(i, f, g, o) = (sigmoid 1, sigmoid -1, tanh 2, sigmoid 0.5), c_0 = 3, no inputs."""
    weights = {"w": jnp.zeros((4, 2)), "b": jnp.array([1.0, -1.0, 2.0, 0.5])}
    h, c = cell.lstm_cell(weights, jnp.array([7.0]), jnp.array([8.0]), jnp.array([3.0]))
    # 0.26894142 * 3 + 0.73105858 * 0.96402758 = 1.51158460
    # 0.62245933 * tanh(1.51158460) = 0.56386...
    np.testing.assert_allclose(c, [0.26894142 * 3 + 0.73105858 * 0.96402758], rtol=1e-6)
    np.testing.assert_allclose(h, [0.62245933 * np.tanh(1.5115846)], rtol=1e-6)


def test_initial_weights():
    weights = cell.init_lstm_cell(jax.random.key(0), 30, 70)
    assert weights["w"].shape == (280, 100)
    np.testing.assert_allclose(
        np.mean(weights["w"]), 0.0, atol=0.002
    )  # standard error 0.1 / sqrt(28,000) = 0.0006
    np.testing.assert_allclose(np.std(weights["w"]), 0.1, rtol=0.02)
    np.testing.assert_array_equal(weights["b"], np.repeat([0.0, 1.0, 0.0, 0.0], 70))
