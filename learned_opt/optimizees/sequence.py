"""Networks that predict how a sequence goes on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import linen, starting
from learned_opt.optimizees.base import Optimizee, Theta

SEQUENCE_LENGTH = 10
MAX_AMPLITUDE = 10.0
MAX_FREQUENCY = jnp.pi / 2  # radians a step
MAX_PHASE = 2 * jnp.pi


def sine_lstm(
    num_layers: int = 1,
    hidden_size: int = 20,
    noise: float = 0.1,
    batch_size: int = 128,
    init_scale: float | None = 0.1,
) -> Optimizee:
    """The mean squared error of an LSTM that reads noisy f(0), ..., f(9) and predicts f(10).

    f(x) = A sin(omega x + phi) with A ~ U(0, 10), omega ~ U(0, pi / 2), phi ~ U(0, 2 pi), and noise
    N(0, 0.1). Table 3 of the paper also has two layers, and a noise of 0.01. Where the paper is
    silent we follow the authors' code (github.com/vfleaking/rnnprop):

    - 0.1 is the standard deviation of the noise, and f(10) has none.
    - Every step has a fresh minibatch of 128 sequences.
    - The LSTM starts with zeros, and a linear layer reads its last hidden state.
    - theta_0 ~ N(0, 0.1), biases too.

    Args:
      num_layers: the number of LSTM layers.
      hidden_size: the number of units of each of them.
      noise: the standard deviation of the noise, or 0 for none.
      batch_size: the number of sequences of a minibatch.
      init_scale: the standard deviation of theta_0, or None for Flax's own initializers.

    Returns:
      An `Optimizee`. Two problems of the family differ in theta_0 and in their minibatches.

    Raises:
      ValueError: for sizes or scales that are not positive.

    Source:
      Lv, Jiang, Li 2017, section 5.4.2.
    """
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    module = networks.LSTM(
        num_layers=_checks.positive_int("num_layers", num_layers),
        hidden_size=_checks.positive_int("hidden_size", hidden_size),
    )
    if init_scale is not None:
        init_scale = _checks.positive_float("init_scale", init_scale)
    noise = _checks.not_negative_float("noise", noise)
    batch_size = _checks.positive_int("batch_size", batch_size)
    init = linen.Init(linen.Network(module), (SEQUENCE_LENGTH,), init_scale)
    return starting.optimizee(starting.no_instance, init, _Loss(module, noise, batch_size))


@dataclasses.dataclass(frozen=True)
class _Loss:
    module: linen.Module
    noise: float
    batch_size: int

    def __call__(
        self,
        theta: Theta,
        instance: Any,
        key: jax.Array,
    ) -> jax.Array:
        del instance
        values, following = sines(key, self.batch_size, self.noise)
        predicted = self.module.apply({"params": theta}, values)
        return jnp.mean(jnp.square(predicted - following))


def sines(
    key: jax.Array,
    batch_size: int,
    noise: float,
) -> tuple[jax.Array, jax.Array]:
    """A minibatch: noisy f(0), ..., f(9) `[batch, 10]`, and f(10) `[batch]` without noise."""
    sine_key, noise_key = jax.random.split(key)
    u = jax.random.uniform(sine_key, (3, batch_size, 1))
    amplitude = MAX_AMPLITUDE * u[0]
    frequency = MAX_FREQUENCY * u[1]
    phase = MAX_PHASE * u[2]
    x = jnp.arange(SEQUENCE_LENGTH + 1.0)[None]
    f = amplitude * jnp.sin(frequency * x + phase)
    disturbance = noise * jax.random.normal(noise_key, (batch_size, SEQUENCE_LENGTH))
    return f[:, :-1] + disturbance, f[:, -1]
