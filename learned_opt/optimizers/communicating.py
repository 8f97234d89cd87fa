"""From an update rule whose coordinates talk to each other to an optax transformation of whole trees.

What `coordinatewise` is for rules of a single coordinate. Here a rule sees all parameters at once, as `Leaves`: one
array for each parameter, features first. Parameters are never joined into one vector, so that every array is sharded
as its parameter is, and only what coordinates tell each other goes from device to device.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.optimizers import base


class Leaves(list):
    """One array for each parameter, in the order of `jax.tree.leaves`: `[*features, *parameter.shape]`.

    A pytree of its own kind, which tells what belongs to the parameters from other lists in a rule's state.
    """

    def map(self, function, *others):
        """`function` of each array, and of the arrays of `others` at its place."""
        return Leaves(function(*arrays) for arrays in zip(self, *others, strict=True))


jax.tree_util.register_pytree_node(
    Leaves, lambda leaves: (tuple(leaves), None), lambda _, arrays: Leaves(arrays)
)


class TreeRule(NamedTuple):
    """An update rule of all coordinates together.

    Attributes:
      init: `init(zeros, dtype) -> h_0`, the state, a pytree in which `Leaves` belong to the parameters and other arrays
        to all of them. `zeros(*features)` is `Leaves` of zeros `[*features, *parameter.shape]` of that dtype.
      update: `update(phi, g_t, h_tm1) -> (u_t, h_t)`: `Leaves` of gradients `[*parameter.shape]` in, `Leaves` of
        updates out.
    """

    init: Callable[[Callable, Any], Any]
    update: Callable[[base.Phi, Leaves, Any], tuple[Leaves, Any]]


def average(leaves):
    """The mean over all coordinates of all parameters; zero where there is none.

    Args:
      leaves: `Leaves` `[features, *parameter.shape]`.

    Returns:
      `[features]`.
    """
    count = sum(math.prod(x.shape[1:]) for x in leaves)
    return sum(jnp.sum(x, range(1, x.ndim)) for x in leaves) / max(count, 1)


def from_rule(rule, init, spec, state_dtype=None):
    """Lifts a `TreeRule` to a `LearnedOptimizer`.

    The optax state is the rule's, with a tree like the parameters in place of each `Leaves`.

    Args:
      rule: the `TreeRule`.
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.
      state_dtype: as in `coordinatewise.from_rule`. Of parameters of several dtypes, the widest is what is computed in.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise.
    """
    init, take_weights = base.with_checks(init, spec)

    def transform(phi):
        phi, phi_dtype = take_weights(phi)

        def start(leaves):
            dtype = state_dtype or jnp.result_type(phi_dtype, *leaves)
            return rule.init(
                lambda *features: Leaves(base.zeros(x, features, dtype) for x in leaves), dtype
            )

        def init_fn(params):
            _checks.real_floating_tree("params", params)
            leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
            return _to_trees(treedef, start(leaves))

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            _checks.real_floating_tree("gradients", updates)
            if params is not None:
                _checks.same_tree("params", params, "the gradients", updates)
            leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, updates))
            if not leaves:
                return updates, state
            old = _from_trees(
                treedef, jax.eval_shape(start, leaves), state, treedef.unflatten(leaves)
            )
            dtypes = [
                jnp.result_type(p) for p in jax.tree.leaves(updates if params is None else params)
            ]
            wide = _cast(jnp.result_type(phi_dtype, *leaves))
            us, new = rule.update(wide(phi), Leaves(wide(leaves)), wide(old))
            us = [u.astype(dtype) for u, dtype in zip(us, dtypes, strict=True)]
            new = jax.tree.map(lambda h, like: h.astype(like.dtype), new, old)
            return treedef.unflatten(us), _to_trees(treedef, new)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return base.LearnedOptimizer(init, transform, False, spec)


def _cast(dtype):
    return lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)


def _is_leaves(x):
    return isinstance(x, Leaves)


def _to_trees(treedef, state):
    return jax.tree.map(
        lambda part: treedef.unflatten(part) if _is_leaves(part) else part,
        state,
        is_leaf=_is_leaves,
    )


def _from_trees(treedef, like, state, gradients):
    """The rule's state from the optax state; `like` has the shapes that belong to the gradients."""
    parts, structure = jax.tree.flatten(like, is_leaf=_is_leaves)
    place = next(i for i, part in enumerate(parts) if _is_leaves(part))
    try:
        trees = structure.flatten_up_to(state)
        num_axes = parts[place][0].ndim - jax.tree.leaves(gradients)[0].ndim  # of features
        own = jax.tree.map(
            lambda h: jax.ShapeDtypeStruct(h.shape[num_axes:], h.dtype), trees[place]
        )
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            "state is not a state of this optimizer: make it with tx.init(params)."
        ) from None
    _checks.same_tree("gradients", gradients, "the parameters of this state", own)
    leaves = [
        Leaves(treedef.flatten_up_to(tree)) if _is_leaves(part) else tree
        for part, tree in zip(parts, trees, strict=True)
    ]
    state = structure.unflatten(leaves)
    if [x.shape for x in jax.tree.leaves(state)] != [x.shape for x in jax.tree.leaves(like)]:
        raise ValueError("state is not a state of this optimizer: make it with tx.init(params).")
    return state
