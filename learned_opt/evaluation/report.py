"""A comparison as a table, a picture, and files."""

import os
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, plots, statistics
from learned_opt.evaluation import comparison as comparison_lib
from learned_opt.evaluation.baselines import Tuned
from learned_opt.evaluation.comparison import Comparison
from learned_opt.evaluation.cost import Cost

Row = dict[str, Any]  # what `summary` says of one optimizer
Rows = dict[str, Row]
MeasureName = str | Sequence[str] | None
Columns = dict[str, dict[str, str]]  # a column's header -> an optimizer's name -> text

LEGEND = (
    "Losses: mean of {runs} runs on fresh problems with its 95 % interval (studentised bootstrap). "
    "Rate: the best one and, in brackets, the range of those that cannot be told apart from it. "
    "Step and update: time of a whole training step and of the optimizer alone, Adam = 1. "
    "Bytes: optimizer state a parameter.\n"
)


class Report(NamedTuple):
    """What `write` has written.

    Attributes:
      rows: from `summary`.
      curves: dict from name to losses `[num_runs, num_steps + 1]`.
      finals: from `finals`.
    """

    rows: Rows
    curves: dict[str, np.ndarray]
    finals: dict[str, np.ndarray]


def summary(
    comparison: Comparison,
    steps: Iterable[int],
    final: str | None = None,
) -> Rows:
    """A comparison as plain data, as `summary.json` holds it.

    Args:
      comparison: from `learned_opt.compare`.
      steps: at which steps to summarize the losses.
      final: the measure that optimizers are compared by; None for the last loss of the curve.

    Returns:
      Dict from name to a dict with `kind` ("learned", "tuned" or "given"), `runs`, `learning_rate`
      (None unless tuned), `tuned` (all rates that were tried, None unless tuned), `loss` (a dict
      from the step, as text, to a `statistics.Summary` as a dict), `diverged` (a fraction), the
      cost, `measure` if something was measured, and `against`: unless it was tuned, the paired
      difference to every other optimizer, a `statistics.Difference` as a dict with its verdict.

    Raises:
      ValueError: for a step beyond the horizon.
    """
    steps = list(steps)
    horizon = min(curve.shape[1] for curve in comparison.curves.values()) - 1
    for step in steps:
        if _checks.positive_int("steps", step, minimum=0) > horizon:
            raise ValueError(f"steps must not lie beyond the horizon {horizon}, got {step}.")
    rows = {name: _row(comparison, name, steps) for name in comparison.curves}
    for name, against in differences(comparison, final).items():
        rows[name]["against"] = against
    return rows


def differences(
    comparison: Comparison,
    final: str | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The paired differences of each optimizer to every other one; none of what was tuned.

    Args:
      comparison: from `learned_opt.compare`.
      final: see `summary`.

    Returns:
      Dict from name to a dict from another name to a `statistics.Difference` as a dict with its
      verdict.
    """
    values = finals(comparison, final)
    found = {}
    for name in values:
        is_tuned = comparison.kinds[name] == comparison_lib.TUNED
        found[name] = {} if is_tuned else _against(name, values)
    return found


def finals(comparison: Comparison, final: str | None = None) -> dict[str, np.ndarray]:
    """What optimizers are compared by: dict from name to its value in every run `[num_runs]`.

    Args:
      comparison: from `learned_opt.compare`.
      final: see `summary`.
    """
    values = {}
    for name, curve in comparison.curves.items():
        values[name] = comparison.measures[name][final] if final else curve[:, -1]
    return values


def _row(
    comparison: Comparison,
    name: str,
    steps: list[int],
) -> Row:
    curve = comparison.curves[name]
    tuned = comparison.tuned.get(name)
    row = {
        "kind": comparison.kinds[name],
        "runs": len(curve),
        "learning_rate": None if tuned is None else tuned.learning_rate,
        "tuned": None if tuned is None else _plain_tuned(tuned),
        "loss": {str(step): _summary(curve[:, step]) for step in steps},
        "diverged": float(np.mean(~np.isfinite(curve[:, -1]))),
    }
    if name in comparison.costs:
        row.update(_cost(comparison.costs[name], comparison.costs.get("Adam")))
    if name in comparison.measures:
        row["measure"] = _measure(comparison.measures[name])
    return row


def _plain_tuned(tuned: Tuned) -> dict[str, Any]:
    return {
        "rates": tuned.rates.tolist(),
        "grid": tuned.grid.tolist(),
        "runs": tuned.runs.tolist(),
        "tied": list(tuned.tied),
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    return statistics.summarize(values)._asdict()


def _against(name: str, values: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The paired differences of one optimizer to all others."""
    found = {}
    for other in values:
        if other != name:
            difference = statistics.paired(values[name], values[other])
            found[other] = {**difference._asdict(), "verdict": difference.verdict}
    return found


def _cost(cost: Cost, adam: Cost | None) -> dict[str, float]:
    row = {
        "step_seconds": cost.step,
        "update_seconds": cost.update,
        "state_bytes_per_parameter": cost.state_bytes_per_parameter,
    }
    if adam is not None:
        row["step_over_adam"] = cost.step / adam.step
        row["update_over_adam"] = cost.update / adam.update
    return row


def _measure(measured: Any) -> dict[str, Any]:
    if isinstance(measured, dict):
        return {name: _summary(values) for name, values in measured.items()}
    return _summary(measured)


def best_baseline(rows: Rows, final: str | None = None) -> str | None:
    """The tuned baseline with the smallest final loss; None where there is none.

    Args:
      rows: from `summary`.
      final: see `table`.
    """
    means = {
        name: float(last(row, final)["mean"])
        for name, row in rows.items()
        if row["kind"] == comparison_lib.TUNED
    }
    return min(means, key=means.__getitem__, default=None)


def verdicts(rows: Rows, final: str | None = None) -> str:
    """Where each learned optimizer stands, by paired differences: a line each, as Markdown.

    It is held against the best tuned baseline, tuned Adam, and everything that was given.

    Args:
      rows: from `summary`.
      final: see `table`.
    """
    return "\n".join(f"- {name}: {verdict(rows, name, final)}" for name in learned(rows))


def verdict(
    rows: Rows,
    name: str,
    final: str | None = None,
) -> str:
    """The line of one optimizer, see `verdicts`."""
    row = rows[name]
    text = interval(last(row, final))
    if row["diverged"]:
        text += f", {100 * row['diverged']:.0f} % diverged"
    best = best_baseline(rows, final)
    others = dict.fromkeys([best, "Adam"])  # an ordered set
    others.update(dict.fromkeys(_given(rows)))
    parts = []
    for other in others:
        if other in rows and other != name:
            label = f"{other} (the best tuned baseline)" if other == best else other
            parts.append(held_against(row["against"][other], label))
    if not parts:
        return f"{text}; compared with none."
    return f"{text}; {caution(row['runs'])}{'; '.join(parts)}."


def caution(num_runs: int) -> str:
    """What stands before a verdict from too few runs; nothing where there are enough."""
    if num_runs >= statistics.LEAST_RUNS:
        return ""
    return f"no verdict from {num_runs} runs, {statistics.LEAST_RUNS} are needed: "


def held_against(difference: dict[str, Any], other: str) -> str:
    """A paired difference in words, such as "below Adam by 0.02 [0.01, 0.03]".

    Args:
      difference: of `against` in a row.
      other: what the other optimizer is called.

    Example:
      >>> from learned_opt.evaluation import report
      >>> report.held_against(
      ...     {"verdict": "below", "mean": -0.02, "low": -0.03, "high": -0.01}, "Adam")
      'below Adam by 0.02 [0.01, 0.03]'
    """
    mean, low, high = (float(difference[key]) for key in ("mean", "low", "high"))
    if difference["verdict"] == statistics.NO_DIFFERENCE:
        return f"no difference to {other}: {mean:+.2g} [{low:+.2g}, {high:+.2g}]"
    by, *ends = abs(mean), *sorted((abs(low), abs(high)))
    return f"{difference['verdict']} {other} by {by:.2g} [{ends[0]:.2g}, {ends[1]:.2g}]"


def _given(rows: Rows) -> list[str]:
    return [name for name, row in rows.items() if row["kind"] == comparison_lib.GIVEN]


def learned(rows: Rows) -> list[str]:
    """The names of the optimizers that are learned."""
    return [name for name, row in rows.items() if row["kind"] == comparison_lib.LEARNED]


def table(
    rows: Rows,
    measure_name: MeasureName = None,
    extra: Columns | None = None,
    final: str | None = None,
) -> str:
    """The summary as a Markdown table, the smallest final loss first.

    Args:
      rows: from `summary`.
      measure_name: what else was measured, if anything was; several names where there are several
        measures.
      extra: more columns, which stand after the losses: a dict from header to a dict from
        optimizer to text.
      final: the measure that is the final loss; None for the last loss of the curve.

    Returns:
      The table.
    """
    first = next(iter(rows.values()))
    steps = list(first["loss"])
    extra = extra or {}
    header = ["optimizer", "rate"]
    header += [f"loss at {step}" for step in steps]
    header += [*extra, "diverged", *_names(measure_name), "step", "update", "bytes"]
    order = sorted(rows, key=lambda name: float(last(rows[name], final)["mean"]))
    lines = [_cells(name, rows[name], measure_name, extra) for name in order]
    return markdown(header, lines) + "\n"


def last(row: Row, final: str | None = None) -> dict[str, Any]:
    """The summary of a row's final loss: the last one of its curve, or the measure `final`."""
    if final:
        return row["measure"][final]
    return list(row["loss"].values())[-1]


def _names(measure_name: MeasureName) -> Sequence[str]:
    if measure_name is None:
        return ()
    return (measure_name,) if isinstance(measure_name, str) else measure_name


def _cells(
    name: str,
    row: Row,
    measure_name: MeasureName,
    extra: Columns,
) -> list[str]:
    cells = [name, _rate(name, row)]
    cells += [interval(loss) for loss in row["loss"].values()]
    cells += [column.get(name, "") for column in extra.values()]
    cells.append(f"{100 * row['diverged']:.0f} %")
    cells += _measured(row, measure_name)
    cells.append(_times(row.get("step_over_adam")))
    cells.append(_times(row.get("update_over_adam")))
    num_bytes = row.get("state_bytes_per_parameter")
    cells.append("-" if num_bytes is None else f"{num_bytes:.0f}")
    return cells


def _rate(name: str, row: Row) -> str:
    if row["kind"] == comparison_lib.TUNED:
        tied = row["tuned"]["tied"]
        beside = f" [{min(tied):.3g}, {max(tied):.3g}]" if len(tied) > 1 else ""
        return f"{row['learning_rate']:.3g}{beside}"
    if row["kind"] == comparison_lib.LEARNED:
        return "learned"
    return "-" if name in baselines.REFERENCES else "as given"


def _measured(row: Row, measure_name: MeasureName) -> list[str]:
    if measure_name is None:
        return []
    if isinstance(measure_name, str):
        return [interval(row["measure"], "{:.4f}")]
    return [interval(row["measure"][name], _number(name)) for name in measure_name]


def _number(measure_name: str) -> str:
    return "{:.4f}" if "accuracy" in measure_name else "{:.3g}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def middles(rows: Rows, final: str | None = None) -> Columns:
    """The interquartile means of the final losses, a column for `table`.

    A few runs that are far off, or that diverge, move a mean away from the middle half of the runs.
    Then this column shows how the others do.

    Args:
      rows: from `summary`.
      final: see `table`.

    Returns:
      A dict with one column; empty where no interquartile mean lies outside the interval of its
      mean.
    """
    finals = {name: last(row, final) for name, row in rows.items()}
    if not any(_is_moved(value) for value in finals.values()):
        return {}
    middle = {name: float(value["interquartile_mean"]) for name, value in finals.items()}
    return {"middle half": {name: f"{value:.3g}" for name, value in middle.items()}}


def _is_moved(summary: dict[str, Any]) -> bool:
    middle = float(summary["interquartile_mean"])
    low = float(summary["low"])
    high = float(summary["high"])
    if not np.isfinite(middle):
        return False
    return not np.isfinite(high) or not low <= middle <= high


def interval(value: dict[str, Any], number: str = "{:.3g}") -> str:
    """A mean with its interval, as text.

    Args:
      value: a `statistics.Summary` as a dict; numbers may be texts, as JSON holds infinity.
      number: the format of a number.

    Returns:
      The text.

    Example:
      >>> from learned_opt.evaluation import report
      >>> report.interval({"mean": 0.12345, "low": 0.1, "high": "inf"})
      '0.123 [0.1, inf]'
    """
    mean, low, high = (number.format(float(value[key])) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are also aligned as plain text.

    Example:
      >>> from learned_opt.evaluation import report
      >>> print(report.markdown(["name", "x"], [["a", "10"]]))
      | name | x  |
      |------|----|
      | a    | 10 |
    """
    columns = zip(header, *rows, strict=True)
    widths = [max(len(text) for text in column) for column in columns]
    rule = "|".join("-" * (width + 2) for width in widths)
    lines = [_line(header, widths), f"|{rule}|"]
    lines += [_line(row, widths) for row in rows]
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def write(
    folder: str | os.PathLike,
    rows: Rows,
    curves: dict[str, np.ndarray],
    title: str,
    measure_name: MeasureName = None,
    suffix: str = "",
    first_step: int = 0,
    extra: Columns | None = None,
    final: str | None = None,
    values: dict[str, np.ndarray] | None = None,
) -> str:
    """Writes a comparison: raw curves and finals (npz), picture, table (md), summary (json).

    Each file appears whole or not at all.

    Args:
      folder: where to.
      rows: from `summary`.
      curves: dict from name to losses `[num_runs, num_steps + 1]`.
      title: of the picture.
      measure_name: what else was measured, see `table`.
      suffix: of the files' names.
      first_step: where the picture's axis begins.
      extra, final: see `table`.
      values: from `finals`; None for the last losses of the curves.

    Returns:
      The table, as Markdown.
    """
    num_runs = len(next(iter(curves.values())))
    text = table(rows, measure_name, extra, final) + "\n" + LEGEND.format(runs=num_runs)
    if values is None:
        values = {name: curve[:, -1] for name, curve in curves.items()}
    for kind, arrays in (("curves", curves), ("finals", values)):
        with _files.whole(_path(folder, kind, suffix, "npz")) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    picture = _path(folder, "curves", suffix, "png")
    plots.curves(picture, curves, learned(rows), title, first_step)
    _files.write_text(_path(folder, "table", suffix, "md"), text)
    # The summary comes last: where it is, the other files are.
    _files.write_json(_path(folder, "summary", suffix, "json"), rows)
    return text


def read(folder: str | os.PathLike, suffix: str = "") -> Report | None:
    """What `write` has written; None where it is not there, is damaged, or is of an older form."""
    try:
        curves = _arrays(_path(folder, "curves", suffix, "npz"))
        values = _arrays(_path(folder, "finals", suffix, "npz"))
        rows = _files.read_json(_path(folder, "summary", suffix, "json"))
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
    return Report(rows, curves, values)


def _arrays(path: str) -> dict[str, np.ndarray]:
    with _files.here(path) as there, np.load(there) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _path(
    folder: str | os.PathLike,
    name: str,
    suffix: str,
    extension: str,
) -> str:
    return os.path.join(folder, f"{name}{suffix}.{extension}")
