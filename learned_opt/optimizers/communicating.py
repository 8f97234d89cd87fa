"""From an update rule whose coordinates talk to each other to an optax transformation.

What `coordinatewise` is for rules of one coordinate. Here a rule sees all parameters at once, as
`Leaves`: one array for each parameter, features first. Parameters are never joined into one
vector. So every array is sharded as its parameter is, and only what coordinates tell each other
goes from device to device.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base


class Leaves(list):
    """One array `[*features, *parameter.shape]` for each parameter, as `jax.tree.leaves` orders.

    A kind of pytree of its own, so that what belongs to the parameters can be told from other
    lists in a rule's state.
    """

    def map(self, function: Callable, *others: Iterable) -> "Leaves":
        """`function` of each array, and of the arrays of `others` at its place."""
        return Leaves(function(*arrays) for arrays in zip(self, *others, strict=True))


def _flatten_leaves(leaves):
    return tuple(leaves), None


def _unflatten_leaves(_, arrays):
    return Leaves(arrays)


jax.tree_util.register_pytree_node(Leaves, _flatten_leaves, _unflatten_leaves)


class Coordinates(NamedTuple):
    """All coordinates of all parameters, also of those on other devices.

    Attributes:
      axes: names of the mesh axes over which the coordinates are spread, inside a `jax.shard_map`.
        Under `jax.jit` there are none: sums of sharded arrays are whole there.
    """

    axes: tuple = ()

    def total(self, sums: Iterable[jax.Array]) -> jax.Array:
        """The sum over all parameters and devices.

        Args:
          sums: for each parameter the sum over its coordinates on this device, all of one shape.
        """
        of_axes: dict[
            tuple, jax.Array
        ] = {}  # sums of parameters that are spread alike go between devices together
        for x in sums:
            axes = self._axes_of(x)
            of_axes[axes] = of_axes[axes] + x if axes in of_axes else x
        totals = []
        for axes, own in of_axes.items():
            totals.append(jax.lax.psum(own, axes) if axes else own)
        return sum(totals)  # type: ignore[return-value]

    def average(self, leaves: Leaves) -> jax.Array:
        """The mean over all coordinates of `Leaves` `[features, *parameter.shape]`: `[features]`.

        It is zero where there is no coordinate.
        """
        sums = [jnp.sum(x, range(1, x.ndim)) for x in leaves]
        count = sum(self._count(x) for x in leaves)
        return self.total(sums) / max(count, 1)

    def _count(self, x):
        """How many coordinates a parameter has on all devices."""
        devices = math.prod(jax.lax.axis_size(axis) for axis in self._axes_of(x))
        return math.prod(x.shape[1:]) * devices

    def _axes_of(self, x):
        """The axes over which a parameter is spread; one that every device holds counts once."""
        return tuple(axis for axis in self.axes if _varies(x, axis))


def _varies(x, axis):
    """Whether devices along a mesh axis hold different pieces of `x`."""
    is_tracked = axis in base.varying_axes(jax.lax.axis_index(axis))
    return not is_tracked or axis in base.varying_axes(x)


class TreeRule(NamedTuple):
    """An update rule of all coordinates together.

    Attributes:
      init: `init(zeros, dtype) -> h_0`, a pytree in which `Leaves` belong to the parameters and
        other arrays to all of them. `zeros(*features)` are `Leaves` of zeros
        `[*features, *parameter.shape]` of that dtype.
      update: `update(phi, g_t, h_tm1, coordinates) -> (u_t, h_t)`: `Leaves` of gradients
        `[*parameter.shape]` in, `Leaves` of updates out; `coordinates` are `Coordinates`, which
        adds up over all of them.
      across_devices: whether coordinates may be on different devices inside a `jax.shard_map`:
        then `update` meets them through `coordinates` alone.
    """

    init: Callable[[Callable, Any], Any]
    update: Callable[[base.Phi, Leaves, Any, Coordinates], tuple[Leaves, Any]]
    across_devices: bool = True


def from_rule(
    rule: TreeRule,
    init: Callable[[jax.Array], base.Phi],
    spec: dict | None = None,
    state_dtype: str | None = None,
) -> base.LearnedOptimizer:
    """Lifts a `TreeRule` to a `LearnedOptimizer`.

    The optax state is the rule's, with a tree like the parameters in place of each `Leaves`.

    Inside a `jax.shard_map`, `update` takes `axis_name`: the mesh axis over which the parameters
    are sharded, or a tuple of axes, or `()` if every device holds all coordinates of its problems.
    Parameters that the devices along an axis hold whole count once, unless the `shard_map` was
    made with `check_vma=False`: there all parameters must be sharded over every named axis.

    Args:
      rule: the `TreeRule`.
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.
      state_dtype: see `coordinatewise.from_rule`. Where parameters have several dtypes, arithmetic
        is in the widest.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise.
    """
    return base.LearnedOptimizer(
        base.CheckedInit(init),
        base.Transform(_lift, rule, init, state_dtype, spec),
        False,
        spec,
        reads=frozenset(),
    )


def _lift(rule, state_dtype, phi, phi_dtype):
    """The `init` and `update` of the optax transformation."""

    def start(leaves):
        dtype = state_dtype or base.widest(phi_dtype, *leaves)

        def zeros(*features):
            return Leaves(base.zeros(x, features, dtype) for x in leaves)

        return rule.init(zeros, dtype)

    def init_fn(params):
        _checks.real_floating_tree("params", params)
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
        state = jax.tree.map(lambda h: _varying_like(h, leaves), start(leaves))
        return _to_trees(treedef, state)

    def update_fn(updates, state, params=None, *, axis_name=None, **extra_args):
        del extra_args
        _checks.real_floating_tree("gradients", updates)
        coordinates = Coordinates(_axes(rule, axis_name))
        if params is not None:
            base.check_alike("params", params, "the gradients", updates)
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, updates))
        if not leaves:
            return updates, state

        like = jax.eval_shape(start, leaves)
        old = _from_trees(treedef, like, state, treedef.unflatten(leaves))
        dtype = base.widest(phi_dtype, *leaves)
        us, new = rule.update(
            _cast(phi, dtype), Leaves(_cast(leaves, dtype)), _cast(old, dtype), coordinates
        )
        thetas = leaves if params is None else jax.tree.leaves(params)
        us = jax.tree.map(base.in_dtype_of, list(us), thetas)
        new = jax.tree.map(_as_kept, new, old)
        return treedef.unflatten(us), _to_trees(treedef, new)

    return init_fn, update_fn


def _axes(rule, axis_name):
    if not rule.across_devices:
        base.check_whole(axis_name, "a memory that is a whole matrix")
    return base.axes_of_coordinates(axis_name)


def _as_kept(h, old):
    """A part of the state in the dtype, and with the type in a `shard_map`, of the one before."""
    return _varying_like(h.astype(old.dtype), [old])


def _varying_like(x, others):
    """`x` with a type that varies over devices where the types of all others do.

    So a state has one type from the first step on, as `jax.lax.scan` wants it: where devices have
    problems of their own, averages differ. Where some parameters are whole on all devices and
    others are cut, they do not.
    """
    if not others:
        return x
    axes = frozenset.intersection(*(base.varying_axes(other) for other in others))
    missing = tuple(sorted(axes - base.varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _is_leaves(x):
    return isinstance(x, Leaves)


def _to_trees(treedef, state):
    """The optax state from the rule's."""

    def of_part(part):
        return treedef.unflatten(part) if _is_leaves(part) else part

    return jax.tree.map(of_part, state, is_leaf=_is_leaves)


_WRONG_STATE = "state is not a state of this optimizer: make it with tx.init(params)."


def _from_trees(treedef, like, state, gradients):
    """The rule's state from the optax state; `like` has the shapes that belong to the gradients."""
    parts, structure = jax.tree.flatten(like, is_leaf=_is_leaves)
    place = [_is_leaves(part) for part in parts].index(True)
    num_axes = parts[place][0].ndim - jax.tree.leaves(gradients)[0].ndim  # of features

    def own_shape(h):
        return jax.ShapeDtypeStruct(h.shape[num_axes:], h.dtype)

    try:
        trees = structure.flatten_up_to(state)
        own = jax.tree.map(own_shape, trees[place])
    except (ValueError, TypeError, AttributeError):
        raise ValueError(_WRONG_STATE) from None
    base.check_alike("gradients", gradients, "the parameters of this state", own)

    found = []
    for part, tree in zip(parts, trees, strict=True):
        found.append(Leaves(treedef.flatten_up_to(tree)) if _is_leaves(part) else tree)
    state = structure.unflatten(found)
    if _shapes(state) != _shapes(like):
        raise ValueError(_WRONG_STATE)
    return state


def _shapes(tree):
    return [x.shape for x in jax.tree.leaves(tree)]
