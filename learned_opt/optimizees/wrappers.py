"""Optimizees made of others, from which an optimizer learns more than one problem's scale (Lv, Jiang, Li 2017)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import base


class Scaled(NamedTuple):
    """An instance of a scaled family: the instance within, and the factors c, like theta."""

    instance: Any
    c: Any


class Combined(NamedTuple):
    """Of a combined family's instance, or its theta: what belongs to f, and what belongs to g."""

    f: Any
    g: Any


def random_scaling(problem, log_range=3.0):
    """Random Scaling: f_c(theta) = f(c theta), from c^-1 theta_0, with fresh factors c for every problem.

    Each coordinate of c is `exp(p)`, p uniform in `[-log_range, log_range]` (Lv, Jiang, Li 2017, section 4.1 and
    equation 2). An optimizer cannot learn one problem's best step size, and learns to adapt instead.

    Args:
      problem: an `Optimizee`.
      log_range: L; the paper takes 3 for a network, and 1 for the convex function of `with_convex`.

    Returns:
      An `Optimizee` with parameters like those of `problem`.

    Raises:
      ValueError: for a range that is not positive, or something that is no optimizee.
    """
    problem = base.as_partials(problem)
    sample = _SampleScaled(_checks.positive_float("log_range", log_range))
    return base.Optimizee(
        Partial(sample, problem.sample, problem.init),
        Partial(_init_scaled, problem.init),
        Partial(_scaled_loss, problem.loss),
    )


def with_convex(problem, dim=20, log_range=1.0):
    """Combination with a convex function: F(theta, x) = f(theta) + 1/n sum_i (x_i - v_i)^2.

    v and the initial x are uniform in [-1, 1]^n, fresh for every problem, and g is scaled by `random_scaling` (Lv,
    Jiang, Li 2017, section 4.2 and equations 3 and 4). What an optimizer soon learns on the convex coordinates serves
    on the others. To train RNNprop as the paper does: `with_convex(random_scaling(problem))`.

    Args:
      problem: an `Optimizee`.
      dim: n.
      log_range: the range L of the scaling of x; None for none.

    Returns:
      An `Optimizee` with parameters `Combined(f=theta, g=x)`.

    Raises:
      ValueError: for sizes or ranges that are not positive, or something that is no optimizee.
    """
    f = base.as_partials(problem)
    g = _convex(_checks.positive_int("dim", dim))
    g = g if log_range is None else random_scaling(g, log_range)
    return base.Optimizee(
        Partial(_sample_both, f.sample, g.sample),
        Partial(_init_both, f.init, g.init),
        Partial(_sum_of_losses, f.loss, g.loss),
    )


@dataclasses.dataclass(frozen=True)
class _SampleScaled:
    log_range: float

    def __call__(self, sample, init, key):
        sample_key, scale_key = jax.random.split(key)
        instance = sample(sample_key)
        leaves, treedef = jax.tree.flatten(jax.eval_shape(init, sample_key, instance))
        return Scaled(instance, treedef.unflatten(self._factors(scale_key, leaves)))

    def _factors(self, key, leaves):
        # One draw for all leaves: random numbers are most of what a small program takes to compile.
        size = sum(x.size for x in leaves)
        p = jax.random.uniform(key, (size,), minval=-self.log_range, maxval=self.log_range)
        start = 0
        for x in leaves:
            yield jnp.exp(p[start : start + x.size]).reshape(x.shape).astype(x.dtype)
            start += x.size


def _init_scaled(init, key, instance):
    return jax.tree.map(jnp.divide, init(key, instance.instance), instance.c)


def _scaled_loss(loss, theta, instance, key):
    return loss(jax.tree.map(jnp.multiply, instance.c, theta), instance.instance, key)


def _sample_both(sample_f, sample_g, key):
    f_key, g_key = jax.random.split(key)
    return Combined(sample_f(f_key), sample_g(g_key))


def _init_both(init_f, init_g, key, instance):
    f_key, g_key = jax.random.split(key)
    return Combined(init_f(f_key, instance.f), init_g(g_key, instance.g))


def _sum_of_losses(loss_f, loss_g, theta, instance, key):
    return loss_f(theta.f, instance.f, key) + loss_g(theta.g, instance.g, key)


def _convex(dim):
    """g(x) = 1/n sum_i (x_i - v_i)^2; an instance is v."""
    uniform = _Uniform(dim)
    return base.as_partials(base.Optimizee(uniform, uniform, _mean_square))


@dataclasses.dataclass(frozen=True)
class _Uniform:
    dim: int

    def __call__(self, key, instance=None):
        del instance
        return jax.random.uniform(key, (self.dim,), minval=-1.0, maxval=1.0)


def _mean_square(x, v, key):
    del key  # no minibatches
    return jnp.mean(jnp.square(x - v))
