"""What stands over all cases of a figure: the overview, claims, seeds, and the pictures."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments import teachers
from experiments.cases import Case, Figure
from experiments.learned import Learned, without_seed
from learned_opt import _files
from learned_opt.evaluation import comparison, plots, report, statistics

MOST_PANELS = 4  # curves of more cases are not drawn side by side

Found = dict[str, Learned]
Done = dict[Case, report.Report]  # what was measured of every case


def write(
    name: str,
    figure: Figure,
    found: Found,
    done: Done,
    workdir: str,
) -> str:
    """Writes table.md, summary.json and the pictures over all cases.

    Args:
      name: of the figure.
      figure: the figure.
      found: the learned optimizers.
      done: what was measured; each case has its own files already.
      workdir: where to.

    Returns:
      The text of table.md.
    """
    title = f"{figure.title} ({figure.source})"
    beside = [*figure.references, *figure.frozen, *_teachers(found)]
    sections = [f"## {title}", overview(done, beside, list(found), figure.axis)]
    seeds = {}
    for case, report_of_case in done.items():
        sections.append(f"### {case.heading}")
        sections.append(_table_of(case, workdir))
        lines = [report.verdicts(report_of_case.rows, case.measure)]
        lines += _pairs(figure, report_of_case.rows)
        sections.append("\n".join(lines))
        seeds[case.folder] = trainings(report_of_case, case.measure)
        if seeds[case.folder]:
            sections.append(together(seeds[case.folder]))
    text = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), text)
    _draw(figure, found, done, workdir)
    summary = {
        "figure": name,
        "title": title,
        "axis": figure.axis,
        "cases": {case.folder: of_case.rows for case, of_case in done.items()},
        "about": {case.folder: _about(case) for case in done},
        "trainings": seeds,
    }
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    return text


def _pairs(figure: Figure, rows: report.Rows) -> list[str]:
    """Where learned optimizers stand that are held against each other."""
    lines = []
    for ours, theirs in figure.pairs:
        if ours in rows and theirs in rows:
            lines.append(f"- {ours}: {report.held_against(rows[ours]['against'][theirs], theirs)}.")
    return lines


def _about(case: Case) -> dict[str, Any]:
    """What of a case its rows do not say."""
    return {
        "heading": case.heading,
        "place": str(case.place),
        "panel": case.panel,
        "final": case.measure,
        "label": case.label,
        "num_steps": case.num_steps,
        "tune_last": case.tune_last,
    }


def _teachers(found: Found) -> list[str]:
    names: dict[str, None] = {}  # an ordered set
    for optimizer in found.values():
        if optimizer.teacher:
            names.update(dict.fromkeys(teachers.rivals(optimizer.teacher)))
    return list(names)


def printed(number: float | None) -> str:
    """A number as the papers print it; nothing where they print none."""
    return "" if number is None else f"{number:.2f}"


def _table_of(case: Case, workdir: str) -> str:
    path = os.path.join(workdir, case.folder, "table.md")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    return text.strip()


def overview(
    done: Done,
    beside: Sequence[str],
    found: Sequence[str],
    axis: str,
) -> str:
    """The table of final losses: one line for each case.

    Args:
      done: what was measured.
      beside: which optimizers with nothing to tune stand beside Adam.
      found: the learned ones.
      axis: what the cases differ in.
    """
    shown = ("Adam", *beside, *found)
    header = [axis, "best baseline", *shown]
    lines = []
    labels = {}  # as an ordered set
    for case, of_case in done.items():
        lines.append(_overview_line(case, of_case.rows, shown))
        labels[case.label.capitalize()] = None
    label = " or ".join(labels)
    return f"{label}, mean with its 95 % interval:\n\n{report.markdown(header, lines)}"


def _overview_line(
    case: Case,
    rows: report.Rows,
    shown: tuple[str, ...],
) -> list[str]:
    place = str(case.place)
    if case.panel:
        place = f"{case.panel}, {place}"
    best = report.best_baseline(rows, case.measure)
    best_cell = "-"
    if best is not None:
        best_cell = f"{best} {_cell(case, rows[best])}"
    cells = [place, best_cell]
    for name in shown:
        cell = _cell(case, rows[name]) if name in rows else "-"
        cells.append(cell)
    return cells


def _cell(case: Case, row: report.Row) -> str:
    text = _final(case, row)
    if row["paper"] is None:
        return text
    return f"{text} (paper {printed(row['paper'])})"


def _final(case: Case, row: report.Row) -> str:
    """An optimizer's final loss with its interval, and how many of its runs diverged."""
    text = report.interval(case.final_of(row))
    if not row["diverged"]:
        return text
    percent = 100 * row["diverged"]
    return f"{text}, {percent:.0f} % diverged"


def _names_by_training(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of learned optimizers by the name of their training."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(without_seed(name), []).append(name)
    return found


def trainings(done: report.Report, final: str | None = None) -> dict[str, dict[str, Any]]:
    """What is known of meta-trainings with several seeds, as plain data.

    Seeds are the outer level of the resampling, so that this is about the method.

    Args:
      done: what was measured.
      final: the measure that optimizers are compared by.

    Returns:
      Dict from the name of the training to `seeds` (their means), `summary` (over seeds and runs),
      and `against`, the paired differences to the best tuned baseline, to Adam, to everything that
      was given, and to the other trainings with as many seeds. Empty where no training has several.
    """
    rows, values = done.rows, done.finals
    names = _names_by_training(report.learned(rows))
    several = {name: seeds for name, seeds in names.items() if len(seeds) > 1}
    stacked = {name: np.stack([values[seed] for seed in seeds]) for name, seeds in several.items()}
    given = [name for name, row in rows.items() if row["kind"] == comparison.GIVEN]
    rivals = dict.fromkeys([report.best_baseline(rows, final), "Adam", *given])
    found = {}
    for name, ours in stacked.items():
        against = {}
        for other in rivals:
            if other in values:
                against[other] = _difference(ours, values[other])
        for other, theirs in stacked.items():
            if other != name and len(theirs) == len(ours):
                against[other] = _difference(ours, theirs)
        found[name] = {
            "seeds": ours.mean(axis=1).tolist(),
            "summary": statistics.summarize(ours)._asdict(),
            "against": against,
        }
    return found


def _difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    difference = statistics.paired(ours, theirs)
    times = statistics.ratio(ours, theirs)
    return {**difference._asdict(), "verdict": difference.verdict, "times": list(times)}


def together(found: dict[str, dict[str, Any]]) -> str:
    """The text of what `trainings` has found."""
    header = ["training", "mean of each seed", "mean", "paired differences"]
    lines = []
    for name, training in found.items():
        means = ", ".join(f"{mean:.3g}" for mean in training["seeds"])
        parts = [report.held_against(d, other) for other, d in training["against"].items()]
        lines.append([name, means, report.interval(training["summary"]), "; ".join(parts)])
    return (
        "Seeds of meta-training together: intervals are over seeds and runs, and so about the "
        f"method.\n\n{report.markdown(header, lines)}"
    )


def _draw(
    figure: Figure,
    found: Found,
    done: Done,
    workdir: str,
) -> None:
    """The pictures over all cases."""
    learned = list(found)
    panels: dict[str, dict[str, dict[Any, dict]]] = {}
    for case, of_case in done.items():
        series = panels.setdefault(case.panel, {})
        for label, name in _shown(case, of_case.rows, figure, found).items():
            values = series.setdefault(label, {})
            values[case.place] = case.final_of(of_case.rows[name])
    picture = os.path.join(workdir, "overview.png")
    title = f"{figure.title}\n{figure.source}"
    plots.overview(picture, panels, learned, title, figure.axis)
    if len(done) > MOST_PANELS:
        return
    beside = []
    for case, of_case in done.items():
        beside.append((case.heading, of_case.curves, case.first_step))
    plots.panels(os.path.join(workdir, "curves.png"), beside, learned)


def _shown(
    case: Case,
    rows: report.Rows,
    figure: Figure,
    found: Found,
) -> dict[str, str]:
    """What the picture shows of a case: the best baseline, Adam, references, and learned ones."""
    shown = {}
    best = report.best_baseline(rows, case.measure)
    if best is not None:
        shown["best baseline"] = best
    for name in ("Adam", *figure.references, *found):
        if name in rows:
            shown[name] = name
    return shown
