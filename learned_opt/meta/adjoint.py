"""The meta-gradient as an adjoint: no derivative ever runs through the optimizee.

With the gradients of the optimizee held constant (Andrychowicz et al. 2016, section 2, figure 2),
theta_t = theta_0 + u_1 + .. + u_t, and the derivative of sum_t w_t f(theta_t) is

    sum_s < lambda_s, d u_s / d phi >,    lambda_s = sum_{t = s..T} w_t grad f(theta_t).

grad f(theta_t) is g_{t+1}, which the next step reads anyway. So a window is run forward without derivatives, its
gradients g_1 .. g_{T+1} are kept, and one vector-Jacobian product of the optimizer network alone, over the recorded
sequence, gives the meta-gradient: for a coordinatewise optimizer block by block.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.meta import drawing
from learned_opt.meta import groups as groups_lib
from learned_opt.optimizees import base as optimizee_base

# Up to this size a block's steps are stored for the reverse pass; beyond it the memory traffic costs more than
# computing them again.
STORED_BLOCK_SIZE = 1_024
# Coordinates of a block: on a CPU what a core's cache holds, on an accelerator what fills it, and for an optimizer's
# own derivative, which cuts them up by itself, what keeps the features that it reads small.
BLOCK_SIZES = {"cpu": 256}
ACCELERATOR_BLOCK_SIZE = 65_536
FAST_BLOCK_SIZE = 4_096


class Lives(NamedTuple):
    """Several optimizees between two windows. Leaves of `theta` and `gradient` are `[problems, *shape]`."""

    problems: optimizee_base.Problem  # instances, theta_0 and keys, stacked
    t: jax.Array
    theta: Any
    states: list  # one for each group
    loss: jax.Array  # f(theta_t), [problems]
    gradient: Any  # grad f(theta_t) = g_{t+1}


def begin(opt, phi, problem, keys):
    """Fresh problems, one for each of `keys`."""
    problems = jax.vmap(optimizee_base.begin, in_axes=(None, 0))(problem, keys)
    theta = problems.theta_0
    leaves = jax.tree.leaves(theta)
    states = [g.init(phi, g.pack(leaves)) for g in _groups(opt, theta)]
    loss, gradient = value_and_grad(problem, problems, theta, 0)
    return Lives(problems, jnp.zeros((), jnp.int32), theta, states, loss, gradient)


def window(opt, phi, problem, lives, weights, block_size, coordinates=None):
    """Runs a window and differentiates its meta-loss.

    Args:
      opt: `LearnedOptimizer`.
      phi: its weights.
      problem: `Optimizee` of `Partial`s.
      lives: from `begin` or from the window before.
      weights: `[T]`, the w_t of the window's steps.
      block_size: coordinates of a block; None chooses.
      coordinates: from how many coordinates, drawn anew for each window, the meta-gradient is estimated; None for all.

    Returns:
      `(losses [T, problems], meta-gradient of the mean over problems of sum_t w_t f(theta_t), lives)`.
    """
    groups, drawn, start = prepare(opt, phi, lives, coordinates)

    def step(lives, _):
        packed = [g.pack(jax.tree.leaves(lives.gradient)) for g in groups]
        updates, states = apply(groups, phi, packed, lives.states)
        theta = optax.apply_updates(lives.theta, _unpack(groups, updates, lives.theta))
        t = lives.t + 1
        loss, gradient = value_and_grad(problem, lives.problems, theta, t)
        return Lives(lives.problems, t, theta, states, loss, gradient), (loss, taken(drawn, packed))

    lives, (losses, recorded) = jax.lax.scan(step, lives, length=weights.shape[0])
    last = taken(drawn, [g.pack(jax.tree.leaves(lives.gradient)) for g in groups])
    weights = weights / losses.shape[1]
    cotangents = [
        functools.partial(_cotangents_of, g, g_last, weights)
        for g, g_last in zip(recorded, last, strict=True)
    ]
    return losses, second_pass(groups, drawn, phi, start, recorded, cotangents, block_size), lives


def prepare(opt, phi, lives, coordinates):
    """The groups, what is drawn of each, and the drawn coordinates' state at the start of a window.

    Coordinates are drawn before the window runs: nothing of the others is kept.
    """
    groups = _groups(opt, lives.theta)
    drawn = drawing.draw(groups, lives, coordinates)
    start = [
        _state_of(d, g, phi, lives, state)
        for d, g, state in zip(drawn, groups, lives.states, strict=True)
    ]
    return groups, drawn, start


def _groups(opt, theta):
    return groups_lib.groups_of(
        opt, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), theta)
    )


def value_and_grad(problem, problems, theta, t):
    """Losses and gradients of all problems at time t."""

    def loss_fn(theta, instance, key):
        return problem.loss(theta, instance, optimizee_base.minibatch_key(key, t))

    return jax.vmap(jax.value_and_grad(loss_fn))(theta, problems.instance, problems.key)


def apply(groups, phi, packed, states):
    """One step of every group's optimizer: `(updates, states)`, lists."""
    stepped = [g.update(phi, x, state) for g, x, state in zip(groups, packed, states, strict=True)]
    return [u for u, _ in stepped], [state for _, state in stepped]


def _unpack(groups, updates, theta):
    leaves, treedef = jax.tree.flatten(theta)
    new = [jnp.zeros_like(x) for x in leaves]  # leaves without coordinates belong to no group
    for group, packed in zip(groups, updates, strict=True):
        for i, leaf in group.unpack(packed, leaves):
            new[i] = leaf
    return treedef.unflatten(new)


def taken(drawn, packed):
    """The drawn coordinates of every group."""
    return [d.take(x) for d, x in zip(drawn, packed, strict=True)]


def _state_of(drawn, group, phi, lives, state):
    """The state of the drawn coordinates of a group."""
    if drawn.index is None:
        return state
    vector = jax.eval_shape(group.pack, jax.tree.leaves(lives.gradient))
    axes = _coordinate_axes(group.opt.transform(group.phi(phi)), vector)
    leaves, treedef = jax.tree.flatten(state)
    return treedef.unflatten(
        [x if a is None else drawn.take(x, a) for x, a in zip(leaves, axes, strict=True)]
    )


def _add_at(tree, labels, value):
    if not labels:
        return jax.tree.map(jnp.add, tree, value)
    return {**tree, labels[0]: _add_at(tree[labels[0]], labels[1:], value)}


def second_pass(groups, drawn, phi, start, recorded, cotangents, block_size):
    """sum_s < c_s, d u_s / d phi > over the steps of a window and all coordinates.

    Args:
      groups, drawn, start: from `prepare`.
      phi: the weights.
      recorded: for each group the gradients g_1 .. g_T that it has read, leaves `[T, ...]`.
      cotangents: for each group `c(cut)`, the cotangents c_1 .. c_T of those coordinates that `cut(x, axis)` cuts
        out of an array.
      block_size: coordinates of a block; None chooses.

    Returns:
      A pytree like phi.
    """
    total = jax.tree.map(jnp.zeros_like, phi)
    for group, d, state, g, c in zip(groups, drawn, start, recorded, cotangents, strict=True):
        gradient = _pull_back_group(group, group.phi(phi), state, g, c, block_size, d.scale)
        total = _add_at(total, group.labels, gradient)
    return total


def _pull_back_group(group, phi, state, recorded, cotangents, block_size, scale):
    """`second_pass` for one group; `scale` `[N]` multiplies the coordinates' cotangents, None for ones."""
    if group.tree:
        return _pull_back(
            group.opt, phi, recorded, cotangents(lambda x, axis: x), state, lift=jax.vmap
        )
    num_coordinates = recorded.shape[1]
    fast = _has_fast_pull_back(group.opt, phi, recorded, state)
    block_size = min(block_size or _block_size(fast), num_coordinates)
    remember = (lambda f: f) if block_size <= STORED_BLOCK_SIZE else jax.checkpoint
    axes = _coordinate_axes(group.opt.transform(phi), recorded[0])
    leaves, treedef = jax.tree.flatten(state)

    def add_block(total, first):
        # The last block begins early enough to be whole; what the one before it has counted does not count again.
        start = jnp.minimum(first, num_coordinates - block_size)
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block_size
        )
        own = treedef.unflatten(
            [x if a is None else cut(x, axis=a) for x, a in zip(leaves, axes, strict=True)]
        )
        factor = (start + jnp.arange(block_size) >= first) * (1 if scale is None else cut(scale))
        g = cut(recorded, axis=1)
        c = cotangents(cut) * jnp.expand_dims(factor, 0)
        if fast:
            gradient = group.opt.pull_back(phi, g, c.astype(g.dtype), own)
        else:
            gradient = _pull_back(group.opt, phi, g, c, own, remember)
        return jax.tree.map(jnp.add, total, gradient), None

    firsts = jnp.arange(0, num_coordinates, block_size)
    return jax.lax.scan(add_block, jax.tree.map(jnp.zeros_like, phi), firsts)[0]


def _has_fast_pull_back(opt, phi, recorded, state):
    """Whether the optimizer's own derivative of a window takes these arrays."""
    return (
        opt.pull_back is not None
        and jax.eval_shape(opt.pull_back, phi, recorded, recorded, state) is not None
    )


def _block_size(fast):
    if fast:
        return FAST_BLOCK_SIZE
    return BLOCK_SIZES.get(jax.default_backend(), ACCELERATOR_BLOCK_SIZE)


def _pull_back(opt, phi, recorded, cotangents, state, remember=jax.checkpoint, lift=lambda f: f):
    """The vector-Jacobian product of the optimizer network over the recorded gradients of a window.

    `remember` stores a step's values for the reverse pass, or has them computed again; `lift` vmaps the update over
    problems, or does not.
    """

    def updates_of(phi):
        update = lift(opt.transform(phi).update)

        @remember
        def step(state, g):
            u, state = update(g, state)
            return state, u

        return jax.lax.scan(step, state, recorded)[1]

    updates, vjp = jax.vjp(updates_of, phi)
    return vjp(jax.tree.map(lambda c, u: c.astype(u.dtype), cotangents, updates))[0]


def _cotangents_of(recorded, last, weights, cut):
    """lambda_1 .. lambda_T of the coordinates that `cut` cuts out."""
    return jax.tree.map(
        lambda g, g_last: _cotangents(cut(g, axis=1), cut(g_last, axis=0), weights), recorded, last
    )


def _cotangents(g, g_last, weights):
    """lambda_1 .. lambda_T of one leaf: the sums from the end of w_t g_{t+1}, in float32 at least."""
    dtype = jnp.result_type(jnp.float32, g, weights)
    following = jnp.concatenate([g[1:], g_last[None]]).astype(dtype)
    scaled = following * weights.astype(dtype).reshape((-1,) + (1,) * g_last.ndim)

    def add(later, x):
        return (later + x,) * 2

    return jax.lax.scan(add, jnp.zeros_like(scaled[0]), scaled, reverse=True)[1]


def _coordinate_axes(tx, vector):
    """For each leaf of the state, the axis that follows the coordinates, or None where it is shared by all."""

    def shapes(extra):
        like = jax.ShapeDtypeStruct((vector.shape[0] + extra,), vector.dtype)
        return [x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, like))]

    return [
        next((a for a, (n, m) in enumerate(zip(one, other, strict=True)) if n != m), None)
        for one, other in zip(shapes(0), shapes(1), strict=True)
    ]
