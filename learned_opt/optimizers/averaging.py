"""LSTM layers with global averaging cells (Andrychowicz et al. 2016, appendix D; section 2.2 of its first version).

The last cells of each layer are averaged: what goes out of them, to the next layer and to the next step, is their mean
over all coordinates. Their inputs, gates and cell states are each coordinate's own.

Weights are those of `network`: an average stands where the cell's own output would stand. What averages contribute to
a layer is the same for all coordinates, so it is computed once, as a part of the bias.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import cell
from learned_opt.optimizers.communicating import Leaves


class Signal(NamedTuple):
    """What goes from one layer, or one step, to the next.

    Attributes:
      own: `Leaves` `[features, *parameter.shape]`, each coordinate's.
      averages: `[averaged features]`, all coordinates'.
    """

    own: Leaves
    averages: jax.Array


class State(NamedTuple):
    """State of the layers between two steps.

    Attributes:
      hidden: each layer's outputs, `Leaves` `[units - averaged, *parameter.shape]`.
      averages: the averaged ones, `[averaged]` for each layer.
      cell: cell states, `Leaves` `[units, *parameter.shape]`.
    """

    hidden: tuple
    averages: tuple
    cell: tuple


def check_averaged(num_averaged, hidden_sizes):
    """Returns the number of averaged cells; raises ValueError if the smallest layer has not that many."""
    num_averaged = _checks.positive_int("num_averaged", num_averaged, minimum=0)
    if num_averaged > min(hidden_sizes):
        raise ValueError(
            f"num_averaged must be at most {min(hidden_sizes)}, the cells of the smallest layer, "
            f"got {num_averaged}."
        )
    return num_averaged


def start(hidden_sizes, num_averaged, zeros, dtype):
    """The state before the first step; `zeros` and `dtype` as `TreeRule.init` gets them."""
    return State(
        tuple(zeros(h - num_averaged) for h in hidden_sizes),
        tuple(jnp.zeros(num_averaged, dtype) for _ in hidden_sizes),
        tuple(zeros(h) for h in hidden_sizes),
    )


def step(layers, inputs, state, average):
    """One step of all layers.

    Args:
      layers: the weights of each layer, as in `network`.
      inputs: `Leaves` `[inputs, *parameter.shape]`.
      state: a `State`.
      average: the mean over all coordinates, as `communicating.average`.

    Returns:
      `(the last layer's Signal, State)`.
    """
    x = Signal(inputs, jnp.zeros(0, state.averages[0].dtype))
    hidden, averages, cells = [], [], []
    for weights, own, means, c_tm1 in zip(layers, *state, strict=True):
        x, c_t = _layer(weights, x, Signal(own, means), c_tm1, average)
        hidden.append(x.own)
        averages.append(x.averages)
        cells.append(c_t)
    return x, State(tuple(hidden), tuple(averages), tuple(cells))


def linear(weights, signal):
    """An affine map of a signal.

    Args:
      weights: `{"w": [*outputs, features], "b": [*outputs]}`.
      signal: a `Signal`.

    Returns:
      `Leaves` `[*outputs, *parameter.shape]`.
    """
    own, b = _split(weights["w"], weights["b"], signal)
    return signal.own.map(
        lambda h: jnp.tensordot(own, h, axes=1) + b.reshape(b.shape + (1,) * (h.ndim - 1))
    )


def _split(w, b, signal):
    """The columns of `w` that read what is each coordinate's own, and `b` with what the others make of the averages."""
    own, averaged = jnp.split(w, [w.shape[-1] - signal.averages.shape[0]], axis=-1)
    return own, b + averaged @ signal.averages


def _layer(weights, x, h_tm1, c_tm1, average):
    """One step of one layer: `(Signal, cell states)`."""
    num_units = weights["b"].shape[0] // 4
    from_x, from_h = jnp.split(weights["w"], [weights["w"].shape[1] - num_units], axis=1)
    from_x, b = _split(from_x, weights["b"], x)
    from_h, b = _split(from_h, b, h_tm1)
    shared = {"w": jnp.concatenate([from_x, from_h], axis=1), "b": b}
    stepped = [
        cell.lstm_cell(shared, *arrays) for arrays in zip(x.own, h_tm1.own, c_tm1, strict=True)
    ]
    num_own = num_units - h_tm1.averages.shape[0]
    signal = Signal(
        Leaves(h[:num_own] for h, _ in stepped), average(Leaves(h[num_own:] for h, _ in stepped))
    )
    return signal, Leaves(c for _, c in stepped)
