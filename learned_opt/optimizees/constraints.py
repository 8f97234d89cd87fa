"""Families with bounds, projections and penalties that have no gradient.

An optimizer moves parameters without constraints. What the user wants of them is the family's
`solution`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    one. A solution comes as near to a bound as one likes, and meets it in rounding alone.

    Args:
      problem: an `Optimizee`. Its theta_0 should lie within the bounds: one beyond them or on them
        starts a thousandth of the range within (of 1, where there is a single bound).
      lower, upper: None where there is no bound; a number or an array for every parameter; or a
        tree of them like theta.

    Returns:
      An `Optimizee` with parameters z like those of `problem`; its `solution` maps them.

    Raises:
      ValueError: if there is no bound, or one that is not finite, or a lower one is not below the
        upper one. `init` raises it for bounds of other shapes than the parameters'.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> box = learned_opt.optimizees.bounded(learned_opt.optimizees.quadratic(2), 0.0, 1.0)
      >>> box.solution(jnp.array([1.0, 0.0]), box.sample(jax.random.key(0)))
      Array([0.7310586, 0.5      ], dtype=float32)
    """
    inner = starting.partials(problem)
    bounds = _bounds(lower, upper)
    return inner._replace(
        init=Partial(_init_bounded, bounds, inner.init),
        loss=Partial(_at_parameters, bounds, inner.loss),
        held_out=inner.held_out and Partial(_at_parameters, bounds, inner.held_out),
        solution=Partial(_at_parameters, bounds, inner.solution or Partial(_itself)),
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

    and the loss is F(p(y)). What counts as the loss's gradient, for optimizers and for learning
    alike, is the gradient mapping (y - p(y)) / t, which is not its derivative. It is zero at the
    minimizers of F and nowhere else if f and h are convex. So `optax.sgd(t)` is proximal gradient
    descent, and `optax.sgd(t, momentum, nesterov=True)` is accelerated. A `safeguard` that falls
    back to it asks for more than it guarantees itself: give a share of 0.1, say.

    Args:
      sample: `sample(key) -> instance`.
      smooth: `smooth(theta, instance) -> scalar`, f.
      prox: `prox(theta, t, instance) -> theta`, `argmin_x h(x) + |x - theta|^2 / 2t`; a
        projection reads no t.
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


def _itself(theta: Theta, instance: Any) -> Theta:
    del instance
    return theta


def _bounds(lower: Any, upper: Any) -> dict[str, Any]:
    """The bounds that there are, each a tree of arrays."""
    if lower is None and upper is None:
        raise ValueError("bounded needs lower or upper, or both, got None for both: give one.")
    given = {"lower": lower, "upper": upper}
    bounds = {name: _finite(name, tree) for name, tree in given.items() if tree is not None}
    if len(bounds) == 2:
        pairs = jax.tree.map(np.subtract, *_alike(*bounds.values()))
        if not all(np.all(difference < 0) for difference in jax.tree.leaves(pairs)):
            raise ValueError(
                f"lower must be below upper, got {_checks.shown(lower)} and {_checks.shown(upper)}."
            )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), bounds)


def _finite(name: str, tree: Any) -> Any:
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree)):
        raise ValueError(
            f"{name} must be finite, got {_checks.shown(tree)}: None is for no bound at all."
        )
    return tree


def _alike(lower: Any, upper: Any) -> tuple[Any, Any]:
    """Two trees of which one may be a single array."""
    if jax.tree.structure(lower) == jax.tree.structure(upper):
        return lower, upper
    if jax.tree_util.all_leaves([lower]):
        return jax.tree.broadcast(lower, upper), upper
    return lower, jax.tree.broadcast(upper, lower)


def _init_bounded(
    bounds: dict[str, Any],
    init: Callable,
    key: jax.Array,
    instance: Any,
) -> Theta:
    theta_0 = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x, 0.0)), init(key, instance))
    for name, bound in bounds.items():
        jax.tree.map(functools.partial(_check_shape, name), theta_0, _for_each(bound, theta_0))
    return _mapped(bounds, theta_0, inverse=True)


def _check_shape(
    name: str,
    x: jax.Array,
    bound: jax.Array,
) -> None:
    try:
        is_right = np.broadcast_shapes(x.shape, bound.shape) == x.shape
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError(
            f"{name} must be a number or of the shape {list(x.shape)} of its parameter, got "
            f"{list(bound.shape)}."
        )


def _for_each(bound: Any, theta: Theta) -> Any:
    """A bound for each parameter."""
    return jax.tree.broadcast(bound, theta)


def _mapped(
    bounds: dict[str, Any],
    z: Theta,
    inverse: bool = False,
) -> Theta:
    """The parameters of z; with `inverse` the z of parameters."""
    names = tuple(bounds)
    trees = [_for_each(bound, z) for bound in bounds.values()]
    return jax.tree.map(lambda z, *of_leaf: _Map(names, of_leaf, z.dtype)(z, inverse), z, *trees)


class _Map:
    """The smooth map of one parameter, and its inverse."""

    def __init__(
        self,
        names: tuple[str, ...],
        bounds: tuple,
        dtype: Any,
    ) -> None:
        self._bounds = {
            name: bound.astype(dtype) for name, bound in zip(names, bounds, strict=True)
        }

    def __call__(self, z: jax.Array, inverse: bool) -> jax.Array:
        if len(self._bounds) == 2:
            return self._between(z, inverse)
        return self._beyond(z, inverse)

    def _between(self, z: jax.Array, inverse: bool) -> jax.Array:
        lower = jnp.broadcast_to(self._bounds["lower"], z.shape)
        width = jnp.broadcast_to(self._bounds["upper"], z.shape) - lower
        if not inverse:
            return lower + width * jax.nn.sigmoid(z)
        share = jnp.clip((z - lower) / width, 1e-3, 1 - 1e-3)
        return jnp.log(share) - jnp.log1p(-share)

    def _beyond(self, z: jax.Array, inverse: bool) -> jax.Array:
        ((name, bound),) = self._bounds.items()
        sign = 1 if name == "lower" else -1
        bound = jnp.broadcast_to(bound, z.shape)
        if not inverse:
            return bound + sign * jax.nn.softplus(z)
        distance = jnp.maximum(sign * (z - bound), 1e-3)
        return distance + jnp.log(-jnp.expm1(-distance))


def _at_parameters(
    bounds: dict[str, Any],
    function: Callable,
    z: Theta,
    *others: Any,
) -> Any:
    """A function of the parameters of z."""
    return function(_mapped(bounds, z), *others)


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
