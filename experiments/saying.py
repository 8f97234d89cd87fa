"""What a sentence with numbers is, and the differences that stand in several of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.costs import Line
from experiments.keeping import Kept
from learned_opt.evaluation import report

COURSE = "test loss over the run"


class Measured(NamedTuple):
    """What numbers are taken from.

    Attributes:
      figures: from `keeping.read`.
      suites: from `numbers.suites`.
      costs: from `costs.read`.
    """

    figures: dict[str, Kept]
    suites: list[dict[str, Any]]
    costs: list[Line]


class Sentence(NamedTuple):
    """A sentence with numbers.

    Attributes:
      page: its page, from the root of the repository.
      words: the sentence, or a part of it, with {NAME} in the place of each number.
      numbers: what stands there, by name.
    """

    page: str
    words: str
    numbers: Callable[[Measured], Mapping[str, str]]


def difference(against: Mapping[str, Any], verdict: str) -> str:
    """A paired difference; raises ValueError where the verdict is not what the sentence says."""
    if against["verdict"] != verdict:
        raise ValueError(
            f"a sentence says {verdict!r} where {against['verdict']!r} was measured: change it on "
            "its page and in experiments/sentences.py."
        )
    return report.held_against(dict(against), "it").removeprefix(f"{verdict} it by ")


def held(
    figure: str,
    case: str,
    ours: str,
    **others: tuple[str, str],
) -> Callable[[Measured], dict[str, str]]:
    """Paired differences of an optimizer to others: of each its name and the verdict."""

    def numbers(measured: Measured) -> dict[str, str]:
        against = measured.figures[figure]["cases"][case]["rows"][ours]["against"]
        return {
            name: difference(against[other], verdict) for name, (other, verdict) in others.items()
        }

    return numbers


def over_the_run(
    figure: str,
    ours: str,
    other: str,
    verdict: str,
    **cases: str,
) -> Callable[[Measured], dict[str, str]]:
    """Paired differences of the mean test loss over the run, by case."""

    def numbers(measured: Measured) -> dict[str, str]:
        found = {}
        for name, case in cases.items():
            row = measured.figures[figure]["cases"][case]["rows"][ours]
            found[name] = difference(row["also"][COURSE][other], verdict)
        return found

    return numbers
