"""Pictures of the suite over all tasks: ratios of losses, and shares of rivals' steps."""

from typing import Any

import numpy as np

from experiments.suite import shares
from experiments.suite.optimizers import ADAM, LEARNED, OPTIMIZERS, OURS, of_kind
from experiments.suite.results import RIVALS
from learned_opt.evaluation import style

HIGHEST = 10.0  # ratio; what is above stands at the edge


def draw_ratios(path: str, tasks: dict[str, dict[str, Any]]) -> None:
    """Final losses over tuned Adam's: a row a task; what diverged stands at the right edge.

    Args:
      path: of the PNG.
      tasks: those of `summary.json`: dict from a task to a dict from an optimizer to its row.
    """
    ratios = {
        task: {name: float(row["ratio"]["mean"]) for name, row in rows.items() if "ratio" in row}
        for task, rows in tasks.items()
    }
    names = [name for name in OPTIMIZERS if any(name in row for row in ratios.values())]
    look = style.styles(names, set(of_kind(LEARNED)), _best(names, ratios))
    figure = style.figure(7.2, 1.4 + 0.35 * len(ratios))
    axes = figure.add_subplot()
    for name in names:
        places, values = [], []
        for place, row in enumerate(ratios.values()):
            if name in row:
                places.append(place)
                values.append(min(row[name], HIGHEST))
        marker, size = ("*", 130) if name == OURS else ("o", 34)
        one = look[name]
        label = name if one.is_named else None
        order = one.line["zorder"]
        axes.scatter(values, places, size, one.color, marker=marker, label=label, zorder=order)
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set(xscale="log", xlabel=f"final loss over that of {ADAM} (at most {HIGHEST:g})")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.set_ylim(len(ratios) - 0.5, -0.5)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    style.caption(figure, [name for name in names if not look[name].is_named])
    style.finish(figure, [axes], path)


def _best(names: list[str], ratios: dict[str, dict[str, float]]) -> list[str]:
    """The two rivals whose ratios are smallest in the geometric mean."""
    means = {}
    for name in names:
        if name not in of_kind(LEARNED):
            values = [min(row[name], HIGHEST) for row in ratios.values() if name in row]
            means[name] = np.mean(np.log(np.maximum(values, 1e-9)))
    return sorted(means, key=means.__getitem__)[:2]


def draw_shares(path: str, over_all: dict[str, dict[str, Any]]) -> None:
    """The share of each tuned rival's steps that an optimizer needs, a panel a group of tasks.

    Args:
      path: of the PNG.
      over_all: that of `summary.json`: dict from a group to a dict from an optimizer to its row.
    """
    groups = {group: rows for group, rows in over_all.items() if rows}
    figure = style.figure(max(7.2, 5.2 * len(groups)), 4.8)
    all_axes = figure.subplots(1, max(1, len(groups)), squeeze=False, sharey=True)[0]
    for axes, (group, rows) in zip(all_axes, groups.items(), strict=False):
        for i, rival in enumerate(RIVALS):
            _draw_rival(axes, i, rival, rows)
        axes.axhline(1, color="0.5", linewidth=1)
        axes.set_xticks(range(len(rows)), list(rows), rotation=60, ha="right")
        for label in axes.get_xticklabels():
            label.set_fontweight("bold" if label.get_text() == OURS else "normal")
        axes.set(ylim=(0, 1.05 * shares.CAP))
        style.heading(axes, group)
    all_axes[0].set_ylabel(f"share of the rival's steps\n({shares.CAP:g}: never as low)")
    all_axes[0].legend(fontsize="small", title="rival", title_fontsize="small")
    style.finish(figure, all_axes, path)


def _draw_rival(
    axes: Any,
    i: int,
    rival: str,
    rows: dict[str, Any],
) -> None:
    """What share of one rival's steps every optimizer needs."""
    found = [row["needed"].get(rival) for row in rows.values()]
    places = [place for place, one in enumerate(found) if one]
    mean, low, high = (
        np.array([float(one[key]) for one in found if one]) for key in ("mean", "low", "high")
    )
    shift = (i - 1) / (2 * len(RIVALS))
    axes.errorbar(
        np.array(places) + shift,
        mean,
        np.array([mean - low, high - mean]),
        fmt="os^"[i % 3],
        markersize=5,
        color=style.LEARNED_COLORS[i],
        capsize=2,
        label=rival,
    )
