"""RNNprop (Lv, Jiang, Li 2017, section 4.3)."""

import functools
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks, native
from learned_opt.optimizers import cell, coordinatewise, network

PRESETS = {
    "mnist": {
        "betas": (0.95, 0.95),
        "epsilon": 1e-8,
        "output_scale": 0.1,
        "clock": False,
    },  # section 5
    # For thousands of steps: it knows how many it has taken, and averages over more of them as well.
    "long": {
        "betas": ((0.95, 0.95), (0.9, 0.999)),
        "epsilon": 1e-8,
        "output_scale": 0.1,
        "clock": True,
    },
}
_TIME_SCALE = 10  # log(1 + t) of about twenty thousand steps
_MAX_SHORT_BETA = (
    0.99  # of what 16 bits can average: a change by less than 2^-8 of a bfloat16 is lost
)


class RNNpropState(NamedTuple):
    """State of RNNprop: `count` is shared, every other leaf is `[features, *parameter.shape]`."""

    count: jax.Array  # steps taken, int32
    m: jax.Array  # moving averages of the gradient, a feature for each pair of betas
    v: jax.Array  # moving averages of its square, likewise
    hidden: tuple  # one tree like the parameters for each layer
    cell: tuple


class Settings(NamedTuple):
    """What the rule is built from; see `rnnprop`. `betas` are pairs."""

    hidden_sizes: tuple
    input_size: int
    betas: tuple
    epsilon: float
    output_scale: float
    clock: bool


def rnnprop(
    preset="mnist",
    *,
    hidden_sizes=(20, 20),
    input_size=20,
    betas=None,
    epsilon=None,
    output_scale=None,
    clock=None,
    state_dtype=None,
):
    """RNNprop: an LSTM that reads what Adam and RMSprop would do, and not the gradient's size.

    `u_t = output_scale * tanh(w . h_t + b)`, with `h_t` the output of a stack of LSTM layers that reads
    `ELU(W [m~_t, g~_t] + b)`, where `m~ = m^ / (sqrt(v^) + epsilon)` and `g~ = g / (sqrt(v^) + epsilon)`, and `m^` and
    `v^` are Adam's bias-corrected averages (Lv, Jiang, Li 2017, equations 5 to 9). Its state takes
    `2 * sum(hidden_sizes) + 2` numbers a parameter: 328 bytes in float32 for two layers of 20.

    For runs of thousands of steps there are two additions to the paper's network. With several pairs of betas it reads
    m~ and g~ of each, two more numbers of state for each pair more. With a clock the first layer also reads
    `log(1 + t) / 10`, and updates are multiplied by `(1 + t / tau)^-p`, with tau and p learned.

    Args:
      preset: settings by name: "mnist", the paper's (betas 0.95, epsilon 1e-8, output scale 0.1), or "long" (betas 0.95
        as well as Adam's 0.9 and 0.999, and a clock). The arguments below override those of the preset.
      hidden_sizes: units of each LSTM layer.
      input_size: units of the layer before them.
      betas: decay of the averages of the gradient and of its square: a pair, or several pairs.
      epsilon: added to the root of the average square.
      output_scale: the largest step of a coordinate; with a clock that of the first one.
      clock: whether it knows the number of steps that it has taken.
      state_dtype: dtype of the state between steps: None (float32; float64 with float64 parameters), "float32",
        "bfloat16", "float16" or "float64".

    Returns:
      A `LearnedOptimizer`, coordinatewise.

    Raises:
      ValueError: for an unknown preset or dtype, sizes or scales that are not positive, betas outside [0, 1), and betas
        above 0.99 with a state of 16 bits, in which such averages stand still.

    Example:
      >>> opt = learned_opt.rnnprop()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    given = {"betas": betas, "epsilon": epsilon, "output_scale": output_scale, "clock": clock}
    chosen = {
        name: default if given[name] is None else given[name]
        for name, default in PRESETS[_checks.choice("preset", preset, PRESETS)].items()
    }
    settings = Settings(
        _checks.sizes("hidden_sizes", hidden_sizes),
        _checks.positive_int("input_size", input_size),
        _check_betas(chosen["betas"]),
        _checks.positive_float("epsilon", chosen["epsilon"]),
        _checks.positive_float("output_scale", chosen["output_scale"]),
        _checks.boolean("clock", chosen["clock"]),
    )
    state_dtype = _checks.state_dtype(state_dtype)
    _check_precision(settings.betas, state_dtype)
    plain_betas = list(map(list, settings.betas))
    spec = {
        "name": "rnnprop",
        "args": {
            "hidden_sizes": list(settings.hidden_sizes),
            "input_size": settings.input_size,
            "betas": plain_betas if len(plain_betas) > 1 else plain_betas[0],
            "epsilon": settings.epsilon,
            "output_scale": settings.output_scale,
            "state_dtype": state_dtype,
        },
    }
    if settings.clock:
        spec["args"]["clock"] = True
    rule = coordinatewise.CoordinateRule(
        functools.partial(_init_state, settings),
        functools.partial(_update, settings),
        functools.partial(_pull_back, settings),
    )
    return coordinatewise.from_rule(
        rule, functools.partial(_init_weights, settings), spec, state_dtype
    )


def _init_weights(settings, key):
    input_key, network_key = jax.random.split(key)
    num_features = 2 * len(settings.betas)
    w = jax.random.normal(input_key, (settings.input_size, num_features)) / jnp.sqrt(num_features)
    phi = {
        "input": {"w": w, "b": jnp.zeros(settings.input_size)},
        **network.init(network_key, settings.input_size, settings.hidden_sizes),
    }
    if settings.clock:
        phi["input"]["clock"] = jnp.zeros(settings.input_size)
        phi["decay"] = {"log_tau": jnp.log(100 * jnp.ones(())), "p": 0.5 * jnp.ones(())}
    return phi


def _init_state(settings, dtype):
    layers = tuple(jnp.zeros(h, dtype) for h in settings.hidden_sizes)
    averages = jnp.zeros(len(settings.betas), dtype)
    return RNNpropState(jnp.zeros((), jnp.int32), averages, averages, layers, layers)


def _update(settings, phi, g_t, state_tm1):
    features, (t, m, v) = _features(settings, g_t, state_tm1)
    x_t = _input_layer(phi["input"], features, t)
    y_t, hidden, cells = network.step(_network_of(phi), x_t, state_tm1.hidden, state_tm1.cell)
    return _largest_step(settings, phi, t, y_t.dtype) * jnp.tanh(y_t), RNNpropState(
        t, m, v, hidden, cells
    )


def _pull_back(settings, phi, g, du, state_0):
    if not native.usable(phi, g, du, state_0._replace(count=())):
        return None  # what follows is in the arrays' own dtype

    def next_features(state, g_t):
        features, (t, m, v) = _features(settings, g_t, state)
        return state._replace(count=t, m=m, v=v), (features, t)

    _, (features, t) = jax.lax.scan(next_features, state_0, g)
    x, input_vjp = jax.vjp(
        lambda weights: jax.vmap(_input_layer, (None, 0, 0))(weights, features, t), phi["input"]
    )
    largest, largest_vjp = jax.vjp(lambda phi: _largest_step(settings, phi, t, du.dtype), phi)
    pulled = network.pull_back(
        _network_of(phi),
        x,
        largest[:, None] * du,
        state_0.hidden,
        state_0.cell,
        tanh=True,
        with_input=True,
    )
    if pulled is None:
        return None
    result = {"input": input_vjp(pulled[1])[0], **pulled[0]}
    if settings.clock:
        result["decay"] = largest_vjp(jnp.sum(du * _outputs(phi, x, state_0), axis=1))[0]["decay"]
    return result


def _outputs(phi, x, state_0):
    """tanh(y_t) of all steps."""

    def next_output(state, x_t):
        y_t, *state = network.step(_network_of(phi), x_t, *state)
        return tuple(state), jnp.tanh(y_t)

    return jax.lax.scan(next_output, (state_0.hidden, state_0.cell), x)[1]


def _largest_step(settings, phi, t, dtype):
    """The largest step of a coordinate at time t."""
    largest = jnp.full(t.shape, settings.output_scale, dtype)
    if not settings.clock:
        return largest
    return largest * jnp.exp(
        -phi["decay"]["p"] * jnp.log1p(t.astype(dtype) * jnp.exp(-phi["decay"]["log_tau"]))
    )


def _input_layer(weights, features, t):
    bias = weights["b"]
    if "clock" in weights:
        bias = bias + weights["clock"] * (jnp.log1p(t.astype(bias.dtype)) / _TIME_SCALE)
    if not native.usable(weights, features):
        return jax.nn.elu(cell.dense(weights["w"], bias, features))
    # A few products for each unit: as a matrix product they would go through memory once more.
    *columns, bias = jnp.expand_dims(
        jnp.stack([*weights["w"].T, bias]), range(2, 1 + features.ndim)
    )
    return jax.nn.elu(
        sum(column * x[None] for column, x in zip(columns, features, strict=True)) + bias
    )


def _features(settings, g_t, state_tm1):
    """m~_t of every pair of betas, g~_t of every pair, and the count and averages that they are made of."""

    def beside_coordinates(values):
        return jnp.asarray(values, g_t.dtype).reshape(-1, *(1,) * g_t.ndim)

    beta_1, beta_2 = map(beside_coordinates, zip(*settings.betas, strict=True))
    rest_1, rest_2 = (
        beside_coordinates([1 - beta for beta in betas])
        for betas in zip(*settings.betas, strict=True)
    )
    g_t = jnp.expand_dims(g_t, 0)
    count = state_tm1.count + 1
    m = beta_1 * state_tm1.m + rest_1 * g_t
    v = beta_2 * state_tm1.v + rest_2 * jnp.square(g_t)
    t = count.astype(g_t.dtype)
    # The root is taken of zero at first gradients of zero, where it has no derivative: none is needed there.
    root = jnp.sqrt(jnp.where(v > 0, v, 1) / (1 - beta_2**t)) * (v > 0) + settings.epsilon
    return jnp.concatenate([m / (1 - beta_1**t) / root, g_t / root]), (count, m, v)


def _network_of(phi):
    return {"layers": phi["layers"], "output": phi["output"]}


def _check_betas(betas):
    """Pairs of betas, as a tuple."""

    def is_pair(value):
        return (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(isinstance(beta, numbers.Real) and 0 <= beta < 1 for beta in value)
        )

    pairs = (betas,) if is_pair(betas) else betas
    if not isinstance(pairs, (tuple, list)) or not pairs or not all(map(is_pair, pairs)):
        raise ValueError(
            f"betas must be two numbers in [0, 1), or several such pairs, got {betas!r}."
        )
    return tuple(tuple(map(float, pair)) for pair in pairs)


def _check_precision(betas, state_dtype):
    largest = max(beta for pair in betas for beta in pair)
    if state_dtype in ("bfloat16", "float16") and largest > _MAX_SHORT_BETA:
        raise ValueError(
            f"betas must be at most {_MAX_SHORT_BETA} with state_dtype={state_dtype!r}, got {largest}: "
            "such averages would stand still. Leave state_dtype out."
        )
