"""LSTM layers with global averaging cells.

Andrychowicz et al. 2016, appendix D, and section 2.2 of its first version. The last cells of each
layer are averaged: what goes out of them, to the next layer and to the next step, is their mean
over all coordinates. Their inputs, gates and cell states are each coordinate's own.

Weights are those of `network`: an average stands where the cell's own output would stand. What the
averages add to a layer is the same for all coordinates, so it is computed once, as a part of the
bias.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import cell
from learned_opt.optimizers.communicating import Leaves


class Signal(NamedTuple):
    """What goes from one layer, or one step, to the next.

    Attributes:
      own: `Leaves` `[features, *parameter.shape]`, each coordinate's own.
      averages: `[averaged features]`, shared by all coordinates.
    """

    own: Leaves
    averages: jax.Array


class State(NamedTuple):
    """State of the layers between two steps.

    Attributes:
      hidden: the outputs of each layer, `Leaves` `[units - averaged, *parameter.shape]`.
      averages: the averaged outputs of each layer, `[averaged]`.
      cell: the cell states of each layer, `Leaves` `[units, *parameter.shape]`.
    """

    hidden: tuple
    averages: tuple
    cell: tuple


def check_averaged(num_averaged: Any, hidden_sizes: tuple) -> int:
    """Returns the number of averaged cells; raises ValueError if a layer has fewer cells."""
    num_averaged = _checks.positive_int("num_averaged", num_averaged, minimum=0)
    smallest = min(hidden_sizes)
    if num_averaged > smallest:
        raise ValueError(
            f"num_averaged must be at most {smallest}, the cells of the smallest layer, "
            f"got {num_averaged}."
        )
    return num_averaged


def start(
    hidden_sizes: tuple,
    num_averaged: int,
    zeros: Callable,
    dtype: Any,
) -> State:
    """The state before the first step; `zeros` and `dtype` as `TreeRule.init` gets them."""
    hidden = tuple(zeros(units - num_averaged) for units in hidden_sizes)
    averages = tuple(jnp.zeros(num_averaged, dtype) for _ in hidden_sizes)
    cells = tuple(zeros(units) for units in hidden_sizes)
    return State(hidden, averages, cells)


def step(
    layers: list,
    inputs: Leaves,
    state: State,
    average: Callable,
) -> tuple[Signal, State]:
    """One step of all layers.

    Args:
      layers: the weights of each layer, as in `network`.
      inputs: `Leaves` `[inputs, *parameter.shape]`.
      state: a `State`.
      average: the mean over all coordinates, as `communicating.Coordinates.average`.

    Returns:
      `(signal, state)`: the `Signal` of the last layer, and the next `State`.
    """
    x = Signal(inputs, jnp.zeros(0, state.averages[0].dtype))
    hidden, averages, cells = [], [], []
    for weights, own, means, c_tm1 in zip(layers, *state, strict=True):
        x, c_t = _layer(weights, x, Signal(own, means), c_tm1, average)
        hidden.append(x.own)
        averages.append(x.averages)
        cells.append(c_t)
    return x, State(tuple(hidden), tuple(averages), tuple(cells))


def linear(weights: dict, signal: Signal) -> Leaves:
    """An affine map of a signal.

    Args:
      weights: `{"w": [*outputs, features], "b": [*outputs]}`.
      signal: a `Signal`.

    Returns:
      `Leaves` `[*outputs, *parameter.shape]`.
    """
    w, b = _split(weights["w"], weights["b"], signal)

    def of_parameter(h):
        products = jnp.tensordot(w, h, axes=1)
        beside_coordinates = b.shape + (1,) * (h.ndim - 1)
        return products + b.reshape(beside_coordinates)

    return signal.own.map(of_parameter)


def _split(w, b, signal):
    """The columns of `w` that read each coordinate's own, and `b` plus what averages add."""
    num_own = w.shape[-1] - signal.averages.shape[0]
    own, averaged = jnp.split(w, [num_own], axis=-1)
    return own, b + averaged @ signal.averages


def _layer(weights, x, h_tm1, c_tm1, average):
    """One step of one layer: `(Signal, cell states)`."""
    num_units = weights["b"].shape[0] // 4
    num_inputs = weights["w"].shape[1] - num_units
    from_x, from_h = jnp.split(weights["w"], [num_inputs], axis=1)
    from_x, b = _split(from_x, weights["b"], x)
    from_h, b = _split(from_h, b, h_tm1)
    shared = {"w": jnp.concatenate([from_x, from_h], axis=1), "b": b}

    outputs, cells = [], []
    for arrays in zip(x.own, h_tm1.own, c_tm1, strict=True):
        h_t, c_t = cell.lstm_cell(shared, *arrays)
        outputs.append(h_t)
        cells.append(c_t)
    num_own = num_units - h_tm1.averages.shape[0]
    own = Leaves(h[:num_own] for h in outputs)
    averages = average(Leaves(h[num_own:] for h in outputs))
    return Signal(own, averages), Leaves(cells)
