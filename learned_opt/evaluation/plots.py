"""Pictures of losses: the learned optimizers and the best rivals in colour, the others in grey."""

import textwrap
from collections.abc import Collection
from typing import Any

import numpy as np

from learned_opt.evaluation import baselines, style
from learned_opt.evaluation import courses as courses_lib
from learned_opt.evaluation.courses import Course, Losses
from learned_opt.evaluation.style import Axes, Path, Style

PANEL = (5.2, 3.4)  # inches
RATIO_HEIGHT = 0.42  # of a panel's
COLUMNS = 2  # more of them would not be legible at the width of a page
LEAST_JOINED = 3  # points
MOST_RATIO = 4.0  # limits of ratios

_LEVELS = ("--", ":", "-.")  # line styles of learned optimizers in `rates`


def curves(
    path: Path,
    losses: Losses,
    learned: Collection[str],
    title: str,
    first_step: int = 0,
) -> None:
    """Draws mean loss against step, with 95 % intervals, on a logarithmic axis.

    Seeds of one meta-training, `NAME:SEED`, are one line. Where a learned optimizer ends near the
    best rival, a second panel has the ratio of the two losses, run by run.

    Args:
      path: of the PNG.
      losses: dict from name to `[num_runs, num_steps + 1]`.
      learned: the names of the learned optimizers, which are drawn solid.
      title: of the picture.
      first_step: where the axis begins.

    Source:
      Andrychowicz et al. 2016, figure 4.
    """
    panels(path, [(title, losses, first_step)], learned)


def panels(
    path: Path,
    cases: list[tuple[str, Losses, int]],
    learned: Collection[str],
) -> dict[str, Any]:
    """Draws the curves of several cases side by side, each optimizer in one colour.

    Args:
      path: of the PNG.
      cases: list of `(title, losses, first_step)`, see `curves`.
      learned: the names that are drawn solid.

    Returns:
      What `draw` takes: plain data from which the picture can be drawn again.
    """
    shown = courses_lib.courses(cases, learned)
    draw(path, shown)
    return shown


def draw(path: Path, shown: dict[str, Any]) -> None:
    """Draws what `panels` has returned.

    Args:
      path: of the PNG.
      shown: from `courses.courses`; it may come from a JSON file.
    """
    cases = shown["panels"]
    has_ratios = any(courses_lib.lie_together(panel, shown["learned"]) for panel in cases)
    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    each = 2 if has_ratios else 1
    width, height = PANEL
    single = 7.2 if columns == 1 else width * columns
    figure = style.figure(single, height * rows * (1 + RATIO_HEIGHT * (each - 1)) + 0.5)
    ratios = [1, RATIO_HEIGHT][:each] * rows
    grid = figure.subplots(rows * each, columns, squeeze=False, height_ratios=ratios)
    every = list(dict.fromkeys(name for panel in cases for name in panel["lines"]))
    look = style.styles(every, shown["learned"], shown["rivals"])
    style.caption(figure, [name for name in every if not look[name].is_named])
    drawn = []
    for i, panel in enumerate(cases):
        row, column = divmod(i, columns)
        axes = grid[row * each, column]
        _curves(axes, panel, look)
        drawn.append((axes, panel))
        if has_ratios:
            _ratios(grid[row * each + 1, column], panel, look)
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    for axes in grid.ravel():
        axes.set_visible(axes.has_data())
    style.lay_out(figure)
    for axes, panel in drawn:
        ends = {
            name: float(line["mean"][-1])
            for name, line in panel["lines"].items()
            if look[name].is_named
        }
        style.end_labels(axes, ends, look)
    style.finish(figure, [axes for axes in grid.ravel() if axes.get_visible()], path)


def _curves(
    axes: Axes,
    panel: Course,
    look: dict[str, Style],
) -> None:
    for name, line in panel["lines"].items():
        one = look[name]
        axes.plot(line["steps"], _numbers(line["mean"]), color=one.color, label=name, **one.line)
        if one.is_named and "band" in line:
            _band(axes, line["band"], one.color)
    width = panel["width"]
    style.heading(axes, panel["title"])
    label = "loss" if width == 1 else f"loss, mean over {width} steps"
    axes.set(xlabel="step", ylabel=label, yscale="log")
    axes.set_xlim(panel["first_step"], panel["last_step"])
    _limit(axes, panel, look)


def _band(
    axes: Axes,
    band: dict[str, list[float]],
    color: str,
) -> None:
    low, high = _numbers(band["low"]), _numbers(band["high"])
    axes.fill_between(band["steps"], low, high, color=color, alpha=0.15, linewidth=0)


def _limit(
    axes: Axes,
    panel: Course,
    look: dict[str, Style],
) -> None:
    """Keeps one optimizer from flattening all others.

    An optimizer that diverges leaves at the top, a little above where all begin. A reference such
    as BFGS, which falls to rounding errors, leaves at the bottom, and so does nothing that has a
    name.
    """
    lines = panel["lines"]
    named = [name for name in lines if look[name].is_named] or list(lines)
    means = [_numbers(lines[name]["mean"]) for name in named]
    drawn = [mean for mean in means if np.isfinite(mean).any()]
    if not drawn:
        return
    starts = [_numbers(line["mean"])[0] for line in lines.values()]
    start = np.nanmedian([value for value in starts if np.isfinite(value)] or [drawn[0][0]])
    lowest = np.nanmin(drawn)
    axes.set_ylim(lowest / 1.15, max(start * 1.5, lowest * 2))


def _ratios(
    axes: Axes,
    panel: Course,
    look: dict[str, Style],
) -> None:
    """Losses over the best rival's, run by run."""
    seen = []
    for name, line in panel["lines"].items():
        if "ratio" not in line:
            continue
        ratio, one = line["ratio"], look[name]
        mean = _numbers(ratio["mean"])
        axes.plot(ratio["steps"], mean, color=one.color, label=name, **one.line)
        _band(axes, ratio, one.color)
        seen.append(mean[len(mean) // 3 :])
    best = panel["best"]
    if best is None:
        return
    axes.axhline(1, color=look[best].color, **look[best].line)
    axes.set(xlabel="step", ylabel=f"loss over\n{best}'s", yscale="log")
    axes.set_xlim(panel["first_step"], panel["last_step"])
    values = np.concatenate([*seen, [1.0]])
    values = values[np.isfinite(values)]
    low, high = max(values.min(), 1 / MOST_RATIO), min(values.max(), MOST_RATIO)
    axes.set_ylim(min(low / 1.1, 0.9), max(high * 1.1, 1.1))


def rates(
    path: Path,
    grids: dict[str, tuple[np.ndarray, np.ndarray]],
    levels: dict[str, float],
    title: str,
    ylabel: str = "final loss",
) -> None:
    """Draws the final loss of hand-designed optimizers against their learning rates.

    Args:
      path: of the PNG.
      grids: dict from name to `(rates, mean final loss for every rate)`.
      levels: dict from the name of each learned optimizer to its final loss, a horizontal line.
      title: of the picture.
      ylabel: what the final loss is.

    Source:
      Lv, Jiang, Li 2017, figure 3.
    """
    figure = style.figure(7.2, 4.6)
    axes = figure.add_subplot()
    lowest = {name: np.min(_finite(np.asarray(grid, float))) for name, (_, grid) in grids.items()}
    order = sorted(lowest, key=lowest.__getitem__)
    look = style.styles(order, (), order[: courses_lib.LEAST_RIVALS])
    for name, (tried, grid) in grids.items():
        one = look[name]
        values = _numbers(np.asarray(grid, float))
        label = name if one.is_named else None
        axes.plot(tried, values, color=one.color, marker=".", label=label, **one.line)
    learned = style.styles(levels, levels, ())
    for i, (name, level) in enumerate(levels.items()):
        line = {**learned[name].line, "linestyle": _LEVELS[i % len(_LEVELS)]}
        height = level if np.isfinite(level) else np.nan
        label = f"{name} ({level:.3g})"
        axes.axhline(height, color=learned[name].color, label=label, **line)
    axes.set(xlabel="learning rate", ylabel=ylabel, xscale="log", yscale="log")
    style.heading(axes, title)
    _limit_rates(axes, [grid for _, grid in grids.values()], levels)
    axes.legend(fontsize="small")
    style.caption(figure, [name for name in grids if not look[name].is_named])
    style.finish(figure, [axes], path)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def _limit_rates(
    axes: Axes,
    grids: list[np.ndarray],
    levels: dict[str, float],
) -> None:
    """The smallest rates leave the loss where it begins: nothing far above that is of interest."""
    drawn = _numbers(np.concatenate([np.asarray(grid, float) for grid in grids]))
    if np.isnan(drawn).all():
        return
    lowest = [np.nanmin(drawn)]
    lowest += [level for level in levels.values() if level > 0]
    axes.set_ylim(np.nanmin(lowest) / 1.3, 2 * np.nanmedian(drawn))


def overview(
    path: Path,
    panels: dict[str, dict[str, dict[Any, dict[str, float]]]],
    learned: Collection[str],
    title: str,
    xlabel: str,
) -> None:
    """Draws the final losses of several cases, with 95 % intervals.

    Args:
      path: of the PNG.
      panels: dict from a panel's title to a dict from an optimizer's name to a dict from position
        to a summary of its final loss (`statistics.Summary` as a dict). Three positions or more
        that are numbers are joined by lines. The first two that are not learned are drawn as
        rivals.
      learned: the names that are drawn solid.
      title: of the picture.
      xlabel: what the cases differ in.

    Source:
      Andrychowicz et al. 2016, figure 6.
    """
    every = list(dict.fromkeys(name for series in panels.values() for name in series))
    others = [name for name in every if name not in learned]
    look = style.styles(every, learned, others[: courses_lib.LEAST_RIVALS])
    low, far = _floor(panels)
    figure = style.figure(max(7.2, 3.4 * len(panels)), 4.6)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, every_series) in zip(all_axes, panels.items(), strict=True):
        series = {name: values for name, values in every_series.items() if name not in far}
        middle = (len(series) - 1) / 2
        for i, (name, values) in enumerate(series.items()):
            shift = (i - middle) / (2 * len(series))
            _series(axes, name, values, look[name], shift)
        axes.set(xlabel=xlabel, yscale="log")
        style.heading(axes, panel)
    all_axes[0].set_ylabel("final loss")
    width = int(9.5 * figure.get_size_inches()[0])
    lines = title.split("\n")
    if far:
        lines.append(f"(below {style.number(low)}: {', '.join(far)})")
    wrapped = [textwrap.fill(line, width) for line in lines]
    figure.suptitle("\n".join(wrapped), fontsize="medium")
    handles, names = all_axes[0].get_legend_handles_labels()
    columns = 4 if len(panels) == 1 else 5
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize="small",
        frameon=False,
    )
    style.finish(figure, all_axes, path)


def _floor(
    panels: dict[str, dict[str, dict[Any, dict[str, float]]]],
) -> tuple[float, list[str]]:
    """Where the axis ends, and the references, such as BFGS, that lie far below it everywhere."""
    lowest: dict[str, float] = {}
    for series in panels.values():
        for name, values in series.items():
            means = [float(summary["mean"]) for summary in values.values()]
            lowest[name] = min([*means, lowest.get(name, np.inf)])
    rest = [value for name, value in lowest.items() if name not in baselines.REFERENCES]
    low = min(rest, default=0.0) / 10
    if low <= 0 or not np.isfinite(low):
        return 0.0, []
    low = 10.0 ** np.floor(np.log10(low))
    far = []
    for name in lowest:
        highs = [
            float(summary["high"])
            for series in panels.values()
            for summary in series.get(name, {}).values()
        ]
        if name in baselines.REFERENCES and max(highs) < low:
            far.append(name)
    return low, far


def _series(
    axes: Axes,
    name: str,
    values: dict[Any, dict[str, float]],
    one: Style,
    shift: float,
) -> None:
    """One optimizer over the cases: a line over numbers, points side by side over names."""
    line = dict(one.line)
    are_numbers = all(isinstance(position, (int, float)) for position in values)
    if are_numbers and len(values) >= LEAST_JOINED:
        ticks = np.array(list(values))
        positions = ticks
    else:
        ticks = np.arange(len(values))
        positions = ticks + shift
        line["linestyle"] = ""
    mean, low, high = (
        _numbers([summary[key] for summary in values.values()]) for key in ("mean", "low", "high")
    )
    error = np.array([mean - low, high - mean])
    error = np.where(np.isfinite(error), error, 0)
    axes.errorbar(
        positions,
        mean,
        error,
        color=one.color,
        marker=one.marker,
        markersize=4,
        capsize=2,
        label=name,
        **line,
    )
    texts = map(style.number if are_numbers else str, values)
    labels = [textwrap.fill(text, 14) for text in texts]
    axes.set_xticks(ticks, labels)


def histories(
    path: Path,
    watched: Any,
    title: str,
) -> None:
    """Draws the updates of each watched coordinate over the steps, one panel a coordinate.

    Args:
      path: of the PNG.
      watched: from `learned_opt.watch`.
      title: of the picture.

    Source:
      Andrychowicz et al. 2016, figure 10.
    """
    count = len(watched.names)
    figure = style.figure(7.2, 2.2 * count + 0.9)
    all_axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    steps = np.arange(1, len(watched.losses) + 1)
    look = _of_watched(watched)
    for j, axes in enumerate(all_axes):
        for name, updates in watched.updates.items():
            one = look[name]
            axes.plot(steps, updates[:, j], color=one.color, label=name, **one.line)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_ylabel(f"update of\n{watched.names[j]}", fontsize="small")
        axes.margins(x=0)
    all_axes[-1].set_xlabel("step")
    style.heading(all_axes[0], title)
    all_axes[0].legend(ncols=3, fontsize="small")
    style.finish(figure, all_axes, path)


def _of_watched(watched: Any) -> dict[str, Style]:
    """The watched optimizer, which comes first, and the others."""
    first, *others = watched.updates
    return style.styles([first, *others], [first], sorted(others, key=lambda name: name != "Adam"))


def proposals(
    path: Path,
    watched: Any,
    title: str,
) -> None:
    """Draws updates as functions of the current gradient: a row a coordinate, a column a step.

    A vertical line stands where the gradient was.

    Args:
      path: of the PNG.
      watched: from `learned_opt.watch`.
      title: of the picture.

    Source:
      Andrychowicz et al. 2016, figures 11 to 13.
    """
    shape = len(watched.names), len(watched.at)
    figure = style.figure(2.8 * shape[1] + 0.6, 2.3 * shape[0] + 1.0)
    all_axes = figure.subplots(*shape, squeeze=False)
    look = _of_watched(watched)
    for (j, i), axes in np.ndenumerate(all_axes):
        largest = np.abs(watched.grid[i, j]).max()
        power = int(np.floor(np.log10(largest))) if largest > 0 else 0
        unit = 10.0**power
        for name, proposed in watched.proposed.items():
            one = look[name]
            grid, updates = watched.grid[i, j] / unit, proposed[i, j]
            axes.plot(grid, updates, color=one.color, label=name, **one.line)
        axes.axvline(watched.gradients[watched.at[i] - 1, j] / unit, color="0.6", linewidth=1)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_title(f"{watched.names[j]}, step {watched.at[i]}", fontsize="small")
        axes.set_xlabel(f"gradient in 1e{power}" if power else "gradient", fontsize="small")
        axes.tick_params(labelsize="small")
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_size_inches()[0])), fontsize="medium")
    figure.supylabel("proposed update", fontsize="medium")
    all_axes[0, 0].legend(fontsize="small")
    style.finish(figure, all_axes.ravel(), path)


def answers(
    path: Path,
    shares: dict[str, dict[str, list[float]]],
    learned: Collection[str],
    title: str,
) -> None:
    """Draws how long optimizers remember one gradient.

    Args:
      path: of the PNG.
      shares: dict from a name to `mean`, `low` and `high`: for each lag the share of the answer to
        one gradient that comes so many steps later, with its 95 % interval.
      learned: the names that are drawn solid.
      title: of the picture.
    """
    figure = style.figure(7.2, 3.6)
    axes = figure.add_subplot()
    others = [name for name in shares if name not in learned]
    look = style.styles(shares, learned, sorted(others, key=lambda name: name != "Adam"))
    for name, of_lags in shares.items():
        lags, one = np.arange(len(of_lags["mean"])), look[name]
        axes.plot(lags, of_lags["mean"], color=one.color, label=name, **one.line)
        axes.fill_between(
            lags, of_lags["low"], of_lags["high"], color=one.color, alpha=0.15, linewidth=0
        )
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel="steps later", ylabel="share of the answer\nto one gradient")
    style.heading(axes, title)
    axes.margins(x=0.01)
    axes.legend(fontsize="small")
    style.finish(figure, [axes], path)


def totals(
    path: Path,
    seconds: dict[str, float],
    training: dict[str, float],
    title: str,
) -> None:
    """Draws total time over the number of instances that are solved.

    Args:
      path: of the PNG.
      seconds: dict from a method's name to its time for one instance.
      training: dict from the learned ones' names to the time that learning took before.
      title: of the picture.
    """
    figure = style.figure(7.2, 4.6)
    axes = figure.add_subplot()
    counts = np.logspace(1, 8, 200)
    rivals = sorted((name for name in seconds if name not in training), key=seconds.__getitem__)
    look = style.styles(seconds, training, rivals[: courses_lib.LEAST_RIVALS])
    ends = {}
    for name, per_instance in seconds.items():
        total = training.get(name, 0.0) + per_instance * counts
        one = look[name]
        axes.loglog(counts, total, color=one.color, label=name, **one.line)
        if one.is_named:
            ends[name] = float(total[-1])
    axes.set(xlabel="instances", ylabel="seconds in all")
    axes.margins(x=0)
    style.heading(axes, title)
    style.caption(figure, [name for name in seconds if not look[name].is_named])
    style.lay_out(figure)
    style.end_labels(axes, ends, look)
    style.finish(figure, [axes], path)


def history(
    path: Path,
    entries: list[dict[str, Any]],
    title: str,
) -> None:
    """Draws the course of meta-training: the losses of each epoch's windows and of validation.

    Args:
      path: of the PNG.
      entries: `MetaTrainResult.history`.
      title: of the picture.
    """
    figure = style.figure(7.2, 4)
    axes = figure.add_subplot()
    epochs = np.arange(1, len(entries) + 1)
    colors = iter(style.LEARNED_COLORS)
    for name in ("meta_loss", "average_loss", "imitation_loss", "validation_loss"):
        if name in entries[0]:
            values = np.asarray([entry[name] for entry in entries], float)
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.plot(epochs, shown, color=next(colors), label=name.replace("_", " "))
    for before, after, epoch in zip(entries, entries[1:], epochs, strict=False):
        if after["num_steps"] != before["num_steps"]:
            _mark(axes, epoch + 0.5, f"{after['num_steps']} steps")
    axes.set(xlabel="epoch", yscale="log")
    style.heading(axes, title)
    axes.margins(x=0)
    axes.legend(ncols=2, fontsize="small")
    style.finish(figure, [axes], path)


def _mark(
    axes: Axes,
    position: float,
    text: str,
) -> None:
    """A vertical line with a text at its top."""
    axes.axvline(position, color="0.8", linewidth=1)
    place = position + 0.1, 1
    axes.annotate(text, place, xycoords=("data", "axes fraction"), fontsize=8, va="top")


def _numbers(values: Any) -> np.ndarray:
    """Numbers, some of which a file has as texts; NaN where a logarithmic axis has no place."""
    numbers = np.array([float(value) for value in values])
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, np.nan)
