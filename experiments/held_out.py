"""Learning curves on held-out data: what an optimizer learns from stays as it is."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial

from learned_opt.meta.unrolling import Run
from learned_opt.optimizees import Optimizee
from learned_opt.optimizees.base import Theta


def shown(family: Optimizee) -> Optimizee:
    """The family with its loss on a held-out minibatch in the place of its loss.

    The gradient is that of the loss on the training minibatch, as before. So a curve of losses is
    that on held-out data, of an optimizer that does not see them: it must read gradients alone, as
    all do that stand in figures with such curves.

    Args:
      family: with held-out data and without statistics.

    Raises:
      ValueError: for another one.
    """
    if family.held_out is None or family.statistics is not None:
        raise ValueError(
            "a curve on held-out data needs a family that has some (held_out=...), and no "
            "statistics."
        )
    return family._replace(loss=Partial(_shown, family.loss, family.held_out))


def _shown(
    loss: Callable,
    held_out: Callable,
    theta: Theta,
    instance: Any,
    key: jax.Array,
) -> jax.Array:
    trained_on = loss(theta, instance, key)
    fresh = held_out(jax.lax.stop_gradient(theta), instance, key)
    # The difference is zero, and has the gradient of the first.
    return fresh + (trained_on - jax.lax.stop_gradient(trained_on))


def over_the_run(run: Run, problem: Any = None) -> jax.Array:
    """A measure: the mean of all losses of a run, which is the lower the faster it learns."""
    del problem
    return run.losses.mean()


over_the_run.of_run = True  # type: ignore[attr-defined]
