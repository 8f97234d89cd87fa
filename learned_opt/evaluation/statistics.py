"""Means with their intervals; divergence is infinite and counted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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


def verdict(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Whether one mean lies below or above another.

    Args:
      ours, theirs: each a `Summary` as a dict; numbers may be texts, as JSON holds infinity.

    Returns:
      "below", "above", or "no difference" where the two intervals meet.

    Example:
      >>> from learned_opt.evaluation import statistics
      >>> statistics.verdict({"low": 1.0, "high": 2.0}, {"low": 3.0, "high": 4.0})
      'below'
    """
    if float(ours["high"]) < float(theirs["low"]):
        return "below"
    if float(ours["low"]) > float(theirs["high"]):
        return "above"
    return "no difference"


def ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """How many times as large one thing is as another: the geometric mean of the ratios.

    Args:
      ours: positive numbers `[trials, problems]`, or `[problems]`. Trials are averaged before
        problems are drawn.
      theirs: likewise, on the same problems.

    Returns:
      `(mean, low, high)`, with the 95 % bootstrap interval over problems; infinite or 0 where a
      run diverged.
    """
    summary = summarize(_mean_log(ours) - _mean_log(theirs))
    mean, low, high = np.exp([summary.mean, summary.low, summary.high])
    return float(mean), float(low), float(high)


def _mean_log(values: np.ndarray) -> np.ndarray:
    """The logarithm's mean over trials `[problems]`."""
    logs = np.log(np.where(np.isfinite(values), values, np.inf))
    return np.atleast_2d(logs).mean(axis=0)


def summarize(values: np.ndarray, seed: int = 0) -> Summary:
    """Statistics of numbers.

    Args:
      values: `[runs]`; what is not finite counts as infinite.
      seed: of the bootstrap.

    Returns:
      A `Summary`.

    Example:
      >>> import numpy as np
      >>> from learned_opt.evaluation import statistics
      >>> statistics.summarize(np.array([1.0, 2.0, 3.0, 6.0])).interquartile_mean
      2.5
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, np.inf)
    num_runs = len(values)
    index = np.random.default_rng(seed).integers(0, num_runs, (NUM_RESAMPLES, num_runs))
    means = np.sort(values[index].mean(axis=1))
    middle = np.sort(values)[num_runs // 4 : num_runs - num_runs // 4]
    return Summary(
        mean=float(values.mean()),
        low=float(means[int(0.025 * NUM_RESAMPLES)]),
        high=float(means[int(0.975 * NUM_RESAMPLES)]),
        interquartile_mean=float(middle.mean()),
        diverged=float(1 - finite.mean()),
    )
