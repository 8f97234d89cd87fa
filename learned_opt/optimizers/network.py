"""The network of one coordinate: LSTM layers with a linear output.

Andrychowicz et al. 2016, section 2.1. What it computes is said in plain JAX (`plain_step`). Where
the C++ loops of the package can take the arrays (`learned_opt.native`), they compute the same,
several times as fast.

Weights are `{"layers": [{"w": [4 * units, inputs + units], "b": [4 * units]}, ..],
"output": {"w": [units], "b": []}}`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import native
from learned_opt.optimizers import cell

# Up to so many units of a layer the C++ loops win. XLA cuts up larger products for the cache as
# well as they do.
MAX_FAST_UNITS = 64


def init(
    key: jax.Array,
    num_inputs: int,
    hidden_sizes: tuple,
) -> dict:
    """Weights of a network that reads `num_inputs` features."""
    *layer_keys, output_key = jax.random.split(key, len(hidden_sizes) + 1)
    inputs = (num_inputs, *hidden_sizes[:-1])
    layers = []
    for layer_key, layer_inputs, units in zip(layer_keys, inputs, hidden_sizes, strict=True):
        layers.append(cell.init_lstm_cell(layer_key, layer_inputs, units))
    # The output layer is small. So an untrained optimizer takes small steps, and meta-training
    # starts without divergence.
    output_w = 0.1 * jax.random.normal(output_key, hidden_sizes[-1:])
    return {"layers": layers, "output": {"w": output_w, "b": jnp.zeros(())}}


def step(
    weights: dict,
    x_t: jax.Array,
    hidden: tuple,
    cells: tuple,
) -> tuple:
    """One step of every coordinate.

    Args:
      weights: see the module.
      x_t: features `[inputs, *coordinates]`.
      hidden: the outputs of the layers at t - 1, a tuple of `[units, *coordinates]`.
      cells: their cell states, likewise.

    Returns:
      `(y_t, hidden, cells)` at t, where y_t is `[*coordinates]`.
    """
    if _is_fast(weights, x_t, hidden, cells):
        return _compiled_step(weights, x_t, hidden, cells)
    return plain_step(weights, x_t, hidden, cells)


def _is_fast(weights, x, *others):
    """Whether the C++ loops can take these arrays, and are faster."""
    if x.size == 0:
        return False
    for layer in weights["layers"]:
        num_units = layer["b"].shape[0] // 4
        if num_units > MAX_FAST_UNITS:
            return False
    return native.usable(weights, x, *others)


def plain_step(
    weights: dict,
    x_t: jax.Array,
    hidden: tuple,
    cells: tuple,
) -> tuple:
    """`step` in plain JAX.

    It says what a step means, it is what is differentiated, and it runs where there is nothing
    faster.
    """
    x = x_t
    new_hidden, new_cells = [], []
    for layer, h_tm1, c_tm1 in zip(weights["layers"], hidden, cells, strict=True):
        x, c_t = cell.lstm_cell(layer, x, h_tm1, c_tm1)
        new_hidden.append(x)
        new_cells.append(c_t)
    output = weights["output"]
    y_t = jnp.tensordot(output["w"], x, axes=1) + output["b"]
    return y_t, tuple(new_hidden), tuple(new_cells)


def pull_back(
    weights: dict,
    x: jax.Array,
    dy: jax.Array,
    hidden: tuple,
    cells: tuple,
    tanh: bool = False,
    with_input: bool = False,
) -> Any:
    """The derivative of a window: < dy, d y / d weights >, with the first states held constant.

    Args:
      weights: see the module.
      x: features of all steps, `[steps, inputs, n]`.
      dy: cotangents of the outputs, `[steps, n]`.
      hidden: as in `step`, before the first step, `[units, n]`.
      cells: likewise.
      tanh: whether `dy` are cotangents of tanh(y), and not of y.
      with_input: whether the cotangents of `x` are wanted too.

    Returns:
      Cotangents like the weights; or those and the cotangents of `x`; or None where nothing is
      faster than `jax.vjp` of `step`.
    """
    arrays = weights, x, dy, hidden, cells
    if not _is_fast(*arrays):
        return None
    return _fast_pull_back(tanh, with_input)(*arrays)


@functools.cache
def _fast_pull_back(tanh, with_input):
    fast = functools.partial(native.lstm_pull_back, tanh=tanh, with_input=with_input)
    plain = functools.partial(_plain_pull_back, tanh=tanh, with_input=with_input)

    @jax.custom_jvp
    def fast_pull_back(*arrays):
        return _on_cpu(fast, plain)(*arrays)

    fast_pull_back.defjvp(functools.partial(jax.jvp, plain))
    return fast_pull_back


def _plain_pull_back(weights, x, dy, hidden, cells, tanh=False, with_input=False):
    def outputs(weights, x):
        def next_step(state, x_t):
            y_t, *state = plain_step(weights, x_t, *state)
            return tuple(state), jnp.tanh(y_t) if tanh else y_t

        return jax.lax.scan(next_step, (hidden, cells), x)[1]

    pulled, dx = jax.vjp(outputs, weights, x)[1](dy)
    return (pulled, dx) if with_input else pulled


def _on_cpu(fast: Callable, plain: Callable) -> Callable:
    """`fast` on a CPU, `plain` elsewhere; a program may be compiled for both."""
    return functools.partial(jax.lax.platform_dependent, cpu=fast, default=plain)


# Derivatives of a step, of any order and mode, are those of the plain one.
@jax.custom_jvp
def _fast_step(weights, x_t, hidden, cells):
    return _step_of(None)(weights, x_t, hidden, cells)


@_fast_step.defjvp
def _fast_step_jvp(primals, tangents):
    return jax.jvp(plain_step, primals, tangents)


# Outside any jit, the choice of a platform would be compiled anew for each step.
_compiled_step = jax.jit(_fast_step, inline=True)


@functools.cache
def _step_of(problems):
    """The step of `problems` problems on a first axis, or of one without it.

    Under vmap it becomes the step of more problems.
    """
    plain = plain_step if problems is None else jax.vmap(plain_step, (None, 0, 0, 0))

    @jax.custom_batching.custom_vmap
    def fast_step(*args):
        return _on_cpu(functools.partial(native.lstm_step, problems), plain)(*args)

    @fast_step.def_vmap
    def batched(axis_size, in_batched, weights, *state):
        if any(jax.tree.leaves(in_batched[0])):  # networks that differ have no step in common
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(in_batched))
            results = jax.vmap(plain, axes)(weights, *state)
        else:
            with_axis = functools.partial(_with_axis, axis_size, problems)
            state = jax.tree.map(with_axis, state, tuple(in_batched[1:]))
            all_problems = axis_size * (1 if problems is None else problems)
            results = _step_of(all_problems)(weights, *state)
            results = jax.tree.map(functools.partial(_split, axis_size, problems), results)
        return results, jax.tree.map(lambda _: True, results)

    return fast_step


def _with_axis(axis_size, problems, x, is_batched):
    """With the axis of a vmap, joined with that of the problems if there is one."""
    x = x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
    return x if problems is None else x.reshape(-1, *x.shape[2:])


def _split(axis_size, problems, x):
    return x if problems is None else x.reshape(axis_size, problems, *x.shape[1:])
