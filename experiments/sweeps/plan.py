"""What a sweep is, as data: the settings that vary, and the units that follow from them."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import config_flags
from learned_opt import _checks, _files, _fingerprint

PLAN = "sweep.json"
# Where things lie on a machine is no part of what a unit computes, and neither is its slot.
PLACES = ("data_dir", "train_dir", "tuned_dir")
SLOT = "{slot}"
JOINED = "/"  # between names, and between values, that change together
DIGITS = 6  # of numbers that are drawn

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
_DRAWN = re.compile(r"(log|uniform|int):([^:]+):([^:]+)")

Settings = dict[str, Any]


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


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run of a program with all its settings.

    Attributes:
      program: the module that is run.
      settings: dict from a flag, a place of the recipe or `env.NAME` to plain data.
    """

    program: str
    settings: Settings

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What it computes, as plain data: its identity."""
        settings = {}
        for name, value in self.settings.items():
            if name not in PLACES and SLOT not in str(value):
                settings[name] = value
        return {"program": self.program, "settings": settings}

    @functools.cached_property
    def name(self) -> str:
        """The name of its folder, the fingerprint of its configuration."""
        return _fingerprint.of_arrays((), json.dumps(self.config, sort_keys=True))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
      program: the module that each unit runs.
      fixed: the settings that all units have.
      over: grids, one after the other. A grid is a dict from a name, or from names that change
        together and are joined by "/", to its values: a list, or a text as `values` reads it.
      random: how many draws there are of the settings that are drawn; 0 where none is.
      random_seed: of the draws.

    Raises:
      ValueError: for values that are not possible.
    """

    program: str
    fixed: Mapping[str, Any]
    over: Sequence[Mapping[str, Any]]
    random: int = 0
    random_seed: int = 0

    def __post_init__(self) -> None:
        _checks.positive_int("random", self.random, minimum=0)
        drawn = list(self.drawn)
        if drawn and not self.random:
            raise ValueError(
                f"{drawn[0]} is drawn at random, and random is 0: say how many draws with "
                "--random=20."
            )
        if self.random and not drawn:
            raise ValueError(
                f"random is {self.random}, and no setting is drawn: give one a range, as in "
                "--over=learning_rate=log:1e-4:1e-1."
            )
        for name in self.names:
            if name in self.fixed:
                raise ValueError(f"{name} is both fixed and varied: leave out one of the two.")

    @functools.cached_property
    def names(self) -> list[str]:
        """The settings that vary."""
        found: dict[str, None] = {}
        for grid in self.over:
            names = [name for joined in grid for name in joined.split(JOINED)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{name} is varied twice: give all its values at once.")
            found.update(dict.fromkeys(names))
        return list(found)

    @property
    def drawn(self) -> dict[str, Drawn]:
        """The settings that are drawn at random."""
        found = {}
        for grid in self.over:
            for name, given in grid.items():
                of_name = values(name, given)
                if isinstance(of_name, Drawn):
                    found[name] = of_name
        return found

    @functools.cached_property
    def units(self) -> list[Unit]:
        """All units, each once: every draw in every place of every grid."""
        found: dict[str, Unit] = {}
        for grid in self.over or [{}]:
            for settings in self._of_grid(grid):
                unit = Unit(self.program, {**self.fixed, **settings})
                found.setdefault(unit.name, unit)
        return list(found.values())

    def _of_grid(self, grid: Mapping[str, Any]) -> list[Settings]:
        axes, drawn = [], {}
        for joined, given in grid.items():
            of_name = values(joined, given)
            if isinstance(of_name, Drawn):
                drawn[joined] = of_name
            else:
                axes.append([_settings(joined, value) for value in of_name])
        draws = [{}]
        if drawn:
            draws = [self._draw(drawn, i) for i in range(self.random)]
        found = []
        for parts in itertools.product(draws, *axes):
            found.append({name: value for part in parts for name, value in part.items()})
        return found

    def _draw(self, drawn: Mapping[str, Drawn], i: int) -> Settings:
        return {name: of_name.draw(name, self.random_seed, i) for name, of_name in drawn.items()}

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; `from_plain` reads it."""
        return {
            "program": self.program,
            "set": dict(self.fixed),
            "over": [dict(grid) for grid in self.over],
            "random": self.random,
            "random_seed": self.random_seed,
        }


def from_plain(plain: Mapping[str, Any], where: str) -> Sweep:
    """The sweep that JSON holds.

    Args:
      plain: a dict with `over`, a grid or a list of grids, and what else `Sweep.plain` has.
      where: it comes from, for messages.

    Raises:
      ValueError: for what is no sweep.
    """
    known = ("program", "set", "over", "random", "random_seed")
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} must hold a dict with {', '.join(known)}, got {plain!r}.")
    for name in plain:
        _checks.choice(f"entry of {where}:", name, known)
    over = plain.get("over", [])
    if isinstance(over, Mapping):
        over = [over]
    return Sweep(
        plain.get("program", "experiments.train"),
        plain.get("set", {}),
        over,
        plain.get("random", 0),
        plain.get("random_seed", 0),
    )


def values(name: str, given: Any) -> list[Any] | Drawn:
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
      >>> from experiments.sweeps import plan
      >>> plan.values("seed", "0:3"), plan.values("optimizer", "lstm,rnnprop")
      ([0, 1, 2], ['lstm', 'rnnprop'])
    """
    if isinstance(given, str):
        found = _read(name, given)
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


def _read(name: str, text: str) -> list[Any] | Drawn:
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


def _settings(joined: str, value: Any) -> Settings:
    """One place on an axis: a setting, or several that change together."""
    names = joined.split(JOINED)
    if len(names) == 1:
        return {joined: value}
    return dict(zip(names, _parts(value), strict=True))


def part_of(units: Sequence[Unit], text: str) -> list[Unit]:
    """The units of one part of several.

    Args:
      units: all of them.
      text: `i/n` for part i, from 1 to n.

    Raises:
      ValueError: for a text that names no part.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"parts must be i/n with i from 1 to n, as in 1/8, got {text!r}.")
    return list(units[int(match[1]) - 1 :: int(match[2])])


def read(workdir: str) -> Sweep:
    """The sweep that a folder holds.

    Raises:
      FileNotFoundError: where there is none.
    """
    path = os.path.join(workdir, PLAN)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"there is no sweep in {workdir}: say what is swept with --over or --file."
        )
    return from_plain(_files.read_json(path), path)


def claim(workdir: str, sweep: Sweep) -> None:
    """Makes a folder this sweep's, or checks that it is.

    A sweep can grow: what is in the folder may be a part of what is asked for now.

    Raises:
      ValueError: where the folder holds another sweep.
    """
    path = os.path.join(workdir, PLAN)
    if os.path.exists(path):
        there = read(workdir)
        if there.plain() == sweep.plain():
            return
        asked = {unit.name for unit in sweep.units}
        missing = [unit for unit in there.units if unit.name not in asked]
        if missing:
            raise ValueError(
                f"workdir {workdir} belongs to a sweep that also has {shown(missing[0])}: choose "
                "another workdir, or ask for all that it has and more."
            )
    elif os.path.isdir(workdir) and os.listdir(workdir):
        raise ValueError(
            f"workdir {workdir} is not empty, and holds no sweep: choose another workdir."
        )
    _files.write_json(path, sweep.plain())


def shown(unit: Unit, names: Sequence[str] | None = None) -> str:
    """A unit in words: its settings, or those of some names."""
    names = list(unit.settings) if names is None else names
    pairs = [f"{name}={text(unit.settings[name])}" for name in names if name in unit.settings]
    return " ".join([unit.program, *pairs])


def text(value: Any) -> str:
    """A value as a flag has it: true and false in small letters, a list with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(text, value))
    return str(value)
