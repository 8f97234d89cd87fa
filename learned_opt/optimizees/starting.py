"""What optimizees have in common: where their parameters start, and families that differ in nothing else."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def no_instance(key):
    """The instance of a family whose problems differ in theta_0 and minibatches alone."""
    del key
    return ()


@dataclasses.dataclass(frozen=True)
class VectorInit:
    """theta_0 of a function of a vector: Gaussian, `[dim]`, with standard deviation `scale`."""

    dim: int
    scale: float

    def __call__(self, key, instance):
        """Draws theta_0."""
        del instance
        return self.scale * jax.random.normal(key, (self.dim,))


@dataclasses.dataclass(frozen=True)
class NetworkInit:
    """theta_0 of a Flax network that reads inputs `[batch, *input_shape]`.

    Attributes:
      network: the module; theta is its "params" collection.
      input_shape: shape of one example.
      scale: standard deviation of the Gaussian from which every parameter is drawn, or None for the network's own
        initializers.
    """

    network: Any
    input_shape: tuple
    scale: float | None

    def __call__(self, key, instance):
        """Draws theta_0."""
        del instance

        def init():
            return self.network.init(key, jnp.zeros((1, *self.input_shape)))["params"]

        if self.scale is None:
            return init()
        leaves, treedef = jax.tree.flatten(jax.eval_shape(init))
        ends = np.cumsum([x.size for x in leaves])
        draws = jnp.split(self.scale * jax.random.normal(key, (ends[-1],)), ends[:-1])
        return treedef.unflatten(
            [draw.reshape(x.shape) for draw, x in zip(draws, leaves, strict=True)]
        )
