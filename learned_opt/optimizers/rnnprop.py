"""RNNprop (Lv, Jiang, Li 2017, section 4.3)."""

import functools
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks, native
from learned_opt.optimizers import cell, coordinatewise, network

PRESETS = {
    "mnist": {"betas": (0.95, 0.95), "epsilon": 1e-8, "output_scale": 0.1},  # section 5
}


class RNNpropState(NamedTuple):
    """State of RNNprop: `count` is shared, every other leaf is `[features, *parameter.shape]`."""

    count: jax.Array  # steps taken, int32
    m: jax.Array  # moving average of the gradient, one feature
    v: jax.Array  # moving average of its square, one feature
    hidden: tuple  # one tree like the parameters for each layer
    cell: tuple


class Settings(NamedTuple):
    """What the rule is built from; see `rnnprop`."""

    hidden_sizes: tuple
    input_size: int
    betas: tuple
    epsilon: float
    output_scale: float


def rnnprop(preset="mnist", *, hidden_sizes=(20, 20), input_size=20, betas=None, epsilon=None, output_scale=None,
            state_dtype=None):
    """RNNprop: an LSTM that reads what Adam and RMSprop would do, and not the gradient's size.

    `u_t = output_scale * tanh(w . h_t + b)`, with `h_t` the output of a stack of LSTM layers that reads
    `ELU(W [m~_t, g~_t] + b)`, where `m~ = m^ / (sqrt(v^) + epsilon)` and `g~ = g / (sqrt(v^) + epsilon)`, and `m^` and
    `v^` are Adam's bias-corrected averages (Lv, Jiang, Li 2017, equations 5 to 9). Its state takes
    `2 * sum(hidden_sizes) + 2` numbers a parameter: 328 bytes in float32 for two layers of 20.

    Args:
      preset: the paper's settings by name: "mnist" (betas 0.95, epsilon 1e-8, output scale 0.1). The arguments below
        override those of the preset.
      hidden_sizes: units of each LSTM layer.
      input_size: units of the layer before them.
      betas: decay of the averages of the gradient and of its square.
      epsilon: added to the root of the average square.
      output_scale: the largest step of a coordinate.
      state_dtype: dtype of the state between steps: None (float32; float64 with float64 parameters), "float32",
        "bfloat16", "float16" or "float64".

    Returns:
      A `LearnedOptimizer`, coordinatewise.

    Raises:
      ValueError: for an unknown preset or dtype, sizes or scales that are not positive, betas outside [0, 1).

    Example:
      >>> opt = learned_opt.rnnprop()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    given = {"betas": betas, "epsilon": epsilon, "output_scale": output_scale}
    chosen = {name: default if given[name] is None else given[name]
              for name, default in PRESETS[_checks.choice("preset", preset, PRESETS)].items()}
    settings = Settings(_checks.sizes("hidden_sizes", hidden_sizes), _checks.positive_int("input_size", input_size),
                        _check_betas(chosen["betas"]), _checks.positive_float("epsilon", chosen["epsilon"]),
                        _checks.positive_float("output_scale", chosen["output_scale"]))
    state_dtype = _checks.state_dtype(state_dtype)
    spec = {"name": "rnnprop", "args": {"hidden_sizes": list(settings.hidden_sizes), "input_size": settings.input_size,
                                        "betas": list(settings.betas), "epsilon": settings.epsilon,
                                        "output_scale": settings.output_scale, "state_dtype": state_dtype}}
    rule = coordinatewise.CoordinateRule(functools.partial(_init_state, settings.hidden_sizes),
                                         functools.partial(_update, settings), functools.partial(_pull_back, settings))
    return coordinatewise.from_rule(rule, functools.partial(_init_weights, settings), spec, state_dtype)


def _init_weights(settings, key):
    input_key, network_key = jax.random.split(key)
    w = jax.random.normal(input_key, (settings.input_size, 2)) / jnp.sqrt(2)
    return {"input": {"w": w, "b": jnp.zeros(settings.input_size)},
            **network.init(network_key, settings.input_size, settings.hidden_sizes)}


def _init_state(hidden_sizes, dtype):
    layers = tuple(jnp.zeros(h, dtype) for h in hidden_sizes)
    return RNNpropState(jnp.zeros((), jnp.int32), jnp.zeros(1, dtype), jnp.zeros(1, dtype), layers, layers)


def _update(settings, phi, g_t, state_tm1):
    features, moments = _features(settings, g_t, state_tm1)
    x_t = _input_layer(phi["input"], features)
    y_t, hidden, cells = network.step(_without_input(phi), x_t, state_tm1.hidden, state_tm1.cell)
    return settings.output_scale * jnp.tanh(y_t), RNNpropState(*moments, hidden, cells)


def _pull_back(settings, phi, g, du, state_0):
    def next_features(state, g_t):
        features, (count, m, v) = _features(settings, g_t, state)
        return state._replace(count=count, m=m, v=v), features

    _, features = jax.lax.scan(next_features, state_0, g)
    x, input_vjp = jax.vjp(lambda weights: jax.vmap(_input_layer, (None, 0))(weights, features), phi["input"])
    pulled = network.pull_back(_without_input(phi), x, settings.output_scale * du, state_0.hidden, state_0.cell,
                               tanh=True, with_input=True)
    return pulled and {"input": input_vjp(pulled[1])[0], **pulled[0]}


def _input_layer(weights, features):
    if not native.usable(weights, features):
        return jax.nn.elu(cell.dense(weights["w"], weights["b"], features))
    # Two products for each unit: as a matrix product they would go through memory once more.
    columns = jnp.expand_dims(jnp.stack([*weights["w"].T, weights["b"]]), range(2, 1 + features.ndim))
    m, g = features
    return jax.nn.elu(columns[0] * m[None] + columns[1] * g[None] + columns[2])


def _features(settings, g_t, state_tm1):
    """`[m~_t, g~_t]`, and the count and averages that they are made of."""
    beta_1, beta_2 = settings.betas
    count = state_tm1.count + 1
    m = beta_1 * state_tm1.m + (1 - beta_1) * jnp.expand_dims(g_t, 0)
    v = beta_2 * state_tm1.v + (1 - beta_2) * jnp.square(jnp.expand_dims(g_t, 0))
    t = count.astype(g_t.dtype)
    # The root is taken of zero at first gradients of zero, where it has no derivative: none is needed there.
    root = jnp.sqrt(jnp.where(v > 0, v, 1) / (1 - beta_2 ** t)) * (v > 0) + settings.epsilon
    return jnp.concatenate([m / (1 - beta_1 ** t), jnp.expand_dims(g_t, 0)]) / root, (count, m, v)


def _without_input(phi):
    return {"layers": phi["layers"], "output": phi["output"]}


def _check_betas(betas):
    values = tuple(betas) if isinstance(betas, (tuple, list)) else (betas,)
    if len(values) != 2 or not all(isinstance(beta, numbers.Real) and 0 <= beta < 1 for beta in values):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}.")
    return tuple(map(float, values))
