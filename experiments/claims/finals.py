"""The final losses of one case as docs/measured keeps them, and paired differences between them."""

from typing import Any

from experiments.learned import without_seed
from learned_opt.evaluation import comparison, report, statistics
from learned_opt.evaluation.statistics import Difference

Summary = dict[str, Any]  # a `statistics.Summary` as a dict


class Finals:
    """One case of a figure.

    A name is that of an optimizer, or of a training with several seeds; the latter is then over
    seeds and runs.
    """

    def __init__(self, case: dict[str, Any], measure: str = ""):
        """Looks into a case of `keeping.read`.

        Args:
          case: the case.
          measure: another measure than the final loss by which optimizers were held against each
            other; a training with several seeds has none.
        """
        self._rows: report.Rows = case["rows"]
        self._trainings: dict[str, Any] = {} if measure else case["trainings"]
        self._final: str | None = measure or case["about"]["final"]
        self._measure = measure
        self.heading: str = case["about"]["heading"] + (f", {measure}" if measure else "")

    def has(self, name: str) -> bool:
        """Whether an optimizer was measured."""
        return name in self._trainings or name in self._rows

    def summary(self, name: str) -> Summary:
        """An optimizer's final loss, with its interval."""
        if name in self._trainings:
            return self._trainings[name]["summary"]
        return report.last(self._rows[name], self._final)

    def diverged(self, name: str) -> tuple[float, int]:
        """The share of an optimizer's runs that diverged, and how many runs there are."""
        row = self._rows[name]
        return row["diverged"], row["runs"]

    def names(self) -> list[str]:
        """The optimizers, and the trainings in the place of their seeds."""
        return list(dict.fromkeys(self._training_of(name) for name in self._rows))

    def _training_of(self, name: str) -> str:
        training = without_seed(name)
        return training if training in self._trainings else name

    def printed(self, name: str) -> float | None:
        """What the paper prints of an optimizer, where it does."""
        for seed, row in self._rows.items():
            if self._training_of(seed) == name:
                return row["paper"]
        return None

    def is_tuned(self, name: str) -> bool:
        """Whether it is a baseline that was tuned."""
        return name in self._rows and self._rows[name]["kind"] == comparison.TUNED

    def best_baseline(self) -> str | None:
        """The tuned baseline that ends lowest."""
        return report.best_baseline(self._rows, self._final)

    def num_seeds(self, name: str) -> int | None:
        """How many seeds of meta-training a name has; None for what is not learned."""
        if name in self._trainings:
            return len(self._trainings[name]["seeds"])
        return 1 if self._rows[name]["kind"] == comparison.LEARNED else None

    def difference(self, ours: str, theirs: str) -> Difference | None:
        """The paired difference of two optimizers; None where nothing is known of it.

        Two that were never held against each other both were against a third one. The sum of the
        two differences has an interval whose width is at most the sum of the two widths: it covers
        as they do, and is wider than their own would be.
        """
        found = self._direct(ours, theirs)
        return found or self._through_another(ours, theirs)

    def _direct(self, ours: str, theirs: str) -> Difference | None:
        kept = self._against(ours).get(theirs)
        if kept:
            return _difference(kept)
        kept = self._against(theirs).get(ours)
        return _negative(_difference(kept)) if kept else None

    def _against(self, name: str) -> dict[str, Any]:
        if name in self._trainings:
            return self._trainings[name]["against"]
        row = self._rows.get(name, {"against": {}})
        return row.get("also", {}).get(self._measure, {}) if self._measure else row["against"]

    def _through_another(self, ours: str, theirs: str) -> Difference | None:
        sums = []
        for other in (*self._trainings, *self._rows):
            first, second = self._direct(ours, other), self._direct(other, theirs)
            if first and second:
                sums.append(_sum(first, second))
        return min(sums, key=lambda found: found.high - found.low, default=None)


def is_enough(difference: Difference) -> bool:
    """Whether there are runs enough for a verdict."""
    return difference.num_runs >= statistics.LEAST_RUNS


def in_words(difference: Difference, other: str) -> str:
    """A difference to another optimizer, as the page of numbers has it."""
    plain = {**difference._asdict(), "verdict": difference.verdict}
    return report.caution(difference.num_runs) + report.held_against(plain, other)


def _difference(kept: dict[str, Any]) -> Difference:
    """What a file holds; numbers that are not finite are texts there."""
    mean, low, high, lower = (float(kept[key]) for key in ("mean", "low", "high", "lower"))
    return Difference(mean, low, high, lower, kept["num_runs"])


def _negative(found: Difference) -> Difference:
    return found._replace(mean=-found.mean, low=-found.high, high=-found.low)


def _sum(first: Difference, second: Difference) -> Difference:
    mean = first.mean + second.mean
    low, high = first.low + second.low, first.high + second.high
    # In how many runs ours is lower cannot be told from two differences.
    return Difference(mean, low, high, float("nan"), min(first.num_runs, second.num_runs))
