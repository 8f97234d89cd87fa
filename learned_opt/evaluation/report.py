"""A comparison as a table, a picture, and files."""

import os
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, plots, statistics
from learned_opt.evaluation import comparison as comparison_lib
from learned_opt.evaluation.comparison import Comparison
from learned_opt.evaluation.cost import Cost

Row = dict[str, Any]  # what `summary` says of one optimizer
Rows = dict[str, Row]
MeasureName = str | Sequence[str] | None
Columns = dict[str, dict[str, str]]  # a column's header -> an optimizer's name -> text

LEGEND = (
    "Losses: mean of {runs} runs on fresh problems, with the 95 % bootstrap interval of the mean. "
    "Step and update: time of a whole training step and of the optimizer alone, Adam = 1. "
    "Bytes: optimizer state a parameter.\n"
)


def summary(comparison: Comparison, steps: Iterable[int]) -> Rows:
    """A comparison as plain data, as `summary.json` holds it.

    Args:
      comparison: from `learned_opt.compare`.
      steps: at which steps to summarize the losses.

    Returns:
      Dict from name to a dict with `kind` ("learned", "tuned" or "given"), `learning_rate` (None
      unless tuned), `loss` (a dict from the step, as text, to a `statistics.Summary` as a dict),
      `diverged` (a fraction), the cost, and `measure` if something was measured.

    Raises:
      ValueError: for a step beyond the horizon.
    """
    steps = list(steps)
    horizon = min(curve.shape[1] for curve in comparison.curves.values()) - 1
    for step in steps:
        if _checks.positive_int("steps", step, minimum=0) > horizon:
            raise ValueError(f"steps must not lie beyond the horizon {horizon}, got {step}.")
    return {name: _row(comparison, name, steps) for name in comparison.curves}


def _row(
    comparison: Comparison,
    name: str,
    steps: list[int],
) -> Row:
    curve = comparison.curves[name]
    row = {
        "kind": comparison.kinds[name],
        "learning_rate": comparison.learning_rates.get(name),
        "loss": {str(step): _summary(curve[:, step]) for step in steps},
        "diverged": float(np.mean(~np.isfinite(curve[:, -1]))),
    }
    row.update(_cost(comparison.costs[name], comparison.costs.get("Adam")))
    if name in comparison.measures:
        row["measure"] = _measure(comparison.measures[name])
    return row


def _summary(values: np.ndarray) -> dict[str, float]:
    return statistics.summarize(values)._asdict()


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
    cells.append(f"{row['state_bytes_per_parameter']:.0f}")
    return cells


def _rate(name: str, row: Row) -> str:
    if row["kind"] == comparison_lib.TUNED:
        return f"{row['learning_rate']:.3g}"
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
) -> str:
    """Writes a comparison: raw curves (npz), picture (png), table (md) and summary (json).

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

    Returns:
      The table, as Markdown.
    """
    num_runs = len(next(iter(curves.values())))
    text = table(rows, measure_name, extra, final) + "\n" + LEGEND.format(runs=num_runs)
    with _files.whole(_path(folder, "curves", suffix, "npz")) as temporary:
        np.savez_compressed(temporary, **curves)  # type: ignore[arg-type]
    picture = _path(folder, "curves", suffix, "png")
    plots.curves(picture, curves, learned(rows), title, first_step)
    _files.write_text(_path(folder, "table", suffix, "md"), text)
    # The summary comes last: where it is, the other files are.
    _files.write_json(_path(folder, "summary", suffix, "json"), rows)
    return text


def read(folder: str | os.PathLike, suffix: str = "") -> tuple[Rows, dict[str, np.ndarray]] | None:
    """What `write` has written, as `(rows, curves)`; None where it is not there or is damaged."""
    path = _path(folder, "summary", suffix, "json")
    try:
        with np.load(_path(folder, "curves", suffix, "npz")) as arrays:
            curves = {name: arrays[name] for name in arrays.files}
        rows = _files.read_json(path)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
    for name, row in rows.items():
        row.setdefault("kind", _kind_before(name, row))
    return rows, curves


def _path(
    folder: str | os.PathLike,
    name: str,
    suffix: str,
    extension: str,
) -> str:
    return os.path.join(folder, f"{name}{suffix}.{extension}")


def _kind_before(name: str, row: Row) -> str:
    """The kind of an optimizer in a file that was written before files held kinds."""
    if row["learning_rate"] is not None:
        return comparison_lib.TUNED
    is_reference = name in baselines.REFERENCES
    return comparison_lib.GIVEN if is_reference else comparison_lib.LEARNED
