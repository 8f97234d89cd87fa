"""The coordinatewise LSTM optimizer (Andrychowicz et al. 2016, section 2.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base, coordinatewise, network
from learned_opt.optimizers.settings import UNSET, settings


class LSTMState(NamedTuple):
    """State of an LSTM optimizer; every leaf `[num_units, *parameter.shape]`."""

    hidden: tuple  # one tree like the parameters for each layer
    cell: tuple


def lstm(
    preset: str = "quadratic",
    *,
    hidden_sizes: int | Sequence[int] = (20, 20),
    preprocess_p: float | None = UNSET,
    output_scale: float = UNSET,
    input_scale: float = 1.0,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """The LSTM optimizer: each coordinate has its own LSTM state, and all share the weights.

    `u_t = output_scale * (w . h_t + b)`, where `h_t` is the output of the last of a stack of LSTM
    layers. The layers read the gradient (Andrychowicz et al. 2016, section 2.1), or the two
    features of appendix A if `preprocess_p` is given. The state takes `2 * sum(hidden_sizes)`
    numbers a parameter: 320 bytes in float32 for two layers of 20, where Adam has 8 bytes.

    Args:
      preset: settings of the papers by name: "quadratic", "mnist", "neural-art", "mnist-code".
        `preprocess_p` and `output_scale` override those of the preset.
      hidden_sizes: units of each layer.
      preprocess_p: `p` of appendix A, or None to read the gradient as it is.
      output_scale: factor on the network's output.
      input_scale: factor on the gradient, where `preprocess_p` is None: the rescaling that
        appendix A sets against its two features.
      state_dtype: dtype of the state between steps: None, "float32", "bfloat16", "float16" or
        "float64". None is float32, or float64 with float64 parameters.

    Returns:
      A coordinatewise `LearnedOptimizer`.

    Raises:
      ValueError: for an unknown preset or dtype, or sizes and scales that are not positive.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.lstm("mnist")
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    chosen = settings(preset, hidden_sizes, preprocess_p, output_scale, input_scale)
    state_dtype = _checks.state_dtype(state_dtype)
    spec = {"name": "lstm", "args": {**chosen.arguments(), "state_dtype": state_dtype}}
    rule = coordinatewise.CoordinateRule(
        base.bind(_init_state, chosen.hidden_sizes),
        base.bind(_update, chosen),
        base.bind(_pull_back, chosen),
        broadcasts=True,
    )
    init = base.bind(_init_weights, chosen.num_features, chosen.hidden_sizes)
    return coordinatewise.from_rule(rule, init, spec, state_dtype)


def _init_weights(num_features, hidden_sizes, key):
    return network.init(key, num_features, hidden_sizes)


def _init_state(hidden_sizes, dtype):
    hidden = tuple(jnp.zeros(size, dtype) for size in hidden_sizes)
    return LSTMState(hidden, hidden)


def _update(chosen, phi, g_t, state_tm1):
    weights = chosen.scaled(phi)
    u_t, hidden, cells = network.step(weights, chosen.features(g_t), *state_tm1)
    return u_t, LSTMState(hidden, cells)


def _pull_back(chosen, phi, g, du, state_0):
    features = jnp.moveaxis(chosen.features(g), 0, 1)
    pulled = network.pull_back(chosen.scaled(phi), features, du, *state_0)
    if pulled is None:
        return None
    return chosen.scaled(pulled)
