"""Races of a learned solver and its rivals: how much effort is enough, and how long it takes."""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tqdm

import learned_opt
from experiments import solvers
from experiments.rivals.base import Refinement, Rival, Task
from learned_opt import _checks
from learned_opt.evaluation import timing

SHARE = 0.95  # of the instances that a method must solve
FEW = 100  # instances of a library that takes one after the other
ROUNDS = 7
# Less than the 0.5 of gradient descent, which proximal gradient descent does not promise.
SHARE_OF_PROGRESS = 0.1
OURS = "learned"
GUARDED = "learned, guarded"
UNSTARTED = "learned steps alone"
STARTED = "learned start, then"  # another method, whose name follows
WITHIN = "learned within"  # a method whose numbers were learned through its steps


class Reached(NamedTuple):
    """A method at the cheapest effort that was accurate enough, or at its last one.

    Attributes:
      effort: as `Rival.efforts`.
      share: of the instances that it solved.
      gap: the distance to the optimum, in units of the tolerance's, at the 95th percentile.
      solve: the function, compiled.
      num_instances: how many it was measured on.
    """

    effort: Any
    share: float
    gap: float
    solve: Callable[[], Any]
    num_instances: int


def methods(task: Task, learned: solvers.Learned) -> dict[str, Rival]:
    """All that is compared: the learned solver, its parts, and the rivals.

    The steps were learned behind the start. Alone, they meet what they have not seen.
    """
    most = 4 * learned.num_steps
    efforts = tuple(
        k for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 48, 64) if k <= most
    )
    guard = _Solve(learned, learned.family, learned.fallback)
    ours = {
        OURS: Rival(OURS, (0, *efforts), _Solve(learned, learned.family)),
        GUARDED: Rival(GUARDED, efforts, guard),
        UNSTARTED: Rival(UNSTARTED, efforts, _Solve(learned, task.family)),
        **_started(task, learned),
        **_within(task, learned),
    }
    return {**ours, **{rival.name: rival for rival in task.rivals}}


def is_learned(name: str) -> bool:
    """Whether a method is the learned solver, or has a part of it."""
    return name in (OURS, GUARDED, UNSTARTED) or name.startswith((STARTED, WITHIN))


def _started(task: Task, learned: solvers.Learned) -> dict[str, Rival]:
    """What goes on from the learned start: what it is worth to others."""
    name = f"{STARTED} L-BFGS"
    found = {name: Rival(name, (1, 2, 3, 5, 8, 12, 20), _LBFGS(learned.family))}
    if task.refinement is not None:
        name = f"{STARTED} {task.refinement.name}"
        solve = _Refine(learned.family, task.refinement)
        found[name] = Rival(name, task.refinement.efforts, solve)
    return found


def _within(task: Task, learned: solvers.Learned) -> dict[str, Rival]:
    """A method whose numbers were learned; it has as many steps as it has numbers for."""
    unrolled = task.unrolled
    if unrolled is None:
        return {}
    name = f"{WITHIN} {unrolled.name}"
    return {name: Rival(name, (unrolled.num_steps,), lambda _: unrolled.solve(learned.numbers))}


class _Solve(NamedTuple):
    """`Rival.solve` of a learned solver; the effort is its number of steps."""

    learned: solvers.Learned
    family: Any
    fallback: Any = None

    def __call__(self, effort: int) -> Callable[[Any], Any]:
        solve = learned_opt.solver(
            self.learned.opt,
            self.learned.phi,
            self.family,
            num_steps=effort,
            fallback=self.fallback,
            share=SHARE_OF_PROGRESS,
            keep_best=False,
        )
        return lambda instances: solve(instances).theta


class _LBFGS(NamedTuple):
    """`Rival.solve` of L-BFGS from the learned start."""

    family: Any

    def __call__(self, effort: int) -> Callable[[Any], Any]:
        solve = learned_opt.solver(
            optax.lbfgs(), None, self.family, num_steps=effort, keep_best=False
        )
        return lambda instances: solve(instances).theta


class _Refine(NamedTuple):
    """`Rival.solve` of an expert's method from the learned start."""

    family: Any
    refinement: Refinement

    def __call__(self, effort: int) -> Callable[[Any], Any]:
        solve = self.refinement.solve(effort)
        start = functools.partial(self.family.init, jax.random.key(0))
        return jax.jit(lambda instances: solve(instances, jax.vmap(start)(instances)))


def _plain(effort: Any) -> Any:
    """An effort of several numbers in one word, such as 4+5+6."""
    return "+".join(map(str, effort)) if isinstance(effort, tuple) else effort


def reach(
    task: Task,
    method: Rival,
    instances: Any,
    reference: np.ndarray,
) -> Reached:
    """Sets a method to the cheapest effort at which it is accurate enough.

    Args:
      task: the task.
      method: the method.
      instances: to be solved.
      reference: the optimal objectives `[instances]`.
    """
    if not method.batched:
        instances = jax.tree.map(lambda x: x[:FEW], instances)
    count = len(jax.tree.leaves(instances)[0])
    reference = reference[:count]
    for effort in method.efforts:
        solve = functools.partial(method.solve(effort), instances)
        values = task.objective(jax.tree.map(np.asarray, solve()), instances)
        gaps = (values - reference) / task.scale(reference) / task.tolerance
        gaps = np.where(np.isfinite(gaps), gaps, np.inf)
        found = Reached(
            effort, float(np.mean(gaps <= 1)), float(np.quantile(gaps, SHARE)), solve, count
        )
        if found.share >= SHARE:
            break
    return found


def measure(
    task: Task,
    learned: solvers.Learned,
    num_instances: int,
    seed: int,
    names: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Rows of the table: for each method its effort, share solved, and time an instance.

    Args:
      task: the task.
      learned: the learned solver.
      num_instances: fresh ones.
      seed: draws them.
      names: of the methods that the learned solver races against; all if empty.

    Raises:
      ValueError: for a name that no method has.
    """
    chosen = methods(task, learned)
    for name in names:
        _checks.choice("method", name, chosen)
    if names:
        chosen = {name: chosen[name] for name in dict.fromkeys((OURS, *names))}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), num_instances)
    instances = jax.block_until_ready(jax.jit(jax.vmap(task.fresh.sample))(keys))
    reference = task.reference(instances)
    found = {}
    with tqdm.tqdm(chosen.items(), desc="accuracy", unit="method") as bar:
        for name, method in bar:
            bar.set_postfix_str(name)
            found[name] = reach(task, method, instances, reference)
    times = timing.interleaved({name: r.solve for name, r in found.items()}, ROUNDS, "time")
    rows = {}
    for name, reached in found.items():
        per_instance = [seconds / reached.num_instances for seconds in times[name]]
        rows[name] = {
            "effort": _plain(reached.effort),
            "share": reached.share,
            "gap": reached.gap,
            "solved": reached.share >= SHARE,
            "seconds": statistics.median(per_instance),
            "fastest": min(per_instance),
            "slowest": max(per_instance),
            "is_rival": not is_learned(name),
        }
    return rows
