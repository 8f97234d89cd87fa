"""The recurrent cell of one coordinate."""

import jax
import jax.numpy as jnp


def init_lstm_cell(key, num_inputs, num_units):
    """Weights of an LSTM cell: Gaussian with variance 1 / fan-in, biases zero but for a forget bias of one.

    Returns:
      `{"w": [4 * num_units, num_inputs + num_units], "b": [4 * num_units]}`, the gates in the order input, forget,
      cell, output.
    """
    fan_in = num_inputs + num_units
    w = jax.random.normal(key, (4 * num_units, fan_in)) / jnp.sqrt(fan_in)
    b = jnp.zeros(4 * num_units).at[num_units:2 * num_units].set(1)
    return {"w": w, "b": b}


def lstm_cell(weights, x_t, h_tm1, c_tm1):
    """One step of an LSTM with forget gates (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    Args:
      weights: as from `init_lstm_cell`.
      x_t: input `[num_inputs]`.
      h_tm1: previous output `[num_units]`.
      c_tm1: previous cell state `[num_units]`.

    Returns:
      `(h_t, c_t)`, each `[num_units]`.
    """
    num_units = h_tm1.shape[0]
    gates = weights["w"] @ jnp.concatenate([x_t, h_tm1]) + weights["b"]
    # sigmoid(z) = (1 + tanh(z / 2)) / 2: one tanh over all four gates is cheaper than three sigmoids and a tanh.
    is_cell = jnp.arange(4 * num_units) // num_units == 2
    squashed = jnp.tanh(jnp.where(is_cell, gates, gates / 2))
    i, f, g, o = jnp.split(squashed, 4)
    c_t = (f + 1) / 2 * c_tm1 + (i + 1) / 2 * g
    h_t = (o + 1) / 2 * jnp.tanh(c_t)
    return h_t, c_t
