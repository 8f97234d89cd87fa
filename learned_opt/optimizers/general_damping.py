"""How `general` shortens its steps where gradients go back and forth as a run begins.

Its steps are relative to the parameters. Where inputs are large and not standardised, that is too
long: all units lie behind one direction, which each step overshoots, and they die within some
thirty steps. Then the gradient points against its own momentum. In networks with inputs of about
one it hardly does: there the damping stays at one, and nothing is changed.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from learned_opt.optimizers import base, general_rule

LEAST = 0.2
AGAINST = 0.5  # a cosine of minus so much is borne
RATE = 1.5  # at which the logarithm falls, by what is beyond that
RECOVERY = 0.1  # at which it rises again, by what is left to it


def following(
    damping: jax.Array,
    has_just_begun: jax.Array,
    gradients: Sequence[jax.Array],
    momenta: Sequence[jax.Array],
) -> jax.Array:
    """The factor on all steps, from this one on.

    The cosine between the gradient and the momentum before it, a mean over tensors, moves it as a
    hypergradient would (Baydin et al. 2018, arXiv 1703.04782), within [0.2, 1].

    Args:
      damping: the factor so far, `[]`; one before the first step.
      has_just_begun: whether the run has, `[]`; later the factor stays. Once steps are as long as
        they get, gradients go back and forth in networks that bear it, too.
      gradients: of the tensors that decide, `[*shape]` each; none for no change.
      momenta: their moving averages before this step, `[*shape]` each.

    Returns:
      `[]`, of the type of `damping`.
    """
    if not gradients:
        return damping
    operands = damping, list(gradients), list(momenta)
    # A conditional, as the cosine is not read later: it would go through all gradients for nothing.
    return base.conditional(has_just_begun, _changed, lambda damping, *_: damping, *operands)


def _changed(damping, gradients, momenta):
    pairs = zip(gradients, momenta, strict=True)
    cosine = jnp.mean(jnp.stack([_cosine(g, m).astype(damping.dtype) for g, m in pairs]))
    beyond = cosine + AGAINST
    rate = jnp.where(beyond < 0, RATE, RECOVERY)
    return jnp.clip(damping * jnp.exp(rate * beyond), LEAST, 1).astype(damping.dtype)


def _cosine(x, y):
    """Zero where there is no number: what is wrong there shows in that tensor alone."""
    cosine = general_rule.alignment(general_rule.in_units(x), general_rule.in_units(y))
    return jnp.where(jnp.isfinite(cosine), cosine, 0)
