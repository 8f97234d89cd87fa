"""Networks that predict how a sequence goes on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizees import base, starting

SEQUENCE_LENGTH = 10
MAX_AMPLITUDE = 10.0
MAX_FREQUENCY = jnp.pi / 2  # radians a step
MAX_PHASE = 2 * jnp.pi


def sine_lstm(num_layers=1, hidden_size=20, noise=0.1, batch_size=128, init_scale=0.1):
    """The mean squared error of an LSTM that reads noisy f(0), ..., f(9) and predicts f(10) (Lv, Jiang, Li 2017).

    Section 5.4.2: f(x) = A sin(omega x + phi) with A ~ U(0, 10), omega ~ U(0, pi / 2), phi ~ U(0, 2 pi), and noise
    N(0, 0.1); table 3 has two layers and a noise of 0.01, too. Where the paper is silent we follow the authors' code
    (github.com/vfleaking/rnnprop): 0.1 is the noise's standard deviation, f(10) has no noise, every step has a fresh
    minibatch of 128 sequences, a linear layer reads the last hidden state, the LSTM starts with zeros, and theta_0 ~
    N(0, 0.1), biases too.

    Args:
      num_layers: LSTM layers.
      hidden_size: units of each of them.
      noise: standard deviation of the noise, or 0 for none.
      batch_size: sequences of a minibatch.
      init_scale: standard deviation of theta_0, or None for Flax's own initializers.

    Returns:
      An `Optimizee`: two problems of the family differ in theta_0 and in their minibatches.

    Raises:
      ValueError: for sizes or scales that are not positive.
    """
    _checks.extra("flax.linen", "flax", "a network")
    from learned_opt.optimizees import networks  # imports Flax, which the optimizers do without

    network = networks.LSTM(
        num_layers=_checks.positive_int("num_layers", num_layers),
        hidden_size=_checks.positive_int("hidden_size", hidden_size),
    )
    init_scale = None if init_scale is None else _checks.positive_float("init_scale", init_scale)
    noise = 0.0 if noise == 0 else _checks.positive_float("noise", noise)
    loss = _Loss(network, noise, _checks.positive_int("batch_size", batch_size))
    init = starting.NetworkInit(network, (SEQUENCE_LENGTH,), init_scale)
    return base.as_partials(base.Optimizee(starting.no_instance, init, loss))


@dataclasses.dataclass(frozen=True)
class _Loss:
    network: Any
    noise: float
    batch_size: int

    def __call__(self, theta, instance, key):
        del instance
        values, following = sines(key, self.batch_size, self.noise)
        return jnp.mean(jnp.square(self.network.apply({"params": theta}, values) - following))


def sines(key, batch_size, noise):
    """A minibatch: noisy f(0), ..., f(9) `[batch, 10]`, and f(10) `[batch]` without noise."""
    sine_key, noise_key = jax.random.split(key)
    u = jax.random.uniform(sine_key, (3, batch_size, 1))
    amplitude, frequency, phase = MAX_AMPLITUDE * u[0], MAX_FREQUENCY * u[1], MAX_PHASE * u[2]
    f = amplitude * jnp.sin(frequency * jnp.arange(SEQUENCE_LENGTH + 1.0)[None] + phase)
    return f[:, :-1] + noise * jax.random.normal(noise_key, (batch_size, SEQUENCE_LENGTH)), f[:, -1]
