"""How pictures look: colours that the colour-blind tell apart, labels at lines' ends, plain ticks.

The learned optimizers and the best rivals have colours; everything else is grey, and named below
the picture. matplotlib is imported where something is drawn.
"""

import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from learned_opt import _checks, _files

# The colours of Okabe and Ito (Color Universal Design, 2008).
LEARNED_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
RIVAL_COLORS = ("#000000", "#E69F00")
GREY = "#B5B5B5"
_LEARNED_LINES = ("-", (0, (6, 1)))  # solid; the next round of colours has long dashes
_RIVAL_LINES = ("--", ":")

_MARKERS = ("o", "s", "^")

LABEL_WIDTH = 20  # characters, beyond which a label at a line's end is broken
DPI = 150

Path = str | os.PathLike
Axes = Any  # matplotlib's
Figure = Any


class Style(NamedTuple):
    """How one line is drawn.

    Attributes:
      color: of the line.
      line: its other properties, arguments of `plot`.
      is_named: whether its name stands at its end; the others are grey.
      marker: of its points, another one where colours come round again.
    """

    color: str
    line: dict[str, Any]
    is_named: bool
    marker: str = _MARKERS[0]


_OTHER = Style(GREY, {"linestyle": "-", "linewidth": 0.9, "zorder": 1}, False)


def styles(
    names: Iterable[str],
    learned: Collection[str],
    rivals: Sequence[str],
) -> dict[str, Style]:
    """How each line is drawn.

    Args:
      names: all lines.
      learned: those of learned optimizers.
      rivals: those of the best rivals, the best one first.

    Returns:
      Dict from a name to its `Style`.
    """
    found = {}
    for name in names:
        if name in learned:
            continue
        found[name] = _OTHER
        if name in rivals:
            round_of, i = divmod(list(rivals).index(name), len(RIVAL_COLORS))
            line = {"linestyle": _RIVAL_LINES[round_of % 2], "linewidth": 1.6, "zorder": 3}
            found[name] = Style(RIVAL_COLORS[i], line, True)
    for place, name in enumerate(name for name in names if name in learned):
        round_of, i = divmod(place, len(LEARNED_COLORS))
        line = {"linestyle": _LEARNED_LINES[round_of % 2], "linewidth": 2.2, "zorder": 4}
        marker = _MARKERS[round_of % len(_MARKERS)]
        found[name] = Style(LEARNED_COLORS[i], line, True, marker)
    return found


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    # Only those who draw need matplotlib. pyplot would choose a window system, so it has no part.
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    return matplotlib_figure.Figure(figsize=(width, height), layout="constrained")


def finish(
    drawn: Figure,
    all_axes: Iterable[Axes],
    path: Path,
) -> None:
    """Lays a grid, makes ticks plain, and writes the picture."""
    for axes in all_axes:
        axes.grid(alpha=0.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        _allow_nothing(axes)
        plain_ticks(axes.yaxis)
        plain_ticks(axes.xaxis)
    with _files.whole(path) as temporary:
        drawn.savefig(temporary, dpi=DPI)


def _allow_nothing(axes: Axes) -> None:
    """A logarithmic axis of nothing is an error."""
    if axes.get_yscale() == "log" and not np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("linear")


def lay_out(drawn: Figure) -> None:
    """Finds out how large the panels are, before labels are laid beside them."""
    for axes in drawn.axes:
        _allow_nothing(axes)
    drawn.get_layout_engine().execute(drawn)


def heading(axes: Axes, text: str) -> None:
    """A panel's title, in several lines where it is long."""
    width = axes.figure.get_size_inches()[0] / axes.get_subplotspec().get_gridspec().ncols
    axes.set_title(textwrap.fill(text, max(20, int(9 * width))), fontsize="medium")


def caption(drawn: Figure, names: Iterable[str]) -> None:
    """Says below the picture which lines are grey."""
    names = list(names)
    if names:
        between = "; " if any("," in name for name in names) else ", "
        text = f"grey: {between.join(names)}"
        width = int(12.5 * drawn.get_size_inches()[0])
        drawn.supxlabel(textwrap.fill(text, width), fontsize="small", color="0.45")


def plain_ticks(axis: Any) -> None:
    """Numbers as one writes them, such as 0.4 and 2,000, on a logarithmic axis too.

    Args:
      axis: matplotlib's, `axes.xaxis` or `axes.yaxis`.
    """
    ticker = _checks.extra("matplotlib.ticker", "matplotlib", "a picture")
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(ticker.FixedLocator(_log_ticks(ticker, low, high, _room(axis))))
        axis.set_minor_locator(ticker.NullLocator())
    elif not isinstance(axis.get_major_formatter(), ticker.ScalarFormatter):
        return  # names of cases
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value)))


def _room(axis: Any) -> int:
    """How many ticks there is room for."""
    place, inches = axis.axes.get_position(), axis.axes.figure.get_size_inches()
    if axis.axis_name == "y":
        return max(2, int(place.height * inches[1] / 0.28))
    return max(2, int(place.width * inches[0] / 0.6))


def _log_ticks(
    ticker: Any,
    low: float,
    high: float,
    most: int,
) -> np.ndarray:
    """Round numbers between two others: as many as there is room for, the roundest ones."""
    if high / low < 3:
        every = [ticker.MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]) for n in (8, 6, 4, 3, 2)]
    else:
        fine = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
        powers = [fine, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)]
        every = [ticker.LogLocator(subs=subs, numticks=99) for subs in powers]
        every.append(ticker.LogLocator(numticks=most))
    for locator in every:
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) <= most:
            break
    return np.array(ticks)


def number(value: float) -> str:
    """A number on an axis.

    Example:
      >>> from learned_opt.evaluation import style
      >>> [style.number(value) for value in (0.4, 2000.0, 1e-9, 0.0)]
      ['0.4', '2,000', '1e-9', '0']
    """
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    digits, _, exponent = f"{value:.3g}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def end_labels(
    axes: Axes,
    ends: Mapping[str, float],
    look: Mapping[str, Style],
) -> None:
    """Writes names to the right of the axes, at the heights at which lines end.

    Names that would lie on each other are moved apart, as little as that takes. What has no height,
    since it diverged, stands at the top.

    Args:
      axes: its limits must be set.
      ends: dict from a name to its last value.
      look: from `styles`.
    """
    low, high = axes.get_ylim()
    is_log = axes.get_yscale() == "log"
    if is_log:
        low, high = np.log(low), np.log(high)
    size = 8.0  # points
    inches = axes.get_position().height * axes.figure.get_size_inches()[1]
    line = 1.25 * size / 72 / inches
    texts, heights, places = [], [], []
    for name, value in ends.items():
        is_there = np.isfinite(value) and (value > 0 or not is_log)
        text = name if is_there else f"{name} (diverged)"
        texts.append(textwrap.fill(text, LABEL_WIDTH, break_long_words=False))
        heights.append(line * (texts[-1].count("\n") + 1))
        height = (np.log(value) if is_log else value) if is_there else high
        places.append(float(np.clip((height - low) / (high - low), 0, 1)))
    moved = spread(places, heights)
    for name, text, place, to in zip(ends, texts, places, moved, strict=True):
        axes.annotate(
            text,
            (1, place),
            (1.04, to),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=look[name].color,
            fontsize=size,
            va="center",
            linespacing=1.0,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": look[name].color,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def spread(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Moves labels apart: the least sum of squared moves for which none lies on another.

    This is isotonic regression, by pooling neighbours that violate the order.

    Args:
      places: where their middles should be.
      heights: how high they are.

    Returns:
      Where their middles are.

    Example:
      >>> from learned_opt.evaluation import style
      >>> style.spread([0.5, 0.5, 1.0], [0.25, 0.25, 0.25])
      [0.375, 0.625, 1.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    offsets, below = [], 0.0
    for before, i in zip([None, *order], order, strict=False):
        below += 0.0 if before is None else (heights[before] + heights[i]) / 2
        offsets.append(below)
    pools: list[list[float]] = []  # [mean, count]
    for i, offset in zip(order, offsets, strict=True):
        pools.append([places[i] - offset, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            above, others = pools[-1]
            pools[-1] = [(mean * count + above * others) / (count + others), count + others]
    fitted = [mean for mean, count in pools for _ in range(int(count))]
    moved = list(places)
    for i, value, offset in zip(order, fitted, offsets, strict=True):
        moved[i] = value + offset
    return moved
