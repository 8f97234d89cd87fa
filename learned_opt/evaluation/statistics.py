"""Means with their intervals; divergence is infinite and counted."""

from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2_000


class Summary(NamedTuple):
    """Statistics of one number over runs.

    Attributes:
      mean: the mean; infinite if any run diverged.
      low, high: 95 % bootstrap interval of the mean.
      interquartile_mean: the mean of the middle half of the runs, which outliers do not move.
      diverged: the fraction of runs that are not finite.
    """

    mean: float
    low: float
    high: float
    interquartile_mean: float
    diverged: float


def verdict(ours, theirs):
    """Whether one mean is "below" or "above" another; "no difference" where their intervals meet."""
    ours_low, ours_high, low, high = (
        float(s[side]) for s in (ours, theirs) for side in ("low", "high")
    )
    if ours_high < low:
        return "below"
    return "above" if ours_low > high else "no difference"


def ratio(ours, theirs):
    """How many times as large one thing is as another on the same problems: the geometric mean of the ratios.

    Args:
      ours: positive numbers `[trials, problems]`, or `[problems]`; trials are averaged before problems are drawn.
      theirs: likewise, on the same problems.

    Returns:
      `(mean, low, high)`, with the 95 % bootstrap interval over problems; infinite or 0 where a run diverged.
    """
    logs = [
        np.atleast_2d(np.log(np.where(np.isfinite(x), x, np.inf))).mean(axis=0)
        for x in (ours, theirs)
    ]
    summary = summarize(logs[0] - logs[1])
    return tuple(float(np.exp(x)) for x in summary[:3])


def summarize(values, seed=0):
    """Statistics of `values` `[runs]`; the bootstrap is seeded."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, np.inf)
    n = len(values)
    index = np.random.default_rng(seed).integers(0, n, (NUM_RESAMPLES, n))
    means = np.sort(values[index].mean(axis=1))
    low, high = means[int(0.025 * NUM_RESAMPLES)], means[int(0.975 * NUM_RESAMPLES)]
    middle = np.sort(values)[n // 4 : n - n // 4]
    return Summary(
        float(values.mean()),
        float(low),
        float(high),
        float(middle.mean()),
        float(1 - finite.mean()),
    )
