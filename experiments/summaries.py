"""What stands over all cases of a figure: the overview, claims, seeds, and the pictures."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments import tables
from experiments.cases import Case, Figure
from experiments.learned import Learned, without_seed
from learned_opt import _files
from learned_opt.evaluation import plots, report, statistics

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
    cases = [(tables.about(case), of_case.rows) for case, of_case in done.items()]
    labels = dict.fromkeys(about["label"].capitalize() for about, _ in cases)
    sections = [
        f"## {title}",
        f"{' or '.join(labels)}, mean with its 95 % interval:",
        tables.overview(figure.axis, cases),
    ]
    seeds = {}
    for case, of_case in done.items():
        seeds[case.folder] = trainings(of_case)
        sections += [
            f"### {case.heading}",
            _table_of(case, workdir),
            tables.standing(of_case.rows, case.measure, figure.pairs, seeds[case.folder]),
        ]
    text = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), text)
    _draw(figure, found, done, seeds, workdir)
    summary = {
        "figure": name,
        "title": title,
        "axis": figure.axis,
        "cases": {case.folder: of_case.rows for case, of_case in done.items()},
        "about": {case.folder: tables.about(case) for case in done},
        "trainings": seeds,
    }
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    return text


def _table_of(case: Case, workdir: str) -> str:
    path = os.path.join(workdir, case.folder, "table.md")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    return text.strip()


def _names_by_training(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of learned optimizers by the name of their training."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(without_seed(name), []).append(name)
    return found


def trainings(done: report.Report) -> dict[str, dict[str, Any]]:
    """What is known of meta-trainings with several seeds, as plain data.

    Seeds are the outer level of the resampling, so that this is about the method.

    Args:
      done: what was measured.

    Returns:
      Dict from the name of the training to `seeds` (their means), `summary` (over seeds and runs),
      and `against`, the paired differences to everything that has no several seeds itself, and to
      the other trainings with as many seeds. Empty where no training has several.
    """
    rows, values = done.rows, done.finals
    names = _names_by_training(report.learned(rows))
    several = {name: seeds for name, seeds in names.items() if len(seeds) > 1}
    stacked = {name: np.stack([values[seed] for seed in seeds]) for name, seeds in several.items()}
    of_several = {seed for seeds in several.values() for seed in seeds}
    found = {}
    for name, ours in stacked.items():
        against = {}
        for other in values:
            if other not in of_several:
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


def _draw(
    figure: Figure,
    found: Found,
    done: Done,
    seeds: dict[str, Any],
    workdir: str,
) -> None:
    """The pictures over all cases."""
    rows = {
        case: tables.with_trainings(of_case.rows, seeds[case.folder], case.measure)
        for case, of_case in done.items()
    }
    draw_overview(os.path.join(workdir, "overview.png"), figure, rows)
    if len(done) > MOST_PANELS:
        return
    beside = []
    for case, of_case in done.items():
        beside.append((case.heading, of_case.curves, case.first_step))
    shown = plots.panels(os.path.join(workdir, "curves.png"), beside, list(found))
    _files.write_json(os.path.join(workdir, "curves.json"), shown)


def draw_overview(
    path: str,
    figure: Figure,
    rows: Mapping[Case, report.Rows],
) -> None:
    """Draws the final losses of all cases.

    Args:
      path: of the PNG.
      figure: the figure.
      rows: those of each case, where a training is one row.
    """
    learned: dict[str, None] = {}  # an ordered set
    panels: dict[str, dict[str, dict[Any, dict]]] = {}
    for case, of_case in rows.items():
        learned.update(dict.fromkeys(report.learned(of_case)))
        series = panels.setdefault(case.panel, {})
        for label, name in _shown(case, of_case, figure).items():
            values = series.setdefault(label, {})
            values[case.place] = case.final_of(of_case[name])
    plots.overview(path, panels, learned, f"{figure.title}\n{figure.source}", figure.axis)


def _shown(
    case: Case,
    rows: report.Rows,
    figure: Figure,
) -> dict[str, str]:
    """What the picture shows of a case: the best baseline, Adam, references, and learned ones."""
    shown = {}
    best = report.best_baseline(rows, case.measure)
    if best is not None:
        shown["best baseline"] = best
    for name in ("Adam", *figure.references, *report.learned(rows)):
        if name in rows:
            shown[name] = name
    return shown
