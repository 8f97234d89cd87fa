"""A pendulum that is planned for again at each step: what an expert would make the plans with."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from experiments.rivals.base import Refinement, Rival, Task
from experiments.rivals.methods import in_blocks, lbfgs
from learned_opt.optimizees import control
from learned_opt.optimizees.control import Control

_BLOCK = 512  # plans whose steps fit the cache together
# What balancing costs while disturbances go on, about: nothing below it is worth the time.
_BALANCE = 0.01
_FEW = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)


def task(
    seed: int = 0,
    num_episodes: int = 2_048,
    num_fresh: int = 128,
    num_steps: int = 64,
) -> Task:
    """Plans for a pendulum in closed loop.

    Args:
      seed: draws the banks of states and plans: one to learn from and one for the comparison.
      num_episodes, num_fresh: the number of episodes in each bank.
      num_steps: see `control.closed_loop`.
    """
    learn_key, fresh_key = jax.random.split(jax.random.key(seed))
    bank = control.closed_loop(learn_key, num_episodes, num_steps)
    other = control.closed_loop(fresh_key, num_fresh, num_steps)
    return Task(
        family=control.pendulum(bank),
        fresh=control.pendulum(other),
        objective=objective,
        reference=reference,
        rivals=rivals(),
        tolerance=0.01,
        scale=lambda reference: reference + _BALANCE,
        why=(
            "Only the first torque of a plan is applied before a disturbance makes another plan "
            "the best one, and raises the cost of the old one by 40 % in the median: 1 % of a "
            "plan's cost is far less than that."
        ),
        refinement=Refinement("iLQR", _FEW, _ilqr_from),
    )


def rivals() -> tuple[Rival, ...]:
    """The methods to beat, all from the last step's plan."""
    many = (2, 3, 5, 10, 20, 40, 80)
    return (
        Rival("iLQR with limits", _FEW, _ilqr),
        Rival("L-BFGS (Optax)", many, _lbfgs),
        Rival("BFGS (Optimistix)", many, _bfgs),
    )


def objective(answers: Any, instances: Control) -> np.ndarray:
    """The cost of torques `[instances, horizon]` in double precision, `[instances]`."""
    torque = np.clip(np.asarray(answers, np.float64), -control.MAX_TORQUE, control.MAX_TORQUE)
    angle, velocity = np.asarray(instances.state, np.float64).T
    total = np.zeros(len(torque))
    for now in torque.T:
        total += _state_cost(angle, velocity) + control.TORQUE_COST * now**2
        velocity = velocity + control.STEP * (control.GRAVITY * np.sin(angle) + now)
        angle = angle + control.STEP * velocity
    return total / torque.shape[1] + control.TERMINAL_COST * _state_cost(angle, velocity)


def _state_cost(angle: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    return 4 * np.sin(angle / 2) ** 2 + control.VELOCITY_COST * velocity**2


def reference(instances: Control) -> np.ndarray:
    """The lowest cost of plans from the last plan and from controllers, in double precision."""
    with jax.enable_x64(True):
        state, plan = (jnp.asarray(np.asarray(leaf, np.float64)).T for leaf in instances)
        best = jax.jit(_best_of)(state, plan)
        return objective(best.T, instances)


def _best_of(state: jax.Array, plan: jax.Array) -> jax.Array:
    cold = control.cold_starts(state, len(plan))
    starts = jnp.concatenate([control.torques(plan)[None], cold])
    return control.best_of(state, starts, 100)


def _ilqr(effort: int) -> Callable[[Control], jax.Array]:
    run = _ilqr_from(effort)
    return lambda instances: run(instances, instances.plan)


def _ilqr_from(effort: int) -> Callable[[Control, jax.Array], jax.Array]:
    def plan_block(state: jax.Array, plan: jax.Array) -> jax.Array:
        return control.ddp(state.T, control.torques(plan.T), effort).T

    run = in_blocks(plan_block, _BLOCK)
    return lambda instances, plan: run(instances.state, plan)


def _each(solve: Callable[[Control], jax.Array]) -> Callable[[Control], jax.Array]:
    """A plan of one pendulum, theta, as one of many."""
    return jax.jit(lambda instances: control.torques(jax.vmap(solve)(instances)))


def _lbfgs(effort: int) -> Callable[[Control], jax.Array]:
    def solve(instance: Control) -> jax.Array:
        loss = functools.partial(control.cost, state=instance.state)
        return lbfgs(loss, instance.plan, effort, memory_size=10)

    return _each(solve)


def _bfgs(effort: int) -> Callable[[Control], jax.Array]:
    solver: Any = optimistix.BFGS(rtol=1e-9, atol=1e-9)

    def solve(instance: Control) -> jax.Array:
        return optimistix.minimise(
            control.cost,
            solver,
            instance.plan,
            args=instance.state,
            max_steps=effort,
            throw=False,
        ).value

    return _each(solve)
