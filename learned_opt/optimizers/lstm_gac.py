"""The LSTM optimizer with global averaging cells (Andrychowicz et al. 2016, appendix D)."""

from collections.abc import Sequence
from typing import Any

from learned_opt import _checks
from learned_opt.optimizers import averaging, base, communicating, network
from learned_opt.optimizers.settings import UNSET, settings


def lstm_gac(
    preset: str = "quadratic",
    *,
    hidden_sizes: int | Sequence[int] = (20, 20),
    num_averaged: int = 5,
    preprocess_p: float | None = UNSET,
    output_scale: float = UNSET,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """LSTM+GAC: the LSTM optimizer, with some cells of each layer averaged over all coordinates.

    What goes out of these cells, to the next layer and to the next step, is the mean over all
    coordinates of all parameters that the optimizer updates. Everything else is as in `lstm`, down
    to the weights. Averages allow what no coordinatewise rule can do, such as clipping the
    gradient by its norm.

    Inside a `jax.shard_map`, `update` takes `axis_name`; see `communicating.from_rule`.

    Args:
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged: how many cells of each layer are averaged; 5 in the paper (section 3.1 of its
        first version).

    Returns:
      A `LearnedOptimizer` that is not coordinatewise. Its state has
      `2 * sum(hidden_sizes) - num_averaged * len(hidden_sizes)` numbers a parameter.

    Raises:
      ValueError: as `lstm`, or if a layer has fewer cells than are averaged.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.lstm_gac()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    chosen = settings(preset, hidden_sizes, preprocess_p, output_scale)
    num_averaged = averaging.check_averaged(num_averaged, chosen.hidden_sizes)
    state_dtype = _checks.state_dtype(state_dtype)
    arguments = {
        **chosen.arguments(),
        "num_averaged": num_averaged,
        "state_dtype": state_dtype,
    }
    rule = communicating.TreeRule(
        base.bind(averaging.start, chosen.hidden_sizes, num_averaged), base.bind(_update, chosen)
    )
    init = base.bind(_init_weights, chosen.num_features, chosen.hidden_sizes)
    spec = {"name": "lstm_gac", "args": arguments}
    return communicating.from_rule(rule, init, spec, state_dtype)


def _init_weights(num_features, hidden_sizes, key):
    return network.init(key, num_features, hidden_sizes)


def _update(chosen, phi, gs, state, coordinates):
    features = gs.map(chosen.features)
    signal, state = averaging.step(phi["layers"], features, state, coordinates.average)
    return averaging.linear(chosen.scaled(phi)["output"], signal), state
