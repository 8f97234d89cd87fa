"""A hand-designed optimizer where a learned one is expected."""

import dataclasses
from typing import Any

import jax
import optax

from learned_opt.optimizers import base


def from_optax(
    tx: optax.GradientTransformation, coordinatewise: bool = False
) -> base.LearnedOptimizer:
    """Wraps an optax transformation as a `LearnedOptimizer` that has nothing to learn.

    Args:
      tx: any `optax.GradientTransformation`.
      coordinatewise: say True if the update of a coordinate depends on the gradients of this
        coordinate alone.

    Returns:
      A `LearnedOptimizer` whose weights are an empty dict. It holds a function and has no `spec`:
      `learned_opt.save` refuses it. It is equal to another one of the same transformation object.

    Raises:
      ValueError: if `tx` is no optax transformation.

    Example:
      >>> import jax, optax, learned_opt
      >>> opt = learned_opt.from_optax(optax.adam(0.01), coordinatewise=True)
      >>> opt.init(jax.random.key(0))
      {}
    """
    base.check_transformation("tx", tx)
    return base.LearnedOptimizer(_no_weights, _Constant(tx), bool(coordinatewise), None)


def _no_weights(key: jax.Array) -> dict:
    del key
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class _Constant:
    """`transform(phi)` that is one transformation for every phi."""

    tx: Any

    def __call__(self, phi):
        del phi
        return optax.with_extra_args_support(self.tx)

    def __eq__(self, other):
        return isinstance(other, _Constant) and other.tx is self.tx

    def __hash__(self):
        return id(self.tx)
