"""The coordinatewise LSTM optimizer (Andrychowicz et al. 2016, section 2.1)."""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import coordinatewise, network
from learned_opt.optimizers.settings import UNSET, settings


class LSTMState(NamedTuple):
    """State of an LSTM optimizer; every leaf `[num_units, *parameter.shape]`."""

    hidden: tuple  # one tree like the parameters for each layer
    cell: tuple


def lstm(
    preset="quadratic",
    *,
    hidden_sizes=(20, 20),
    preprocess_p=UNSET,
    output_scale=UNSET,
    state_dtype=None,
):
    """The LSTM optimizer: every coordinate has its own state of a small LSTM, and all share its weights.

    `u_t = output_scale * (w . h_t + b)`, with `h_t` the output of the last of a stack of LSTM layers that reads the
    gradient (Andrychowicz et al. 2016, section 2.1), or the two features of appendix A where `preprocess_p` is given.
    Its state takes `2 * sum(hidden_sizes)` numbers a parameter: 320 bytes in float32 for two layers of 20, against
    the 8 bytes of Adam.

    Args:
      preset: the papers' settings by name: "quadratic", "mnist", "neural-art", "mnist-code". The arguments
        `preprocess_p` and `output_scale` override those of the preset.
      hidden_sizes: units of each layer.
      preprocess_p: `p` of appendix A, or None to read the gradient as it is.
      output_scale: factor on the network's output.
      state_dtype: dtype of the state between steps: None (float32; float64 with float64 parameters), "float32",
        "bfloat16", "float16" or "float64".

    Returns:
      A `LearnedOptimizer`, coordinatewise.

    Raises:
      ValueError: for an unknown preset or dtype, or sizes and scales that are not positive.

    Example:
      >>> opt = learned_opt.lstm("mnist")
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    chosen = settings(preset, hidden_sizes, preprocess_p, output_scale)
    state_dtype = _checks.state_dtype(state_dtype)
    spec = {"name": "lstm", "args": {**chosen.arguments(), "state_dtype": state_dtype}}
    rule = coordinatewise.CoordinateRule(
        functools.partial(_init_state, chosen.hidden_sizes),
        functools.partial(_update, chosen),
        functools.partial(_pull_back, chosen),
    )
    init = functools.partial(
        network.init, num_inputs=chosen.num_features, hidden_sizes=chosen.hidden_sizes
    )
    return coordinatewise.from_rule(rule, init, spec, state_dtype)


def _init_state(hidden_sizes, dtype):
    return LSTMState(*(tuple(jnp.zeros(h, dtype) for h in hidden_sizes) for _ in LSTMState._fields))


def _update(chosen, phi, g_t, state_tm1):
    u_t, hidden, cells = network.step(chosen.scaled(phi), chosen.features(g_t), *state_tm1)
    return u_t, LSTMState(hidden, cells)


def _pull_back(chosen, phi, g, du, state_0):
    features = jnp.moveaxis(chosen.features(g), 0, 1)
    pulled = network.pull_back(chosen.scaled(phi), features, du, *state_0)
    return pulled and chosen.scaled(pulled)
