"""What the benchmarks differentiate: the paper's network for MNIST, on random images."""

from typing import Any, NamedTuple

import jax
import numpy as np

import learned_opt
from benchmarks import common

IMAGE_SHAPES = {"mnist": (28, 28, 1), "digits": (8, 8, 1)}
NUM_IMAGES, NUM_CLASSES = 2_048, 10
BATCH_SIZE = 128


class Case(NamedTuple):
    """What is differentiated.

    Attributes:
      opt: the optimizer.
      phi: its weights.
      problem: the family of problems.
      key: draws the problem.
      window: how many steps.
    """

    opt: learned_opt.LearnedOptimizer
    phi: Any
    problem: learned_opt.Optimizee
    key: jax.Array
    window: int

    @property
    def num_coordinates(self) -> int:
        """The number of parameters of the optimizee."""
        return common.num_coordinates(self.problem)


def make(
    shape: tuple[int, ...],
    width: int,
    window: int,
    hidden_sizes: tuple[int, ...] = (20, 20),
) -> Case:
    """A `Case`: a perceptron with one hidden layer of `width` on random images of `shape`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *shape), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
    dataset = learned_opt.data.Dataset(images, labels, NUM_CLASSES)
    opt = learned_opt.lstm("mnist", hidden_sizes=hidden_sizes)
    problem = learned_opt.optimizees.mlp(dataset, width=width, batch_size=BATCH_SIZE)
    return Case(opt, opt.init(jax.random.key(0)), problem, jax.random.key(1), window)
