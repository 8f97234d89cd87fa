"""The table and the picture of a swept benchmark: all its measurements, side by side."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.sweeps import drawing
from experiments.sweeps.plan import Sweep, Unit
from learned_opt import _files
from learned_opt.evaluation import report


def write(
    workdir: str,
    sweep: Sweep,
    recorded: Sequence[tuple[Unit, Mapping[str, Any]]],
) -> str:
    """Writes table.md, sweep.png and summary.json: a table for every list of measurements.

    Args:
      workdir: of the sweep.
      sweep: the `Sweep`.
      recorded: pairs of a unit and of the record of its benchmark.

    Returns:
      The text of the tables.
    """
    found = rows_of(sweep, recorded)
    sections = []
    for name, rows in found.items():
        sections += [f"{name}:", table(rows)]
    written = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), written)
    _files.write_json(os.path.join(workdir, "summary.json"), found)
    _draw(os.path.join(workdir, "sweep.png"), found)
    return written


def rows_of(
    sweep: Sweep,
    recorded: Sequence[tuple[Unit, Mapping[str, Any]]],
) -> dict[str, list[dict[str, Any]]]:
    """The measurements of all units: what varies in the sweep, the devices, and what was measured.

    Args:
      sweep: the `Sweep`.
      recorded: pairs of a unit and of the record of its benchmark.

    Returns:
      Dict from the name of a list of measurements to its rows. A row has plain values, and medians
      with quartiles as dicts; raw times stay in the units.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for unit, record in recorded:
        varied = {name: unit.settings.get(name) for name in sweep.names}
        machine = record["environment"]
        about = {**varied, "devices": f"{machine['num_devices']} x {machine['device']}"}
        for name, rows in record.items():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                shown = [{**about, **_shown(row)} for row in rows]
                found.setdefault(name, []).extend(shown)
    return found


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if _is_spread(value) or _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_spread(value: Any) -> bool:
    return isinstance(value, Mapping) and {"low", "median", "high"} == value.keys()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Measurements as a table; a column for everything that any row has."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return report.markdown(header, [[_cell(row.get(name)) for name in header] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if _is_spread(value):
        low, median, high = (float(value[key]) for key in ("low", "median", "high"))
        return f"{median:.3g} ({low:.3g} - {high:.3g})"
    return drawing.short(value)


def _draw(path: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Every median over the numbers that vary most, a line for what else the rows differ in."""
    panels = []
    for name, rows in found.items():
        over = _position(rows)
        measured = [key for key in rows[0] if _is_spread(rows[0][key])]
        panels += [(name, rows, over, key) for key in measured if over is not None]
    if not panels:
        return
    panels = panels[: drawing.MOST_PANELS]
    figure, all_axes = drawing.figure(len(panels))
    for axes, (name, rows, over, key) in zip(all_axes[:, 0], panels, strict=False):
        axes.set_visible(True)
        for label, line in _lines(rows, over, key).items():
            positions, spreads = zip(*line, strict=True)
            low, median, high = np.array(spreads).T
            axes.errorbar(
                positions, median, [median - low, high - median], marker="o", capsize=2, label=label
            )
        axes.set(title=name, xlabel=over, ylabel=key)
        axes.set_xscale("log")
        drawing.logarithmic(axes, "y")
        axes.legend(fontsize="xx-small")
    drawing.save(figure, path)


def _position(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The whole number with the most values: a size, or a number of devices."""
    counts = {}
    for key in rows[0]:
        values = {row.get(key) for row in rows if not _is_spread(row.get(key))}
        are_sizes = all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in values)
        if values and are_sizes and len(values) > 1:
            counts[key] = len(values)
    return max(counts, key=counts.__getitem__, default=None)


def _lines(
    rows: Sequence[Mapping[str, Any]],
    over: str,
    key: str,
) -> dict[str, list[tuple[int, tuple[float, float, float]]]]:
    """The points of each line, by what its rows have in common."""
    labels = [name for name in rows[0] if name != over and _is_label(rows, name)]
    found: dict[str, list] = {}
    for row in rows:
        if not _is_spread(row.get(key)):
            continue
        label = ", ".join(_cell(row.get(name)) for name in labels) or key
        spread = tuple(float(row[key][end]) for end in ("low", "median", "high"))
        found.setdefault(label, []).append((row[over], spread))
    return {label: sorted(points) for label, points in found.items()}


def _is_label(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether rows differ in a word or in a setting, and not in what was measured."""
    values = [row.get(name) for row in rows]
    if any(_is_spread(value) or isinstance(value, float) for value in values):
        return False
    return len(set(values)) > 1
