"""What the optimizers of 2016 have around their layers: the inputs and the scale of the output."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import preprocess

# The papers and their code differ; each preset names its source.
PRESETS: dict[str, dict[str, Any]] = {
    # Section 3.1: neither preprocessing nor postprocessing.
    "quadratic": {"preprocess_p": None, "output_scale": 1.0},
    # Section 3.2 and appendix A.
    "mnist": {"preprocess_p": 10.0, "output_scale": 0.1},
    # Section 3.4: preprocessing, and no postprocessing.
    "neural-art": {"preprocess_p": 10.0, "output_scale": 1.0},
    # The later code of the first authors.
    "mnist-code": {"preprocess_p": 5.0, "output_scale": 0.01},
}
UNSET: Any = object()  # None means something


# The largest decay of what 16 bits can average: bfloat16 loses a change by less than 2^-8.
_MAX_SHORT_DECAY = 0.99


def check_precision(
    name: str,
    largest: float,
    state_dtype: str | None,
) -> None:
    """Raises ValueError if a state of that dtype cannot hold averages that move so slowly."""
    is_short = state_dtype in ("bfloat16", "float16")
    if is_short and largest > _MAX_SHORT_DECAY:
        raise ValueError(
            f"{name} must be at most {_MAX_SHORT_DECAY} with state_dtype={state_dtype!r}, "
            f"got {largest}: such averages would stand still. Leave state_dtype out."
        )


class Settings(NamedTuple):
    """What the papers' optimizers have around their LSTM layers; see `lstm`."""

    hidden_sizes: tuple
    preprocess_p: float | None
    output_scale: float
    input_scale: float = 1.0

    @property
    def num_features(self) -> int:
        """How many features the layers read of a gradient."""
        return 1 if self.preprocess_p is None else 2

    def features(self, g: jax.Array) -> jax.Array:
        """What the layers read of gradients `[*coordinates]`: `[features, *coordinates]`."""
        if self.preprocess_p is None:
            scaled = g if _is_one(self.input_scale) else self.input_scale * g
            return jnp.expand_dims(scaled, 0)
        return preprocess.log_and_sign(g, self.preprocess_p)

    def scaled(self, phi: Any) -> Any:
        """`phi` with its output layer times the output scale.

        That takes as many products as the layer has weights, and not one for each coordinate.
        """
        scale = self.output_scale
        if _is_one(scale):
            return phi
        return {**phi, "output": jax.tree.map(lambda w: scale * w, phi["output"])}

    def arguments(self) -> dict:
        """The arguments of a spec. An input scale of 1 is none: older specs do not name it."""
        arguments = {**self._asdict(), "hidden_sizes": list(self.hidden_sizes)}
        if _is_one(self.input_scale):
            del arguments["input_scale"]
        return arguments


def _is_one(scale: Any) -> bool:
    """Whether a factor does nothing; one that is traced by `optax.inject_hyperparams` may."""
    return not isinstance(scale, jax.core.Tracer) and scale == 1


def settings(
    preset: str,
    hidden_sizes: int | Sequence[int],
    preprocess_p: float | None = UNSET,
    output_scale: float = UNSET,
    input_scale: float = 1.0,
) -> Settings:
    """The `Settings` of a preset, with what is given in place of the preset's.

    Arguments and errors are those of `lstm.lstm`.
    """
    chosen = dict(PRESETS[_checks.choice("preset", preset, PRESETS)])
    if preprocess_p is not UNSET:
        chosen["preprocess_p"] = preprocess_p
    if output_scale is not UNSET:
        chosen["output_scale"] = output_scale
    p = chosen["preprocess_p"]
    scale = _checks.positive_float("output_scale", chosen["output_scale"])
    if p is not None:
        p = _checks.positive_float("preprocess_p", p)
    input_scale = _checks.positive_float("input_scale", input_scale)
    if p is not None and not _is_one(input_scale):
        raise ValueError(
            f"input_scale needs preprocess_p=None, got input_scale={input_scale!r} and "
            f"preprocess_p={p!r}: the logarithm of a gradient needs no scale. Leave one out."
        )
    return Settings(_checks.sizes("hidden_sizes", hidden_sizes), p, scale, input_scale)
