"""Families that start where a network says: a learned theta_0."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import base, starting
from learned_opt.optimizees.base import Optimizee, Theta

Start = dict[str, Any]  # a start network's weights: a pytree of arrays


def with_start(problem: Optimizee, start: Start) -> Optimizee:
    """The family with theta_0 moved by a learned network of the instance.

    theta_0 is `problem.init(key, instance) + network(instance)`. The network has ReLU units and
    reads all numbers of the instance, each less its mean and over its standard deviation. One
    without layers is a constant: the best common starting point.

    Args:
      problem: an `Optimizee`.
      start: the network's weights, from `learned_opt.learn_start`.

    Returns:
      An `Optimizee` that differs in `init` alone.

    Example:
      >>> import jax, learned_opt
      >>> family = learned_opt.optimizees.quadratic(dim=2)
      >>> start = learned_opt.optimizees.begin_start(family, jax.random.key(0), (4,))
      >>> started = learned_opt.optimizees.with_start(family, start)
    """
    base.as_family(problem)  # checks it
    init = Partial(started, base.as_partial(problem.init), jax.tree.map(jnp.asarray, start))
    held_out, statistics = getattr(problem, "held_out", None), getattr(problem, "statistics", None)
    solution = getattr(problem, "solution", None)
    return starting.optimizee(problem.sample, init, problem.loss, statistics, held_out, solution)


def begin_start(
    problem: Optimizee,
    key: jax.Array,
    hidden_sizes: Sequence[int] | None = (64, 64),
    num_problems: int = 1_000,
) -> Start:
    """The untrained network of `with_start`: it moves nothing yet.

    Args:
      problem: an `Optimizee`.
      key: draws weights, and the instances of which mean and deviation are taken.
      hidden_sizes: units of its layers; () is linear; None is a constant.
      num_problems: how many instances.

    Raises:
      ValueError: if the family's instances hold no numbers, unless the start is a constant.
    """
    family = base.as_family(problem)
    weights_key, key = jax.random.split(key)
    theta = jax.eval_shape(base.begin, family, key).theta_0
    size = sum(x.size for x in jax.tree.leaves(theta))
    start: Start = {"offset": jnp.zeros(size)}
    if hidden_sizes is None:
        return start
    keys = jax.random.split(key, num_problems)
    features = jax.vmap(lambda key: _features(family.sample(key)))(keys)
    if not features.shape[1]:
        raise ValueError("hidden_sizes must be None for a family whose instances hold no numbers.")
    start["mean"] = jnp.mean(features, 0)
    # A number that is the same in all instances is not to be divided by zero.
    start["deviation"] = jnp.std(features, 0) + 1e-6
    hidden = [_checks.positive_int("hidden_sizes", units) for units in hidden_sizes]
    start["layers"] = _layers(weights_key, [features.shape[1], *hidden, size])
    return start


def _layers(key: jax.Array, sizes: list[int]) -> list[dict[str, jax.Array]]:
    """He's initial weights; the last layer is zero."""
    layers = []
    for i, (num_in, num_out) in enumerate(itertools.pairwise(sizes)):
        is_last = i == len(sizes) - 2
        scale = 0.0 if is_last else (2 / num_in) ** 0.5
        w = scale * jax.random.normal(jax.random.fold_in(key, i), (num_in, num_out))
        layers.append({"w": w, "b": jnp.zeros(num_out)})
    return layers


def _features(instance: Any) -> jax.Array:
    """All numbers of an instance as one vector."""
    leaves = [jnp.ravel(x) for x in jax.tree.leaves(instance)]
    numbers = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.number)]
    return jnp.concatenate([x.astype(jnp.float32) for x in numbers] or [jnp.zeros(0)])


def started(
    init: Callable,
    start: Start,
    key: jax.Array,
    instance: Any,
) -> Theta:
    """theta_0 of `with_start`."""
    theta_0, unravel = jax.flatten_util.ravel_pytree(init(key, instance))
    moved = theta_0 + start["offset"].astype(theta_0.dtype)
    if "layers" in start:
        moved = moved + _network(start, _features(instance)).astype(theta_0.dtype)
    return unravel(moved)


def _network(start: Start, features: jax.Array) -> jax.Array:
    x = (features - start["mean"]) / start["deviation"]
    *hidden, last = start["layers"]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]
