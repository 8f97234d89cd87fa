"""The values that a setting takes in a sweep, and how they are written."""

import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from experiments import config_flags

JOINED = "/"  # between names, and between values, that change together
DIGITS = 6  # of numbers that are drawn

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
_DRAWN = re.compile(r"(log|uniform|int):([^:]+):([^:]+)")


class Drawn(NamedTuple):
    """A distribution: "log" (uniform in the logarithm), "uniform", or "int" (with both ends)."""

    kind: str
    low: float
    high: float

    def draw(
        self,
        name: str,
        seed: int,
        i: int,
    ) -> float | int:
        """Draw number i of the setting `name`. It depends on nothing else."""
        digest = hashlib.sha256(name.encode()).digest()
        rng = np.random.default_rng([seed, i, int.from_bytes(digest[:4], "big")])
        if self.kind == "int":
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        if self.kind == "uniform":
            return _rounded(rng.uniform(self.low, self.high))
        return _rounded(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def read(name: str, given: Any) -> list[Any] | Drawn:
    """The values of a setting.

    Args:
      name: of the setting; several names joined by "/" have values that are joined likewise.
      given: a list, or a text: `1e-3,3e-3` for these two; `0:3` for 0, 1 and 2; `0:10:5` for 0 and
        5; `log:1e-4:1e-1`, `uniform:0:1` or `int:1:8` for draws between two ends.

    Returns:
      A list of plain data, or a `Drawn`.

    Raises:
      ValueError: for values that are not possible.

    Example:
      >>> from experiments.sweeps import values
      >>> values.read("seed", "0:3"), values.read("optimizer", "lstm,rnnprop")
      ([0, 1, 2], ['lstm', 'rnnprop'])
    """
    if isinstance(given, str):
        found = _parsed(name, given)
    else:
        found = list(given) if isinstance(given, (list, tuple)) else [given]
    if isinstance(found, Drawn):
        return found
    if not found:
        raise ValueError(f"{name} must have a value, got {given!r}.")
    count = len(name.split(JOINED))
    for value in found:
        if count > 1 and len(_parts(value)) != count:
            raise ValueError(
                f"{name} must have {count} values joined by {JOINED!r} in each place, got "
                f"{value!r}."
            )
    return found


def _parsed(name: str, text: str) -> list[Any] | Drawn:
    drawn = _DRAWN.fullmatch(text)
    if drawn and JOINED not in name:
        return _distribution(name, text, *drawn.groups())
    whole = _RANGE.fullmatch(text)
    if whole:
        first, last, step = whole.groups()
        return list(range(int(first), int(last), int(step or 1)))
    if JOINED in name:
        return config_flags.split(text)
    return [config_flags.plain(part) for part in config_flags.split(text)]


def _distribution(
    name: str,
    text: str,
    kind: str,
    low: str,
    high: str,
) -> Drawn:
    try:
        found = Drawn(kind, float(low), float(high))
    except ValueError:
        raise ValueError(f"{name} must have two numbers behind {kind!r}, got {text!r}.") from None
    if not found.low < found.high or (kind == "log" and found.low <= 0):
        above = " above 0" if kind == "log" else ""
        raise ValueError(f"{name} must go from a number{above} to a larger one, got {text!r}.")
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [config_flags.plain(part) for part in value.split(JOINED)]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def settings(joined: str, value: Any) -> dict[str, Any]:
    """One place on an axis: a setting, or several that change together."""
    names = joined.split(JOINED)
    if len(names) == 1:
        return {joined: value}
    return dict(zip(names, _parts(value), strict=True))
