"""The recurrent cell of one coordinate."""

import jax
import jax.numpy as jnp


def init_lstm_cell(
    key: jax.Array,
    num_inputs: int,
    num_units: int,
) -> dict:
    """Weights of an LSTM cell.

    They are Gaussian with variance 1 / fan-in. Biases are zero, but one for the forget gates.

    Returns:
      `{"w": [4 * num_units, num_inputs + num_units], "b": [4 * num_units]}`, the gates in the
      order input, forget, cell, output.
    """
    fan_in = num_inputs + num_units
    num_gates = 4 * num_units
    normal = jax.random.normal(key, (num_gates, fan_in))
    forget = slice(num_units, 2 * num_units)
    b = jnp.zeros(num_gates).at[forget].set(1)
    return {"w": normal / jnp.sqrt(fan_in), "b": b}


def dense(
    w: jax.Array,
    b: jax.Array,
    x: jax.Array,
) -> jax.Array:
    """An affine map of features.

    Args:
      w: `[outputs, inputs]`.
      b: `[outputs]`.
      x: `[inputs, *coordinates]`.

    Returns:
      `[outputs, *coordinates]`.
    """
    products = jnp.tensordot(w, x, axes=1)
    beside_coordinates = b.shape + (1,) * (x.ndim - 1)
    return products + b.reshape(beside_coordinates)


def lstm_cell(
    weights: dict,
    x_t: jax.Array,
    h_tm1: jax.Array,
    c_tm1: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One step of an LSTM with forget gates (Hochreiter, Schmidhuber 1997; Gers et al. 2000).

    Args:
      weights: as from `init_lstm_cell`.
      x_t: input `[num_inputs, *coordinates]`.
      h_tm1: previous output `[num_units, *coordinates]`.
      c_tm1: previous cell state `[num_units, *coordinates]`.

    Returns:
      `(h_t, c_t)`, each `[num_units, *coordinates]`.
    """
    gates = dense(weights["w"], weights["b"], jnp.concatenate([x_t, h_tm1]))
    i, f, g, o = jnp.split(gates, 4)
    kept = jax.nn.sigmoid(f) * c_tm1
    added = jax.nn.sigmoid(i) * jnp.tanh(g)
    c_t = kept + added
    h_t = jax.nn.sigmoid(o) * jnp.tanh(c_t)
    return h_t, c_t
