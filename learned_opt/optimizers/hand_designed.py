"""A hand-designed optimizer where a learned one is expected."""

import optax

from learned_opt.optimizers import base


def from_optax(tx, coordinatewise=False):
    """Wraps an optax transformation as a `LearnedOptimizer` that has nothing to learn.

    Args:
      tx: any `optax.GradientTransformation`.
      coordinatewise: say True where the update of a coordinate depends on that coordinate's gradients alone.

    Returns:
      A `LearnedOptimizer` whose weights are an empty dict. It holds a function and has no `spec` to rebuild it from:
      `learned_opt.save` refuses it.

    Raises:
      ValueError: if `tx` is no optax transformation.
    """
    base.check_transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)
    return base.LearnedOptimizer(
        lambda key: {}, lambda phi: tx, bool(coordinatewise), {"name": "from_optax", "args": {}}
    )
