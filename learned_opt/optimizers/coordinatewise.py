"""From the update rule of one coordinate to an optax transformation of whole trees."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.optimizers import base


class CoordinateRule(NamedTuple):
    """An update rule as the papers write it: for a single coordinate (Andrychowicz et al. 2016, section 2.1).

    Written for one coordinate, with features on the first axis of everything and nothing that mixes later axes, a rule
    serves any number of coordinates: they are the later axes. (`jax.vmap` of a rule would put the coordinates first
    wherever it adds a bias or joins features, and transpose back and forth.)

    Attributes:
      init: `init(dtype) -> h_0`, a pytree of vectors `[features]`: the constant state in which each coordinate begins.
        A scalar in it, such as a step count, is shared by all coordinates: its next value depends on itself alone.
      update: `update(phi, g_t, h_tm1) -> (u_t, h_t)`: gradients `[*coordinates]` in, updates `[*coordinates]` out,
        states `[features, *coordinates]`.
      pull_back: where there is something faster than `jax.vjp` of a scan of `update`,
        `pull_back(phi, g, du, h_0) -> dphi`: < du, d u / d phi > over a window, for gradients and cotangents of the
        updates `[steps, n]`; it may still answer None for arrays that it does not take.
    """

    init: Callable[[Any], Any]
    update: Callable[[base.Phi, jax.Array, Any], tuple[jax.Array, Any]]
    pull_back: Callable | None = None


def from_rule(rule, init, spec, state_dtype=None):
    """Lifts the rule of one coordinate to a `LearnedOptimizer`.

    The optax state has the structure of the rule's state, and where the rule has a vector `[features]` it has a tree
    like the parameters with leaves `[features, *parameter.shape]`, sharded like the parameters. Features come first:
    a parameter's layout is never reshaped, and a TPU pads no feature axis.

    Args:
      rule: the `CoordinateRule`.
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.
      state_dtype: dtype in which the state is kept between steps; None for float32, or for float64 where parameters
        or weights are float64. The arithmetic is in float32 at least.

    Returns:
      A `LearnedOptimizer`.
    """
    init, take_weights = base.with_checks(init, spec)

    def transform(phi):
        phi, phi_dtype = take_weights(phi)

        def init_fn(params):
            _checks.real_floating_tree("params", params)
            return _broadcast(rule, params, state_dtype, phi_dtype)

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            _checks.real_floating_tree("gradients", updates)
            parts, structure, shared = _parts(rule, state, updates)
            step = functools.partial(_update_leaf, rule, phi, phi_dtype, structure)
            leaves, treedef = jax.tree.flatten(updates)
            states = zip(
                *(
                    [h] * len(leaves) if is_shared else jax.tree.leaves(h)
                    for h, is_shared in zip(parts, shared, strict=True)
                ),
                strict=True,
            )
            if params is not None:
                _checks.same_tree("params", params, "the gradients", updates)
            dtypes = [
                jnp.result_type(p) for p in jax.tree.leaves(updates if params is None else params)
            ]
            stepped = [step(*leaf) for leaf in zip(leaves, states, dtypes, strict=True)]
            if not stepped:
                return updates, state
            new_parts = [
                hs[0] if is_shared else treedef.unflatten(list(hs))
                for hs, is_shared in zip(
                    zip(*(h for _, h in stepped), strict=True), shared, strict=True
                )
            ]
            return treedef.unflatten([u for u, _ in stepped]), structure.unflatten(new_parts)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return base.LearnedOptimizer(init, transform, True, spec, pull_back=rule.pull_back)


def _broadcast(rule, params, state_dtype, phi_dtype):
    """The state in which every coordinate of `params` begins."""

    def of_parameter(h_0, p):
        dtype = state_dtype or jnp.promote_types(phi_dtype, p.dtype)
        return base.zeros(p, h_0.shape, dtype) + jnp.expand_dims(
            h_0.astype(dtype), range(1, 1 + p.ndim)
        )

    params = jax.tree.map(jnp.asarray, params)
    return jax.tree.map(
        lambda h_0: jax.tree.map(functools.partial(of_parameter, h_0), params) if h_0.ndim else h_0,
        rule.init(jnp.float32),
    )


def _parts(rule, state, gradients):
    """The state's parts: where the rule has a vector a tree like the parameters, where it has a scalar the scalar.

    Returns:
      `(parts, structure of the rule's state, whether each part is shared by all coordinates)`.
    """
    start = jax.eval_shape(lambda: rule.init(jnp.float32))
    structure, starts = jax.tree.structure(start), jax.tree.leaves(start)
    try:
        parts = structure.flatten_up_to(state)
        features = [h.shape[:1] for tree in parts for h in jax.tree.leaves(tree)[:1]]
    except (ValueError, TypeError, AttributeError):
        parts, features = None, None
    empty = features == [h.shape for h in starts if not h.ndim]
    if parts is None or not (empty or features == [h.shape for h in starts]):
        raise ValueError("state is not a state of this optimizer: make it with tx.init(params).")
    shared = [not h.ndim for h in starts]
    _checks.same_tree(
        "gradients",
        gradients,
        "the parameters of this state",
        jax.tree.map(
            lambda h: jax.ShapeDtypeStruct(h.shape[1:], h.dtype), parts[shared.index(False)]
        ),
    )
    return parts, structure, shared


def _update_leaf(rule, phi, phi_dtype, structure, gradient, states, update_dtype):
    """Runs the rule on every coordinate of one parameter."""
    gradient = jnp.asarray(gradient)
    dtype = jnp.promote_types(phi_dtype, gradient.dtype)
    wide = functools.partial(
        jax.tree.map, lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    )
    u, new = rule.update(wide(phi), gradient.astype(dtype), wide(structure.unflatten(states)))
    new = tuple(
        h.astype(old.dtype) for h, old in zip(structure.flatten_up_to(new), states, strict=True)
    )
    return u.astype(update_dtype), new
