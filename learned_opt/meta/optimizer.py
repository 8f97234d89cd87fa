"""The optimizer of phi: Adam with clipping and a rate that decays, as one optax transformation."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks

SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True)
class ClippedAdam:
    """Adam on phi, for meta-gradients that are clipped by their global norm.

    Called with a learning rate it gives the optax transformation. This is what an optimizer of
    one's own has to do as well: any function of the learning rate and the number of updates.

    Attributes:
      clip_norm: meta-gradients are clipped to this global norm; None leaves them as they are.
      schedule: "cosine" lets the rate decay to zero over all of meta-training, "constant" keeps it.

    Raises:
      ValueError: for settings that are not possible.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.meta.optimizer import ClippedAdam
      >>> tx = ClippedAdam(schedule="constant")(0.01, 100)
      >>> updates, _ = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)), done=0.0)
      >>> print(updates.round(4))
      [-0.01]
    """

    clip_norm: float | None = 1.0
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        if self.clip_norm is not None:
            _checks.positive_float("clip_norm", self.clip_norm)
        _checks.choice("schedule", self.schedule, SCHEDULES)

    def __call__(
        self, learning_rate: Any, num_updates: int
    ) -> optax.GradientTransformationExtraArgs:
        """The transformation.

        Its update takes `done`, the share of meta-training that lies behind: stages of a curriculum
        that end early shorten the decay, and updates that were left out do not delay it.
        """
        del num_updates
        clip = optax.identity() if self.clip_norm is None else _clip(self.clip_norm)
        return optax.chain(clip, optax.scale_by_adam(), self._scale(learning_rate))

    def _scale(self, learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        def update(
            updates: Any,
            state: Any,
            params: Any = None,
            *,
            done: Any,
            **extra: Any,
        ) -> Any:
            del params, extra
            factor = 0.5 * (1 + jnp.cos(jnp.pi * done)) if self.schedule == "cosine" else 1.0
            rate = learning_rate * factor
            return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _clip(clip_norm: float) -> optax.GradientTransformation:
    """Clips by the global norm with one product a weight, in the order in which results were made.

    (`optax.clip_by_global_norm` divides by the norm and rounds otherwise.)
    """

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
    ) -> tuple[Any, Any]:
        del params
        scale = jnp.minimum(1.0, clip_norm / jnp.maximum(optax.tree.norm(updates), 1e-20))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Bound(NamedTuple):
    """An optimizer of phi for a known number of updates, still without a learning rate.

    Attributes:
      optimizer: a function `(learning_rate, num_updates) -> optax transformation`, or an optax
        transformation, for which the rate has no meaning.
      num_updates: of all meta-training, at most.
    """

    optimizer: Any
    num_updates: int

    def __call__(self, learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        if is_transformation(self.optimizer):
            return optax.with_extra_args_support(self.optimizer)
        return optax.with_extra_args_support(self.optimizer(learning_rate, self.num_updates))


def is_transformation(value: Any) -> bool:
    """Whether a value is an optax transformation, and not a function that makes one."""
    return hasattr(value, "init") and hasattr(value, "update")
