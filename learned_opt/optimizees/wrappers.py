"""Families made of others, for an optimizer that is to learn more than one problem's scale."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee, Theta

# What is folded into the key of theta_0 for its factors; far from what initializers use.
START_STREAM = 2**30 + 2


class Scaled(NamedTuple):
    """An instance of a scaled family: the instance within, and the factors c, like theta."""

    instance: Any
    c: Any


class Combined(NamedTuple):
    """Of a combined family's instance, or its theta: what belongs to f, and what belongs to g."""

    f: Any
    g: Any


def random_scaling(problem: Optimizee, log_range: float = 3.0) -> Optimizee:
    """Random Scaling: f_c(theta) = f(c theta), from c^-1 theta_0, with fresh c for every problem.

    Each coordinate of c is `exp(p)`, with p uniform in `[-log_range, log_range]`. An optimizer
    cannot learn one problem's best step size, and learns to adapt instead. The loss on held-out
    data is scaled in the same way. Statistics stay as they are.

    Args:
      problem: an `Optimizee`.
      log_range: L. The paper takes 3 for a network, and 1 for the convex function of `with_convex`.

    Returns:
      An `Optimizee` with parameters like those of `problem`.

    Raises:
      ValueError: for a range that is not positive, or something that is no optimizee.

    Source:
      Lv, Jiang, Li 2017, section 4.1 and equation 2.

    Example:
      >>> import jax, learned_opt
      >>> problem = learned_opt.optimizees.quadratic(dim=2)
      >>> scaled = learned_opt.optimizees.random_scaling(problem)
      >>> scaled.sample(jax.random.key(0)).c.shape
      (2,)
    """
    inner = starting.partials(problem)
    sample = _SampleScaled(_checks.positive_float("log_range", log_range))
    return Optimizee(
        Partial(sample, inner.sample, inner.init),
        Partial(_init_scaled, inner.init),
        Partial(_scaled_loss, inner.loss),
        _bound(_scaled_statistics, inner.statistics),
        _bound(_scaled_loss, inner.held_out),
        _bound(_scaled_solution, inner.solution),
    )


def random_start(problem: Optimizee, log_range: float = 1.0) -> Optimizee:
    """Problems that start elsewhere: each array of theta_0 times a factor of its own.

    The factor is `exp(p)`, with p uniform in `[-log_range, log_range]`, fresh for every problem.
    The function stays what it is, unlike under `random_scaling`: a network begins with weights that
    are too small or too large.

    Args:
      problem: an `Optimizee`.
      log_range: the range of p.

    Returns:
      An `Optimizee`.

    Raises:
      ValueError: for a range that is not positive, or something that is no optimizee.

    Example:
      >>> import jax, learned_opt
      >>> problem = learned_opt.optimizees.rosenbrock(dim=2)
      >>> other = learned_opt.optimizees.random_start(problem, 0.5)
      >>> other.init(jax.random.key(0), other.sample(jax.random.key(0))).shape
      (2,)
    """
    inner = starting.partials(problem)
    log_range = _checks.positive_float("log_range", log_range)
    return inner._replace(init=Partial(_RandomStart(log_range), inner.init))


@dataclasses.dataclass(frozen=True)
class _RandomStart:
    log_range: float

    def __call__(
        self,
        init: Callable,
        key: jax.Array,
        instance: Any,
    ) -> Theta:
        leaves, treedef = jax.tree.flatten(init(key, instance))
        scale_key = jax.random.fold_in(key, START_STREAM)
        range_of_logs = (-self.log_range, self.log_range)
        logs = jax.random.uniform(scale_key, (len(leaves),), float, *range_of_logs)
        scaled = [(x * jnp.exp(p)).astype(x.dtype) for x, p in zip(leaves, logs, strict=True)]
        return treedef.unflatten(scaled)


def with_convex(
    problem: Optimizee,
    dim: int = 20,
    log_range: float | None = 1.0,
) -> Optimizee:
    """Combination with a convex function: F(theta, x) = f(theta) + 1/n sum_i (x_i - v_i)^2.

    v and the initial x are uniform in [-1, 1]^n, fresh for every problem. The convex function g is
    scaled by `random_scaling`. What an optimizer soon learns on the convex coordinates serves on
    the others. The loss on held-out data has the same second term. Statistics are those of f.

    To train RNNprop as the paper does: `with_convex(random_scaling(problem))`.

    Args:
      problem: an `Optimizee`.
      dim: n.
      log_range: the range L of the scaling of x, or None for no scaling.

    Returns:
      An `Optimizee` with parameters `Combined(f=theta, g=x)`.

    Raises:
      ValueError: for sizes or ranges that are not positive, or something that is no optimizee.

    Source:
      Lv, Jiang, Li 2017, section 4.2 and equations 3 and 4.
    """
    f = starting.partials(problem)
    g = _convex(_checks.positive_int("dim", dim))
    if log_range is not None:
        g = random_scaling(g, log_range)
    combined_loss = _sum_of_losses if f.statistics is None else _sum_of_losses_with_statistics
    return Optimizee(
        Partial(_sample_both, f.sample, g.sample),
        Partial(_init_both, f.init, g.init),
        Partial(combined_loss, f.loss, g.loss),
        _bound(_statistics_of_f, f.statistics),
        _bound(_sum_of_held_out, f.held_out, g.loss),
        _bound(_solution_of_f, f.solution),
    )


def _bound(
    function: Callable,
    inner: Callable | None,
    *others: Callable,
) -> Partial | None:
    """`function` with its first arguments bound, or None if the first of them is None."""
    if inner is None:
        return None
    return Partial(function, inner, *others)


@dataclasses.dataclass(frozen=True)
class _SampleScaled:
    log_range: float

    def __call__(
        self,
        sample: Callable,
        init: Callable,
        key: jax.Array,
    ) -> Scaled:
        sample_key, scale_key = jax.random.split(key)
        instance = sample(sample_key)
        theta = jax.eval_shape(init, sample_key, instance)
        leaves, treedef = jax.tree.flatten(theta)
        return Scaled(instance, treedef.unflatten(self._factors(scale_key, leaves)))

    def _factors(self, key: jax.Array, leaves: list) -> Iterator[jax.Array]:
        # One draw for all leaves: random numbers are most of what a small program takes to compile.
        size = sum(leaf.size for leaf in leaves)
        p = jax.random.uniform(key, (size,), minval=-self.log_range, maxval=self.log_range)
        start = 0
        for leaf in leaves:
            end = start + leaf.size
            yield jnp.exp(p[start:end]).reshape(leaf.shape).astype(leaf.dtype)
            start = end


def _init_scaled(
    init: Callable,
    key: jax.Array,
    instance: Scaled,
) -> Theta:
    return jax.tree.map(jnp.divide, init(key, instance.instance), instance.c)


def _scaled_loss(
    loss: Callable,
    theta: Theta,
    instance: Scaled,
    key: jax.Array,
    *statistics: Any,
) -> Any:
    """f(c theta), with the statistics after it in families that have them."""
    scaled = jax.tree.map(jnp.multiply, instance.c, theta)
    return loss(scaled, instance.instance, key, *statistics)


def _scaled_solution(
    solution: Callable,
    theta: Theta,
    instance: Scaled,
) -> Any:
    return solution(jax.tree.map(jnp.multiply, instance.c, theta), instance.instance)


def _scaled_statistics(
    statistics: Callable,
    key: jax.Array,
    instance: Scaled,
) -> Any:
    return statistics(key, instance.instance)


def _sample_both(
    sample_f: Callable,
    sample_g: Callable,
    key: jax.Array,
) -> Combined:
    f_key, g_key = jax.random.split(key)
    return Combined(sample_f(f_key), sample_g(g_key))


def _init_both(
    init_f: Callable,
    init_g: Callable,
    key: jax.Array,
    instance: Combined,
) -> Combined:
    f_key, g_key = jax.random.split(key)
    return Combined(init_f(f_key, instance.f), init_g(g_key, instance.g))


def _solution_of_f(
    solution: Callable,
    theta: Combined,
    instance: Combined,
) -> Any:
    return solution(theta.f, instance.f)


def _statistics_of_f(
    statistics: Callable,
    key: jax.Array,
    instance: Combined,
) -> Any:
    f_key, _ = jax.random.split(key)  # the key of `init_f`
    return statistics(f_key, instance.f)


def _sum_of_losses(
    loss_f: Callable,
    loss_g: Callable,
    theta: Combined,
    instance: Combined,
    key: jax.Array,
) -> jax.Array:
    return loss_f(theta.f, instance.f, key) + loss_g(theta.g, instance.g, key)


def _sum_of_losses_with_statistics(
    loss_f: Callable,
    loss_g: Callable,
    theta: Combined,
    instance: Combined,
    key: jax.Array,
    statistics: Any,
) -> tuple[jax.Array, Any]:
    loss, after = loss_f(theta.f, instance.f, key, statistics)
    return loss + loss_g(theta.g, instance.g, key), after


def _sum_of_held_out(
    held_out_f: Callable,
    loss_g: Callable,
    theta: Combined,
    instance: Combined,
    key: jax.Array,
    *statistics: Any,
) -> jax.Array:
    held_out = held_out_f(theta.f, instance.f, key, *statistics)
    return held_out + loss_g(theta.g, instance.g, key)


def _convex(dim: int) -> Optimizee:
    """g(x) = 1/n sum_i (x_i - v_i)^2; an instance is v."""
    uniform = _Uniform(dim)
    return starting.optimizee(uniform, uniform, _mean_square)


@dataclasses.dataclass(frozen=True)
class _Uniform:
    dim: int

    def __call__(self, key: jax.Array, instance: Any = None) -> jax.Array:
        del instance
        return jax.random.uniform(key, (self.dim,), minval=-1.0, maxval=1.0)


def _mean_square(
    x: jax.Array,
    v: jax.Array,
    key: jax.Array,
) -> jax.Array:
    del key  # no minibatches
    return jnp.mean(jnp.square(x - v))
