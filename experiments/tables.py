"""What figures and the page of numbers write of the same results, as Markdown.

A case is its rows, from `learned_opt.evaluation.report.summary`, and `about`, plain data that its
rows do not say: `place`, `panel`, `heading`, `label`, `final`, see `about`.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.cases import Case
from experiments.learned import without_seed
from learned_opt.evaluation import comparison, report

About = dict[str, Any]

WIDEST = 113  # characters of a table that does not scroll sideways on a page
MOST_LONG = 4  # cases of a table with a line for each optimizer of a case


def about(case: Case) -> About:
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


def printed(number: float | None) -> str:
    """A number as the papers print it; nothing where they print none."""
    return "" if number is None else f"{number:.2f}"


def overview(
    axis: str,
    cases: Iterable[tuple[About, report.Rows]],
    names: Iterable[str] | None = None,
) -> str:
    """The table of final losses, a line a case: the best baseline, and an optimizer a column.

    Args:
      axis: what the cases differ in.
      cases: pairs of what they are about and of their rows.
      names: which optimizers have a column; None for Adam and all that are not tuned.
    """
    return report.markdown(*_overview(axis, cases, names))


def fitting(
    axis: str,
    cases: Iterable[tuple[About, report.Rows]],
    names: Iterable[str] | None = None,
) -> str:
    """The table of `overview`, which fits a page: turned or cut where it would be too wide.

    Args:
      axis, cases, names: see `overview`.
    """
    header, lines = _overview(axis, cases, names)
    turned_header = ["optimizer", *(f"{axis}: {line[0]}" for line in lines)]
    turned = [
        list(column) for column in zip(header[1:], *(line[1:] for line in lines), strict=True)
    ]
    for table in (report.markdown(header, lines), report.markdown(turned_header, turned)):
        if _width(table) <= WIDEST:
            return table
    if len(lines) <= MOST_LONG:
        return report.markdown([axis, "optimizer", "final loss"], _long(header, lines))
    return "\n\n".join(_cut(header, lines))


def _long(header: list[str], lines: list[list[str]]) -> list[list[str]]:
    """A line for each optimizer of a case."""
    found = []
    for place, *cells in lines:
        measured = [pair for pair in zip(header[1:], cells, strict=True) if pair[1] != "-"]
        for i, pair in enumerate(measured):
            found.append(["" if i else place, *pair])
    return found


def _cut(header: list[str], lines: list[list[str]]) -> list[str]:
    """Tables that each have some of the columns, and the first column all."""
    tables: list[str] = []
    columns: list[int] = []
    for i in range(1, len(header)):
        wider = _of_columns(header, lines, [*columns, i])
        if columns and _width(wider) > WIDEST:
            tables.append(_of_columns(header, lines, columns))
            columns = []
        columns.append(i)
    return [*tables, _of_columns(header, lines, columns)]


def _of_columns(
    header: list[str],
    lines: list[list[str]],
    columns: list[int],
) -> str:
    chosen = [[row[0], *(row[i] for i in columns)] for row in (header, *lines)]
    return report.markdown(chosen[0], chosen[1:])


def _width(table: str) -> int:
    return max(map(len, table.split("\n")))


def _overview(
    axis: str,
    cases: Iterable[tuple[About, report.Rows]],
    names: Iterable[str] | None,
) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of `overview`."""
    cases = list(cases)
    _, first = cases[0]
    if names is None:
        names = ["Adam", *(name for name, row in first.items() if row["kind"] != comparison.TUNED)]
    shown = [name for name in names if any(name in rows for _, rows in cases)]
    lines = [_line(of_case, rows, shown) for of_case, rows in cases]
    return [axis, "best baseline", *shown], lines


def _line(
    of_case: About,
    rows: report.Rows,
    shown: Sequence[str],
) -> list[str]:
    final = of_case["final"]
    best = report.best_baseline(rows, final)
    cells = [_place(of_case), f"{best} {_cell(rows[best], final)}" if best else "-"]
    cells += [_cell(rows[name], final) if name in rows else "-" for name in shown]
    return cells


def _cell(row: report.Row, final: str | None) -> str:
    """A final loss with its interval, how many runs diverged, and what the paper prints."""
    text = report.interval(report.last(row, final))
    if row["diverged"]:
        text += f", {100 * row['diverged']:.0f} % diverged"
    return text if row["paper"] is None else f"{text} (paper {printed(row['paper'])})"


def narrow(
    axis: str,
    cases: Iterable[tuple[About, report.Rows]],
    names: Iterable[str] | None = None,
) -> str:
    """The table of final losses that fits a narrow page: a line for each optimizer of a case.

    The best tuned baseline comes first, then tuned Adam, then the others with their paired
    difference to the best one.

    Args:
      axis: what the cases differ in.
      cases: see `overview`.
      names: which optimizers have a line; None for all that are not tuned.
    """
    lines = []
    for of_case, rows in cases:
        final, best = of_case["final"], report.best_baseline(rows, of_case["final"])
        others = [name for name, row in rows.items() if row["kind"] != comparison.TUNED]
        shown = dict.fromkeys([best, "Adam", *(others if names is None else names)])
        place = _place(of_case)
        for name in shown:
            if name not in rows:
                continue
            label = f"{name}, tuned" if rows[name]["kind"] == comparison.TUNED else name
            lines.append([place, label, _cell(rows[name], final), _beside(rows[name], name, best)])
            place = ""
    return report.markdown([axis, "optimizer", "final loss", "beside the best baseline"], lines)


def _beside(
    row: report.Row,
    name: str,
    best: str | None,
) -> str:
    if name == best:
        return "the best"
    held = row["against"].get(best)
    if held is None:
        return ""
    # Without the other's name, which the first line of the case has.
    return report.held_against(held, "").replace("  by ", " by ").replace(" to :", ":")


def _place(of_case: About) -> str:
    return ", ".join(part for part in (of_case["panel"], of_case["place"]) if part)


def with_trainings(
    rows: report.Rows,
    trainings: Mapping[str, Any],
    final: str | None,
) -> report.Rows:
    """The rows of a case, where the seeds of one training are one row.

    Args:
      rows: of a case.
      trainings: from `summaries.trainings`.
      final: the measure that is the final loss.
    """
    found: report.Rows = {}
    for name, row in rows.items():
        training_of = trainings.get(without_seed(name))
        if training_of is None or row["kind"] != comparison.LEARNED:
            found[name] = row
            continue
        summary = training_of["summary"]
        found[without_seed(name)] = {
            **row,
            "diverged": summary["diverged"],
            "against": training_of["against"],
            "loss": dict.fromkeys(row["loss"], summary),
            "measure": {final: summary},
        }
    return found


def measures(rows: report.Rows) -> str:
    """The table of all that was measured of a case, an optimizer a line.

    It is empty where optimizers are compared by their final losses alone.
    """
    if not any("also" in row for row in rows.values()):
        return ""
    names = list(next(iter(rows.values()))["measure"])
    lines = []
    for name, row in rows.items():
        lines.append([name, *(report.interval(row["measure"][measure]) for measure in names)])
    return report.markdown(["optimizer", *names], lines)


def standing(
    rows: report.Rows,
    final: str | None,
    pairs: Iterable[tuple[str, str]] = (),
    trainings: Mapping[str, Any] = types.MappingProxyType({}),
) -> str:
    """Where each learned optimizer stands, a line each.

    Args:
      rows: of a case.
      final: the measure that is its final loss.
      pairs: learned optimizers that are held against each other as well, `(ours, theirs)`.
      trainings: from `summaries.trainings`; the seeds of one stand together, not each alone.
    """
    alone = [name for name in report.learned(rows) if without_seed(name) not in trainings]
    lines = []
    for name in alone:
        lines.append(f"- {name}: {report.verdict(rows, name, final)}")
        for measure in rows[name].get("also", {}):
            lines.append(f"- {name}, {measure}: {_also(rows, name, measure)}")
    others = [report.best_baseline(rows, final), "Adam"]
    others += [name for name, row in rows.items() if row["kind"] == comparison.GIVEN]
    shown = dict.fromkeys([*others, *trainings])
    lines += [training(name, found, shown) for name, found in trainings.items()]
    for ours, theirs in pairs:
        if ours in rows and theirs in rows:
            lines.append(f"- {ours}: {report.held_against(rows[ours]['against'][theirs], theirs)}.")
            for measure, against in rows[ours].get("also", {}).items():
                held = report.held_against(against[theirs], theirs)
                lines.append(f"- {ours}, {measure}: {held}.")
    return "\n".join(lines)


def _also(
    rows: report.Rows,
    name: str,
    measure: str,
) -> str:
    """The verdict of one optimizer by another measure than the final loss."""
    held = {**rows[name], "against": rows[name]["also"][measure]}
    return report.verdict({**rows, name: held}, name, measure)


def training(
    name: str,
    found: dict[str, Any],
    others: Iterable[str | None],
) -> str:
    """Where a training with several seeds stands; intervals are over seeds and runs.

    Args:
      name: of the training.
      found: its entry of `summaries.trainings`.
      others: what it is held against here, where that was measured.
    """
    means = ", ".join(f"{mean:.3g}" for mean in found["seeds"])
    text = f"- Training {name}, {len(found['seeds'])} seeds ({means})"
    text += f": {report.interval(found['summary'])}"
    against = {other: found["against"][other] for other in others if other in found["against"]}
    if not against:
        return f"{text}; compared with none."
    num_runs = min(difference["num_runs"] for difference in against.values())
    parts = [report.held_against(difference, other) for other, difference in against.items()]
    return f"{text}; {report.caution(num_runs)}{'; '.join(parts)}."
