"""What pages show of a run of the suite, as Markdown."""

from collections.abc import Iterable
from typing import Any

from experiments.suite.optimizers import ADAM
from experiments.suite.results import RIVALS
from experiments.suite.tasks import CORE
from learned_opt.evaluation import report


def finals(suite: dict[str, Any], names: Iterable[str] | None = None) -> str:
    """The final losses of a run of the suite, a line for each task and a column an optimizer.

    Args:
      suite: one of `numbers.suites`.
      names: which optimizers; None for all.
    """
    tasks = suite["summary"]["tasks"]
    shown = list(names or dict.fromkeys(name for rows in tasks.values() for name in rows))
    lines = []
    for task, rows in tasks.items():
        cells = [report.interval(rows[name]["final"]) if name in rows else "-" for name in shown]
        lines.append([task, *cells])
    return report.markdown(["task", *shown], lines)


def means(suite: dict[str, Any], names: Iterable[str] | None = None) -> str:
    """What optimizers do over all core tasks of a run of the suite, a line each.

    Args:
      suite, names: see `finals`.
    """
    summary = suite["summary"]
    rows = summary["over_all"][CORE]
    header = ["optimizer", "tasks", f"final loss over that of {ADAM}"]
    header += [f"share of the steps of {rival}" for rival in RIVALS]
    lines = []
    for name in names or rows:
        row = rows[name]
        cells = [_optional(row["ratio"])]
        cells += [_optional(row["needed"].get(rival)) for rival in RIVALS]
        lines.append([name, str(row["tasks"]), *cells])
    return report.markdown(header, lines)


def _optional(row: dict[str, Any] | None) -> str:
    return "-" if row is None else report.interval(row)
