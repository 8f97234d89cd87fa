"""What stands over all cases of a figure: the overview, claims, seeds, and the pictures."""

import os
from typing import Any

import numpy as np

from experiments.cases import Case, Figure
from experiments.learned import Learned
from learned_opt import _files
from learned_opt.evaluation import plots, report, statistics

MOST_PANELS = 4  # curves of more cases are not drawn side by side

Found = dict[str, Learned]
# What is known of every case: its rows, and the losses [num_runs, num_steps + 1] by optimizer.
Done = dict[Case, tuple[report.Rows, dict[str, np.ndarray]]]


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
    sections = [f"## {title}", _overview(figure, found, done)]
    for case, (rows, curves) in done.items():
        sections.append(f"### {case.heading}")
        sections.append(_table_of(case, workdir))
        sections.append(_claims(case, rows, found))
        if _has_seeds(case, found):
            sections.append(_together(curves, found))
    text = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), text)
    _draw(figure, found, done, workdir)
    all_rows = {case.folder: rows for case, (rows, _) in done.items()}
    summary = {"figure": name, "title": title, "cases": all_rows}
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    return text


def printed(number: float | None) -> str:
    """A number as the papers print it; nothing where they print none."""
    return "" if number is None else f"{number:.2f}"


def _table_of(case: Case, workdir: str) -> str:
    path = os.path.join(workdir, case.folder, "table.md")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    return text.strip()


def _best(case: Case, rows: report.Rows) -> str | None:
    """The tuned baseline that is best at the end, or None where there is none."""
    finals = {}
    for name, row in rows.items():
        if row["grid"]:
            final = case.final_of(row)
            finals[name] = float(final["mean"])
    return min(finals, key=finals.get, default=None)


def _overview(
    figure: Figure,
    found: Found,
    done: Done,
) -> str:
    """The table of final losses: one line for each case."""
    shown = ("Adam", *figure.references, *found)
    header = [figure.axis, "best baseline", *shown]
    lines = []
    labels = {}  # as an ordered set
    for case, (rows, _) in done.items():
        lines.append(_overview_line(case, rows, shown))
        labels[case.label.capitalize()] = None
    label = " or ".join(labels)
    table = report.markdown(header, lines)
    return f"{label}, mean with its 95 % bootstrap interval:\n\n{table}"


def _overview_line(
    case: Case,
    rows: report.Rows,
    shown: tuple[str, ...],
) -> list[str]:
    place = str(case.place)
    if case.panel:
        place = f"{case.panel}, {place}"
    best = _best(case, rows)
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


def _claims(
    case: Case,
    rows: report.Rows,
    found: Found,
) -> str:
    """One line for each learned optimizer: where it stands."""
    best = _best(case, rows)
    others = {}  # as an ordered set
    for other in (best, "Adam"):
        if other in rows:
            others[other] = None
    lines = []
    for name, optimizer in found.items():
        parts = []
        for other in others:
            what = "the best tuned baseline, " if other == best else "tuned "
            verdict = _verdict(case, rows[name], rows[other])
            theirs = report.interval(case.final_of(rows[other]))
            parts.append(f"{verdict} {what}{other} ({theirs})")
        compared = "; ".join(parts) or "compared with none"
        note = f" ({optimizer.note})" if "@" in name else ""
        lines.append(f"- {name}{note}: {_final(case, rows[name])}; {compared}.")
    return "\n".join(lines)


def _verdict(
    case: Case,
    ours: report.Row,
    theirs: report.Row,
) -> str:
    verdict = statistics.verdict(case.final_of(ours), case.final_of(theirs))
    return f"{verdict} to" if verdict == "no difference" else verdict


def _names_by_training(found: Found) -> dict[str, list[str]]:
    """The learned optimizers, as `NAME:SEED`, by the name of their training."""
    names: dict[str, list[str]] = {}
    for name in found:
        training, _, _ = name.partition(":")
        names.setdefault(training, []).append(name)
    return names


def _has_seeds(case: Case, found: Found) -> bool:
    """Whether there are several seeds of one training, compared by their losses."""
    names = _names_by_training(found)
    most = max(len(seeds) for seeds in names.values())
    return case.measure is None and most > 1


def _together(curves: dict[str, np.ndarray], found: Found) -> str:
    """The seeds of each learned optimizer together, beside the first one."""
    finals = {}
    for training, names in _names_by_training(found).items():
        losses = [curves[name][:, -1] for name in names]
        finals[training] = np.stack(losses)
    first = next(iter(finals))
    header = ["optimizer", "seeds", "mean of each seed", "mean", f"times {first}"]
    lines = []
    for training, losses in finals.items():
        means = [f"{mean:.3g}" for mean in losses.mean(axis=1)]
        mean = statistics.summarize(losses.mean(axis=0))
        interval = report.interval(mean._asdict())
        beside = "" if training == first else _times(losses, finals[first])
        line = [training, str(len(losses)), ", ".join(means), interval, beside]
        lines.append(line)
    return (
        "Seeds of meta-training together; the last column is the geometric mean over problems and "
        f"seeds of the final loss over that of {first}, with its 95 % bootstrap interval over "
        f"problems:\n\n{report.markdown(header, lines)}"
    )


def _times(ours: np.ndarray, theirs: np.ndarray) -> str:
    ratio, low, high = statistics.ratio(ours, theirs)
    return f"{ratio:.3g} [{low:.3g}, {high:.3g}]"


def _draw(
    figure: Figure,
    found: Found,
    done: Done,
    workdir: str,
) -> None:
    """The pictures over all cases."""
    learned = list(found)
    panels: dict[str, dict[str, dict[Any, dict]]] = {}
    for case, (rows, _) in done.items():
        series = panels.setdefault(case.panel, {})
        for label, name in _shown(case, rows, figure, found).items():
            values = series.setdefault(label, {})
            values[case.place] = case.final_of(rows[name])
    overview = os.path.join(workdir, "overview.png")
    title = f"{figure.title}\n{figure.source}"
    plots.overview(overview, panels, learned, title, figure.axis)
    if len(done) > MOST_PANELS:
        return
    beside = []
    for case, (_, curves) in done.items():
        beside.append((case.heading, curves, case.first_step))
    plots.panels(os.path.join(workdir, "curves.png"), beside, learned)


def _shown(
    case: Case,
    rows: report.Rows,
    figure: Figure,
    found: Found,
) -> dict[str, str]:
    """What the picture shows of a case: the best baseline, Adam, references, and learned ones."""
    shown = {}
    best = _best(case, rows)
    if best is not None:
        shown["best baseline"] = best
    for name in ("Adam", *figure.references, *found):
        if name in rows:
            shown[name] = name
    return shown
