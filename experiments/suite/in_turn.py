"""One optimizer on one task: its rate is tuned, then it has its runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import measuring
from experiments.suite import shares
from experiments.suite.families import Built
from experiments.suite.kept import Done, Settings
from experiments.suite.optimizers import CONSTANT, Optimizer
from experiments.suite.tasks import Task
from learned_opt.evaluation import baselines
from learned_opt.meta import evaluating

SAME = 1e-6  # rates that differ by less, relatively, are one
# Where the best rate lies at the end of its grid, the grid goes on beyond it.
OCTAVES_BEYOND = 3
MOST_EXTENSIONS = 3

Measured = dict[str, np.ndarray]  # `[seeds]` each


class Choice(NamedTuple):
    """A learning rate, and how it falls: the name of one of `Optimizer.decays`."""

    decay: str
    learning_rate: float


class Found(NamedTuple):
    """What a search among learning rates has found.

    Attributes:
      learning_rate: the best one.
      final_loss: its mean final loss.
      tried: dict from every rate that was tried to that mean.
    """

    learning_rate: float
    final_loss: float
    tried: dict[float, float]


@dataclasses.dataclass(frozen=True)
class InTurn:
    """One optimizer on one task: one rate after another, one length after another.

    Attributes:
      task: the task.
      built: its family, and what is measured of it.
      optimizer: the optimizer.
      settings: of all runs.
      advance: is told of the work that is done, see `running.work`.
    """

    task: Task
    built: Built
    optimizer: Optimizer
    settings: Settings
    advance: Callable[[float], Any]

    def run(self) -> Done:
        """Tunes it where there is something to tune, and runs it on the problems reported."""
        tuned = None if self.optimizer.decays is None else self._tuned()
        choice = None if tuned is None else Choice(tuned["decay"], tuned["learning_rate"])
        curves = {}
        measures: Measured = {}
        for share in self.lengths:
            num_steps = shares.horizon(self.horizon, share)
            is_measured = share == 1 and bool(self.built.measures)
            curves[share], measured = self.evaluated(choice, num_steps, is_measured)
            measures.update(measured or {})
        record = {
            "horizon": self.horizon,
            "tuned": tuned,
            "constant": not self.optimizer.scheduled and (not tuned or tuned["decay"] == CONSTANT),
        }
        return Done(curves, measures, record)

    @property
    def horizon(self) -> int:
        """The steps of a whole run."""
        return self.task.horizon(self.settings.num_steps)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Of the runs that are reported, in shares of the horizon."""
        return shares.SHARES if self.optimizer.scheduled else (1.0,)

    @property
    def rates(self) -> list[float]:
        """The grid that a rate is searched in, in the units of the task."""
        return [rate * self.task.factor for rate in self.optimizer.rates]

    def evaluated(
        self,
        choice: Choice | None,
        num_steps: int,
        is_measured: bool,
    ) -> tuple[np.ndarray, Measured | None]:
        """The runs that are reported.

        Args:
          choice: of what is tuned.
          num_steps: how long they are.
          is_measured: whether something is measured at their end.

        Returns:
          `(losses [seeds, num_steps + 1], measures)`.
        """
        build = self.optimizer.build
        if choice is not None:
            build = functools.partial(self.optimizer.decays[choice.decay], choice.learning_rate)
        measure = self.built.measures if is_measured else None
        key, _ = measuring.keys(self.settings.evaluation_seed)
        losses, measured = evaluating.evaluate_with(
            measure, build(num_steps), self.built.family, key, num_steps, self.settings.seeds
        )
        self.done(self.settings.seeds * num_steps)
        return jax.tree.map(np.asarray, (losses, measured))

    def searched(self, decay: str, rates: list[float]) -> Found:
        """The best rate of a grid.

        Args:
          decay: how it falls.
          rates: the grid.
        """
        _, key = measuring.keys(self.settings.evaluation_seed)
        tuned = baselines.tune(
            self.optimizer.decays[decay],
            self.built.family,
            key,
            self.horizon,
            self.settings.tune_runs,
            rates,
            last=shares.num_last(self.horizon),
            on_jobs=lambda jobs: self.done(jobs * self.horizon),
            refine=self.optimizer.refine,
        )
        tried = dict(zip(tuned.rates.tolist(), tuned.grid.tolist(), strict=True))
        return Found(tuned.learning_rate, tuned.final_loss, tried)

    def done(self, num_steps: int) -> None:
        """So many steps are done."""
        self.advance(num_steps * self.task.milliseconds)

    def _tuned(self) -> dict[str, Any]:
        """The best decay with its best rate, as plain data, and what was tried."""
        tuned = {decay: self._tuned_with(decay) for decay in self.optimizer.decays}
        best = min(tuned, key=lambda decay: tuned[decay]["final_loss"])
        return {
            "decay": best,
            "learning_rate": tuned[best]["learning_rate"],
            "at_the_end_of_the_grid": tuned[best]["at_the_end_of_the_grid"],
            "decays": tuned,
        }

    def _tuned_with(self, decay: str) -> dict[str, Any]:
        """The best rate of a grid, and beyond it as long as the best one lies at its end."""
        found = self.searched(decay, self.rates)
        tried = dict(found.tried)
        at_end = _side(found.learning_rate, self.rates)
        for _ in range(MOST_EXTENSIONS):
            if not at_end:
                break
            best = found.learning_rate
            further = sorted(best * 2.0 ** (at_end * k) for k in range(OCTAVES_BEYOND + 1))
            found = self.searched(decay, further)
            tried.update(found.tried)
            at_end = _side(found.learning_rate, further) if found.learning_rate != best else 0
        return {
            "learning_rate": found.learning_rate,
            "final_loss": found.final_loss,
            "at_the_end_of_the_grid": bool(at_end),
            "rates": sorted(tried),
            "grid": [tried[rate] for rate in sorted(tried)],
        }


def _side(rate: float, rates: list[float]) -> int:
    """1 for a rate at the upper end of a grid, -1 at the lower one, 0 between them."""
    if abs(rate / max(rates) - 1) < SAME:
        return 1
    return -1 if abs(rate / min(rates) - 1) < SAME else 0
