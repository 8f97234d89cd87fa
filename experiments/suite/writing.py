"""The suite's results as files: tables in Markdown, numbers in JSON and CSV, and pictures."""

import csv
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.suite import pictures, shares
from experiments.suite import results as results_lib
from experiments.suite.kept import Settings
from experiments.suite.optimizers import ADAM, LEARNED, of_kind
from experiments.suite.results import RIVALS, Results
from experiments.suite.tasks import GROUPS, TASKS, WIDTH
from learned_opt import _files
from learned_opt.evaluation import plots

LEGEND = (
    f"Final loss: the mean of the last {shares.LAST:.0%} of a run's training losses. Over Adam: "
    f"the final loss over that of {ADAM}, seed by seed; a geometric mean. Steps of a rival: the "
    "share of its steps after which an optimizer ends as low as the rival does, with a run of its "
    f"own for each of the shares {', '.join(f'{share:g}' for share in shares.SHARES)} where it has "
    "a schedule, and interpolation between them; the smallest share is the least that can be "
    f"found, and what never comes as low counts as {shares.CAP:g}, and is counted in brackets. "
    "Intervals: 95 %, over seeds, studentised bootstrap; tasks are not drawn. Losses below a "
    "task's floor (a thousandth of a nat, a millionth for squares) count as that. A run that "
    "diverges is infinite.\n"
)
MISSING = "-"


def write(
    workdir: str,
    results: Results,
    settings: Settings,
) -> str:
    """Writes all files of a work directory; returns what is printed."""
    summary = results_lib.summary(workdir, results)
    text = document(summary, settings)
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    _files.write_text(os.path.join(workdir, "table.md"), text)
    _write_csv(os.path.join(workdir, "values.csv"), results)
    _draw(workdir, results, summary)
    return text


def document(summary: dict[str, Any], settings: Settings) -> str:
    """The tables as one page of Markdown."""
    parts = [
        f"# The suite: {settings.edition} edition, {settings.data} data, "
        f"{settings.num_steps:,} steps, {settings.seeds} seeds",
        LEGEND,
        "## Goals",
        _goals(summary["goals"]),
    ]
    for group, rows in summary["over_all"].items():
        if rows:
            parts += [f"## Over all: {group} ({GROUPS[group]})", _over_all(rows)]
    parts.append("## By task")
    for task, rows in summary["tasks"].items():
        about = TASKS[task].about
        parts += [f"### {task}", f"{about[:1].upper()}{about[1:]}.", _task(rows)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def costs(workdir: str, tasks: Iterable[str]) -> str:
    """What was timed on some tasks, as one page of Markdown."""
    header = ["optimizer", "step (ms)", f"over {ADAM}", "update (ms)", "bytes"]
    parts = []
    for task in tasks:
        timed = results_lib.costs(workdir, task)
        adam = timed.get(ADAM)
        rows = []
        for name, cost in timed.items():
            step, update, num_bytes = _cost(cost)
            over_adam = f"{cost['step'] / adam['step']:.3g}" if adam else MISSING
            rows.append([name, step, over_adam, update, num_bytes])
        parts += [f"## {task}", _markdown(header, rows)]
    return "\n\n".join(parts) + "\n"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goals(goals: list[dict[str, Any]]) -> str:
    verdicts = {True: "holds", False: "**does not hold**", None: "not measured"}
    rows = []
    for row in goals:
        sign = "<" if row["strict"] else "<="
        value = MISSING if row["value"] is None else _interval(row, "value")
        bound = f"{sign} {row['bound']:g}"
        rows.append([row["goal"], row["what"], value, bound, verdicts[row["holds"]], row["note"]])
    return _markdown(["goal", "what", "measured", "wanted", "verdict", "note"], rows)


def _over_all(rows: dict[str, dict[str, Any]]) -> str:
    header = ["optimizer", "tasks", "diverged", "over Adam", "worst task"]
    header += [f"steps of {rival}" for rival in RIVALS]
    header += [f"worst, of {ADAM}"]
    lines = []
    for name, row in rows.items():
        count, runs = row["diverged"]
        line = [name, str(row["tasks"]), f"{count} of {runs}"]
        line += [_optional(row["ratio"]), _worst(row["ratio"])]
        line += [_needed(row["needed"].get(rival), "runs") for rival in RIVALS]
        line += [_worst(row["needed"].get(ADAM))]
        lines.append(line)
    return _markdown(header, lines)


def _task(rows: dict[str, dict[str, Any]]) -> str:
    measures = list(dict.fromkeys(name for row in rows.values() for name in row["measures"]))
    has_costs = any(row["cost"] for row in rows.values())
    header = ["optimizer", "final loss", "over Adam", *(f"steps of {rival}" for rival in RIVALS)]
    header += [*measures, "diverged", "rate"]
    header += ["step (ms)", "update (ms)", "bytes"] * has_costs
    lines = []
    for name, row in rows.items():
        count, runs = row["diverged"]
        line = [name, _interval(row["final"]), _optional(row.get("ratio"))]
        line += [_needed(row["needed"].get(rival), "seeds") for rival in RIVALS]
        line += [_optional(row["measures"].get(measure)) for measure in measures]
        line += [f"{count} of {runs}" if count else "0", _rate(row.get("tuned"))]
        line += _cost(row["cost"]) if has_costs else []
        lines.append(line)
    return _markdown(header, lines)


def _interval(row: dict[str, Any], key: str = "mean") -> str:
    text = _number(row[key])
    if row["low"] == row["high"]:
        return text
    return f"{text} [{_number(row['low'])}, {_number(row['high'])}]"


def _optional(row: dict[str, Any] | None) -> str:
    return MISSING if row is None else _interval(row)


def _needed(row: dict[str, Any] | None, of: str) -> str:
    if row is None:
        return MISSING
    never = f" ({row['never']} of {row[of]} never)" if row["never"] else ""
    return _interval(row) + never


def _worst(row: dict[str, Any] | None) -> str:
    return MISSING if row is None else f"{_number(row['worst'])}, {row['worst_task']}"


def _rate(tuned: dict[str, Any] | None) -> str:
    if not tuned:
        return MISSING
    end = ", the end of its grid" if tuned["at_the_end_of_the_grid"] else ""
    return f"{tuned['learning_rate']:.3g}, {tuned['decay']}{end}"


def _cost(cost: dict[str, float] | None) -> list[str]:
    if cost is None:
        return [MISSING] * 3
    milliseconds = [f"{1e3 * cost[name]:.3g}" for name in ("step", "update")]
    return [*milliseconds, f"{cost['state_bytes_per_parameter']:.3g}"]


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _write_csv(path: str, results: Results) -> None:
    """One number a line: final losses at each length, shares of steps, and what is measured."""
    with _files.whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["task", "optimizer", "name", "seed", "value"])
        for task, there in results.items():
            for optimizer in there:
                for name, values in _values(results, task, optimizer).items():
                    for seed, value in enumerate(values):
                        writer.writerow([task, optimizer, name, seed, f"{value:.6g}"])


def _values(
    results: Results,
    task: str,
    optimizer: str,
) -> dict[str, np.ndarray]:
    done = results[task][optimizer]
    values = {}
    for share in shares.SHARES:
        losses = results_lib.final(done, share)
        if losses is not None:
            values[f"final loss at {share:g}"] = losses
    for rival in results_lib.compared_with(optimizer):
        needed = results_lib.needed(results, task, optimizer, rival)
        if needed is not None:
            values[f"share of the steps of {rival}"] = needed
    return {**values, **done.measures}


def _draw(
    workdir: str,
    results: Results,
    summary: dict[str, Any],
) -> None:
    """Curves of each task, ratios of all, shares of steps, and the sweep of widths."""
    for task, there in results.items():
        curves = {name: done.curves[results_lib.WHOLE] for name, done in there.items()}
        learned = set(of_kind(LEARNED)) & set(curves)
        plots.curves(os.path.join(workdir, task, "curves.png"), curves, learned, task)
    pictures.draw_ratios(os.path.join(workdir, "ratios.png"), summary["tasks"])
    pictures.draw_shares(os.path.join(workdir, "shares.png"), summary["over_all"])
    widths: dict[str, dict[Any, dict[str, float]]] = {}
    for task, rows in summary["tasks"].items():
        if TASKS[task].group == WIDTH:
            width = int(task.rpartition("-")[2])
            for name, row in rows.items():
                widths.setdefault(name, {})[width] = row["final"]
    if widths:
        path = os.path.join(workdir, "widths.png")
        plots.overview(path, {"mnist": widths}, set(of_kind(LEARNED)), "A perceptron", "width")
