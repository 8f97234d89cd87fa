"""What a picture shows of loss curves, as plain data that a file can keep: far less than all runs.

Seeds of one meta-training, `NAME:SEED`, are one line: intervals are over seeds and runs.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from learned_opt.evaluation import baselines, statistics

STEPS_SHOWN = 200  # curves of more steps are smoothed
NUM_BANDS = 41  # intervals are computed at so many points of a curve
MOST_RIVALS, LEAST_RIVALS = 4, 2
# Lines lie together where a learned one ends within this factor of the best rival.
TOGETHER = 1.5

Losses = dict[str, np.ndarray]  # name -> [num_runs, num_steps + 1]
Course = dict[str, Any]


def training(name: str) -> str:
    """What seeds of one meta-training have in common: `NAME@SHARE` of `NAME:SEED@SHARE`."""
    return re.sub(r":\d+", "", name)


def courses(
    cases: Sequence[tuple[str, Losses, int]],
    learned: Collection[str],
) -> dict[str, Any]:
    """What a picture of one or several cases shows.

    Args:
      cases: list of `(title, losses, first_step)`.
      learned: the names of the learned optimizers.

    Returns:
      Plain data: `rivals`, the names of the best rivals, the best one first; `learned`; and
      `panels`, for each case a dict with `title`, `first_step`, `last_step`, `width` (over how many
      steps losses are means), `best` (the rival that ends lowest, or None) and `lines`. A line has
      `steps` and `mean`; those of learned ones and rivals also `band` (`steps`, `low`, `high`), and
      all of these but the best rival `ratio`, their loss over its loss run by run (`steps`, `mean`,
      `low`, `high`).
    """
    grouped = [(title, _grouped(losses, learned), first) for title, losses, first in cases]
    names = list(dict.fromkeys(training(name) for name in learned))
    rivals = _rivals([lines for _, lines, _ in grouped], names)
    panels = [_panel(*case, names, rivals) for case in grouped]
    return {"rivals": rivals, "learned": names, "panels": panels}


def _grouped(losses: Losses, learned: Collection[str]) -> dict[str, np.ndarray]:
    """Losses `[seeds, runs, steps]` by line; smoothed where there are many steps."""
    num_steps = next(iter(losses.values())).shape[1]
    width = max(1, num_steps // STEPS_SHOWN)
    seeds: dict[str, list[np.ndarray]] = {}
    for name, values in losses.items():
        line = training(name) if name in learned else name
        seeds.setdefault(line, []).append(_smoothed(np.asarray(values, float), width))
    return {name: np.stack(values) for name, values in seeds.items()}


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


def _rivals(cases: list[dict[str, np.ndarray]], learned: Collection[str]) -> list[str]:
    """The best rival of every case, then the next ones by their mean rank."""
    best: list[str] = []
    ranks: dict[str, list[int]] = {}
    for lines in cases:
        finals = {}
        for name, values in lines.items():
            if name not in learned and name not in baselines.REFERENCES:
                final = values[:, :, -1].mean()
                finals[name] = final if np.isfinite(final) else np.inf
        ordered = sorted(finals, key=finals.__getitem__)
        best += ordered[:1]
        for rank, name in enumerate(ordered):
            ranks.setdefault(name, []).append(rank)
    by_rank = sorted(ranks, key=lambda name: np.mean(ranks[name]))
    count = min(MOST_RIVALS, max(LEAST_RIVALS, len(set(best))))
    return list(dict.fromkeys([*best, *by_rank]))[:count]


def _panel(
    title: str,
    lines: dict[str, np.ndarray],
    first_step: int,
    learned: Collection[str],
    rivals: Sequence[str],
) -> Course:
    num_steps = next(iter(lines.values())).shape[2] - 1
    width = max(1, (num_steps + 1) // STEPS_SHOWN)
    there = [name for name in rivals if name in lines]
    best = min(there, key=lambda name: _finite(lines[name][:, :, -1].mean()), default=None)
    steps = np.unique([*range(first_step, num_steps + 1, width), num_steps])
    points = np.unique(np.linspace(first_step, num_steps, NUM_BANDS).astype(int))
    shown: dict[str, Any] = {}
    for name, values in lines.items():
        line: dict[str, Any] = {
            "steps": steps.tolist(),
            "mean": values[:, :, steps].mean(axis=(0, 1)).tolist(),
        }
        if name in learned or name in rivals:
            line["band"] = _band(values, points)
            if best is not None and name != best:
                line["ratio"] = _ratio(values, lines[best][0], points)
        shown[name] = line
    return {
        "title": title,
        "first_step": first_step,
        "last_step": num_steps,
        "width": width,
        "best": best,
        "lines": shown,
    }


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def _band(values: np.ndarray, points: np.ndarray) -> dict[str, list[float]]:
    """The interval of the mean at some steps."""
    found = [statistics.summarize(values[:, :, step]) for step in points]
    # Few runs have intervals that reach below zero: those end at the smallest loss of a run.
    smallest = values[:, :, points].min(axis=(0, 1))
    low = [one.low if one.low > 0 else least for one, least in zip(found, smallest, strict=True)]
    return {
        "steps": points.tolist(),
        "low": [float(value) for value in low],
        "high": [one.high for one in found],
    }


def _ratio(
    values: np.ndarray,
    theirs: np.ndarray,
    points: np.ndarray,
) -> dict[str, list[float]]:
    """Loss over the best rival's, run by run: the geometric mean and its interval."""
    found = [statistics.ratio(values[:, :, step], theirs[:, step]) for step in points]
    mean, low, high = (list(column) for column in zip(*found, strict=True))
    return {"steps": points.tolist(), "mean": mean, "low": low, "high": high}


def lie_together(panel: Course, learned: Collection[str]) -> bool:
    """Whether a learned line ends so near to the best rival that one cannot see how they differ."""
    for name in learned:
        ratio = panel["lines"].get(name, {}).get("ratio")
        if ratio and 1 / TOGETHER < float(ratio["mean"][-1]) < TOGETHER:
            return True
    return False
