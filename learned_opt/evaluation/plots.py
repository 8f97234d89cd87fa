"""Pictures of loss curves, in the manner of figure 4 of Andrychowicz et al. 2016: learned solid, others dashed."""

import numpy as np

from learned_opt import _checks, _files
from learned_opt.evaluation import statistics

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
    # Only those who draw need matplotlib; the figure is made without pyplot, which would choose a window system.
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    figure = matplotlib_figure.Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    order = sorted(losses, key=lambda name: (name not in learned, losses[name][:, -1].mean()))
    for i, name in enumerate(order):
        _curve(axes, name, losses[name], f"C{i % 10}", name in learned, first_step)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    axes.margins(x=0)
    _limit(axes, losses, first_step)
    axes.grid(alpha=0.25, which="both")
    axes.legend(ncols=2, fontsize="small")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _curve(axes, name, losses, color, is_learned, first_step):
    steps = np.arange(first_step, losses.shape[1])
    mean = _finite(losses[:, first_step:].mean(axis=0))
    axes.plot(steps, mean, color=color, linestyle="-" if is_learned else "--", linewidth=2.5 if is_learned else 1.2,
              label=name, zorder=3 if is_learned else 2)
    points = np.unique(np.linspace(first_step, losses.shape[1] - 1, NUM_BANDS).astype(int))
    bands = [statistics.summarize(losses[:, step]) for step in points]
    low, high = (_finite(np.array([getattr(b, side) for b in bands])) for side in ("low", "high"))
    axes.fill_between(points, low, high, color=color, alpha=0.15, linewidth=0)


def _limit(axes, losses, first_step):
    """An optimizer that diverges does not flatten all others: the axis ends a little above where they begin."""
    means = [_finite(x[:, first_step:].mean(axis=0)) for x in losses.values()]
    start = np.nanmedian([m[0] for m in means])
    lowest = np.nanmin([np.nanmin(m) for m in means if np.isfinite(m).any()])
    axes.set_ylim(lowest / 1.3, max(start * 1.5, lowest * 2))


def _finite(values):
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
