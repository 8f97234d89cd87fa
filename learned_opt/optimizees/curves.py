"""Curves that are fitted to a few noisy measurements, thousands at a time."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee

# A common scheme for perfusion in the abdomen, in ms/um^2: rates are then of order one.
B_VALUES = (
    *(0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
)


class Decay(NamedTuple):
    """What the user wants of a curve, each a number or one for each curve.

    Attributes:
      s0: the signal at b = 0.
      f: the share of the fast component.
      fast: its rate D*.
      slow: the rate D of the slow component.
    """

    s0: Any
    f: Any
    fast: Any
    slow: Any


class Measured(NamedTuple):
    """An instance: the measured signals, one at each of `B_VALUES`."""

    signal: jax.Array


# In the middle of what `biexponential` draws: f = 0.3, D = 1, D* = 10.
START = (0.0, -0.8473, 0.0, 2.1972)


def biexponential(noise: float = 0.01) -> Optimizee:
    """Fits of S0 (f exp(-b D*) + (1 - f) exp(-b D)), as in diffusion MRI with perfusion (IVIM).

    Every voxel of an image is such a fit. The loss is half the sum of the squared residuals in
    units of the noise, which is the negative log likelihood up to a constant. Theta `[4]` is
    log S0, logit f, log D and log (D* / D - 1), so that the components never change places. All
    fits start at one place, in the middle of what is drawn:

    - S0 from 0.8 to 1.2.
    - f from 0.1 to 0.5.
    - D from 0.7 to 1.5.
    - D* from 5 D to 20 D, evenly on a logarithmic scale.

    Args:
      noise: the standard deviation of the Gaussian noise of the signals, which are about 1 at
        b = 0; 0.01 to 0.02 is common.

    Returns:
      An `Optimizee` with theta `[4]`, whose `solution` is a `Decay`.

    Raises:
      ValueError: unless the noise is above zero.

    Source:
      Le Bihan et al. 1988 for the curve.
    """
    noise = _checks.positive_float("noise", noise)
    return starting.optimizee(_Sample(noise), _init, _Loss(noise), solution=solution)


def signal(decay: Decay) -> jax.Array:
    """The curve at `B_VALUES`, without noise; of many curves `[len(B_VALUES), curves]`."""
    b = jnp.asarray(B_VALUES, jnp.result_type(decay.s0))
    b = b.reshape(b.shape + (1,) * jnp.ndim(decay.s0))
    s0, f, fast, slow = (jnp.asarray(part)[None] for part in decay)
    return s0 * (f * jnp.exp(-b * fast) + (1 - f) * jnp.exp(-b * slow))


def solution(theta: jax.Array, instance: Measured | None = None) -> Decay:
    """What the user wants, of theta `[4]` or `[4, curves]`."""
    del instance
    slow = jnp.exp(theta[2])
    fast = slow * (1 + jnp.exp(theta[3]))
    return Decay(jnp.exp(theta[0]), jax.nn.sigmoid(theta[1]), fast, slow)


def residuals(
    theta: jax.Array,
    instance: Measured,
    noise: float = 0.01,
) -> jax.Array:
    """The differences between a curve and its measurements, in units of the noise."""
    difference = signal(solution(theta)).reshape(instance.signal.shape) - instance.signal
    return difference / noise


@dataclasses.dataclass(frozen=True)
class _Sample:
    noise: float

    def __call__(self, key: jax.Array) -> Measured:
        decay_key, noise_key = jax.random.split(key)
        s0, f, slow, ratio = jax.random.uniform(decay_key, (4,))
        slow = 0.7 + 0.8 * slow
        decay = Decay(0.8 + 0.4 * s0, 0.1 + 0.4 * f, slow * 5.0 * 4.0**ratio, slow)
        error = jax.random.normal(noise_key, (len(B_VALUES),))
        return Measured(signal(decay) + self.noise * error)


def _init(key: jax.Array, instance: Measured) -> jax.Array:
    del key
    return jnp.asarray(START, instance.signal.dtype)


@dataclasses.dataclass(frozen=True)
class _Loss:
    noise: float

    def __call__(
        self,
        theta: jax.Array,
        instance: Measured,
        key: jax.Array,
    ) -> jax.Array:
        del key  # no minibatches
        return jnp.sum(jnp.square(residuals(theta, instance, self.noise))) / 2
