"""What pictures and tables of sweeps share."""

import math
from typing import Any

import numpy as np

from experiments.sweeps.plan import text
from learned_opt import _checks
from learned_opt.evaluation import style

MOST_PANELS = 24


def figure(count: int, each: int = 1) -> tuple[Any, np.ndarray]:
    """A figure with `each` panels, one below the other, for every one of `count` things.

    Returns:
      The figure, and its axes `[count or some more, each]`, which are not visible yet.
    """
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    columns = min(count, 4)
    blocks = math.ceil(count / columns)
    size = 4.5 * columns, 3.5 * blocks * each
    made = matplotlib_figure.Figure(figsize=size, layout="constrained")
    all_axes = made.subplots(blocks * each, columns, squeeze=False)
    for axes in all_axes.ravel():
        axes.set_visible(False)
    in_blocks = all_axes.reshape(blocks, each, columns)
    return made, in_blocks.transpose(0, 2, 1).reshape(-1, each)


def logarithmic(axes: Any, axis: str) -> None:
    """A logarithmic axis, where there is something to draw on it."""
    axes.grid(alpha=0.25)
    if np.isfinite(axes.dataLim.minposy):
        axes.set(**{f"{axis}scale": "log"})


def save(made: Any, path: str) -> None:
    """Writes a picture, with plain numbers on its axes."""
    style.finish(made, [axes for axes in made.axes if axes.get_visible()], path)


def word(value: Any) -> str:
    """A value in a table; what is left out is a dash."""
    return "-" if value is None else text(value)


def short(value: Any) -> str:
    """A value in a legend or in a table of measurements."""
    return f"{value:.3g}" if isinstance(value, float) else word(value)


def drawable(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithmic axis has no place."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
