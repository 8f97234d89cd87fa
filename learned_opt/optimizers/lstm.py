"""The coordinatewise LSTM optimizer (Andrychowicz et al. 2016, section 2.1)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import coordinatewise, network, preprocess

# The papers and their code differ; each preset names its source.
PRESETS = {
    "quadratic": {"preprocess_p": None, "output_scale": 1.0},  # section 3.1: no preprocessing, nor postprocessing
    "mnist": {"preprocess_p": 10.0, "output_scale": 0.1},  # section 3.2 and appendix A
    "neural-art": {"preprocess_p": 10.0, "output_scale": 1.0},  # section 3.4: preprocessing, no postprocessing
    "mnist-code": {"preprocess_p": 5.0, "output_scale": 0.01},  # the first authors' later code
}
_UNSET = object()


class LSTMState(NamedTuple):
    """State of an LSTM optimizer; every leaf `[num_units, *parameter.shape]`."""

    hidden: tuple  # one tree like the parameters for each layer
    cell: tuple


def lstm(preset="quadratic", *, hidden_sizes=(20, 20), preprocess_p=_UNSET, output_scale=_UNSET, state_dtype=None):
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
    chosen = dict(PRESETS[_checks.choice("preset", preset, PRESETS)])
    if preprocess_p is not _UNSET:
        chosen["preprocess_p"] = preprocess_p
    if output_scale is not _UNSET:
        chosen["output_scale"] = output_scale
    p, scale = chosen["preprocess_p"], _checks.positive_float("output_scale", chosen["output_scale"])
    if p is not None:
        p = _checks.positive_float("preprocess_p", p)
    hidden_sizes = _checks.sizes("hidden_sizes", hidden_sizes)
    state_dtype = _checks.state_dtype(state_dtype)
    spec = {"name": "lstm", "args": {"hidden_sizes": list(hidden_sizes), "preprocess_p": p,
                                     "output_scale": scale, "state_dtype": state_dtype}}
    rule = coordinatewise.CoordinateRule(functools.partial(_init_state, hidden_sizes),
                                         functools.partial(_update, p, scale), functools.partial(_pull_back, p, scale))
    init = functools.partial(network.init, num_inputs=1 if p is None else 2, hidden_sizes=hidden_sizes)
    return coordinatewise.from_rule(rule, init, spec, state_dtype)


def _init_state(hidden_sizes, dtype):
    return LSTMState(*(tuple(jnp.zeros(h, dtype) for h in hidden_sizes) for _ in LSTMState._fields))


def _update(p, scale, phi, g_t, state_tm1):
    u_t, hidden, cells = network.step(_scaled(scale, phi), _features(p, g_t), *state_tm1)
    return u_t, LSTMState(hidden, cells)


def _pull_back(p, scale, phi, g, du, state_0):
    pulled = network.pull_back(_scaled(scale, phi), jnp.moveaxis(_features(p, g), 0, 1), du, *state_0)
    return pulled and _scaled(scale, pulled)


def _features(p, g):
    return jnp.expand_dims(g, 0) if p is None else preprocess.log_and_sign(g, p)


def _scaled(scale, phi):
    """The output layer times the output scale: as many products as it has weights, and not one for each coordinate."""
    unit = not isinstance(scale, jax.core.Tracer) and scale == 1  # optax.inject_hyperparams hands in traced values
    return phi if unit else {**phi, "output": jax.tree.map(lambda w: scale * w, phi["output"])}
