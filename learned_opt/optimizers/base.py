"""What a learned optimizer is: an architecture as two pure functions, without weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks

Phi = Any  # the optimizer's weights: a pytree of arrays


class Parts(NamedTuple):
    """How a partitioned optimizer is put together: one optimizer a label, and who gets which label."""

    optimizers: dict  # label -> LearnedOptimizer
    label_fn: Callable[[Any], Any]  # params -> tree of labels, a prefix of params


class LearnedOptimizer(NamedTuple):
    """An update rule with weights to be learned; `transform(phi)` is an ordinary optax transformation.

    Attributes:
      init: `init(key) -> phi`, the weights' initial values, a plain pytree of arrays.
      transform: `transform(phi) -> optax.GradientTransformationExtraArgs`.
      coordinatewise: whether each coordinate's update depends on that coordinate's gradients alone, by the same
        rule for all: then the meta-gradient is computed in blocks of coordinates.
      spec: plain data `{"name": str, "args": dict}` from which `optimizers.from_spec` rebuilds the optimizer.
      parts: for a partitioned optimizer, its `Parts`; the meta-gradient then treats each label by itself.
      pull_back: for a coordinatewise optimizer that has a faster derivative of a window than `jax.vjp`, that
        derivative; see `CoordinateRule`. States are those of `transform` for a vector of coordinates.
    """

    init: Callable[[jax.Array], Phi]
    transform: Callable[[Phi], optax.GradientTransformationExtraArgs]
    coordinatewise: bool
    spec: dict
    parts: Parts | None = None
    pull_back: Callable | None = None

    # A spec is a dict, which has no hash; the functions tell two optimizers apart (they are static under jit).
    def __hash__(self):
        return hash((self.init, self.transform))

    def __eq__(self, other):
        return isinstance(other, LearnedOptimizer) and self[:2] == other[:2]

    def __ne__(self, other):
        return not self == other


def check_optimizer(name, value):
    """Raises ValueError unless `value` is a LearnedOptimizer."""
    _checks.instance_of(
        name,
        value,
        LearnedOptimizer,
        "build one with learned_opt.lstm(), or wrap an optax optimizer with learned_opt.from_optax.",
    )


def check_init_key(key):
    """Raises ValueError unless `key` is a random key: who passes parameters took `opt` for an optax transformation."""
    try:
        _checks.random_key(key)
    except ValueError as error:
        raise ValueError(
            "opt.init makes an optimizer's weights from a random key, and got something else. Where an "
            "optax transformation is wanted, hand over opt.transform(phi)."
        ) from error


def check_transformation(name, value):
    """Raises ValueError unless `value` is an optax transformation."""
    if isinstance(value, LearnedOptimizer) or not (
        hasattr(value, "init") and hasattr(value, "update")
    ):
        raise ValueError(
            f"{name} must be an optax transformation, got {type(value).__name__}: "
            "of a LearnedOptimizer take opt.transform(phi)."
        )


def with_checks(init, spec):
    """What every architecture does with its weights before it uses them.

    Args:
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.

    Returns:
      `(init, take)`: `init` with its key checked, and `take(phi) -> (phi as JAX arrays, their dtype)`, which raises
      ValueError for weights of another architecture.
    """
    expected = functools.cache(lambda: jax.eval_shape(init, jax.random.key(0)))
    arguments = ", ".join(f"{k}={v!r}" for k, v in spec["args"].items())

    def checked_init(key):
        check_init_key(key)
        return init(key)

    def take(phi):
        _checks.same_tree("phi", phi, f"the weights of {spec['name']}({arguments})", expected())
        _checks.real_floating_tree("phi", phi)
        phi = jax.tree.map(jnp.asarray, phi)
        return phi, jnp.result_type(jnp.float32, *jax.tree.leaves(phi))

    return checked_init, take


def zeros(parameter, features, dtype):
    """State `[*features, *parameter.shape]` of zeros, sharded like the parameter."""
    # Depends on the parameter, so that it carries its sharding: jnp.zeros_like is a constant to jit and does not.
    zero = jnp.where(jnp.isnan(parameter), jnp.zeros((), dtype), jnp.zeros((), dtype))
    return jnp.broadcast_to(zero, (*features, *parameter.shape))
