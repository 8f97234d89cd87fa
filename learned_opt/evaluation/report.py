"""A comparison as a table, a picture, and files."""

import os
import zipfile

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, plots, statistics

LEGEND = (
    "Losses: mean of {runs} runs on fresh problems, with the 95 % bootstrap interval of the mean. Step and "
    "update: time of a whole training step and of the optimizer alone, Adam = 1. Bytes: optimizer state a "
    "parameter.\n"
)


def summary(comparison, steps):
    """Plain data, as in `summary.json`: every optimizer's losses at `steps` with intervals, and its cost.

    Args:
      comparison: a `Comparison`.
      steps: at which steps.

    Returns:
      Dict from name to a dict; losses are under the step as a string, as JSON wants it.
    """
    horizon = min(curve.shape[1] for curve in comparison.curves.values()) - 1
    for step in steps:
        if _checks.positive_int("steps", step, minimum=0) > horizon:
            raise ValueError(f"steps must not lie beyond the horizon {horizon}, got {step}.")
    reference = comparison.costs.get("Adam")
    return {name: _row(comparison, name, steps, reference) for name in comparison.curves}


def _row(comparison, name, steps, reference):
    curve, cost = comparison.curves[name], comparison.costs[name]
    row = {
        "learning_rate": comparison.learning_rates.get(name),
        "loss": {str(step): statistics.summarize(curve[:, step])._asdict() for step in steps},
        "diverged": float(np.mean(~np.isfinite(curve[:, -1]))),
        "step_seconds": cost.step,
        "update_seconds": cost.update,
        "state_bytes_per_parameter": cost.state_bytes_per_parameter,
    }
    if reference is not None:
        row["step_over_adam"] = cost.step / reference.step
        row["update_over_adam"] = cost.update / reference.update
    if name in comparison.measures:
        measured = comparison.measures[name]
        row["measure"] = (
            {k: statistics.summarize(v)._asdict() for k, v in measured.items()}
            if isinstance(measured, dict)
            else statistics.summarize(measured)._asdict()
        )
    return row


def table(rows, measure_name=None, extra=None, final=None):
    """The summary as a Markdown table, the best final loss first.

    Args:
      rows: from `summary`.
      measure_name: what else was measured, if anything was; several names where each is measured.
      extra: dict from a column's header to a dict from name to text, shown after the losses.
      final: the measure that is the final loss; None for the last loss of the curve.

    Returns:
      The table.
    """
    steps = list(next(iter(rows.values()))["loss"])
    extra = extra or {}
    names = (measure_name,) if isinstance(measure_name, str) else measure_name or ()
    header = [
        "optimizer",
        "rate",
        *(f"loss at {step}" for step in steps),
        *extra,
        "diverged",
        *names,
        "step",
        "update",
        "bytes",
    ]
    order = sorted(rows, key=lambda name: float(last(rows[name], final)["mean"]))
    lines = [_cells(name, rows[name], steps, measure_name, extra) for name in order]
    return markdown(header, lines) + "\n"


def last(row, final=None):
    """The summary of a row's final loss: the last of its curve, or the measure `final`."""
    return row["measure"][final] if final else list(row["loss"].values())[-1]


def _cells(name, row, steps, measure_name, extra):
    untuned = "-" if name in baselines.REFERENCES else "learned"
    rate = untuned if row["learning_rate"] is None else f"{row['learning_rate']:.3g}"
    cells = [name, rate, *(interval(row["loss"][step]) for step in steps)]
    cells += [column.get(name, "") for column in extra.values()]
    cells.append(f"{100 * row['diverged']:.0f} %")
    if isinstance(measure_name, str):
        cells.append(interval(row["measure"], "{:.4f}"))
    elif measure_name:
        cells += [
            interval(row["measure"][k], "{:.4f}" if "accuracy" in k else "{:.3g}")
            for k in measure_name
        ]
    over_adam = [row.get(f"{what}_over_adam") for what in ("step", "update")]
    cells += ["-" if ratio is None else f"{ratio:.2f}" for ratio in over_adam]
    return [*cells, f"{row['state_bytes_per_parameter']:.0f}"]


def middles(rows, final=None):
    """A column for `table`, the interquartile means of the final losses, in a dict; empty where no mean needs it.

    Where a few runs move a mean out of its middle half's reach, or diverge, the middle half tells of the others.
    """
    finals = {name: last(row, final) for name, row in rows.items()}
    if not any(
        _moved(*(float(value[k]) for k in ("interquartile_mean", "low", "high")))
        for value in finals.values()
    ):
        return {}
    return {
        "middle half": {
            name: f"{float(value['interquartile_mean']):.3g}" for name, value in finals.items()
        }
    }


def _moved(middle, low, high):
    return np.isfinite(middle) and not (np.isfinite(high) and low <= middle <= high)


def interval(value, number="{:.3g}"):
    """A mean with its interval, as text."""
    mean, low, high = (number.format(float(value[k])) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def markdown(header, rows):
    """A Markdown table of texts whose columns are aligned in plain text as well."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def write(
    folder, rows, curves, title, measure_name=None, suffix="", first_step=0, extra=None, final=None
):
    """Writes a comparison, each file whole: raw curves (npz), picture (png), summary (json), table (md).

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
    learned = [name for name, row in rows.items() if row["learning_rate"] is None]
    with _files.whole(os.path.join(folder, f"curves{suffix}.npz")) as temporary:
        np.savez_compressed(temporary, **curves)
    plots.curves(os.path.join(folder, f"curves{suffix}.png"), curves, learned, title, first_step)
    _files.write_text(os.path.join(folder, f"table{suffix}.md"), text)
    _files.write_json(
        os.path.join(folder, f"summary{suffix}.json"), rows
    )  # last: it says that all is there
    return text


def read(folder, suffix=""):
    """What `write` has written, as `(rows, curves)`, or None where it is not there or is damaged."""
    path = os.path.join(folder, f"summary{suffix}.json")
    try:
        with np.load(os.path.join(folder, f"curves{suffix}.npz")) as arrays:
            return _files.read_json(path), {name: arrays[name] for name in arrays.files}
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
