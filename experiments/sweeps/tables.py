"""The table and the picture of a whole sweep."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.sweeps import costs, drawing, results
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep, Unit
from experiments.sweeps.results import Group, Outcome, Setting
from learned_opt import _checks, _files
from learned_opt.evaluation import report, statistics, style

LEGEND = (
    "Mean of the {label} at the end with its 95 % interval over seeds and runs. In brackets behind "
    "the best: those that cannot be told apart from it. With a star: it is the smallest or the "
    "largest that was tried, so that a better one may lie beyond. The best was chosen by the very "
    "numbers that stand here, and the lowest of many looks a little better than it is: measure it "
    "on fresh problems before you quote it."
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
        return costs.write(workdir, sweep, recorded)
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
        line = [*map(drawing.word, group.place.values()), *_best_values(group)]
        line += [_interval(best), _seeds(best, group), str(len(group.settings))]
        lines.append(line)
    return report.markdown(header, lines)


def whole_table(found: Sequence[Group], chosen: Sequence[str]) -> str:
    """Every setting, a line each."""
    header = [*found[0].place, *chosen, "loss", "diverged", "seeds"]
    lines = []
    for group in found:
        for setting in group.settings:
            line = [*map(drawing.word, group.place.values()), *map(drawing.word, setting.values)]
            diverged = f"{100 * setting.summary.diverged:.0f} %"
            lines.append([*line, _interval(setting), diverged, _seeds(setting, group)])
    return report.markdown(header, lines)


def _best_values(group: Group) -> list[str]:
    """The best values; of numbers also the range of those that cannot be told apart from them, and
    a star for the smallest and the largest that was tried.
    """
    cells = []
    for i, value in enumerate(group.best.values):
        tried = {setting.values[i] for setting in group.settings}
        if len(tried) == 1 or not all(isinstance(other, (int, float)) for other in tried):
            cells.append(drawing.word(value))
            continue
        star = "*" if value in (min(tried), max(tried)) else ""
        tied = [setting.values[i] for setting in _tied(group)]
        beside = f" [{min(tied):g}, {max(tied):g}]" if len(set(tied)) > 1 else ""
        cells.append(f"{drawing.word(value)}{star}{beside}")
    return cells


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


def _draw(
    path: str,
    found: Sequence[Group],
    chosen: Sequence[str],
    first: Outcome,
) -> None:
    """For every group the curve of each setting, and the final losses over what is chosen."""
    shown = found[: drawing.MOST_PANELS]
    is_line = len(chosen) == 1 and all(_are_numbers(group) for group in shown)
    figure, all_axes = drawing.figure(len(shown), 2 if is_line else 1)
    for group, (axes, *below) in zip(shown, all_axes, strict=False):
        title = ", ".join(map(drawing.word, group.place.values())) or "all"
        _draw_curves(axes, group, chosen)
        axes.set(title=title, xlabel=first.axis, ylabel=first.label)
        for axes_of_finals in below:
            _draw_finals(axes_of_finals, group)
            axes_of_finals.set(xlabel=chosen[0], ylabel=f"{first.label} at the end")
    drawing.save(figure, path)


def _are_numbers(group: Group) -> bool:
    values = [value for setting in group.settings for value in setting.values]
    return all(isinstance(value, (int, float)) for value in values)


def _draw_curves(
    axes: Any,
    group: Group,
    chosen: Sequence[str],
) -> None:
    """The mean curve of every setting, from dark to light; the best one is vermilion."""
    matplotlib = _checks.extra("matplotlib", "matplotlib", "a picture")
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(group.settings)))
    axes.set_visible(True)
    for setting, color in zip(group.settings, colors, strict=True):
        is_best = setting is group.best
        axes.plot(
            drawing.drawable(setting.curve),
            color=style.LEARNED_COLORS[1] if is_best else color,
            linewidth=2 if is_best else 1,
            zorder=3 if is_best else 2,
            label=", ".join(map(drawing.short, setting.values)) if chosen else None,
        )
    drawing.logarithmic(axes, "y")
    _limit(axes, [drawing.drawable(setting.curve) for setting in group.settings])
    if chosen and len(group.settings) <= 12:
        axes.legend(fontsize="x-small", title=", ".join(chosen), title_fontsize="x-small")


def _limit(axes: Any, curves: Sequence[np.ndarray]) -> None:
    """What diverges leaves at the top, a little above where all begin, and flattens nothing."""
    highest = max(np.nan_to_num(curve, nan=0.0).max() for curve in curves)
    top = 3 * max(np.nan_to_num(curve[0], nan=0.0) for curve in curves)
    if highest > top > 0:
        axes.set_ylim(top=top)


def _draw_finals(axes: Any, group: Group) -> None:
    """The mean final loss of every setting with its interval, over what is chosen."""
    axes.set_visible(True)
    positions = [setting.values[0] for setting in group.settings]
    summaries = [setting.summary for setting in group.settings]
    mean = drawing.drawable(np.array([summary.mean for summary in summaries]))
    ends = np.array([[summary.low, summary.high] for summary in summaries]).T
    error = np.abs(ends - mean)
    axes.errorbar(
        positions, mean, np.where(np.isfinite(error), error, 0), marker="o", markersize=4, capsize=2
    )
    drawing.logarithmic(axes, "y")
    if min(positions) > 0:
        axes.set_xscale("log")
