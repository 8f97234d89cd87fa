"""What the 2016 optimizers have around their layers: what these read of a gradient, how their output is scaled."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import preprocess

# The papers and their code differ; each preset names its source.
PRESETS = {
    "quadratic": {
        "preprocess_p": None,
        "output_scale": 1.0,
    },  # section 3.1: no preprocessing, nor postprocessing
    "mnist": {"preprocess_p": 10.0, "output_scale": 0.1},  # section 3.2 and appendix A
    "neural-art": {
        "preprocess_p": 10.0,
        "output_scale": 1.0,
    },  # section 3.4: preprocessing, no postprocessing
    "mnist-code": {"preprocess_p": 5.0, "output_scale": 0.01},  # the first authors' later code
}
UNSET = object()  # None means something


class Settings(NamedTuple):
    """What the papers' optimizers have around their LSTM layers; see `lstm`."""

    hidden_sizes: tuple
    preprocess_p: float | None
    output_scale: float

    @property
    def num_features(self):
        """How many features the layers read of a gradient."""
        return 1 if self.preprocess_p is None else 2

    def features(self, g):
        """What the layers read of gradients `[*coordinates]`: `[features, *coordinates]`."""
        return (
            jnp.expand_dims(g, 0)
            if self.preprocess_p is None
            else preprocess.log_and_sign(g, self.preprocess_p)
        )

    def scaled(self, phi):
        """The output layer times the output scale: as many products as it has weights, and not one a coordinate."""
        scale = self.output_scale
        unit = (
            not isinstance(scale, jax.core.Tracer) and scale == 1
        )  # optax.inject_hyperparams hands in traced values
        return phi if unit else {**phi, "output": jax.tree.map(lambda w: scale * w, phi["output"])}

    def arguments(self):
        """The arguments of a spec."""
        return {**self._asdict(), "hidden_sizes": list(self.hidden_sizes)}


def settings(preset, hidden_sizes, preprocess_p=UNSET, output_scale=UNSET):
    """The `Settings` of a preset, with what is given in place of the preset's; arguments and errors as `lstm.lstm`."""
    chosen = dict(PRESETS[_checks.choice("preset", preset, PRESETS)])
    if preprocess_p is not UNSET:
        chosen["preprocess_p"] = preprocess_p
    if output_scale is not UNSET:
        chosen["output_scale"] = output_scale
    p, scale = (
        chosen["preprocess_p"],
        _checks.positive_float("output_scale", chosen["output_scale"]),
    )
    p = None if p is None else _checks.positive_float("preprocess_p", p)
    return Settings(_checks.sizes("hidden_sizes", hidden_sizes), p, scale)
