"""What an optimizer network sees of a gradient."""

import math

import jax.numpy as jnp


def log_and_sign(gradient, p):
    """A gradient's logarithm and sign, both in a range that a network can use.

    `(log|g| / p, sgn g)` where `|g| >= e^-p`, and `(-1, e^p g)` otherwise (Andrychowicz et al. 2016, appendix A).
    Both features are continuous in `g`, and their derivatives are finite everywhere, also at zero: the logarithm's
    argument is clamped, not selected afterwards, so that no NaN enters a reverse pass.

    Args:
      gradient: array of any shape.
      p: how small a gradient is still told apart from zero: `e^-p`.

    Returns:
      The two features, stacked first: `[2, *gradient.shape]`.
    """
    magnitude = jnp.log(jnp.maximum(jnp.abs(gradient), math.exp(-p))) / p
    return jnp.stack([magnitude, jnp.clip(gradient * math.exp(p), -1, 1)])
