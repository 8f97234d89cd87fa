"""Flax networks to be optimized."""

import flax.linen as nn
import jax

ACTIVATIONS = {"sigmoid": nn.sigmoid, "relu": nn.relu, "elu": nn.elu, "tanh": nn.tanh}


class MLP(nn.Module):
    """A perceptron: flattened images `[batch, ...]` to logits `[batch, num_classes]`."""

    hidden_sizes: tuple[int, ...]
    activation: str
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of a batch of images."""
        x = images.reshape(images.shape[0], -1)
        for size in self.hidden_sizes:
            x = ACTIVATIONS[self.activation](nn.Dense(size)(x))
        return nn.Dense(self.num_classes)(x)
