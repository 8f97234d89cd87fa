"""Pictures of losses in the manner of Andrychowicz et al. 2016: learned solid, others dashed."""

import os
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, statistics

STEPS_SHOWN = 200  # curves of more steps are smoothed
NUM_BANDS = 41  # bootstrap intervals are computed at so many points of a curve
NUM_COLORS = 10  # of matplotlib's cycle

Losses = dict[str, np.ndarray]  # name -> [num_runs, num_steps + 1]
Path = str | os.PathLike
Axes = Any  # matplotlib's, which is imported only where something is drawn
Figure = Any

_LEARNED = {"linestyle": "-", "linewidth": 2.5, "zorder": 3}
_OTHER = {"linestyle": "--", "linewidth": 1.2, "zorder": 2}
_LEVELS = ("--", ":", "-.")  # line styles of learned optimizers in `rates`


def curves(
    path: Path,
    losses: Losses,
    learned: Collection[str],
    title: str,
    first_step: int = 0,
) -> None:
    """Draws mean loss against step, with 95 % intervals, on a logarithmic axis.

    Args:
      path: of the PNG.
      losses: dict from name to `[num_runs, num_steps + 1]`.
      learned: the names of the learned optimizers, which are drawn solid.
      title: of the picture.
      first_step: where the axis begins.

    Source:
      Andrychowicz et al. 2016, figure 4.
    """
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    _curves(axes, losses, learned, title, first_step, _order(losses, learned))
    _finish(figure, [axes], path)


def panels(
    path: Path,
    cases: list[tuple[str, Losses, int]],
    learned: Collection[str],
) -> None:
    """Draws the curves of several cases side by side, each optimizer in one colour.

    Args:
      path: of the PNG.
      cases: list of `(title, losses, first_step)`, see `curves`.
      learned: the names that are drawn solid.
    """
    figure = _figure(1 + 4.5 * len(cases), 5)
    all_axes = figure.subplots(1, len(cases), squeeze=False)[0]
    _, losses_of_first, _ = cases[0]
    order = _order(losses_of_first, learned)
    for axes, (title, losses, first_step) in zip(all_axes, cases, strict=True):
        _curves(axes, losses, learned, title, first_step, order)
    _finish(figure, all_axes, path)


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
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    for i, (name, (tried, grid)) in enumerate(grids.items()):
        values = _drawable(np.asarray(grid, float))
        axes.plot(tried, values, ".-", color=_color(i), linewidth=1.2, label=name)
    for i, (name, level) in enumerate(levels.items()):
        style = _LEVELS[i % len(_LEVELS)]
        height = level if np.isfinite(level) else np.nan
        label = f"{name} ({level:.3g})"
        axes.axhline(height, color="k", linestyle=style, linewidth=1.5, label=label)
    axes.set(title=title, xlabel="learning rate", ylabel=ylabel, xscale="log", yscale="log")
    _limit_rates(axes, [grid for _, grid in grids.values()], levels)
    _finish(figure, [axes], path)


def _limit_rates(
    axes: Axes,
    grids: list[np.ndarray],
    levels: dict[str, float],
) -> None:
    """The smallest rates leave the loss where it begins: nothing far above that is of interest."""
    drawn = _drawable(np.concatenate([np.asarray(grid, float) for grid in grids]))
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
        to a summary of its final loss (`statistics.Summary` as a dict). Positions that are numbers
        are joined by lines.
      learned: the names that are drawn solid.
      title: of the picture.
      xlabel: what the cases differ in.

    Source:
      Andrychowicz et al. 2016, figure 6.
    """
    figure = _figure(max(7, 3.5 * len(panels)), 5)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, series) in zip(all_axes, panels.items(), strict=True):
        middle = (len(series) - 1) / 2
        for i, (name, values) in enumerate(series.items()):
            shift = (i - middle) / (2 * len(series))
            _series(axes, name, values, _color(i), name in learned, shift)
        axes.set(title=panel, xlabel=xlabel, yscale="log")
    all_axes[0].set_ylabel("final loss")
    figure.suptitle(title)
    _finish(figure, all_axes, path)


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
    figure = _figure(8, 2.2 * count + 0.8)
    all_axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    steps = np.arange(1, len(watched.losses) + 1)
    for j, axes in enumerate(all_axes):
        for i, (name, updates) in enumerate(watched.updates.items()):
            axes.plot(steps, updates[:, j], color=_color(i), label=name, **_style_of(i))
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_ylabel(watched.names[j])
    all_axes[-1].set_xlabel("step")
    all_axes[0].set_title(title)
    _finish(figure, all_axes, path)


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
    figure = _figure(3 * shape[1] + 0.8, 2.4 * shape[0] + 0.8)
    all_axes = figure.subplots(*shape, squeeze=False)
    for (j, i), axes in np.ndenumerate(all_axes):
        for color, (name, proposed) in enumerate(watched.proposed.items()):
            grid, updates = watched.grid[i, j], proposed[i, j]
            axes.plot(grid, updates, color=_color(color), label=name, **_style_of(color))
        axes.axvline(watched.gradients[watched.at[i] - 1, j], color="0.6", linewidth=1)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_title(f"{watched.names[j]}, step {watched.at[i]}", fontsize="small")
    figure.suptitle(title)
    figure.supxlabel("gradient")
    figure.supylabel("proposed update")
    _finish(figure, all_axes.ravel(), path)


def _style_of(i: int) -> dict[str, Any]:
    """Of the watched optimizer, which comes first, and of the others."""
    return _LEARNED if i == 0 else _OTHER


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
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    counts = np.logspace(1, 8, 200)
    for i, (name, per_instance) in enumerate(seconds.items()):
        style = _LEARNED if name in training else _OTHER
        total = training.get(name, 0.0) + per_instance * counts
        axes.loglog(counts, total, color=_color(i), label=name, **style)
    axes.set_xlabel("instances")
    axes.set_ylabel("seconds in all")
    axes.set_title(title)
    _finish(figure, [axes], path)


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
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    epochs = np.arange(1, len(entries) + 1)
    for name in ("meta_loss", "average_loss", "imitation_loss", "validation_loss"):
        if name in entries[0]:
            values = np.asarray([entry[name] for entry in entries], float)
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.plot(epochs, shown, label=name.replace("_", " "))
    for before, after, epoch in zip(entries, entries[1:], epochs, strict=False):
        if after["num_steps"] != before["num_steps"]:
            _mark(axes, epoch + 0.5, f"{after['num_steps']} steps")
    axes.set(title=title, xlabel="epoch", yscale="log")
    axes.margins(x=0)
    _finish(figure, [axes], path)


def _mark(
    axes: Axes,
    position: float,
    text: str,
) -> None:
    """A vertical line with a text at its top."""
    axes.axvline(position, color="0.8", linewidth=1)
    place = position + 0.1, 1
    axes.annotate(text, place, xycoords=("data", "axes fraction"), fontsize=8, va="top")


def _figure(width: float, height: float) -> Figure:
    # Only those who draw need matplotlib. pyplot would choose a window system, so it has no part.
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    return matplotlib_figure.Figure(figsize=(width, height), layout="constrained")


def _finish(
    figure: Figure,
    all_axes: Iterable[Axes],
    path: Path,
) -> None:
    all_axes = list(all_axes)
    for axes in all_axes:
        axes.grid(alpha=0.25, which="both")
        if not np.isfinite(axes.dataLim.minposy):  # a logarithmic axis of nothing is an error
            axes.set_yscale("linear")
    all_axes[0].legend(ncols=2, fontsize="small")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _color(i: int) -> str:
    return f"C{i % NUM_COLORS}"


def _series(
    axes: Axes,
    name: str,
    values: dict[Any, dict[str, float]],
    color: str,
    is_learned: bool,
    shift: float,
) -> None:
    """One optimizer over the cases: a line over numbers, points side by side over names."""
    style = dict(_LEARNED if is_learned else _OTHER)
    if all(isinstance(position, (int, float)) for position in values):
        ticks = np.array(list(values))
        positions = ticks
    else:
        ticks = np.arange(len(values))
        positions = ticks + shift
        style["linestyle"] = ""
    mean, low, high = (_numbers(values, key) for key in ("mean", "low", "high"))
    error = np.array([mean - low, high - mean])
    error = np.where(np.isfinite(error), error, 0)
    axes.errorbar(
        positions,
        mean,
        error,
        color=color,
        marker="o",
        markersize=4,
        capsize=2,
        label=name,
        **style,
    )
    axes.set_xticks(ticks, [str(position) for position in values])


def _numbers(values: dict[Any, dict[str, float]], key: str) -> np.ndarray:
    return _drawable(np.array([float(summary[key]) for summary in values.values()]))


def _order(losses: Losses, learned: Collection[str]) -> list[str]:
    """Learned ones first, and among each other by their final loss."""

    def place(name: str) -> tuple[bool, float]:
        return name not in learned, losses[name][:, -1].mean()

    return sorted(losses, key=place)


def _curves(
    axes: Axes,
    losses: Losses,
    learned: Collection[str],
    title: str,
    first_step: int,
    order: list[str],
) -> None:
    num_steps = next(iter(losses.values())).shape[1]
    width = max(1, num_steps // STEPS_SHOWN)
    losses = {name: _smoothed(values, width) for name, values in losses.items()}
    trainings = list(dict.fromkeys(_training(name) for name in order))
    for name in order:
        if name not in losses:
            continue  # some cases have fewer
        color = _color(trainings.index(_training(name)))
        _curve(axes, name, losses[name], color, name in learned, first_step)
    label = "loss" if width == 1 else f"loss, mean over {width} steps"
    axes.set(title=title, xlabel="step", ylabel=label, yscale="log")
    axes.margins(x=0)
    _limit(axes, losses, first_step)


def _training(name: str) -> str:
    """What several seeds of one meta-training, `NAME:SEED`, have in common: their colour."""
    return name.partition(":")[0]


def _curve(
    axes: Axes,
    name: str,
    losses: np.ndarray,
    color: str,
    is_learned: bool,
    first_step: int,
) -> None:
    style = _LEARNED if is_learned else _OTHER
    steps = np.arange(first_step, losses.shape[1])
    axes.plot(steps, _mean(losses, first_step), color=color, label=name, **style)
    places = np.linspace(first_step, losses.shape[1] - 1, NUM_BANDS)
    points = np.unique(places.astype(int))
    bands = [statistics.summarize(losses[:, step]) for step in points]
    # Few runs have intervals that reach below zero: those end at the smallest loss of a run.
    smallest = losses[:, points].min(axis=0)
    low = np.array([band.low for band in bands])
    low = _drawable(np.where(low > 0, low, smallest))
    high = _drawable(np.array([band.high for band in bands]))
    axes.fill_between(points, low, high, color=color, alpha=0.15, linewidth=0)


def _mean(losses: np.ndarray, first_step: int) -> np.ndarray:
    """The mean over runs from a step on; NaN where it cannot be drawn."""
    return _drawable(losses[:, first_step:].mean(axis=0))


def _smoothed(losses: np.ndarray, width: int) -> np.ndarray:
    """Each run's mean over `width` steps around every step.

    The noise of single minibatches would hide a long curve.
    """
    if width == 1:
        return losses
    window = np.ones(width)
    counts = np.convolve(np.ones(losses.shape[1]), window, "same")
    sums = np.stack([np.convolve(run, window, "same") for run in losses])
    return sums / counts


def _limit(
    axes: Axes,
    losses: Losses,
    first_step: int,
) -> None:
    """Keeps one optimizer from flattening all others.

    An optimizer that diverges leaves at the top, a little above where all begin. A reference such
    as BFGS, which falls to rounding errors, leaves at the bottom.
    """
    names = [name for name in losses if name not in baselines.REFERENCES] or list(losses)
    means = [_mean(losses[name], first_step) for name in names]
    drawn = [mean for mean in means if np.isfinite(mean).any()]
    if not drawn:
        return
    start = np.nanmedian([mean[0] for mean in drawn])
    lowest = np.nanmin(drawn)
    axes.set_ylim(lowest / 1.3, max(start * 1.5, lowest * 2))


def _drawable(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithmic axis has no place."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
