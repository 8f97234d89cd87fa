"""Which of many learning rates is best: successive halving, then steps of the square root of two.

All rates have a few runs, the best of them more, the best of those all runs (Karnin, Koren, Somekh
2013; Jamieson and Talwalkar 2016, arXiv 1502.07943). Every rate meets the same runs, so rates are
compared pair by pair. Around the best rate of the grid finer ones are tried, on all runs as well,
until the best one lies between two that are worse.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from learned_opt.evaluation import statistics

# The share of the runs that a round has, and of the rates that are left after it.
ROUNDS = ((0.1, 0.25), (0.3, 0.1))
FEWEST = 3  # rates that have all runs
STEP = 2**0.5
SAME = 1e-6  # rates that differ by less, relatively, are one

# (rates [jobs], runs [jobs]) -> what is to be small [jobs]
Evaluate = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Searched(NamedTuple):
    """What a search has found.

    Attributes:
      rates: `[rates]`, all that were tried, ascending.
      values: `[rates, runs]`, what was to be small; NaN for runs that a rate did not get.
      best: the position of the best rate.
      tied: the positions of the rates that cannot be told apart from the best one, itself among
        them: the paired 95 % interval of the difference holds zero.
    """

    rates: np.ndarray
    values: np.ndarray
    best: int
    tied: tuple[int, ...]

    @property
    def means(self) -> np.ndarray:
        """The mean of each rate `[rates]`, over the runs that it got."""
        has_run = ~np.isnan(self.values)
        return np.where(has_run, self.values, 0).sum(axis=1) / has_run.sum(axis=1)


def search(
    evaluate: Evaluate,
    rates: Sequence[float],
    num_runs: int,
    refine: bool = True,
) -> Searched:
    """Finds the rate with the smallest mean.

    A rate at which a run diverges has an infinite mean. It is best only if all others diverge too,
    and then the one with the fewest such runs.

    Args:
      evaluate: `evaluate(rates [jobs], runs [jobs])` gives what is to be small, for each job one
        rate on one run.
      rates: the grid.
      num_runs: how many runs there are.
      refine: whether finer rates are tried around the best one, within the grid's range.

    Returns:
      A `Searched`.

    Example:
      >>> import numpy as np
      >>> from learned_opt.evaluation import halving
      >>> found = halving.search(lambda rate, run: (np.log(rate) - 1) ** 2, (1, 2, 4, 8), 20)
      >>> round(float(found.rates[found.best]), 3)
      2.828
    """
    table = _Table(evaluate, num_runs)
    left = [float(rate) for rate in rates]
    for share_of_runs, share_of_rates in ROUNDS:
        if len(left) <= FEWEST:
            break
        table.fill(left, max(1, round(share_of_runs * num_runs)))
        keep = max(FEWEST, round(share_of_rates * len(rates)))
        left = table.in_order(left)[:keep]
    table.fill(left, num_runs)
    if refine:
        _refine(table, min(rates), max(rates))
    return table.searched()


def planned(
    num_rates: int,
    num_runs: int,
    refine: bool = True,
) -> int:
    """About how many jobs a search has; finer rates are counted as three."""
    left = num_rates
    done = 0
    jobs = 0
    for share_of_runs, share_of_rates in ROUNDS:
        if left <= FEWEST:
            break
        runs = max(1, round(share_of_runs * num_runs))
        jobs += left * (runs - done)
        done = runs
        left = min(left, max(FEWEST, round(share_of_rates * num_rates)))
    return jobs + left * (num_runs - done) + 3 * num_runs * refine


def _refine(
    table: "_Table",
    lowest: float,
    highest: float,
) -> None:
    """Tries the neighbours of the best rate until there is none that has not had all runs."""
    while True:
        best = table.best()
        inside = [
            rate
            for rate in (best / STEP, best * STEP)
            if lowest * (1 - SAME) <= rate <= highest * (1 + SAME)
        ]
        missing = [rate for rate in inside if not table.is_full(rate)]
        if not missing:
            return
        table.fill(missing, table.num_runs)


class _Table:
    """What is known of every rate: a row of runs, from the first on."""

    def __init__(self, evaluate: Evaluate, num_runs: int):
        self.num_runs = num_runs
        self._evaluate = evaluate
        self._rows: dict[float, np.ndarray] = {}

    def fill(self, rates: Sequence[float], num_runs: int) -> None:
        """Gives each of these rates its runs up to `num_runs`, all in one call."""
        keys = [self._key(rate) for rate in rates]
        jobs = [(key, run) for key in keys for run in self._missing(key, num_runs)]
        if not jobs:
            return
        job_rates, job_runs = map(np.array, zip(*jobs, strict=True))
        values = self._evaluate(job_rates, job_runs)
        for (key, run), value in zip(jobs, np.asarray(values, np.float64), strict=True):
            self._rows[key][run] = value if np.isfinite(value) else np.inf

    def _key(self, rate: float) -> float:
        """The rate of a row that is there, or a new one."""
        for known in self._rows:
            if abs(rate / known - 1) < SAME:
                return known
        self._rows[rate] = np.full(self.num_runs, np.nan)
        return rate

    def _missing(self, key: float, num_runs: int) -> Iterator[int]:
        return (run for run in range(num_runs) if np.isnan(self._rows[key][run]))

    def is_full(self, rate: float) -> bool:
        """Whether a rate has all its runs."""
        return any(
            abs(rate / known - 1) < SAME and not np.isnan(row).any()
            for known, row in self._rows.items()
        )

    def in_order(self, rates: Sequence[float]) -> list[float]:
        """Rates, the best one first."""
        return sorted(rates, key=lambda rate: _score(self._rows[self._key(rate)]))

    def best(self) -> float:
        """The best of the rates that have all their runs."""
        return self.in_order([rate for rate in self._rows if self.is_full(rate)])[0]

    def searched(self) -> Searched:
        """All that is known, in the order of the rates."""
        rates = sorted(self._rows)
        values = np.array([self._rows[rate] for rate in rates])
        best = rates.index(self.best())
        full = [i for i, rate in enumerate(rates) if self.is_full(rate)]
        tied = [i for i in full if _is_tied(values[i], values[best])]
        return Searched(np.array(rates), values, best, tuple(tied))


def _score(row: np.ndarray) -> tuple[float, float, float]:
    """What orders rates: the mean, then how many runs diverge, then the mean of the others."""
    done = row[~np.isnan(row)]
    finite = done[np.isfinite(done)]
    others = float(finite.mean()) if finite.size else np.inf
    return float(done.mean()), done.size - finite.size, others


def _is_tied(values: np.ndarray, best: np.ndarray) -> bool:
    return statistics.paired(values, best).verdict == statistics.NO_DIFFERENCE
