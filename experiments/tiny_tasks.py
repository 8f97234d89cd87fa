"""The problems that a general optimizer is trained on: small, many kinds, fast on a CPU.

They are the images of a data set at 8 x 8 pixels without colours, scikit-learn's digits, and
symbols of random Markov chains. No network, size or text of the suite is among them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tiny_networks
from learned_opt import _checks, data, optimizees
from learned_opt.optimizees import Optimizee, starting
from learned_opt.optimizees.classifier import cross_entropy

SIDE = 8
START_RANGE = 1.0  # each tensor of theta_0 is larger or smaller by a factor up to e
NUM_SYMBOLS = 12
NUMS_OF_PERCEPTRONS = (2, 4)
LENGTH = 16


def tiny_tasks(dataset: Any, num_perceptrons: int = 2) -> list[Optimizee]:
    """The families, which `meta_train` trains on side by side.

    Args:
      dataset: images whose sides are multiples of eight, or 28.
      num_perceptrons: 2, or 4 with one of 64-64 units that learns the digits by heart, and one of
        three layers with layer normalisation.

    Returns:
      A list of `Optimizee`s.

    Raises:
      ValueError: for another number of perceptrons.
    """
    _checks.choice("num_perceptrons", num_perceptrons, NUMS_OF_PERCEPTRONS)
    images = _small(data.as_dataset(dataset))
    digits = _small(data.load("digits").train)

    def classifier(network: Any, of: data.Dataset, batch_size: int) -> Optimizee:
        return optimizees.classifier(network, of, batch_size)

    perceptron = tiny_networks.Perceptron
    tasks = [
        classifier(perceptron(10), images, 64),
        classifier(perceptron(10, (24, 24), "tanh"), digits, 32),
        classifier(tiny_networks.Convolutional(10), images, 32),
        autoencoder(images),
        markov(tiny_networks.Transformer(NUM_SYMBOLS)),
    ]
    if num_perceptrons > 2:
        normalised = perceptron(10, (32, 32, 32), is_normalised=True)
        tasks[2:2] = [
            classifier(perceptron(10, (64, 64)), digits, 64),
            classifier(normalised, images, 128),
        ]
    return [optimizees.random_start(task, START_RANGE) for task in tasks]


def _small(dataset: data.Dataset) -> data.Dataset:
    """Images `[n, 8, 8, 1]` with mean zero and variance one."""
    images = np.asarray(dataset.images, np.float32)
    images = images.reshape(*images.shape[:3], -1).mean(-1)
    height = images.shape[1]
    if height == 28:  # of MNIST: two pixels of its black frame on each side go
        images = images[:, 2:-2, 2:-2]
        height = 24
    side = height // SIDE
    images = images.reshape(len(images), SIDE, side, SIDE, side).mean((2, 4))
    images = (images - images.mean()) / images.std()
    return dataset._replace(images=images[..., None])


def autoencoder(dataset: data.Dataset, batch_size: int = 32) -> Optimizee:
    """A perceptron 64-24-8-24-64 that gives its images back: the mean squared error."""
    images = jnp.asarray(dataset.images).reshape(len(dataset.images), -1)
    network = tiny_networks.Perceptron(images.shape[1], (24, 8, 24), "gelu")

    def init(key: jax.Array, instance: Any) -> Any:
        del instance
        return network.init(key, images[:1])["params"]

    def loss(
        images: jax.Array,
        theta: Any,
        instance: Any,
        key: jax.Array,
    ) -> jax.Array:
        del instance
        batch = images[jax.random.randint(key, (batch_size,), 0, len(images))]
        return jnp.mean(jnp.square(network.apply({"params": theta}, batch) - batch))

    return starting.optimizee(starting.no_instance, init, jax.tree_util.Partial(loss, images))


def markov(
    network: Any,
    batch_size: int = 8,
    peakedness: float = 3.0,
) -> Optimizee:
    """Symbols of random chains, each of which depends on the two before it.

    Args:
      network: from symbols `[batch, length]` to logits `[batch, length, num_symbols]`.
      batch_size: how many chains a step sees.
      peakedness: the standard deviation of the logits of the next symbol.
    """
    shape = (NUM_SYMBOLS, NUM_SYMBOLS, NUM_SYMBOLS)

    def sample(key: jax.Array) -> jax.Array:
        return peakedness * jax.random.normal(key, shape)

    def init(key: jax.Array, instance: jax.Array) -> Any:
        del instance
        return network.init(key, jnp.zeros((1, LENGTH), jnp.int32))["params"]

    def loss(
        theta: Any,
        logits: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        first_key, chain_key = jax.random.split(key)
        first = jax.random.randint(first_key, (2, batch_size), 0, NUM_SYMBOLS)
        noise = jax.random.gumbel(chain_key, (LENGTH - 1, batch_size, NUM_SYMBOLS))

        def next_symbol(pair: tuple, noise: jax.Array) -> tuple:
            before, last = pair
            symbol = jnp.argmax(logits[before, last] + noise, axis=-1)
            return (last, symbol), symbol

        _, symbols = jax.lax.scan(next_symbol, (first[0], first[1]), noise)
        chain = jnp.concatenate([first, symbols]).T  # [batch, LENGTH + 1]
        answers = network.apply({"params": theta}, chain[:, :-1])
        return jnp.mean(cross_entropy(answers, chain[:, 1:]))

    return starting.optimizee(sample, init, loss)
