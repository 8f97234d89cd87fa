"""What an optimizee is: a family of functions to be minimized."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks


class Optimizee(NamedTuple):
    """A family of problems, as three pure functions.

    Functions that hold data bind it with `jax.tree_util.Partial`, whose bound arrays are arguments of a jitted
    program and not constants in it; plain functions are wrapped where they come in.

    Attributes:
      sample: `sample(key) -> instance`, the arrays in which two problems of the family differ (or an empty tuple).
      init: `init(key, instance) -> theta`, the parameters' initial values theta_0, any pytree of arrays.
      loss: `loss(theta, instance, key) -> scalar`; the key draws the minibatch.
    """

    sample: Callable[[jax.Array], Any]
    init: Callable[[jax.Array, Any], Any]
    loss: Callable[[Any, Any, jax.Array], jax.Array]


class Problem(NamedTuple):
    """One problem of a family, at the start of its life."""

    instance: Any
    theta_0: Any
    key: jax.Array  # draws the minibatches, see `minibatch_key`


def as_partials(problem):
    """The optimizee as a pytree that can go through `jax.jit` as an argument.

    Raises:
      ValueError: unless `problem` has the three functions of an `Optimizee`.
    """
    functions = {name: getattr(problem, name, None) for name in Optimizee._fields}
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(
                f"problem must be an Optimizee(sample, init, loss) of functions, got "
                f"{type(problem).__name__} with {name}={function!r}."
            )
    return Optimizee(
        **{
            name: f if isinstance(f, jax.tree_util.Partial) else jax.tree_util.Partial(f)
            for name, f in functions.items()
        }
    )


def begin(problem, key):
    """Draws one problem of the family: its instance, theta_0, and the key of its minibatches."""
    sample_key, init_key, step_key = jax.random.split(key, 3)
    instance = problem.sample(sample_key)
    theta_0 = problem.init(init_key, instance)
    _checks.real_floating_tree("theta_0", theta_0)
    _check_loss(jax.eval_shape(problem.loss, theta_0, instance, step_key))
    return Problem(instance, theta_0, step_key)


def _check_loss(loss):
    leaves = jax.tree.leaves(loss)
    if (
        len(leaves) != 1
        or leaves[0] is not loss
        or loss.shape
        or not jnp.issubdtype(loss.dtype, jnp.floating)
    ):
        got = ", ".join(f"{x.dtype}{list(x.shape)}" for x in leaves)
        raise ValueError(
            f"problem.loss must return one real floating-point scalar, got {got or 'nothing'}."
        )


def begin_all(problem, key, num_problems):
    """Several problems, stacked; one alone is drawn with the key itself, so that it is the problem of `unroll`."""
    return jax.vmap(begin, in_axes=(None, 0))(problem, problem_keys(key, num_problems))


def problem_keys(key, num_problems):
    """The keys of several problems."""
    return key[None] if num_problems == 1 else jax.random.split(key, num_problems)


def minibatch_key(key, t):
    """The key of the minibatch on which f(theta_t) and its gradient g_{t+1} are computed."""
    return jax.random.fold_in(key, t)
