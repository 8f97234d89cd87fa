"""The second pass of the adjoint method: a vector-Jacobian product of the optimizer alone.

A window has been run forward without derivatives, and the gradients g_1 .. g_T that the optimizer
has read are kept. Here the optimizer reads them again, and the product of cotangents with the
derivative of what it gave is taken: for a coordinatewise optimizer block by block of coordinates,
so that memory does not grow with the optimizee.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import native
from learned_opt.estimators.drawing import Drawn
from learned_opt.estimators.groups import Group, lifted
from learned_opt.optimizers.base import LearnedOptimizer, Phi

# Up to this size a block's steps are stored for the reverse pass; beyond it the memory traffic
# costs more than computing them again.
STORED_BLOCK_SIZE = 1_024
# Coordinates of a block: on a CPU what a core's cache holds, on an accelerator what fills it.
CPU_BLOCK_SIZE = 256
ACCELERATOR_BLOCK_SIZE = 65_536
# The C++ loops cut blocks up by themselves; this keeps the features that they read small.
NATIVE_BLOCK_SIZE = 4_096

Cut = Callable[..., jax.Array]  # `cut(x, axis)` cuts a block of coordinates out of an array


class Recorded(NamedTuple):
    """What the second pass needs of one group.

    Attributes:
      group: the `Group`.
      drawn: which of its coordinates count.
      state: their state at the start of the window.
      theta: their parameters at the start of the window, or () where the optimizer reads none.
      gradients: the gradients g_1 .. g_T that they have read, leaves `[T, ...]`.
      cotangents: `cotangents(cut)` gives the cotangents of the block that `cut` cuts out, leaves
        `[T, ...]`: of the updates u_1 .. u_T, or of the parameters theta_1 .. theta_T where the
        optimizer reads them.
    """

    group: Group
    drawn: Drawn
    state: Any
    theta: Any
    gradients: Any
    cotangents: Callable[[Cut], Any]


def pull_back(
    phi: Phi,
    recorded: list[Recorded],
    block_size: int | None,
) -> Phi:
    """The sum over steps and coordinates of < c_s, d u_s / d phi >.

    Args:
      phi: the weights.
      recorded: what was kept of each group.
      block_size: coordinates of a block; None chooses.

    Returns:
      A pytree like phi.
    """
    total = jax.tree.map(jnp.zeros_like, phi)
    for one in recorded:
        gradient = _of_group(one, one.group.phi(phi), block_size)
        total = _add_at(total, one.group.labels, gradient)
    return total


def _add_at(
    tree: Any,
    labels: tuple,
    value: Any,
) -> Any:
    if not labels:
        return jax.tree.map(jnp.add, tree, value)
    return {**tree, labels[0]: _add_at(tree[labels[0]], labels[1:], value)}


def _of_group(
    recorded: Recorded,
    phi: Phi,
    block_size: int | None,
) -> Phi:
    """`pull_back` for one group."""
    group, gradients = recorded.group, recorded.gradients
    if group.tree:
        cotangents = recorded.cotangents(lambda x, axis: x)
        return _of_block(group, phi, gradients, cotangents, recorded.state, recorded.theta)
    num_coordinates = gradients.shape[1]
    fast = _fast_pull_back(group, phi, gradients, recorded.state)
    block_size = min(block_size or _block_size(fast is not None), num_coordinates)
    cut_state = _cutter_of_state(group.opt, phi, gradients[0], recorded.state)

    def add_block(total: Phi, first: jax.Array) -> tuple[Phi, None]:
        # The last block begins early enough to be whole. What the one before it has counted does
        # not count again.
        start = jnp.minimum(first, num_coordinates - block_size)
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block_size
        )
        counts = start + jnp.arange(block_size) >= first
        scale = recorded.drawn.scale
        factor = jnp.where(counts, 1.0 if scale is None else cut(scale), 0.0)
        block = cut(gradients, axis=1)
        cotangents = recorded.cotangents(cut) * jnp.expand_dims(factor, 0)
        state = cut_state(cut)
        if fast is not None:
            gradient = fast(phi, block, cotangents.astype(block.dtype), state)
        else:
            theta = cut(recorded.theta, axis=0) if group.reads_theta else ()
            is_stored = block_size <= STORED_BLOCK_SIZE
            gradient = _of_block(group, phi, block, cotangents, state, theta, is_stored)
        return jax.tree.map(jnp.add, total, gradient), None

    firsts = jnp.arange(0, num_coordinates, block_size)
    return jax.lax.scan(add_block, jax.tree.map(jnp.zeros_like, phi), firsts)[0]


def _fast_pull_back(
    group: Group,
    phi: Phi,
    gradients: jax.Array,
    state: Any,
) -> Callable | None:
    """The optimizer's own derivative of a window, if it has one that takes these arrays."""
    fast = group.opt.pull_back
    if fast is None or group.reads_theta:
        return None
    takes_them = jax.eval_shape(fast, phi, gradients, gradients, state) is not None
    return fast if takes_them else None


def _block_size(is_fast: bool) -> int:
    # On a machine with a GPU the C++ loops may be callable, and yet not be what runs.
    if not native.runs_on_cpu():
        return ACCELERATOR_BLOCK_SIZE
    return NATIVE_BLOCK_SIZE if is_fast else CPU_BLOCK_SIZE


def _cutter_of_state(
    opt: LearnedOptimizer,
    phi: Phi,
    vector: jax.Array,
    state: Any,
) -> Callable[[Cut], Any]:
    """What cuts a block out of a state; parts that all coordinates share stay whole."""
    axes = coordinate_axes(opt.transform(phi), vector)
    leaves, treedef = jax.tree.flatten(state)

    def cut_state(cut: Cut) -> Any:
        blocks = [
            leaf if axis is None else cut(leaf, axis=axis)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        return treedef.unflatten(blocks)

    return cut_state


def coordinate_axes(tx: optax.GradientTransformation, vector: Any) -> list[int | None]:
    """For each leaf of the state, the axis that follows the coordinates.

    Args:
      tx: a coordinatewise transformation.
      vector: a vector of coordinates, an array or its shape.

    Returns:
      One axis a leaf, or None for a leaf that all coordinates share.
    """

    def shapes(extra: int) -> list[tuple]:
        like = jax.ShapeDtypeStruct((vector.shape[0] + extra,), vector.dtype)
        return [x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, like))]

    def first_difference(one: tuple, other: tuple) -> int | None:
        axes = [
            axis for axis, sizes in enumerate(zip(one, other, strict=True)) if len({*sizes}) > 1
        ]
        return axes[0] if axes else None

    return [first_difference(*pair) for pair in zip(shapes(0), shapes(1), strict=True)]


def _of_block(
    group: Group,
    phi: Phi,
    gradients: Any,
    cotangents: Any,
    state: Any,
    theta: Any,
    is_stored: bool = False,
) -> Phi:
    """The vector-Jacobian product of the optimizer over the recorded gradients of a window.

    Args:
      group: the group.
      phi: its weights.
      gradients: g_1 .. g_T, leaves `[T, ...]`.
      cotangents: of the updates, or of the parameters where the optimizer reads them.
      state: at the start of the window.
      theta: the parameters at the start of the window, () where they are not read.
      is_stored: whether a step's values are stored for the reverse pass, or computed again.
    """
    remember = (lambda step: step) if is_stored else jax.checkpoint

    def outputs_of(phi: Phi) -> Any:
        update = lifted(group, group.opt.transform(phi)).update

        @remember
        def step(carry: Any, gradient: Any) -> tuple[Any, Any]:
            state, theta = carry
            if not group.reads_theta:
                updates, state = update(gradient, state)
                return (state, ()), updates
            updates, state = update(gradient, state, theta)
            theta = optax.apply_updates(theta, updates)
            return (state, theta), theta

        return jax.lax.scan(step, (state, theta), gradients)[1]

    outputs, vjp = jax.vjp(outputs_of, phi)
    return vjp(jax.tree.map(lambda c, u: c.astype(u.dtype), cotangents, outputs))[0]
