"""What an optimizee is: a family of problems, each a function to be minimized.

One word each: a *family* is an `Optimizee`; a *problem* is one member of it, with a life of its
own; *problems* are several members, stacked on a first axis.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks

Theta = Any  # an optimizee's parameters: a pytree of arrays


class Optimizee(NamedTuple):
    """A family of problems, as pure functions.

    Functions that hold data bind it with `jax.tree_util.Partial`. Bound arrays are arguments of a
    jitted program and not constants in it. Plain functions are wrapped where they come in.

    Attributes:
      sample: `sample(key) -> instance`, the arrays in which two problems of the family differ, or
        an empty tuple.
      init: `init(key, instance) -> theta`, the parameters' initial values theta_0, any pytree of
        arrays.
      loss: `loss(theta, instance, key) -> scalar`; the key draws the minibatch and whatever else
        is random, such as dropout. In a family with statistics it is
        `loss(theta, instance, key, statistics) -> (scalar, statistics)`.
      statistics: `statistics(key, instance) -> statistics`, the initial values of what a problem
        carries from step to step beside its parameters and no optimizer moves, such as the running
        averages of batch normalization. The key is that of `init`. None where there is nothing.
      held_out: `held_out(theta, instance, key) -> scalar`, the loss on data that the optimizer does
        not see, with `statistics` as a fourth argument in a family that has them. None where there
        are no such data.
      solution: `solution(theta, instance) -> answer`, what the user wants of the parameters that
        an optimizer moves: parameters within their bounds, say (`bounded`, `proximal`). None where
        theta is the answer.
    """

    sample: Callable[[jax.Array], Any]
    init: Callable[[jax.Array, Any], Theta]
    loss: Callable[..., Any]
    statistics: Callable[[jax.Array, Any], Any] | None = None
    held_out: Callable[..., jax.Array] | None = None
    solution: Callable[[Theta, Any], Any] | None = None


class Family(NamedTuple):
    """An `Optimizee` in the form in which the library uses it: a pytree of `Partial`s.

    Attributes:
      sample, init: see `Optimizee`.
      loss: `loss(theta, instance, key, statistics) -> (scalar, statistics)`.
      statistics: `statistics(key, instance) -> statistics`; an empty tuple where there is nothing.
      held_out: `held_out(theta, instance, key, statistics) -> scalar`, or None.
      target: what a meta-loss is made of in the place of the loss: `held_out`, or None for the
        loss itself. The optimizer never sees it.
      shape: `shape(target_t, target_0) -> scalar`, what a meta-loss makes of it, or None for
        itself.
      solution: `solution(theta, instance) -> answer`, or None where theta is the answer.
    """

    sample: jax.tree_util.Partial
    init: jax.tree_util.Partial
    loss: jax.tree_util.Partial
    statistics: jax.tree_util.Partial
    held_out: jax.tree_util.Partial | None = None
    target: jax.tree_util.Partial | None = None
    shape: jax.tree_util.Partial | None = None
    solution: jax.tree_util.Partial | None = None


class Problem(NamedTuple):
    """One problem of a family, at the start of its life; several are stacked on a first axis."""

    instance: Any
    theta_0: Theta
    key: jax.Array  # draws the minibatches, see `minibatch_key`
    statistics: Any  # their initial values


@dataclasses.dataclass(frozen=True)
class _WithoutStatistics:
    """A loss without statistics, called like one that has them."""

    def __call__(
        self,
        loss: Callable,
        theta: Theta,
        instance: Any,
        key: jax.Array,
        statistics: Any,
    ) -> tuple[jax.Array, Any]:
        return loss(theta, instance, key), statistics


@dataclasses.dataclass(frozen=True)
class _HeldOutWithoutStatistics:
    """The same for the loss on held-out data."""

    def __call__(
        self,
        held_out: Callable,
        theta: Theta,
        instance: Any,
        key: jax.Array,
        statistics: Any,
    ) -> jax.Array:
        del statistics
        return held_out(theta, instance, key)


def _no_statistics(key: jax.Array, instance: Any) -> tuple:
    del key, instance
    return ()


def as_partial(function: Callable) -> jax.tree_util.Partial:
    """The function as a pytree that can go through `jax.jit` as an argument."""
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def as_family(problem: Any) -> Family:
    """The form in which the library uses an optimizee.

    Args:
      problem: an `Optimizee`, anything else with functions of these names, or a `Family`.

    Raises:
      ValueError: unless `problem` has the functions of an `Optimizee`.
    """
    if isinstance(problem, Family):
        return problem
    _check_functions(problem)
    sample, init, loss = map(as_partial, (problem.sample, problem.init, problem.loss))
    statistics = getattr(problem, "statistics", None)
    held_out = getattr(problem, "held_out", None)
    if statistics is None:
        loss = jax.tree_util.Partial(_WithoutStatistics(), loss)
        if held_out is not None:
            wrapper = _HeldOutWithoutStatistics()
            held_out = jax.tree_util.Partial(wrapper, as_partial(held_out))
    elif held_out is not None:
        held_out = as_partial(held_out)
    solution = getattr(problem, "solution", None)
    return Family(
        sample,
        init,
        loss,
        as_partial(statistics or _no_statistics),
        held_out,
        solution=None if solution is None else as_partial(solution),
    )


def _check_functions(problem: Any) -> None:
    for name in ("sample", "init", "loss"):
        function = getattr(problem, name, None)
        if not callable(function):
            held = f" with {name}={_checks.shown(function)}" if hasattr(problem, name) else ""
            raise ValueError(
                "problem must be an Optimizee(sample, init, loss) of functions, got "
                f"{type(problem).__name__}{held}: learned_opt.optimizees has some."
            )
    for name in ("statistics", "held_out", "solution"):
        function = getattr(problem, name, None)
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function or None, got {_checks.shown(function)}.")


def begin(family: Family, key: jax.Array) -> Problem:
    """Draws one problem of the family.

    Raises:
      ValueError: if theta_0 is not made of real floating-point arrays, or the loss is no scalar.
    """
    sample_key, init_key, step_key = jax.random.split(key, 3)
    instance = family.sample(sample_key)
    theta_0 = family.init(init_key, instance)
    statistics = family.statistics(init_key, instance)
    _checks.real_floating_tree("theta_0", theta_0)
    _check_loss(family, theta_0, instance, step_key, statistics)
    return Problem(instance, theta_0, step_key, statistics)


def _check_loss(
    family: Family,
    theta: Theta,
    instance: Any,
    key: jax.Array,
    statistics: Any,
) -> None:
    result = jax.eval_shape(family.loss, theta, instance, key, statistics)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            "problem.loss of a family with statistics must return (loss, statistics), got "
            f"{_described(result)}."
        )
    loss, after = result
    _check_scalar("problem.loss", loss)
    remedy = "the loss returns (loss, statistics) with statistics like those it was given."
    _checks.same_tree("statistics after a step", after, "those before it", statistics, remedy)
    if family.held_out is not None:
        held_out = jax.eval_shape(family.held_out, theta, instance, key, statistics)
        _check_scalar("problem.held_out", held_out)


def _check_scalar(name: str, loss: Any) -> None:
    leaves = jax.tree.leaves(loss)
    is_array = len(leaves) == 1 and leaves[0] is loss
    if not is_array or loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            f"{name} must return one real floating-point scalar, got {_described(loss)}: take the "
            "mean or the sum of several numbers."
        )


def _described(tree: Any) -> str:
    shapes = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(tree)]
    return ", ".join(shapes) or "nothing"


def begin_all(family: Family, keys: jax.Array) -> Problem:
    """Draws one problem for each of `keys` `[problems]`; leaves are stacked on a first axis."""
    return jax.vmap(begin, in_axes=(None, 0))(family, keys)


def problem_keys(key: jax.Array, num_problems: int) -> jax.Array:
    """The keys of several problems; one alone gets the key itself, so that it is `unroll`'s."""
    return key[None] if num_problems == 1 else jax.random.split(key, num_problems)


def minibatch_key(key: jax.Array, t: jax.Array | int) -> jax.Array:
    """The key of the minibatch on which f(theta_t) and its gradient g_{t+1} are computed."""
    return jax.random.fold_in(key, t)


def loss_at(
    family: Family,
    problem: Problem,
    theta: Theta,
    t: jax.Array | int,
    statistics: Any,
) -> tuple[jax.Array, Any]:
    """f(theta_t) of one problem on the minibatch of step t, and the statistics after it."""
    return family.loss(theta, problem.instance, minibatch_key(problem.key, t), statistics)


def value_and_grad_at(
    family: Family,
    problem: Problem,
    theta: Theta,
    t: jax.Array | int,
    statistics: Any,
) -> tuple[jax.Array, Theta, Any]:
    """f(theta_t) of one problem, its gradient g_{t+1}, and the statistics after this minibatch."""

    def loss_of(theta: Theta) -> tuple[jax.Array, Any]:
        return loss_at(family, problem, theta, t, statistics)

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(theta)
    return loss, gradient, statistics


def term_at(
    family: Family,
    problem: Problem,
    theta: Theta,
    t: jax.Array | int,
    statistics: Any,
    loss: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """The term of the meta-loss at time t: f(theta_t), or what the family has in its place.

    Args:
      family: a family.
      problem: one problem of it.
      theta: theta_t.
      t: the time.
      statistics: those after the minibatch of step t.
      loss: f(theta_t).
      first: what `target_at` gave at time 0.
    """
    target = target_at(family, problem, theta, t, statistics, loss)
    return target if family.shape is None else family.shape(target, first)


def target_at(
    family: Family,
    problem: Problem,
    theta: Theta,
    t: jax.Array | int,
    statistics: Any,
    loss: jax.Array,
) -> jax.Array:
    """What a meta-loss is made of at time t, before its shape.

    It is the loss, or that on held-out data.
    """
    if family.target is None:
        return loss
    return family.target(theta, problem.instance, minibatch_key(problem.key, t), statistics)
