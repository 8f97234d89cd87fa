"""Families that start where a network says: a learned theta_0."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import base, starting
from learned_opt.optimizees.base import Optimizee, Theta

Start = dict[str, Any]  # a start network's weights: a pytree of arrays

FARTHEST = 10.0  # deviations from the mean: what lies beyond, nothing was learned for


def with_start(problem: Optimizee, start: Start) -> Optimizee:
    """The family with theta_0 moved by a learned network of the instance.

    theta_0 is `problem.init(key, instance) + network(instance)`. The network has ReLU units and
    reads all numbers of the instance, each less its mean and over its standard deviation. One
    without layers is a constant: the best common starting point. Numbers that are more than ten
    deviations away count as ten.

    Args:
      problem: an `Optimizee`.
      start: the network's weights, from `learned_opt.learn_start`.

    Returns:
      An `Optimizee` that differs in `init` alone.

    Raises:
      ValueError: for a start of another family, or something else.

    Example:
      >>> import jax, learned_opt
      >>> family = learned_opt.optimizees.quadratic(dim=2)
      >>> start = learned_opt.optimizees.begin_start(family, jax.random.key(0), (4,))
      >>> started = learned_opt.optimizees.with_start(family, start)
    """
    inner = starting.partials(problem)
    check_start(problem, start)
    start = jax.tree.map(jnp.asarray, start)
    return inner._replace(init=Partial(started, inner.init, start))


def check_start(problem: Optimizee, start: Any) -> None:
    """Raises ValueError unless this is a start of this family."""
    is_start = isinstance(start, dict) and "offset" in start
    if not is_start:
        raise ValueError(
            f"start must come from learned_opt.learn_start, got {_checks.shown(start)}."
        )
    theta, features = _sizes(base.as_family(problem), jax.random.key(0))
    if np.shape(start["offset"]) != (theta,):
        raise ValueError(
            f"start must be of this family, whose problems have {theta} parameters: it moves "
            f"{np.size(start['offset'])}. Learn one for this family."
        )
    if "layers" in start and np.shape(start["mean"]) != (features,):
        raise ValueError(
            f"start must be of this family, whose instances have {features} numbers: it reads "
            f"{np.size(start['mean'])}. Learn one for this family."
        )


def _sizes(family: base.Family, key: jax.Array) -> tuple[int, int]:
    """How many parameters a problem has, and how many numbers an instance."""
    begun = jax.eval_shape(base.begin, family, key)
    instance = jax.eval_shape(_features, begun.instance)
    return sum(x.size for x in jax.tree.leaves(begun.theta_0)), instance.size


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
    num_problems = _checks.positive_int("num_problems", num_problems, minimum=2)
    weights_key, key = jax.random.split(key)
    size, num_features = _sizes(family, key)
    start: Start = {"offset": jnp.zeros(size)}
    if hidden_sizes is None:
        return start
    if not num_features:
        raise ValueError(
            "hidden_sizes must be None for a family whose instances hold no numbers, got "
            f"{hidden_sizes}."
        )
    hidden = _checks.sizes("hidden_sizes", hidden_sizes) if hidden_sizes != () else ()
    keys = jax.random.split(key, num_problems)
    features = jax.vmap(lambda key: _features(family.sample(key)))(keys)
    mean, deviation = jnp.mean(features, 0), jnp.std(features, 0)
    # A number that is the same in all instances but for rounding stays of its own size.
    is_constant = deviation <= 1e-5 * jnp.abs(mean)
    start["mean"] = mean
    start["deviation"] = jnp.where(is_constant, jnp.where(mean == 0, 1.0, jnp.abs(mean)), deviation)
    start["layers"] = _layers(weights_key, [num_features, *hidden, size])
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
    dtype = jnp.result_type(float)
    keys = jax.dtypes.prng_key
    leaves = [x for x in jax.tree.leaves(instance) if not jnp.issubdtype(x.dtype, keys)]
    return jnp.concatenate([jnp.ravel(x).astype(dtype) for x in leaves] or [jnp.zeros(0)])


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
    # What features are measured in is no weight: nothing is learned of it.
    mean, deviation = jax.lax.stop_gradient((start["mean"], start["deviation"]))
    x = (features - mean) / deviation
    x = jnp.clip(x, -FARTHEST, FARTHEST)
    *hidden, last = start["layers"]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]
