"""What came out of the suite: by task, over all tasks, and whether the goals are met."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.suite import kept, running, shares
from experiments.suite.kept import Done
from experiments.suite.optimizers import (
    ABLATIONS,
    ADAM,
    ADAMW,
    FROZEN,
    MUON,
    OPTIMIZERS,
    OURS,
    of_kind,
)
from experiments.suite.tasks import CORE, LONG, TASKS, WIDTH
from learned_opt import _files
from learned_opt.evaluation import statistics

Results = dict[str, dict[str, Done]]  # by task and optimizer
RIVALS = (ADAM, ADAMW, MUON)
WHOLE = 1.0


class Estimate(NamedTuple):
    """A geometric mean over tasks and seeds with its 95 % interval over seeds."""

    mean: float
    low: float
    high: float


def load(workdir: str) -> Results:
    """All files of a work directory, in the suite's order."""
    results: Results = {}
    for task in TASKS:
        for optimizer in OPTIMIZERS:
            done = kept.read(kept.path_of(workdir, task, optimizer))
            if done is not None:
                results.setdefault(task, {})[optimizer] = done
    return results


def final(done: Done, share: float = WHOLE) -> np.ndarray | None:
    """The final losses `[seeds]` of runs of a share of the horizon; None where there are none."""
    if share in done.curves:
        losses = done.curves[share]
        return shares.final_losses(losses, losses.shape[1] - 1)
    if not done.record["constant"]:
        return None
    num_steps = shares.horizon(done.record["horizon"], share)
    return shares.final_losses(done.curves[WHOLE], num_steps)


def diverged(done: Done) -> tuple[int, int]:
    """How many runs diverged, of how many, those of a share of the horizon among them."""
    last = np.concatenate([losses[:, -1] for losses in done.curves.values()])
    return int((~np.isfinite(last)).sum()), last.size


def needed(
    results: Results,
    task: str,
    optimizer: str,
    rival: str,
) -> np.ndarray | None:
    """The share of a rival's steps that an optimizer needs `[seeds]`; None where it is unknown."""
    there = results[task]
    if optimizer not in there or rival not in there:
        return None
    finals = [final(there[optimizer], share) for share in shares.SHARES]
    if any(losses is None for losses in finals):
        return None
    return shares.needed(np.stack(finals), final(there[rival]), TASKS[task].floor)


def ratio(
    results: Results,
    task: str,
    optimizer: str,
    rival: str,
) -> np.ndarray | None:
    """Logarithms of final losses over a rival's `[seeds]`; 0 where both diverge."""
    there = results[task]
    if optimizer not in there or rival not in there:
        return None
    ours, theirs = (
        np.log(np.maximum(final(there[name]), TASKS[task].floor)) for name in (optimizer, rival)
    )
    with np.errstate(invalid="ignore"):
        return np.where(ours == theirs, 0.0, ours - theirs)


def estimate(logs: Iterable[np.ndarray]) -> Estimate:
    """The geometric mean over tasks, from logarithms `[seeds]` of each task."""
    over_tasks = np.mean(np.stack(list(logs)), axis=0)
    return Estimate(*(float(x) for x in np.exp(statistics.interval(over_tasks))))


def _within(found: dict[str, Any]) -> dict[str, Any]:
    """The interval of a mean of capped shares: it cannot lie beyond what they can be."""
    least, most = shares.SHARES[0], shares.CAP
    return {
        **found,
        "low": float(np.clip(found["low"], least, most)),
        "high": float(np.clip(found["high"], least, most)),
    }


def of_task(
    results: Results,
    task: str,
    costs: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """What is said of each optimizer on one task, as plain data."""
    rows = {}
    for optimizer, done in results[task].items():
        row: dict[str, Any] = {
            "final": statistics.summarize(final(done))._asdict(),
            "diverged": diverged(done),
            "measures": {
                name: statistics.summarize(values)._asdict()
                for name, values in done.measures.items()
            },
            "needed": {},
            "cost": costs.get(optimizer),
        }
        tuned = done.record["tuned"]
        if tuned:
            row["tuned"] = {name: tuned[name] for name in tuned if name != "decays"}
        logs = ratio(results, task, optimizer, ADAM)
        if logs is not None:
            row["ratio"] = estimate([logs])._asdict()
        for rival in compared_with(optimizer):
            values = needed(results, task, optimizer, rival)
            if values is not None:
                row["needed"][rival] = {
                    **_within(estimate([np.log(shares.capped(values))])._asdict()),
                    "never": int(np.isinf(values).sum()),
                    "seeds": values.size,
                }
        rows[optimizer] = row
    return rows


def compared_with(optimizer: str) -> list[str]:
    """The rivals whose final losses an optimizer has to reach."""
    rivals = [*RIVALS, *of_kind(FROZEN), *ABLATIONS] if optimizer == OURS else RIVALS
    return [rival for rival in rivals if rival != optimizer]


def over_all(results: Results, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What is said of each optimizer over several tasks, as plain data."""
    tasks = [task for task in tasks if task in results]
    rows = {}
    for optimizer in OPTIMIZERS:
        dones = [results[task][optimizer] for task in tasks if optimizer in results[task]]
        if not dones:
            continue
        counts = np.array([diverged(done) for done in dones])
        rows[optimizer] = {
            "tasks": len(dones),
            "diverged": tuple(int(x) for x in counts.sum(axis=0)),
            "ratio": _ratio_over(results, tasks, optimizer, ADAM),
            "needed": {
                rival: _needed_over(results, tasks, optimizer, rival)
                for rival in compared_with(optimizer)
            },
        }
    return rows


def _ratio_over(
    results: Results,
    tasks: list[str],
    optimizer: str,
    rival: str,
) -> dict[str, Any] | None:
    logs = {task: ratio(results, task, optimizer, rival) for task in tasks}
    return _over(logs)


def _needed_over(
    results: Results,
    tasks: list[str],
    optimizer: str,
    rival: str,
) -> dict[str, Any] | None:
    values = {task: needed(results, task, optimizer, rival) for task in tasks}
    logs = {
        task: None if value is None else np.log(shares.capped(value))
        for task, value in values.items()
    }
    found = _over(logs)
    if found is not None:
        found = _within(found)
        known = np.concatenate([value for value in values.values() if value is not None])
        found["never"] = int(np.isinf(known).sum())
        found["runs"] = known.size
    return found


def _over(logs: dict[str, np.ndarray | None]) -> dict[str, Any] | None:
    """The geometric mean of what is known, and the worst task."""
    known = {task: values for task, values in logs.items() if values is not None}
    if not known:
        return None
    means = {task: float(np.exp(np.mean(values))) for task, values in known.items()}
    worst = max(means, key=lambda task: means[task])
    return {
        **estimate(known.values())._asdict(),
        "tasks": len(known),
        "worst": means[worst],
        "worst_task": worst,
    }


def goals(results: Results) -> list[dict[str, Any]]:
    """The goals of an optimizer that is to carry over: the number, its interval, and the verdict.

    `holds` is None where something was not measured.
    """
    core, long, width = (
        [task for task in results if TASKS[task].group == group] for group in (CORE, LONG, WIDTH)
    )
    rows = [_no_divergence(results, "1", "no divergence on any task", list(results))]
    for rival, bound in ((ADAM, 0.5), (ADAMW, 0.8), (MUON, 1.0)):
        what = f"share of the steps of {rival}, geometric mean"
        rows.append(_share(results, core, "2", what, rival, bound))
    for rival in of_kind(FROZEN):
        what = f"share of the steps of {rival} (frozen), geometric mean"
        rows.append(_share(results, core, "2", what, rival, 1.0, strict=True))
    what = f"share of the steps of {ADAM}, worst task"
    rows.append(_share(results, core, "2", what, ADAM, 1.0, worst=True))
    rows += [_below(results, core, ablation) for ablation in ABLATIONS]
    for name, tasks in (("long runs", long), ("widths", width)):
        rows.append(_no_divergence(results, "5", f"{name}: no divergence", tasks))
        what = f"{name}: share of the steps of {ADAM}, worst task"
        rows.append(_share(results, tasks, "5", what, ADAM, 1.0, worst=True))
    return rows


def _no_divergence(
    results: Results,
    goal: str,
    what: str,
    tasks: list[str],
) -> dict[str, Any]:
    row = over_all(results, tasks).get(OURS)
    if row is None:
        return _goal(goal, what, None, 0.0)
    count, runs = row["diverged"]
    return {**_goal(goal, what, {"mean": count}, 0.0), "note": f"of {runs} runs"}


def _share(
    results: Results,
    tasks: list[str],
    goal: str,
    what: str,
    rival: str,
    bound: float,
    strict: bool = False,
    worst: bool = False,
) -> dict[str, Any]:
    found = _needed_over(results, tasks, OURS, rival)
    if found is None:
        return _goal(goal, what, None, bound, strict)
    note = f"never in {found['never']} of {found['runs']} runs"
    if worst:
        values = np.log(shares.capped(needed(results, found["worst_task"], OURS, rival)))
        found = _within(estimate([values])._asdict())
        note = _needed_over(results, tasks, OURS, rival)["worst_task"]
    return {**_goal(goal, what, found, bound, strict), "note": note}


def _below(results: Results, tasks: list[str], ablation: str) -> dict[str, Any]:
    """It has to be below an ablation by more than the interval."""
    found = _ratio_over(results, tasks, OURS, ablation)
    row = _goal("3", f"final loss over that of {ablation}, geometric mean", found, 1.0, True)
    if found is not None:
        row["holds"] = bool(found["high"] < 1)
        row["note"] = "the whole interval has to lie below 1"
    return row


def _goal(
    goal: str,
    what: str,
    found: dict[str, Any] | None,
    bound: float,
    strict: bool = False,
) -> dict[str, Any]:
    row = {"goal": goal, "what": what, "bound": bound, "strict": strict, "note": "not measured"}
    if found is None:
        return {**row, "value": None, "low": None, "high": None, "holds": None}
    value = found["mean"]
    return {
        **row,
        "value": value,
        "low": found.get("low", value),
        "high": found.get("high", value),
        "holds": bool(value < bound if strict else value <= bound),
    }


def summary(workdir: str, results: Results) -> dict[str, Any]:
    """Everything as plain data, as `summary.json` holds it."""
    groups = {}
    for group in (CORE, LONG, WIDTH):
        groups[group] = over_all(results, [t for t in results if TASKS[t].group == group])
    return {
        "goals": goals(results),
        "over_all": groups,
        "tasks": {task: of_task(results, task, costs(workdir, task)) for task in results},
    }


def costs(workdir: str, task: str) -> dict[str, Any]:
    """What was timed of each optimizer on a task; empty where nothing was."""
    path = os.path.join(workdir, task, running.COSTS)
    return _files.read_json(path) if os.path.exists(path) else {}
