"""What an optimizer network sees of a gradient."""

import math

import jax
import jax.numpy as jnp


def log_and_sign(gradient: jax.Array, p: float) -> jax.Array:
    """A gradient's logarithm and sign, both in a range that a network can use.

    The features are `(log|g| / p, sgn g)` where `|g| >= e^-p`, and `(-1, e^p g)` otherwise
    (Andrychowicz et al. 2016, appendix A). Both are continuous in `g`. Their derivatives are finite
    everywhere, also at zero: the argument of the logarithm is clamped, not selected afterwards, so
    that no NaN enters a reverse pass.

    Args:
      gradient: array of any shape.
      p: how small a gradient is still told apart from zero: `e^-p`.

    Returns:
      The two features, stacked first: `[2, *gradient.shape]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.optimizers import preprocess
      >>> preprocess.log_and_sign(jnp.array([1.0, 0.0]), p=10.0).tolist()
      [[0.0, -1.0], [1.0, 0.0]]
    """
    magnitude = jnp.log(jnp.maximum(jnp.abs(gradient), math.exp(-p))) / p
    return jnp.stack([magnitude, jnp.clip(gradient * math.exp(p), -1, 1)])
