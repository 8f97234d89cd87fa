"""The lift of every kind of rule."""

from collections.abc import Callable

import jax

from learned_opt import _checks
from learned_opt.optimizers import base, communicating, coordinatewise, tensorwise

_LIFTS: dict[type, Callable[..., base.LearnedOptimizer]] = {
    coordinatewise.CoordinateRule: coordinatewise.from_rule,
    tensorwise.TensorRule: tensorwise.from_rule,
    communicating.TreeRule: communicating.from_rule,
}


def from_rule(
    rule: coordinatewise.CoordinateRule | tensorwise.TensorRule | communicating.TreeRule,
    init: Callable[[jax.Array], base.Phi],
    spec: dict | None = None,
    state_dtype: str | None = None,
) -> base.LearnedOptimizer:
    """Makes a `LearnedOptimizer` from an update rule of your own.

    The optimizer works wherever optax transformations do: under `jit` and `vmap`, with any tree of
    parameters, with 16-bit parameters and with sharded ones.

    Args:
      rule: a `CoordinateRule`, the rule of one coordinate; a `TensorRule`, that of one parameter
        as a whole; or a `TreeRule`, that of all parameters together.
      init: `init(key) -> phi`, the initial weights, a pytree of floating-point arrays.
      spec: plain data `{"name": str, "args": dict}` that describes the optimizer. With it
        `learned_opt.save` takes the optimizer, and `learned_opt.load` rebuilds it by a function
        `build(**args)` that you hand over under that name. None if it is not to be saved.
      state_dtype: the dtype in which the state is kept between steps: None, "float32",
        "bfloat16", "float16" or "float64". None is float32, or float64 where parameters or
        weights are float64. Arithmetic is in float32 at least.

    Returns:
      A `LearnedOptimizer`, which is coordinatewise if the rule is a `CoordinateRule`.

    Raises:
      ValueError: if `rule` is no rule, or for an unknown dtype.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> def update(phi, g, h):
      ...     return -jnp.exp(phi["log_rate"]) * jnp.sign(g), h
      >>> rule = learned_opt.CoordinateRule(lambda dtype: (), update)
      >>> opt = learned_opt.from_rule(rule, lambda key: {"log_rate": jnp.log(0.1)})
    """
    lift = _LIFTS.get(type(rule))
    if lift is None:
        raise ValueError(
            f"rule must be a CoordinateRule, a TensorRule or a TreeRule, got {type(rule).__name__}."
        )
    if not callable(init):
        raise ValueError(f"init must be a function of a random key, got {init!r}.")
    return lift(rule, init, spec, _checks.state_dtype(state_dtype))
