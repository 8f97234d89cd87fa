"""What meta-training minimizes."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks, _fingerprint
from learned_opt.optimizees.base import Family, as_partial


def log_loss(loss: jax.Array, first: jax.Array) -> jax.Array:
    """The logarithm of the loss: a problem counts by the factor by which its loss falls."""
    del first
    return jnp.log(loss)


def relative_loss(loss: jax.Array, first: jax.Array) -> jax.Array:
    """The loss over that at theta_0: problems of any scale count alike."""
    return loss / jax.lax.stop_gradient(first)


SHAPES = {"loss": None, "log": log_loss, "relative": relative_loss}


@dataclasses.dataclass(frozen=True)
class MetaLoss:
    """The meta-loss: the mean over problems of `sum_t w_t s(F(theta_t), F(theta_0))`.

    The papers' is the default: F is the optimizee's loss f, s leaves it as it is, and every w_t is
    one (Andrychowicz et al. 2016, equation 3).

    Attributes:
      weights: w_1 .. w_T of the horizon, or those of one window, which every window then has; None
        for ones. Given as any sequence, kept as a tuple.
      shape: s by name, "loss", "log" or "relative" (to the first loss), or a function
        `(loss, first_loss) -> scalar` of two scalars that JAX can differentiate.
      held_out: whether F is the loss on the family's held-out data, `Optimizee.held_out`.

    Example:
      >>> from learned_opt.estimators import MetaLoss
      >>> MetaLoss(weights=[0.0, 0.0, 1.0], shape="log").weights
      (0.0, 0.0, 1.0)
    """

    weights: tuple[float, ...] | None = None
    shape: str | Callable[[jax.Array, jax.Array], jax.Array] = "loss"
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.weights is not None:
            array = np.asarray(self.weights, np.float64)
            # In NumPy: several processes cannot come together once JAX's backends have started.
            _check_weights(array, (array.shape[0] if array.ndim else 0,))
            object.__setattr__(self, "weights", tuple(array.tolist()))
        if not callable(self.shape):
            _checks.choice("shape", self.shape, SHAPES)
        _checks.boolean("held_out", self.held_out)

    def bound(self, family: Family) -> Family:
        """The family with this meta-loss in it.

        Raises:
          ValueError: for `held_out` where the family has no held-out data.
        """
        if self.held_out and family.held_out is None:
            raise ValueError(
                "held_out=True needs problems with held-out data: give the Optimizee a held_out "
                "function."
            )
        shape = self.shape if callable(self.shape) else SHAPES[self.shape]
        return family._replace(
            target=family.held_out if self.held_out else None,
            shape=None if shape is None else as_partial(shape),
        )

    def of_windows(self, window: int, num_steps: int) -> jax.Array:
        """The weights of every window of a horizon, `[num_steps / window, window]`.

        Raises:
          ValueError: if there are weights for neither the horizon nor one window.
        """
        if self.weights is None:
            return jnp.ones((num_steps // window, window))
        weights = check_weights(self.weights, (num_steps, window))
        return jnp.broadcast_to(weights.reshape(-1, window), (num_steps // window, window))

    def plain(self) -> dict:
        """As JSON can hold it; a function of one's own is known by what it computes."""
        shape = self.shape
        if callable(shape):
            shape = _fingerprint.of_function(shape, jnp.zeros(()), jnp.zeros(()))
        weights = self.weights and list(self.weights)
        return {"weights": weights, "shape": shape, "held_out": self.held_out}


def check_weights(weights: object, lengths: tuple[int, ...]) -> jax.Array:
    """The weights w_t as a vector.

    Raises:
      ValueError: unless there are as many as one of `lengths`, finite and not negative.
    """
    if isinstance(weights, jax.core.Tracer):
        return weights
    array = np.asarray(weights, np.float64)
    _check_weights(array, lengths)
    return jnp.asarray(array, jnp.result_type(float))


def _check_weights(array: np.ndarray, lengths: tuple[int, ...]) -> None:
    if array.ndim != 1 or array.shape[0] not in lengths or not array.size:
        allowed = " or ".join(map(str, dict.fromkeys(lengths)))
        raise ValueError(f"weights must be a vector of {allowed} numbers, got shape {array.shape}.")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(
            f"weights must be finite and not negative, got {array.min()} .. {array.max()}."
        )
