"""Families with bounds, projections and penalties that have no gradient.

An optimizer moves parameters without constraints. What the user wants of them is the family's
`solution`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import base, starting
from learned_opt.optimizees.base import Optimizee, Theta


def bounded(
    problem: Optimizee,
    lower: Any = None,
    upper: Any = None,
) -> Optimizee:
    """A family whose parameters stay between bounds, by a smooth map.

    An optimizer moves z without bounds. The parameters are `lower + (upper - lower) sigmoid(z)`
    between two bounds, and `lower + softplus(z)` or `upper - softplus(z)` above or below a single
    one. A solution comes as near to a bound as one likes, but does not reach it.

    Args:
      problem: an `Optimizee`. Its theta_0 must lie within the bounds: one beyond them or on them
        starts a thousandth of the range within (of 1, where there is a single bound).
      lower, upper: a number, an array that broadcasts against every parameter, or None where there
        is no bound.

    Returns:
      An `Optimizee` with parameters z like those of `problem`; its `solution` maps them.

    Raises:
      ValueError: if there is no bound, or a lower one is not below the upper one.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> box = learned_opt.optimizees.bounded(learned_opt.optimizees.quadratic(2), 0.0, 1.0)
      >>> box.solution(jnp.array([-100.0, 0.0]), box.sample(jax.random.key(0)))
      Array([0. , 0.5], dtype=float32)
    """
    base.as_family(problem)  # checks it
    between = _between(lower, upper)
    return starting.optimizee(
        problem.sample,
        Partial(_init_bounded, between, base.as_partial(problem.init)),
        Partial(_composed, between, base.as_partial(problem.loss)),
        getattr(problem, "statistics", None),
        _composed_or_none(between, getattr(problem, "held_out", None)),
        Partial(_bounded_solution, between, _solution_of(problem)),
    )


def proximal(
    sample: Callable,
    smooth: Callable,
    prox: Callable,
    nonsmooth: Callable | None = None,
    *,
    step: float,
    init: Callable,
) -> Optimizee:
    """A family with a part that has no gradient, such as an l1 penalty, or with a projection.

    The objective is F = f + h, where f is smooth and h has a proximal operator: the soft threshold
    for an l1 penalty, the projection for a convex set. An optimizer moves y. The answer is the
    point after a proximal gradient step from there,

        p(y) = prox(y - t grad f(y), t),

    and the loss is F(p(y)). What an optimizer sees as the gradient is the gradient mapping
    (y - p(y)) / t, which is zero at the minimizers of F and nowhere else if f is convex. So
    `optax.sgd(t)` is proximal gradient descent, and `optax.sgd(t, momentum, nesterov=True)` is
    accelerated.

    Args:
      sample: `sample(key) -> instance`.
      smooth: `smooth(theta, instance) -> scalar`, f.
      prox: `prox(theta, t, instance) -> theta`, argmin_x h(x) + |x - theta|^2 / 2t; a projection
        reads no t.
      nonsmooth: `nonsmooth(theta, instance) -> scalar`, h; None for a projection, where it is zero.
      step: t, at most 1 / L, where L is the Lipschitz constant of grad f.
      init: `init(key, instance) -> y_0`.

    Returns:
      An `Optimizee`; its `solution` is p(y).

    Raises:
      ValueError: for a step that is not positive.

    Source:
      Beck and Teboulle 2009 (ISTA); Beck 2017, First-Order Methods in Optimization, section 10.2,
      for the gradient mapping.

    Example:
      >>> import jax, jax.numpy as jnp, optax, learned_opt
      >>> nonnegative = learned_opt.optimizees.proximal(
      ...     lambda key: jax.random.normal(key, (3,)),
      ...     lambda x, target: jnp.sum((x - target) ** 2) / 2,
      ...     lambda x, t, target: jnp.maximum(x, 0.0),
      ...     step=1.0, init=lambda key, target: jnp.zeros(3))
      >>> nonnegative.solution(jnp.zeros(3), jnp.array([1.0, -1.0, 2.0]))
      Array([1., 0., 2.], dtype=float32)
    """
    step = _checks.positive_float("step", step)
    functions = tuple(map(base.as_partial, (smooth, prox, nonsmooth or _nothing)))
    return starting.optimizee(
        sample,
        init,
        Partial(_ProximalLoss(step), *functions),
        solution=Partial(_ProximalPoint(step), *functions[:2]),
    )


def _nothing(theta: Theta, instance: Any) -> float:
    del theta, instance
    return 0.0


def _solution_of(problem: Any) -> Partial:
    solution = getattr(problem, "solution", None)
    return base.as_partial(_itself if solution is None else solution)


def _itself(theta: Theta, instance: Any) -> Theta:
    del instance
    return theta


def _between(lower: Any, upper: Any) -> Partial:
    """The bounds, as a pytree that maps z when it is called with it."""
    if lower is None and upper is None:
        raise ValueError("bounded needs a lower bound or an upper one, got None for both.")
    if lower is not None and upper is not None and not jnp.all(jnp.less(lower, upper)):
        raise ValueError(f"lower must be below upper, got {lower!r} and {upper!r}.")
    bounds = {
        name: jnp.asarray(bound, jnp.result_type(float))
        for name, bound in (("lower", lower), ("upper", upper))
        if bound is not None
    }
    return Partial(_Between(tuple(bounds)), bounds)


@dataclasses.dataclass(frozen=True)
class _Between:
    """The smooth map of one parameter and its inverse.

    Attributes:
      names: which bounds there are.
    """

    names: tuple[str, ...]

    def __call__(
        self,
        bounds: dict[str, jax.Array],
        z: jax.Array,
        inverse: bool = False,
    ) -> jax.Array:
        """The parameter of z; with `inverse` the z of a parameter."""
        bounds = {name: bound.astype(z.dtype) for name, bound in bounds.items()}
        if len(self.names) == 2:
            lower, width = bounds["lower"], bounds["upper"] - bounds["lower"]
            if inverse:
                share = jnp.clip((z - lower) / width, 1e-3, 1 - 1e-3)
                return jnp.log(share) - jnp.log1p(-share)
            return lower + width * jax.nn.sigmoid(z)
        sign = 1 if self.names == ("lower",) else -1
        bound = bounds[self.names[0]]
        if inverse:
            distance = jnp.maximum(sign * (z - bound), 1e-3)
            return distance + jnp.log(-jnp.expm1(-distance))
        return bound + sign * jax.nn.softplus(z)


def _init_bounded(
    between: Partial,
    init: Callable,
    key: jax.Array,
    instance: Any,
) -> Theta:
    theta_0 = init(key, instance)
    return jax.tree.map(lambda x: between(jnp.asarray(x), inverse=True), theta_0)


def _composed(
    between: Partial,
    function: Callable,
    z: Theta,
    *others: Any,
) -> Any:
    """A loss at the parameters of z."""
    return function(jax.tree.map(between, z), *others)


def _composed_or_none(between: Partial, function: Callable | None) -> Partial | None:
    return None if function is None else Partial(_composed, between, base.as_partial(function))


def _bounded_solution(
    between: Partial,
    solution: Callable,
    z: Theta,
    instance: Any,
) -> Any:
    return solution(jax.tree.map(between, z), instance)


@dataclasses.dataclass(frozen=True)
class _ProximalPoint:
    """p(y)."""

    step: float

    def __call__(
        self,
        smooth: Callable,
        prox: Callable,
        y: Theta,
        instance: Any,
    ) -> Theta:
        slope = jax.grad(smooth)(y, instance)
        return prox(jax.tree.map(lambda y, g: y - self.step * g, y, slope), self.step, instance)


@dataclasses.dataclass(frozen=True)
class _ProximalLoss:
    """F(p(y)), whose gradient is the gradient mapping by definition."""

    step: float

    def __call__(
        self,
        smooth: Callable,
        prox: Callable,
        nonsmooth: Callable,
        y: Theta,
        instance: Any,
        key: jax.Array,
    ) -> jax.Array:
        del key  # no minibatches
        point = _ProximalPoint(self.step)(smooth, prox, y, instance)
        loss = smooth(point, instance) + nonsmooth(point, instance)
        distance = jax.tree.map(lambda y, p: (y - p) / self.step, y, point)
        return _with_gradient(y, loss, distance)


@jax.custom_jvp
def _with_gradient(y: Theta, loss: jax.Array, gradient: Theta) -> jax.Array:
    """The loss, with this gradient with respect to y and none through anything else."""
    del y, gradient
    return loss


@_with_gradient.defjvp
def _with_gradient_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y, loss, gradient = primals
    y_dot, _, _ = tangents
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, y_dot)
    slope = sum(jax.tree.leaves(products), jnp.zeros((), loss.dtype))
    return _with_gradient(y, loss, gradient), slope.astype(loss.dtype)
