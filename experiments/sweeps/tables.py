"""The table and the picture of a whole sweep."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.sweeps import results
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep, Unit, text
from experiments.sweeps.results import Group, Outcome, Setting
from learned_opt import _checks, _files
from learned_opt.evaluation import report, statistics

MOST_PANELS = 24
LEGEND = (
    "Mean of the {label} at the end with its 95 % interval over seeds and runs. In brackets behind "
    "the best: those that cannot be told apart from it. The best was chosen by the very numbers "
    "that stand here, so the lowest of many looks a little better than it is: measure it on fresh "
    "problems before you quote it."
)


def write(
    workdir: str,
    sweep: Sweep,
    done: Sequence[Folder],
    best_over: Sequence[str] = (),
) -> str:
    """Writes table.md, sweep.png and summary.json of what is done.

    Args:
      workdir: of the sweep.
      sweep: the `Sweep`.
      done: the folders of the units that are done.
      best_over: the settings of which the best is chosen, see `results.chosen_names`.

    Returns:
      The text of the table; empty where nothing is done.
    """
    if not done:
        return ""
    recorded = []
    outcomes = []
    for folder in done:
        record = results.read_benchmark(folder)
        if record is not None:
            recorded.append((folder.unit, record))
            continue
        outcome = results.read(folder)
        if outcome is not None:
            outcomes.append((folder.unit, outcome))
    if recorded:
        return _write_benchmarks(workdir, sweep, recorded)
    if not outcomes:
        return f"The results of {sweep.program} are in {workdir}/units: they have no losses.\n"
    return _write_losses(workdir, sweep, outcomes, best_over)


def _write_losses(
    workdir: str,
    sweep: Sweep,
    outcomes: Sequence[tuple[Unit, Outcome]],
    best_over: Sequence[str],
) -> str:
    found = results.groups(sweep, outcomes, best_over)
    chosen = results.chosen_names(sweep, best_over)
    _, first = outcomes[0]
    sections = [
        best_table(found, chosen),
        LEGEND.format(label=first.label),
        "Every setting:",
        whole_table(found, chosen),
    ]
    written = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), written)
    _files.write_json(os.path.join(workdir, "summary.json"), _plain(found, chosen))
    _draw(os.path.join(workdir, "sweep.png"), found, chosen, first)
    return written


def best_table(found: Sequence[Group], chosen: Sequence[str]) -> str:
    """The best setting of every group, a line each."""
    header = [*found[0].place, *chosen, "loss", "seeds", "settings"]
    lines = []
    for group in found:
        best = group.best
        line = [*map(_word, group.place.values()), *_best_values(group)]
        line += [_interval(best), _seeds(best, group), str(len(group.settings))]
        lines.append(line)
    return report.markdown(header, lines)


def whole_table(found: Sequence[Group], chosen: Sequence[str]) -> str:
    """Every setting, a line each."""
    header = [*found[0].place, *chosen, "loss", "diverged", "seeds"]
    lines = []
    for group in found:
        for setting in group.settings:
            line = [*map(_word, group.place.values()), *map(_word, setting.values)]
            diverged = f"{100 * setting.summary.diverged:.0f} %"
            lines.append([*line, _interval(setting), diverged, _seeds(setting, group)])
    return report.markdown(header, lines)


def _best_values(group: Group) -> list[str]:
    """The best values; of numbers also the range of those that cannot be told apart from them."""
    cells = []
    for i, value in enumerate(group.best.values):
        others = [setting.values[i] for setting in _tied(group)]
        is_range = len(set(others)) > 1 and all(isinstance(x, (int, float)) for x in others)
        beside = f" [{min(others):g}, {max(others):g}]" if is_range else ""
        cells.append(_word(value) + beside)
    return cells


def _word(value: Any) -> str:
    """A value in a table; what is left out is a dash."""
    return "-" if value is None else text(value)


def _tied(group: Group) -> list[Setting]:
    """Those that cannot be told apart, where there are runs enough to tell."""
    runs = group.best.finals()
    return group.tied if runs.shape[-1] >= statistics.LEAST_RUNS else [group.best]


def _interval(setting: Setting) -> str:
    """The mean with its interval; of a single number there is none."""
    summary = setting.summary
    if setting.finals().size == 1:
        return f"{summary.mean:.3g}"
    return report.interval(summary._asdict())


def _seeds(setting: Setting, group: Group) -> str:
    count = len(setting.outcomes)
    return str(count) if count == group.num_seeds else f"{count} of {group.num_seeds}"


def _plain(found: Sequence[Group], chosen: Sequence[str]) -> list[dict[str, Any]]:
    plain = []
    for group in found:
        settings = []
        for setting in group.settings:
            settings.append(
                {
                    **dict(zip(chosen, setting.values, strict=True)),
                    "loss": setting.summary._asdict(),
                    "seeds": [list(seed) for seed in setting.outcomes],
                }
            )
        best = dict(zip(chosen, group.best.values, strict=True))
        plain.append({"place": group.place, "best": best, "settings": settings})
    return plain


def _figure(count: int) -> tuple[Any, np.ndarray]:
    """A figure with so many panels or some more, and its axes `[rows, columns]`."""
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure = matplotlib_figure.Figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw(
    path: str,
    found: Sequence[Group],
    chosen: Sequence[str],
    first: Outcome,
) -> None:
    """For every group the curve of each setting, and the final losses over what is chosen."""
    shown = found[:MOST_PANELS]
    is_line = len(chosen) == 1 and all(_are_numbers(group) for group in shown)
    figure, all_axes = _figure(len(shown) * (2 if is_line else 1))
    panels = list(all_axes.ravel())
    for axes in panels:
        axes.set_visible(False)
    for i, group in enumerate(shown):
        title = ", ".join(map(_word, group.place.values())) or "all"
        axes = panels[i]
        _draw_curves(axes, group, chosen)
        axes.set(title=title, xlabel=first.axis, ylabel=first.label)
        if is_line:
            axes = panels[len(shown) + i]
            _draw_finals(axes, group)
            axes.set(title=title, xlabel=chosen[0], ylabel=f"{first.label} at the end")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _are_numbers(group: Group) -> bool:
    values = [value for setting in group.settings for value in setting.values]
    return all(isinstance(value, (int, float)) for value in values)


def _draw_curves(
    axes: Any,
    group: Group,
    chosen: Sequence[str],
) -> None:
    """The mean curve of every setting, from dark to light; the best one is red."""
    matplotlib = _checks.extra("matplotlib", "matplotlib", "a picture")
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(group.settings)))
    axes.set_visible(True)
    for setting, color in zip(group.settings, colors, strict=True):
        is_best = setting is group.best
        axes.plot(
            _drawable(setting.curve),
            color="C3" if is_best else color,
            linewidth=2 if is_best else 1,
            zorder=3 if is_best else 2,
            label=", ".join(map(_short, setting.values)) if chosen else None,
        )
    _logarithmic(axes, "y")
    if chosen and len(group.settings) <= 12:
        axes.legend(fontsize="x-small", title=", ".join(chosen), title_fontsize="x-small")


def _draw_finals(axes: Any, group: Group) -> None:
    """The mean final loss of every setting with its interval, over what is chosen."""
    axes.set_visible(True)
    positions = [setting.values[0] for setting in group.settings]
    summaries = [setting.summary for setting in group.settings]
    mean = _drawable(np.array([summary.mean for summary in summaries]))
    ends = np.array([[summary.low, summary.high] for summary in summaries]).T
    error = np.abs(ends - mean)
    axes.errorbar(
        positions, mean, np.where(np.isfinite(error), error, 0), marker="o", markersize=4, capsize=2
    )
    _logarithmic(axes, "y")
    if min(positions) > 0:
        axes.set_xscale("log")


def _logarithmic(axes: Any, axis: str) -> None:
    """A logarithmic axis, where there is something to draw on it."""
    axes.grid(alpha=0.25, which="both")
    if np.isfinite(axes.dataLim.minposy):
        axes.set(**{f"{axis}scale": "log"})


def _drawable(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else _word(value)


# Benchmarks


def _write_benchmarks(
    workdir: str,
    sweep: Sweep,
    recorded: Sequence[tuple[Unit, Mapping[str, Any]]],
) -> str:
    """One table for every list of measurements that the benchmark records."""
    found = benchmark_rows(sweep, recorded)
    sections = []
    for name, rows in found.items():
        sections += [f"{name}:", benchmark_table(rows)]
    written = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), written)
    _files.write_json(os.path.join(workdir, "summary.json"), found)
    _draw_benchmarks(os.path.join(workdir, "sweep.png"), found)
    return written


def benchmark_rows(
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


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Measurements as a table; a column for everything that any row has."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return report.markdown(header, [[_cell(row.get(name)) for name in header] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if _is_spread(value):
        low, median, high = (float(value[key]) for key in ("low", "median", "high"))
        return f"{median:.3g} ({low:.3g} - {high:.3g})"
    return _short(value)


def _draw_benchmarks(path: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Every median over the numbers that vary most, a line for what else the rows differ in."""
    panels = []
    for name, rows in found.items():
        over = _position(rows)
        measured = [key for key in rows[0] if _is_spread(rows[0][key])]
        panels += [(name, rows, over, key) for key in measured if over is not None]
    if not panels:
        return
    panels = panels[:MOST_PANELS]
    figure, all_axes = _figure(len(panels))
    for axes in all_axes.ravel():
        axes.set_visible(False)
    for axes, (name, rows, over, key) in zip(all_axes.ravel(), panels, strict=False):
        axes.set_visible(True)
        for label, line in _lines(rows, over, key).items():
            positions, spreads = zip(*line, strict=True)
            low, median, high = np.array(spreads).T
            axes.errorbar(
                positions, median, [median - low, high - median], marker="o", capsize=2, label=label
            )
        axes.set(title=name, xlabel=over, ylabel=key)
        axes.set_xscale("log")
        _logarithmic(axes, "y")
        axes.legend(fontsize="xx-small")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


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
