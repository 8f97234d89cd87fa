"""What most families share: functions as pytrees, and where parameters start."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from learned_opt.optimizees import base


def optimizee(
    sample: Callable,
    init: Callable,
    loss: Callable,
    statistics: Callable | None = None,
    held_out: Callable | None = None,
    solution: Callable | None = None,
) -> base.Optimizee:
    """An `Optimizee` whose functions are `Partial`s, so that it can be an argument of `jax.jit`.

    Args:
      sample, init, loss, statistics, held_out, solution: see `Optimizee`.

    Returns:
      An `Optimizee`.
    """
    return base.Optimizee(
        base.as_partial(sample),
        base.as_partial(init),
        base.as_partial(loss),
        _as_optional_partial(statistics),
        _as_optional_partial(held_out),
        _as_optional_partial(solution),
    )


def partials(problem: Any) -> base.Optimizee:
    """An optimizee as it is, with `Partial`s in the place of functions.

    Raises:
      ValueError: for something that is no optimizee.
    """
    base.as_family(problem)  # checks it
    others = (getattr(problem, name, None) for name in ("statistics", "held_out", "solution"))
    return optimizee(problem.sample, problem.init, problem.loss, *others)


def _as_optional_partial(function: Callable | None) -> jax.tree_util.Partial | None:
    if function is None:
        return None
    return base.as_partial(function)


def no_instance(key: jax.Array) -> tuple:
    """The instance of a family whose problems differ in theta_0 and in their minibatches alone."""
    del key
    return ()


@dataclasses.dataclass(frozen=True)
class VectorInit:
    """Draws theta_0 `[dim]` of a function of a vector: Gaussian with standard deviation `scale`."""

    dim: int
    scale: float

    def __call__(self, key: jax.Array, instance: Any) -> jax.Array:
        """Returns theta_0."""
        del instance
        return self.scale * jax.random.normal(key, (self.dim,))
