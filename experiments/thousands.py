"""Solves the same kind of problem thousands of times, by a learned solver and by its rivals.

Learns a solver for the family: a start, then an optimizer of few steps. Then it solves fresh
instances with it, and with the methods that an expert would take. Each is set to the cheapest
effort (the fewest iterations, as a rule) at which 95 % of the instances are as accurate as practice
asks for. What is printed is the time an instance at that effort, side by side in one run and
without compilation, and after how many instances the learning has paid for itself against each
rival. --workdir receives table.md, summary.json, config.json, totals.png (total time over the
number of instances), and the solver. A run that was stopped goes on with the same command.

%s

Examples:

    python -m experiments.thousands --family=control
    python -m experiments.thousands --family=users --num_instances=20000
"""

import functools
import os
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags

import learned_opt
from experiments import main, rivals, solvers
from experiments.rivals.base import Rival, Task
from learned_opt import _checks, _files
from learned_opt.evaluation import environment, plots, report, timing

SHARE = 0.95  # of the instances that a method must solve
FEW = 100  # instances of a library that takes one after the other
ROUNDS = 7
OURS = "learned"
_START = "learned start alone"
_GUARDED = "learned, guarded"
_UNSTARTED = "learned steps alone"

__doc__ %= "\n".join(f"    {name:<9} {about}" for name, about in rivals.TASKS.items())


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
    """All that is compared: the learned solver, what each of its parts is worth, and the rivals."""
    most = 4 * learned.phi["momentum"].shape[0]
    efforts = tuple(k for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64) if k <= most)
    guard = _Solve(learned, learned.family, _fallback(learned))
    ours = {
        OURS: Rival(OURS, (0, *efforts), _Solve(learned, learned.family)),
        _GUARDED: Rival(_GUARDED, efforts, guard),
        _UNSTARTED: Rival(_UNSTARTED, efforts, _Solve(learned, task.family)),
    }
    return {**ours, **{rival.name: rival for rival in task.rivals}}


def _fallback(learned: solvers.Learned) -> Any:
    """Gradient descent, at the rate from which the learned steps began."""
    return _sgd(learned.opt.spec["args"]["rate"])


@functools.cache
def _sgd(rate: float) -> Any:
    import optax

    return optax.sgd(rate)


class _Solve(NamedTuple):
    """`Rival.solve` of a learned solver; without steps it is the start alone."""

    learned: solvers.Learned
    family: Any
    fallback: Any = None

    def __call__(self, effort: int) -> Callable[[Any], Any]:
        if effort == 0:
            return _start_alone(self.family)
        solve = learned_opt.solver(
            self.learned.opt,
            self.learned.phi,
            self.family,
            num_steps=effort,
            fallback=self.fallback,
            keep_best=False,
        )
        return lambda instances: solve(instances).theta


def _start_alone(family: Any) -> Callable[[Any], Any]:
    @jax.jit
    def solve(family: Any, instances: Any) -> Any:
        def one(instance: Any) -> Any:
            theta_0 = family.init(jax.random.key(0), instance)
            return theta_0 if family.solution is None else family.solution(theta_0, instance)

        return jax.vmap(one)(instances)

    return functools.partial(solve, family)


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
) -> dict[str, dict[str, Any]]:
    """Rows of the table: for each method its effort, share solved, and time an instance.

    Args:
      task: the task.
      learned: the learned solver.
      num_instances: fresh ones.
      seed: draws them.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), num_instances)
    instances = jax.block_until_ready(jax.jit(jax.vmap(task.family.sample))(keys))
    reference = task.reference(instances)
    found = {}
    with tqdm.tqdm(methods(task, learned).items(), desc="accuracy", unit="method") as bar:
        for name, method in bar:
            bar.set_postfix_str(name)
            found[name] = reach(task, method, instances, reference)
    times = timing.interleaved({name: r.solve for name, r in found.items()}, ROUNDS, "time")
    rows = {}
    for name, reached in found.items():
        per_instance = [seconds / reached.num_instances for seconds in times[name]]
        rows[name] = {
            "effort": reached.effort,
            "share": reached.share,
            "gap": reached.gap,
            "solved": reached.share >= SHARE,
            "seconds": statistics.median(per_instance),
            "fastest": min(per_instance),
            "slowest": max(per_instance),
            "is_rival": name not in (OURS, _GUARDED, _UNSTARTED),
        }
    return rows


def pays_after(
    rows: dict[str, dict[str, Any]],
    name: str,
    training: float,
) -> float:
    """After how many instances the learning has paid for itself against a rival; inf for never.

    Args:
      rows: from `measure`.
      name: of the rival.
      training: seconds of learning.
    """
    if not rows[OURS]["solved"]:
        return float("inf")
    if not rows[name]["solved"]:
        return 0.0  # the rival does not get there
    saved = rows[name]["seconds"] - rows[OURS]["seconds"]
    return training / saved if saved > 0 else float("inf")


def best_rival(rows: dict[str, dict[str, Any]]) -> str | None:
    """The quickest rival that is accurate enough."""
    solved = {n: row["seconds"] for n, row in rows.items() if row["is_rival"] and row["solved"]}
    return min(solved, key=solved.__getitem__, default=None)


def table(rows: dict[str, dict[str, Any]], training: float) -> str:
    """The rows as Markdown."""
    lines = []
    for name, row in rows.items():
        pays = ""
        if row["is_rival"]:
            count = pays_after(rows, name, training)
            pays = "never" if count == float("inf") else f"{count:,.0f}"
            if not row["solved"]:
                pays = "-"
        over = row["seconds"] / rows[OURS]["seconds"]
        lines.append(
            [
                name,
                str(row["effort"]),
                f"{100 * row['share']:.1f} %",
                f"{1e6 * row['seconds']:.3g}",
                f"{over:.2g}",
                pays,
            ]
        )
    header = ["method", "effort", "solved", "us an instance", "over learned", "paid back after"]
    return report.markdown(header, lines)


def verdict(
    name: str,
    rows: dict[str, dict[str, Any]],
    training: float,
) -> str:
    """One plain sentence."""
    best = best_rival(rows)
    if not rows[OURS]["solved"]:
        return (
            f"{name}: the learned solver solves {100 * rows[OURS]['share']:.0f} % of the instances "
            f"and is not accurate enough; {best} is."
        )
    if best is None:
        return f"{name}: the learned solver alone is accurate enough."
    ratio = rows[best]["seconds"] / rows[OURS]["seconds"]
    if ratio <= 1:
        return f"{name}: {best} wins, {1 / ratio:.2g} times as fast as the learned solver."
    count = pays_after(rows, best, training)
    return (
        f"{name}: the learned solver is {ratio:.2g} times as fast as {best}, the best rival; its "
        f"learning has paid for itself after {count:,.0f} instances."
    )


def define_flags() -> None:
    """Defines the flags of this program."""
    names = ", ".join(rivals.TASKS)
    flags.DEFINE_string("family", None, f"One of {names}; all for all of them.", required=True)
    flags.DEFINE_string("workdir", None, "Where results go; default results/thousands/FAMILY.")
    flags.DEFINE_integer("num_instances", 4096, "Fresh instances to be solved.")
    flags.DEFINE_integer("seed", 0, "Of learning, and of the fresh instances.")


def run() -> None:
    """Carries out the command line."""
    name = flags.FLAGS.family
    names = list(rivals.TASKS) if name == "all" else [_checks.choice("family", name, rivals.TASKS)]
    num_instances = _checks.positive_int("num_instances", flags.FLAGS.num_instances)
    for name in names:
        workdir = flags.FLAGS.workdir or "results/thousands"
        folder = (
            os.path.join(workdir, name)
            if flags.FLAGS.workdir is None or len(names) > 1
            else workdir
        )
        print(_solve_family(name, os.path.expanduser(folder), num_instances, flags.FLAGS.seed))


def _solve_family(
    name: str,
    workdir: str,
    num_instances: int,
    seed: int,
) -> str:
    """One family: learns, measures, writes; returns what is printed."""
    task = rivals.build(name)
    os.makedirs(workdir, exist_ok=True)
    learned = solvers.learn(task, solvers.RECIPES[name], seed, workdir)
    training = sum(learned.seconds.values())
    rows = measure(task, learned, num_instances, seed)
    text = "\n\n".join(
        [
            f"{name}: {rivals.TASKS[name]}. Learned in {training:.0f} s. {task.why}",
            table(rows, training),
            verdict(name, rows, training),
        ]
    )
    _files.write_text(os.path.join(workdir, "table.md"), text + "\n")
    _files.write_json(
        os.path.join(workdir, "summary.json"),
        {
            "family": name,
            "num_instances": num_instances,
            "seed": seed,
            "training": learned.seconds,
            "rows": rows,
            "environment": environment.record(),
        },
    )
    shown = {n: row["seconds"] for n, row in rows.items() if row["solved"]}
    plots.totals(os.path.join(workdir, "totals.png"), shown, {OURS: training}, rivals.TASKS[name])
    return text


if __name__ == "__main__":
    define_flags()
    main.run(run)
