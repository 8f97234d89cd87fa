"""RNNprop (Lv, Jiang, Li 2017, section 4.3)."""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks, native
from learned_opt.optimizers import base, cell, coordinatewise, network
from learned_opt.optimizers.settings import check_precision

PRESETS: dict[str, dict[str, Any]] = {
    # Section 5 of the paper.
    "mnist": {
        "betas": (0.95, 0.95),
        "epsilon": 1e-8,
        "output_scale": 0.1,
        "clock": False,
    },
    # For thousands of steps: it counts its steps, and averages over more of them as well.
    "long": {
        "betas": ((0.95, 0.95), (0.9, 0.999)),
        "epsilon": 1e-8,
        "output_scale": 0.1,
        "clock": True,
    },
}
_TIME_SCALE = 10  # log(1 + t) of about twenty thousand steps


class RNNpropState(NamedTuple):
    """State of RNNprop.

    Attributes:
      count: steps taken, int32; shared by all coordinates. All other leaves are
        `[features, *parameter.shape]`.
      m: moving averages of the gradient, a feature for each pair of betas.
      v: moving averages of its square, likewise.
      hidden: the output of each layer, a tree like the parameters.
      cell: the cell states of each layer, likewise.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of this name
    m: jax.Array
    v: jax.Array
    hidden: tuple
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
    preset: str = "mnist",
    *,
    hidden_sizes: int | Sequence[int] = (20, 20),
    input_size: int = 20,
    betas: Sequence | None = None,
    epsilon: float | None = None,
    output_scale: float | None = None,
    clock: bool | None = None,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """RNNprop: an LSTM that reads what Adam and RMSprop would do, and not the gradient's size.

    `u_t = output_scale * tanh(w . h_t + b)`, where `h_t` is the output of a stack of LSTM layers
    that reads `ELU(W [m~_t, g~_t] + b)`. Here `m~ = m^ / (sqrt(v^) + epsilon)`,
    `g~ = g / (sqrt(v^) + epsilon)`, and `m^` and `v^` are Adam's bias-corrected averages (Lv,
    Jiang, Li 2017, equations 5 to 9). The state takes `2 * sum(hidden_sizes) + 2` numbers a
    parameter: 328 bytes in float32 for two layers of 20.

    For runs of thousands of steps there are two additions to the paper's network. With several
    pairs of betas it reads m~ and g~ of each; every pair more takes two more numbers of state. With
    a clock the first layer also reads `log(1 + t) / 10`, and updates are multiplied by
    `(1 + t / tau)^-p`, where tau and p are learned.

    Args:
      preset: settings by name. "mnist" is the paper's: betas 0.95, epsilon 1e-8, output scale 0.1.
        "long" has Adam's betas 0.9 and 0.999 beside 0.95, and a clock. The arguments below override
        those of the preset.
      hidden_sizes: units of each LSTM layer.
      input_size: units of the layer before them.
      betas: decay of the averages of the gradient and of its square: a pair, or several pairs.
      epsilon: added to the root of the average square.
      output_scale: the largest step of a coordinate; with a clock, that of the first step.
      clock: whether it knows the number of steps that it has taken.
      state_dtype: dtype of the state between steps: None, "float32", "bfloat16", "float16" or
        "float64". None is float32, or float64 with float64 parameters.

    Returns:
      A coordinatewise `LearnedOptimizer`.

    Raises:
      ValueError: for an unknown preset or dtype, sizes or scales that are not positive, betas
        outside [0, 1), and betas above 0.99 with a state of 16 bits, in which such averages stand
        still.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.rnnprop()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    chosen = dict(PRESETS[_checks.choice("preset", preset, PRESETS)])
    given = {"betas": betas, "epsilon": epsilon, "output_scale": output_scale, "clock": clock}
    chosen.update({name: value for name, value in given.items() if value is not None})
    settings = Settings(
        _checks.sizes("hidden_sizes", hidden_sizes),
        _checks.positive_int("input_size", input_size),
        _check_betas(chosen["betas"]),
        _checks.positive_float("epsilon", chosen["epsilon"]),
        _checks.positive_float("output_scale", chosen["output_scale"]),
        _checks.boolean("clock", chosen["clock"]),
    )
    state_dtype = _checks.state_dtype(state_dtype)
    largest = max(max(pair) for pair in settings.betas)
    check_precision("betas", largest, state_dtype)
    rule = coordinatewise.CoordinateRule(
        base.bind(_init_state, settings.hidden_sizes, len(settings.betas)),
        base.bind(_update, settings),
        base.bind(_pull_back, settings),
        broadcasts=True,
    )
    sizes = settings.input_size, settings.hidden_sizes
    init = base.bind(_init_weights, *sizes, len(settings.betas), settings.clock)
    return coordinatewise.from_rule(rule, init, _spec(settings, state_dtype), state_dtype)


def _spec(settings, state_dtype):
    betas = [list(pair) for pair in settings.betas]
    arguments = {
        "hidden_sizes": list(settings.hidden_sizes),
        "input_size": settings.input_size,
        "betas": betas if len(betas) > 1 else betas[0],
        "epsilon": settings.epsilon,
        "output_scale": settings.output_scale,
        "state_dtype": state_dtype,
    }
    if settings.clock:
        arguments["clock"] = True
    return {"name": "rnnprop", "args": arguments}


def _init_weights(input_size, hidden_sizes, num_pairs, clock, key):
    input_key, network_key = jax.random.split(key)
    num_features = 2 * num_pairs
    w = jax.random.normal(input_key, (input_size, num_features)) / jnp.sqrt(num_features)
    phi = {
        "input": {"w": w, "b": jnp.zeros(input_size)},
        **network.init(network_key, input_size, hidden_sizes),
    }
    if clock:
        phi["input"]["clock"] = jnp.zeros(input_size)
        phi["decay"] = {"log_tau": jnp.log(100 * jnp.ones(())), "p": 0.5 * jnp.ones(())}
    return phi


def _init_state(hidden_sizes, num_pairs, dtype):
    layers = tuple(jnp.zeros(units, dtype) for units in hidden_sizes)
    averages = jnp.zeros(num_pairs, dtype)
    return RNNpropState(jnp.zeros((), jnp.int32), averages, averages, layers, layers)


def _update(settings, phi, g_t, state_tm1):
    features, (t, m, v) = _features(settings, g_t, state_tm1)
    x_t = _input_layer(phi["input"], features, t)
    y_t, hidden, cells = network.step(_network_of(phi), x_t, state_tm1.hidden, state_tm1.cell)
    u_t = _largest_step(settings, phi, t, y_t.dtype) * jnp.tanh(y_t)
    return u_t, RNNpropState(t, m, v, hidden, cells)


def _pull_back(settings, phi, g, du, state_0):
    """See `CoordinateRule.pull_back`."""
    if not native.usable(phi, g, du, state_0._replace(count=())):
        return None  # what follows is in the arrays' own dtype

    def next_features(state, g_t):
        features, (t, m, v) = _features(settings, g_t, state)
        return state._replace(count=t, m=m, v=v), (features, t)

    def input_layers(weights):
        return jax.vmap(_input_layer, (None, 0, 0))(weights, features, t)

    def largest_steps(phi):
        return _largest_step(settings, phi, t, du.dtype)

    _, (features, t) = jax.lax.scan(next_features, state_0, g)
    x, input_vjp = jax.vjp(input_layers, phi["input"])
    largest, largest_vjp = jax.vjp(largest_steps, phi)
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
    of_network, dx = pulled
    result = {"input": input_vjp(dx)[0], **of_network}
    if settings.clock:
        d_largest = jnp.sum(du * _outputs(phi, x, state_0), axis=1)
        result["decay"] = largest_vjp(d_largest)[0]["decay"]
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
    decay = phi["decay"]
    log_lives = jnp.log1p(t.astype(dtype) * jnp.exp(-decay["log_tau"]))
    return largest * jnp.exp(-decay["p"] * log_lives)


def _input_layer(weights, features, t):
    bias = weights["b"]
    if "clock" in weights:
        bias = bias + weights["clock"] * (jnp.log1p(t.astype(bias.dtype)) / _TIME_SCALE)
    if not native.usable(weights, features):
        return jax.nn.elu(cell.dense(weights["w"], bias, features))
    # A few products for each unit: as a matrix product they would go through memory once more.
    rows = jnp.stack([*weights["w"].T, bias])
    *columns, bias = jnp.expand_dims(rows, range(2, 1 + features.ndim))
    products = [column * x[None] for column, x in zip(columns, features, strict=True)]
    return jax.nn.elu(sum(products) + bias)


def _features(settings, g_t, state_tm1):
    """`(features, (t, m, v))`: m~_t of every pair of betas, then g~_t; and what they come from."""

    def beside_coordinates(values):
        return jnp.asarray(values, g_t.dtype).reshape(-1, *(1,) * g_t.ndim)

    betas_1, betas_2 = zip(*settings.betas, strict=True)
    beta_1 = beside_coordinates(betas_1)
    beta_2 = beside_coordinates(betas_2)
    rest_1 = beside_coordinates([1 - beta for beta in betas_1])
    rest_2 = beside_coordinates([1 - beta for beta in betas_2])
    g_t = jnp.expand_dims(g_t, 0)
    count = state_tm1.count + 1
    m = beta_1 * state_tm1.m + rest_1 * g_t
    v = beta_2 * state_tm1.v + rest_2 * jnp.square(g_t)
    t = count.astype(g_t.dtype)
    # While all gradients have been zero, v is, where a root has no derivative: none is taken there.
    is_positive = v > 0
    corrected = jnp.where(is_positive, v, 1) / (1 - beta_2**t)
    root = jnp.sqrt(corrected) * is_positive.astype(v.dtype) + settings.epsilon
    features = jnp.concatenate([m / (1 - beta_1**t) / root, g_t / root])
    return features, (count, m, v)


def _network_of(phi):
    return {"layers": phi["layers"], "output": phi["output"]}


def _check_betas(betas):
    """Pairs of betas, as a tuple."""
    pairs = (betas,) if _is_pair(betas) else betas
    is_list = isinstance(pairs, (tuple, list)) and len(pairs) > 0
    if not is_list or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(
            f"betas must be two numbers in [0, 1), or several such pairs, got {betas!r}."
        )
    return tuple((float(beta_1), float(beta_2)) for beta_1, beta_2 in pairs)


def _is_pair(value):
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    return all(isinstance(beta, numbers.Real) and 0 <= beta < 1 for beta in value)
