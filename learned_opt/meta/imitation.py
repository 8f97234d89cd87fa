"""Learning from another optimizer, off policy (Chen et al. 2020, arXiv 2010.09089, section 4.2).

The teacher moves theta, the learned optimizer reads the gradients along that way, and what it would have done is
compared with what the teacher does:

    1 / (T n) sum_t |u_t - u*_t|^2 / (mean square of u*)

over the T steps of a window and the n coordinates. The division makes the loss of doing nothing 1, whatever the
teacher's rate. Its gradient is the same vector-Jacobian product as the meta-gradient, with other cotangents.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.meta import adjoint
from learned_opt.optimizees import base as optimizee_base


class Imitation(NamedTuple):
    """Imitation of another optimizer, beside the meta-loss or in its place.

    Attributes:
      teacher: an optax transformation, such as `optax.adam(0.01)`, or a learned one.
      weight: of the imitation's gradient beside the meta-gradient at the beginning of meta-training.
      fraction: of meta-training after which it has faded to nothing, linearly.
      alone: whether there is no meta-gradient (then weight and fraction have no meaning): what is learned is the
        teacher, over any horizon. (A meta-gradient sees no further than its window; over thousands of steps it learns
        to shorten steps too early.)
    """

    teacher: optax.GradientTransformation
    weight: float = 1.0
    fraction: float = 0.5
    alone: bool = False


def is_alone(imitation):
    """Whether an `Imitation`, or None, is all that is learned from."""
    return imitation is not None and imitation.alone


class Lives(NamedTuple):
    """Several optimizees that the teacher moves, between two windows; see `adjoint.Lives`."""

    problems: optimizee_base.Problem
    t: jax.Array
    theta: Any
    states: list  # of the learned optimizer, one for each group
    gradient: Any
    teacher: Any  # its state, stacked over problems


def begin(opt, phi, problem, keys, teacher):
    """Fresh problems, one for each of `keys`."""
    lives = adjoint.begin(opt, phi, problem, keys)
    return Lives(
        lives.problems,
        lives.t,
        lives.theta,
        lives.states,
        lives.gradient,
        jax.vmap(teacher.init)(lives.theta),
    )


def window(opt, phi, problem, lives, teacher, num_steps, block_size=None, coordinates=None):
    """Runs a window under the teacher and differentiates the imitation's loss.

    Args:
      opt: `LearnedOptimizer`.
      phi: its weights.
      problem: `Optimizee` of `Partial`s.
      lives: from `begin` or from the window before.
      teacher: optax transformation.
      num_steps: T.
      block_size, coordinates: see `adjoint.window`; the loss too is estimated from the coordinates drawn.

    Returns:
      `(loss, its gradient with respect to phi, lives)`.
    """
    groups, drawn, start = adjoint.prepare(opt, phi, lives, coordinates)

    def pack(tree):
        leaves = jax.tree.leaves(tree)
        return [g.pack(leaves) for g in groups]

    def step(lives, _):
        packed = pack(lives.gradient)
        updates, states = adjoint.apply(groups, phi, packed, lives.states)
        taught, teacher_state = jax.vmap(teacher.update)(lives.gradient, lives.teacher, lives.theta)
        theta = optax.apply_updates(lives.theta, taught)
        _, gradient = adjoint.value_and_grad(problem, lives.problems, theta, lives.t + 1)
        difference = jax.tree.map(lambda u, v: u - v.astype(u.dtype), updates, pack(taught))
        square = sum(jnp.sum(jnp.square(v)) for v in jax.tree.leaves(taught))
        recorded = adjoint.taken(drawn, packed), adjoint.taken(drawn, difference), square
        return Lives(lives.problems, lives.t + 1, theta, states, gradient, teacher_state), recorded

    lives, (recorded, differences, squares) = jax.lax.scan(step, lives, length=num_steps)
    factor = 1 / jnp.maximum(jnp.sum(squares), 1e-30)
    loss = factor * sum(
        _sum_of_squares(x, d.scale) for x, d in zip(differences, drawn, strict=True)
    )
    cotangents = [
        _cut_of(jax.tree.map(lambda x: 2 * factor * x, difference)) for difference in differences
    ]
    return (
        loss,
        adjoint.second_pass(groups, drawn, phi, start, recorded, cotangents, block_size),
        lives,
    )


def _sum_of_squares(tree, scale):
    scale = 1 if scale is None else scale[None]  # drawn groups are one vector: [T, N]
    return sum(jnp.sum(jnp.square(x) * scale) for x in jax.tree.leaves(tree))


def _cut_of(tree):
    return lambda cut: jax.tree.map(lambda x: cut(x, axis=1), tree)
