"""Pictures of losses, in the manner of figure 4 of Andrychowicz et al. 2016: learned solid, others dashed."""

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, statistics

STEPS_SHOWN = 200  # curves of more steps are smoothed
NUM_BANDS = 41  # bootstrap intervals are computed at so many points of a curve


def curves(path, losses, learned, title, first_step=0):
    """Draws mean loss against step, with 95 % intervals, on a logarithmic axis.

    Args:
      path: of the PNG.
      losses: dict from name to `[num_runs, num_steps + 1]`.
      learned: the names that are drawn solid.
      title: of the picture.
      first_step: where the axis begins.
    """
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    _curves(axes, losses, learned, title, first_step, _order(losses, learned))
    _finish(figure, [axes], path)


def panels(path, cases, learned):
    """Draws the curves of several cases side by side, each optimizer in one colour.

    Args:
      path: of the PNG.
      cases: list of `(title, losses, first_step)`, see `curves`.
      learned: the names that are drawn solid.
    """
    figure = _figure(1 + 4.5 * len(cases), 5)
    all_axes = figure.subplots(1, len(cases), squeeze=False)[0]
    order = _order(cases[0][1], learned)
    for axes, (title, losses, first_step) in zip(all_axes, cases, strict=True):
        _curves(axes, losses, learned, title, first_step, order)
    _finish(figure, all_axes, path)


def rates(path, learning_rates, grids, levels, title, ylabel="final loss"):
    """Draws the final loss of hand-designed optimizers against their learning rates (Lv, Jiang, Li 2017, figure 3).

    Args:
      path: of the PNG.
      learning_rates: the grid.
      grids: dict from name to the mean final loss for every rate.
      levels: dict from the name of each learned optimizer to its final loss, a horizontal line.
      title: of the picture.
      ylabel: what the final loss is.
    """
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    for i, (name, grid) in enumerate(grids.items()):
        axes.plot(
            learning_rates,
            _finite(np.asarray(grid, float)),
            f"C{i % 10}.-",
            linewidth=1.2,
            label=name,
        )
    for i, (name, level) in enumerate(levels.items()):
        axes.axhline(
            level if np.isfinite(level) else np.nan,
            color="k",
            linestyle=("--", ":", "-.")[i % 3],
            linewidth=1.5,
            label=f"{name} ({level:.3g})",
        )
    axes.set(title=title, xlabel="learning rate", ylabel=ylabel, xscale="log", yscale="log")
    finite = _finite(np.array(list(grids.values()), float))
    if np.isfinite(
        finite
    ).any():  # the smallest rates leave the loss where it begins: nothing far above is of interest
        axes.set_ylim(
            np.nanmin([np.nanmin(finite), *(x for x in levels.values() if x > 0)]) / 1.3,
            2 * np.nanmedian(finite),
        )
    _finish(figure, [axes], path)


def overview(path, panels, learned, title, xlabel):
    """Draws the final losses of several cases, with 95 % intervals (Andrychowicz et al. 2016, figure 6).

    Args:
      path: of the PNG.
      panels: dict from a panel's title to a dict from an optimizer's name to a dict from position to a summary of its
        final loss (`statistics.Summary` as a dict). Positions that are numbers are joined by lines.
      learned: the names that are drawn solid.
      title: of the picture.
      xlabel: what the cases differ in.
    """
    figure = _figure(max(7, 3.5 * len(panels)), 5)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, series) in zip(all_axes, panels.items(), strict=True):
        for i, (name, values) in enumerate(series.items()):
            _series(
                axes,
                name,
                values,
                f"C{i % 10}",
                name in learned,
                (i - (len(series) - 1) / 2) / (2 * len(series)),
            )
        axes.set(title=panel, xlabel=xlabel, yscale="log")
    all_axes[0].set_ylabel("final loss")
    figure.suptitle(title)
    _finish(figure, all_axes, path)


def _figure(width, height):
    # Only those who draw need matplotlib; the figure is made without pyplot, which would choose a window system.
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    return matplotlib_figure.Figure(figsize=(width, height), layout="constrained")


def _finish(figure, all_axes, path):
    for axes in all_axes:
        axes.grid(alpha=0.25, which="both")
    all_axes[0].legend(ncols=2, fontsize="small")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _series(axes, name, values, color, is_learned, shift):
    """One optimizer over the cases: a line over numbers, points side by side over names."""
    numbers = all(isinstance(x, (int, float)) for x in values)
    x = list(values) if numbers else np.arange(len(values)) + shift
    mean, low, high = (
        _finite(np.array([float(v[k]) for v in values.values()])) for k in ("mean", "low", "high")
    )
    error = np.array([mean - low, high - mean])
    style = "" if not numbers else "-" if is_learned else "--"
    axes.errorbar(
        x,
        mean,
        np.where(np.isfinite(error), error, 0),
        color=color,
        linestyle=style,
        marker="o",
        linewidth=2.5 if is_learned else 1.2,
        markersize=4,
        capsize=2,
        label=name,
    )
    axes.set_xticks(x if numbers else np.arange(len(values)), [str(v) for v in values])


def _order(losses, learned):
    return sorted(losses, key=lambda name: (name not in learned, losses[name][:, -1].mean()))


def _curves(axes, losses, learned, title, first_step, order):
    width = max(1, next(iter(losses.values())).shape[1] // STEPS_SHOWN)
    losses = {name: _smoothed(x, width) for name, x in losses.items()}
    families = list(dict.fromkeys(map(_family, order)))
    for name in order:
        color = f"C{families.index(_family(name)) % 10}"
        _curve(axes, name, losses[name], color, name in learned, first_step)
    label = "loss" if width == 1 else f"loss, mean over {width} steps"
    axes.set(title=title, xlabel="step", ylabel=label, yscale="log")
    axes.margins(x=0)
    _limit(axes, losses, first_step)


def _family(name):
    """What several seeds of one meta-training, `NAME:SEED`, have in common: their colour."""
    return name.partition(":")[0]


def _curve(axes, name, losses, color, is_learned, first_step):
    steps = np.arange(first_step, losses.shape[1])
    mean = _finite(losses[:, first_step:].mean(axis=0))
    axes.plot(
        steps,
        mean,
        color=color,
        linestyle="-" if is_learned else "--",
        linewidth=2.5 if is_learned else 1.2,
        label=name,
        zorder=3 if is_learned else 2,
    )
    points = np.unique(np.linspace(first_step, losses.shape[1] - 1, NUM_BANDS).astype(int))
    bands = [statistics.summarize(losses[:, step]) for step in points]
    low, high = (_finite(np.array([getattr(b, side) for b in bands])) for side in ("low", "high"))
    axes.fill_between(points, low, high, color=color, alpha=0.15, linewidth=0)


def _smoothed(losses, width):
    """Each run's mean over `width` steps around every step: one by one, minibatches would hide a long curve."""
    if width == 1:
        return losses
    ones = np.ones(width)
    counts = np.convolve(np.ones(losses.shape[1]), ones, "same")
    return np.stack([np.convolve(run, ones, "same") / counts for run in losses])


def _limit(axes, losses, first_step):
    """One optimizer does not flatten all others: who diverges leaves at the top, a little above where all begin.

    BFGS, which falls to rounding errors, leaves at the bottom.
    """
    framing = [
        x for name, x in losses.items() if name not in baselines.REFERENCES
    ] or losses.values()
    means = [_finite(x[:, first_step:].mean(axis=0)) for x in framing]
    start = np.nanmedian([m[0] for m in means])
    lowest = np.nanmin([np.nanmin(m) for m in means if np.isfinite(m).any()])
    axes.set_ylim(lowest / 1.3, max(start * 1.5, lowest * 2))


def _finite(values):
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def history(path, entries, title):
    """Draws the course of meta-training: what each epoch's windows and validation cost.

    Args:
      path: of the PNG.
      entries: `MetaTrainResult.history`.
      title: of the picture.
    """
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for name in ("meta_loss", "average_loss", "imitation_loss", "validation_loss"):
        if name in entries[0]:
            values = np.asarray([entry[name] for entry in entries], float)
            axes.plot(
                np.arange(1, len(values) + 1),
                np.where(np.isfinite(values), values, np.nan),
                label=name.replace("_", " "),
            )
    for i in range(1, len(entries)):
        if entries[i]["num_steps"] != entries[i - 1]["num_steps"]:
            axes.axvline(i + 0.5, color="0.8", linewidth=1)
            axes.annotate(
                f"{entries[i]['num_steps']} steps",
                (i + 0.6, 1),
                xycoords=("data", "axes fraction"),
                fontsize=8,
                va="top",
            )
    axes.set(title=title, xlabel="epoch", yscale="log")
    axes.margins(x=0)
    _finish(figure, [axes], path)
