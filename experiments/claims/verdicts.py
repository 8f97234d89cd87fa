"""What a claim comes down to: checks of final losses, each with a rule that gives its verdict."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from experiments.claims import finals
from experiments.claims.finals import Finals
from experiments.keeping import Kept
from experiments.learned import without_seed
from learned_opt.evaluation import report, statistics
from learned_opt.evaluation.statistics import Difference

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not settled", "not measured"

# "Comparable" and "equal" are within this share of the other's loss. The papers name no number.
MARGIN = 0.1
# The loss of guessing among ten classes; an optimizer that ends above 95 % of it has not trained.
GUESSING = math.log(10)
# What stands behind a verdict on two cases. docs/measured keeps no single runs, and cases of other
# data have none in common: so nothing is taken run by run there.
UNPAIRED = "; unpaired"

Results = dict[str, Kept]  # by the name of the figure


class Judged(NamedTuple):
    """What a check has found.

    Attributes:
      verdict: one of the four.
      words: our numbers.
    """

    verdict: str
    words: str


def together(verdicts: Iterable[str]) -> str:
    """The verdict of several checks that a claim needs all of.

    One that does not hold decides. Without it, all of them have to be measured and to hold.
    """
    found = set(verdicts)
    if FAILS in found:
        return FAILS
    if found <= {MISSING}:
        return MISSING
    return HOLDS if found == {HOLDS} else OPEN


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that one case of a figure decides.

    Attributes:
      case: its folder.
      ours: the optimizer that it is about.
      measure: by what it is decided, where that is not the final loss.
    """

    case: str
    ours: str
    measure: str = dataclasses.field(default="", kw_only=True)

    def judge(self, results: Results, figure: str) -> Judged:
        """The verdict, from what was measured."""
        cases = results[figure]["cases"] if figure in results else {}
        if self.case not in cases:
            return Judged(MISSING, f"{self.case}: {self.ours} was not measured")
        case = Finals(cases[self.case], self.measure)
        if not case.has(self.ours):
            return Judged(MISSING, f"{case.heading}: {self.ours} was not measured")
        verdict, words = self._judge(case)
        level = report.interval(case.summary(self.ours))
        return Judged(verdict, f"{case.heading}: {self.ours} {level}; {words}")

    def _judge(self, case: Finals) -> Judged:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Against(Check):
    """A check of one optimizer against each of some others.

    Attributes:
      others: those of them that were measured count; none of them is no verdict.
    """

    others: tuple[str, ...]

    def _judge(self, case: Finals) -> Judged:
        found = {}
        for other in self.others:
            difference = case.difference(self.ours, other) if case.has(other) else None
            if difference:
                found[other] = difference
        if not found:
            return Judged(MISSING, f"not held against {', '.join(self.others)}")
        verdicts = {}
        for other, difference in found.items():
            enough = finals.is_enough(difference)
            verdicts[other] = self._verdict(difference, case, other) if enough else OPEN
        words = self._words(found, verdicts)
        return Judged(together(verdicts.values()), f"{words}{self._beside(case, found)}")

    def _beside(self, case: Finals, found: dict[str, Difference]) -> str:
        """Which rivals were not measured, and the best of all baselines where it is no rival."""
        text = ""
        missing = [other for other in self.others if other not in found and other != self.ours]
        if missing:
            text += f"; not measured: {', '.join(missing)}"
        best = case.best_baseline()
        if best in (None, self.ours, *found) or not any(map(case.is_tuned, found)):
            return text
        difference = case.difference(self.ours, best)
        if difference is None:
            return text
        words = finals.in_words(difference, best)
        return f"{text}; the best of all baselines here is none of these: {words}"

    def _verdict(
        self,
        difference: Difference,
        case: Finals,
        other: str,
    ) -> str:
        raise NotImplementedError

    def _words(self, found: dict[str, Difference], verdicts: dict[str, str]) -> str:
        """Those that speak against it; where none does, the one that comes nearest to that."""
        against = [other for other in found if verdicts[other] != HOLDS]
        if against:
            return "; ".join(finals.in_words(found[other], other) for other in against)
        nearest = max(found, key=lambda other: self._height(found[other]))
        text = finals.in_words(found[nearest], nearest)
        return f"{text}, the nearest of {', '.join(found)}" if len(found) > 1 else text

    def _height(self, difference: Difference) -> float:
        """How near a difference comes to speaking against it."""
        return difference.mean


class Below(Against):
    """Ours ends below each of the others: the interval of the difference is below zero."""

    def _verdict(
        self,
        difference: Difference,
        case: Finals,
        other: str,
    ) -> str:
        return _sided(difference, statistics.BELOW, statistics.ABOVE)


class Above(Against):
    """Ours ends above each of the others."""

    def _verdict(
        self,
        difference: Difference,
        case: Finals,
        other: str,
    ) -> str:
        return _sided(difference, statistics.ABOVE, statistics.BELOW)

    def _height(self, difference: Difference) -> float:
        return -difference.mean


def _sided(
    difference: Difference,
    right: str,
    wrong: str,
) -> str:
    return {right: HOLDS, wrong: FAILS}.get(difference.verdict, OPEN)


class Comparable(Against):
    """Ours ends lower than each of the others, or less than the margin above it."""

    def _verdict(
        self,
        difference: Difference,
        case: Finals,
        other: str,
    ) -> str:
        margin = MARGIN * float(case.summary(other)["mean"])
        return _inside(difference.low, difference.high, -math.inf, margin)


class Equal(Against):
    """Ours ends less than the margin away from each of the others."""

    def _verdict(
        self,
        difference: Difference,
        case: Finals,
        other: str,
    ) -> str:
        margin = MARGIN * float(case.summary(other)["mean"])
        return _inside(difference.low, difference.high, -margin, margin)

    def _height(self, difference: Difference) -> float:
        return abs(difference.mean)


@dataclasses.dataclass(frozen=True)
class Level(Check):
    """Our final loss lies between two numbers, with its whole interval."""

    least: float = -math.inf
    most: float = math.inf

    def _judge(self, case: Finals) -> Judged:
        summary = case.summary(self.ours)
        low, high = float(summary["low"]), float(summary["high"])
        parts = []
        if self.least > -math.inf:
            parts.append(f"at least {self.least:.3g}")
        if self.most < math.inf:
            parts.append(f"at most {self.most:.3g}")
        asked = f"asked: {' and '.join(parts)}"
        return Judged(_inside(low, high, self.least, self.most), asked)


@dataclasses.dataclass(frozen=True)
class Lower(Check):
    """Our final loss is lower in one case than in another: the two intervals lie apart, unpaired.

    Attributes:
      case: where it is lower.
      than: the folder of the other case.
    """

    than: str

    def judge(self, results: Results, figure: str) -> Judged:
        """The verdict, from what was measured."""
        cases = results[figure]["cases"] if figure in results else {}
        summaries = []
        for folder in (self.case, self.than):
            if folder not in cases or not Finals(cases[folder]).has(self.ours):
                return Judged(MISSING, f"{folder}: {self.ours} was not measured")
            summaries.append(Finals(cases[folder]).summary(self.ours))
        here, there = summaries
        verdict = _apart(_interval(here), _interval(there))
        words = f"{self.ours} {report.interval(here)} on {self.case}, {report.interval(there)} on "
        return Judged(verdict, f"{words}{self.than}{UNPAIRED}")


def _interval(summary: finals.Summary) -> tuple[float, float]:
    return float(summary["low"]), float(summary["high"])


def _apart(lower: tuple[float, float], higher: tuple[float, float]) -> str:
    """Whether one interval lies below another, above it, or neither."""
    if lower[1] < higher[0]:
        return HOLDS
    return FAILS if lower[0] > higher[1] else OPEN


@dataclasses.dataclass(frozen=True)
class MoreThan(Check):
    """The gain over one rival, as a share of its loss, is larger in one case than in another.

    Each gain is paired run by run. The two cases are of other data and have runs of their own, so
    they are held against each other unpaired: their intervals must lie apart.

    Attributes:
      case: where it is larger.
      than: the folder of the other case.
      rival: whose loss the gain is a share of.
    """

    than: str
    rival: str

    def judge(self, results: Results, figure: str) -> Judged:
        """The verdict, from what was measured."""
        cases = results[figure]["cases"] if figure in results else {}
        gains = []
        for folder in (self.case, self.than):
            gain = _gain(Finals(cases[folder], self.measure), self) if folder in cases else None
            if gain is None:
                return Judged(MISSING, f"{folder}: {self.ours} or {self.rival} was not measured")
            gains.append(gain)
        (mean, low, high), (than_mean, than_low, than_high) = gains
        words = (
            f"{self.ours} against {self.rival}: {_share(mean, low, high)} on {self.case}, "
            f"{_share(than_mean, than_low, than_high)} on {self.than}{UNPAIRED}"
        )
        return Judged(_apart((than_low, than_high), (low, high)), words)


def _share(
    mean: float,
    low: float,
    high: float,
) -> str:
    """A gain in words."""
    if mean < 0:
        return f"above by {-mean:.0%} [{-high:.0%}, {-low:.0%}]"
    return f"below by {mean:.0%} [{low:.0%}, {high:.0%}]"


def _gain(case: Finals, check: MoreThan) -> tuple[float, float, float] | None:
    """By what share of the rival's mean loss ours is lower, and its interval."""
    if not (case.has(check.ours) and case.has(check.rival)):
        return None
    difference = case.difference(check.ours, check.rival)
    if difference is None or not finals.is_enough(difference):
        return None
    level = float(case.summary(check.rival)["mean"])
    return -difference.mean / level, -difference.high / level, -difference.low / level


@dataclasses.dataclass(frozen=True)
class NeverDiverges:
    """No run of an optimizer diverges, of any seed of its training, in any case of any figure."""

    ours: str

    def judge(self, results: Results, figure: str) -> Judged:
        """The verdict, over all figures."""
        del figure
        runs, cases, diverged = 0, 0, []
        for kept in results.values():
            for folder, case in kept.get("cases", {}).items():
                seeds = [name for name in case["rows"] if without_seed(name) == self.ours]
                cases += bool(seeds)
                for name in seeds:
                    share, count = Finals(case).diverged(name)
                    runs += count
                    if share:
                        diverged.append(f"{share:.0%} on {folder}")
        if not cases:
            return Judged(MISSING, f"{self.ours} was not measured")
        words = f"{self.ours}, {runs:,} runs in {cases} cases: {', '.join(diverged) or 'none'}"
        return Judged(FAILS if diverged else HOLDS, words)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A number that `experiments.watching` has of an optimizer lies between two others.

    Attributes:
      number: its name in the result.
    """

    number: str
    least: float = -math.inf
    most: float = math.inf

    def judge(self, results: Results, figure: str) -> Judged:
        """The verdict, by the number's interval."""
        numbers: dict[str, Any] = results.get(figure, {}).get("numbers", {})
        if self.number not in numbers:
            return Judged(MISSING, f"{self.number} was not measured")
        summary = numbers[self.number]
        low, high = float(summary["low"]), float(summary["high"])
        bound = f"above {self.least:.3g}" if self.most == math.inf else f"below {self.most:.3g}"
        words = f"{self.number}: {report.interval(summary)}, asked: {bound}"
        if results[figure]["config"]["num_runs"] < statistics.LEAST_RUNS:
            return Judged(OPEN, f"{words}; {report.caution(results[figure]['config']['num_runs'])}")
        return Judged(_inside(low, high, self.least, self.most), words)


def _inside(
    low: float,
    high: float,
    least: float,
    most: float,
) -> str:
    """Whether an interval lies between two bounds, beyond one of them, or neither."""
    if (low >= most and most < math.inf) or (high <= least and least > -math.inf):
        return FAILS
    above = low > least or least == -math.inf
    below = high < most or most == math.inf
    return HOLDS if above and below else OPEN


AnyCheck = Check | NeverDiverges | Seen
