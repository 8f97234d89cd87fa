"""Flax Linen modules as pure functions of their parameters and their statistics."""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.optimizees.base import Theta

Module = Any  # a `flax.linen.Module`; Flax is imported only where it is used

# How a module's `__call__` may ask whether it trains, and what it is then told.
IN_TRAINING = {
    "train": True,
    "training": True,
    "deterministic": False,
    "use_running_average": False,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax Linen module, and what the library has to know of it.

    Attributes:
      module: the module. theta is its "params" collection.
      modes: those names of `IN_TRAINING` by which its `__call__` is told.
      collections: the names of its other collections, such as "batch_stats". They are the
        statistics, a dict from these names.
      draws_in_training: whether it draws random numbers when it trains, as dropout does.
      draws_in_evaluation: whether it also draws them when it does not train.
    """

    module: Module
    modes: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    draws_in_training: bool = False
    draws_in_evaluation: bool = False

    def init(self, key: jax.Array, inputs: jax.Array) -> dict:
        """All collections of the module, by its own initializers."""
        return self.module.init(key, inputs, **self.told(training=False))

    def train(
        self,
        theta: Theta,
        statistics: Any,
        inputs: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """The outputs when the module trains, and the statistics afterwards.

        Args:
          theta: the "params" collection.
          statistics: a dict of the other collections; whatever it is, it is returned where the
            module has none.
          inputs: a batch.
          key: from which every random stream of the module is drawn, "dropout" and any other.
        """
        rngs = key if self.draws_in_training else None
        return self.apply(theta, statistics, inputs, training=True, rngs=rngs)

    def evaluate(
        self,
        theta: Theta,
        statistics: Any,
        inputs: jax.Array,
    ) -> jax.Array:
        """The outputs when the module does not train: no dropout, running averages."""
        outputs, _ = self.apply(theta, statistics, inputs, training=False)
        return outputs

    def apply(
        self,
        theta: Theta,
        statistics: Any,
        inputs: jax.Array,
        training: bool,
        rngs: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """The outputs and the statistics afterwards."""
        told = self.told(training)
        if not self.collections:
            return self.module.apply({"params": theta}, inputs, rngs=rngs, **told), statistics
        variables = {"params": theta, **statistics}
        mutable = list(self.collections)
        return self.module.apply(variables, inputs, rngs=rngs, mutable=mutable, **told)

    def told(self, training: bool) -> dict[str, bool]:
        """The arguments that tell the module whether it trains."""
        return {name: IN_TRAINING[name] == training for name in self.modes}


def network(module: Module, input_shape: tuple[int, ...]) -> Network:
    """Finds out what the library has to know of a module. Nothing is computed.

    Args:
      module: a `flax.linen.Module`.
      input_shape: the shape of one example.

    Returns:
      A `Network`.

    Raises:
      ValueError: for anything else than a Linen module, or a module without parameters.
    """
    _check_module(module)
    modes = _modes(module)
    inputs = jax.ShapeDtypeStruct((1, *input_shape), jnp.result_type(float))
    variables = jax.eval_shape(Network(module, modes).init, jax.random.key(0), inputs)
    if "params" not in variables:
        raise ValueError(
            f"network must have parameters, {type(module).__name__} has none for inputs of shape "
            f"{input_shape}."
        )
    collections = tuple(sorted(set(variables) - {"params"}))
    found = Network(module, modes, collections)
    return dataclasses.replace(
        found,
        draws_in_training=_draws(found, variables, inputs, training=True),
        draws_in_evaluation=_draws(found, variables, inputs, training=False),
    )


def output_shape(network: Network, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network makes of one example, `(1, ...)`."""

    def outputs() -> jax.Array:
        key = jax.random.key(0)
        inputs = jnp.zeros((1, *input_shape))
        result, _ = network.module.init_with_output(key, inputs, **network.told(training=False))
        return result

    return jax.eval_shape(outputs).shape


def check_evaluation(network: Network) -> None:
    """Raises ValueError if a network is random also when it does not train."""
    if network.draws_in_evaluation:
        raise ValueError(
            f"network must not draw random numbers when it does not train: give the __call__ of "
            f"{type(network.module).__name__} one of the arguments {', '.join(IN_TRAINING)}."
        )


def _check_module(module: Any) -> None:
    linen = _checks.extra("flax.linen", "flax", "a network")
    if isinstance(module, linen.Module):
        return
    name = type(module).__name__
    raise ValueError(
        f"network must be a flax.linen.Module, got {name}: write a network of flax.nnx or of "
        "another library as Optimizee(sample, init, loss)."
    )


def _modes(module: Module) -> tuple[str, ...]:
    """The arguments by which the module is told.

    One that the module's constructor has set already is left alone: Flax refuses both.
    """
    parameters = inspect.signature(type(module).__call__).parameters
    taken = [name for name in IN_TRAINING if name in parameters]
    return tuple(name for name in taken if getattr(module, name, None) is None)


def _draws(
    network: Network,
    variables: dict,
    inputs: jax.ShapeDtypeStruct,
    training: bool,
) -> bool:
    """Whether the module asks for random numbers."""
    from flax import errors

    statistics = {name: variables[name] for name in network.collections}
    apply = functools.partial(network.apply, training=training)
    try:
        jax.eval_shape(apply, variables["params"], statistics, inputs)
    except errors.InvalidRngError:
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Init:
    """Draws theta_0 of a network that reads inputs `[batch, *input_shape]`.

    Attributes:
      network: the network.
      input_shape: the shape of one example.
      scale: the standard deviation of the Gaussian from which every parameter is drawn, or None for
        the network's own initializers.
    """

    network: Network
    input_shape: tuple[int, ...]
    scale: float | None

    def __call__(self, key: jax.Array, instance: Any) -> Theta:
        """Returns theta_0."""
        del instance
        if self.scale is None:
            return self._own(key)
        leaves, treedef = jax.tree.flatten(jax.eval_shape(self.drawn, key))
        ends = np.cumsum([leaf.size for leaf in leaves])
        # One draw for all: random numbers are most of what a small program takes to compile.
        draws = jnp.split(self.scale * jax.random.normal(key, (ends[-1],)), ends[:-1])
        shaped = [draw.reshape(leaf.shape) for draw, leaf in zip(draws, leaves, strict=True)]
        return treedef.unflatten(shaped)

    def _own(self, key: jax.Array) -> Theta:
        """theta_0 by the network's own initializers.

        Orthogonal ones, as of recurrent networks, factorize matrices. On a CPU each such call of a
        batch waits within XLA's pool of threads for tasks that it has put into the same pool, so
        that as many of them at once as there are threads wait for ever (jaxlib 0.10.2 on two
        cores). The networks of a batch are drawn one after the other there.
        """
        if jax.default_backend() == "cpu" and _factorizes(self):
            return jax.custom_batching.sequential_vmap(self.drawn)(key)
        return self.drawn(key)

    def drawn(self, key: jax.Array) -> Theta:
        """theta_0 by the network's own initializers, whatever they are."""
        return self.network.init(key, jnp.zeros((1, *self.input_shape)))["params"]


@functools.lru_cache(maxsize=64)
def _factorizes(init: Init) -> bool:
    """Whether matrices are factorized where a network is drawn, as Q R."""
    return " qr[" in str(jax.make_jaxpr(init.drawn)(jax.random.key(0)))


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The initial values of a network's statistics."""

    network: Network
    input_shape: tuple[int, ...]

    def __call__(self, key: jax.Array, instance: Any) -> dict:
        """Returns a dict of the collections beside "params"."""
        del instance
        variables = self.network.init(key, jnp.zeros((1, *self.input_shape)))
        return {name: variables[name] for name in self.network.collections}
