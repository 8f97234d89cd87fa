"""How many of a rival's steps an optimizer needs to come as low as the rival at its end.

An optimizer with a schedule is low only where its schedule ends. So it has runs of several lengths,
each with a schedule of its own, and what counts is the shortest that ends as low as the rival.
"""

from collections.abc import Sequence

import numpy as np

SHARES = (0.25, 0.35, 0.5, 0.7, 1.0)  # of the rival's steps
LAST = 0.05  # the share of a run's last steps of which the final loss is the mean
CAP = 2.0  # what never comes as low counts as so many times the rival's steps in a mean


def num_last(num_steps: int) -> int:
    """Of how many last steps the final loss is the mean."""
    return max(1, round(LAST * num_steps))


def horizon(num_steps: int, share: float) -> int:
    """The length of a run that is a share of `num_steps`."""
    return max(1, round(share * num_steps))


def final_losses(losses: np.ndarray, num_steps: int) -> np.ndarray:
    """The mean loss at the end `[runs]`; infinite where a run diverged.

    Args:
      losses: `[runs, num_steps + 1]` or longer.
      num_steps: where the runs end, or are cut.
    """
    losses = np.asarray(losses, np.float64)
    end = losses[:, num_steps + 1 - num_last(num_steps) : num_steps + 1]
    has_diverged = ~np.isfinite(losses[:, : num_steps + 1]).all(axis=1)
    return np.where(has_diverged, np.inf, end.mean(axis=1))


def needed(
    finals: np.ndarray,
    target: np.ndarray,
    floor: float,
    shares: Sequence[float] = SHARES,
) -> np.ndarray:
    """The smallest share of the rival's steps after which an optimizer is as low as the rival.

    Between two lengths the logarithm of the share is a linear function of the logarithm of the
    loss. One that is as low at the smallest share already counts as needing that share.

    Args:
      finals: `[shares, runs]`, the optimizer's final losses.
      target: `[runs]`, the rival's.
      floor: below it a loss is as good as zero.
      shares: ascending.

    Returns:
      `[runs]`; infinite where no length is enough. A rival that diverged is reached at once.

    Example:
      >>> import numpy as np
      >>> from experiments.suite import shares
      >>> finals = np.array([[4.0], [1.0]])
      >>> float(shares.needed(finals, np.array([2.0]), 1e-3, (0.25, 1.0))[0])
      0.5
    """
    levels = np.maximum(finals, floor)
    goals = np.maximum(target, floor)
    return np.array(
        [_needed(levels[:, run], goal, shares) for run, goal in enumerate(goals)], np.float64
    )


def _needed(
    levels: np.ndarray,
    goal: float,
    shares: Sequence[float],
) -> float:
    reached = np.flatnonzero(levels <= goal)
    if not reached.size:
        return np.inf
    first = reached[0]
    if first == 0 or np.isinf(levels[first - 1]):
        return float(shares[first])
    above, below = np.log(levels[first - 1]), np.log(levels[first])
    way = (above - np.log(goal)) / (above - below)
    start, end = np.log(shares[first - 1]), np.log(shares[first])
    return float(np.exp(start + way * (end - start)))


def capped(needed: np.ndarray) -> np.ndarray:
    """Shares with `CAP` in the place of what was never reached."""
    return np.minimum(needed, CAP)
