"""What the methods of several tasks share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Solver = Callable[..., Any]  # from instances to answers


def in_blocks(function: Solver, size: int) -> Solver:
    """The function on blocks of instances, one after the other, as one program.

    What a block needs stays in the processor's cache from iteration to iteration.

    Args:
      function: `function(*instances) -> answers`, arrays with the instances on their first axis.
      size: how many instances are in a block.

    Returns:
      A jitted `function(*instances) -> answers` for any number of instances.
    """

    @jax.jit
    def run(*instances: Any) -> Any:
        number = len(jax.tree.leaves(instances)[0])
        block = min(size, number)
        parts = jax.tree.map(lambda x: _split(x, block), instances)
        answers = jax.lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:number], answers)

    return run


def _split(x: jax.Array, block: int) -> jax.Array:
    """`[blocks, block, ...]`; the last instance fills the last block."""
    padding = [(0, -len(x) % block)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding, mode="edge").reshape(-1, block, *x.shape[1:])


def lbfgs(
    loss: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    num_steps: int,
    memory_size: int,
) -> jax.Array:
    """Where optax's L-BFGS, with its line search, is after some steps on one problem."""
    solver: Any = optax.lbfgs(memory_size=memory_size)

    def step(_: int, carry: tuple) -> tuple:
        theta, state = carry
        value, gradient = optax.value_and_grad_from_state(loss)(theta, state=state)
        updates, state = solver.update(
            gradient, state, theta, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(theta, updates), state

    return jax.lax.fori_loop(0, num_steps, step, (start, solver.init(start)))[0]
