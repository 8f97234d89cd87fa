"""The LSTM optimizer with global averaging cells (Andrychowicz et al. 2016, appendix D)."""

import functools

from learned_opt import _checks
from learned_opt.optimizers import averaging, communicating, network
from learned_opt.optimizers.settings import UNSET, settings


def lstm_gac(
    preset="quadratic",
    *,
    hidden_sizes=(20, 20),
    num_averaged=5,
    preprocess_p=UNSET,
    output_scale=UNSET,
    state_dtype=None,
):
    """LSTM+GAC: the LSTM optimizer, in which some cells of each layer are averaged over all coordinates.

    What goes out of these cells, to the next layer and to the next step, is the mean over all coordinates of all
    parameters that the optimizer updates; everything else is as in `lstm`, down to the weights. Averages allow what no
    coordinatewise rule can do, such as clipping the gradient by its norm.

    Args:
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged: how many cells of each layer are averaged; 5 in the paper (section 3.1 of its first version).

    Returns:
      A `LearnedOptimizer`, not coordinatewise. Its state has `2 * sum(hidden_sizes) - num_averaged * len(hidden_sizes)`
      numbers a parameter.

    Raises:
      ValueError: as `lstm`, or for more averaged cells than a layer has.

    Example:
      >>> opt = learned_opt.lstm_gac()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    chosen = settings(preset, hidden_sizes, preprocess_p, output_scale)
    num_averaged = averaging.check_averaged(num_averaged, chosen.hidden_sizes)
    state_dtype = _checks.state_dtype(state_dtype)
    spec = {
        "name": "lstm_gac",
        "args": {**chosen.arguments(), "num_averaged": num_averaged, "state_dtype": state_dtype},
    }
    rule = communicating.TreeRule(
        functools.partial(averaging.start, chosen.hidden_sizes, num_averaged),
        functools.partial(_update, chosen),
    )
    init = functools.partial(
        network.init, num_inputs=chosen.num_features, hidden_sizes=chosen.hidden_sizes
    )
    return communicating.from_rule(rule, init, spec, state_dtype)


def _update(chosen, phi, gs, state):
    signal, state = averaging.step(
        phi["layers"], gs.map(chosen.features), state, communicating.average
    )
    return averaging.linear(chosen.scaled(phi)["output"], signal), state
