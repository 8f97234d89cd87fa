"""What a sweep is, as data: the settings that vary, and the units that follow from them."""

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweeps import values
from learned_opt import _checks, _files, _fingerprint

PLAN = "sweep.json"
# Where things lie on a machine is no part of what a unit computes, and neither is its slot.
PLACES = ("data_dir", "train_dir", "tuned_dir")
SLOT = "{slot}"

Settings = dict[str, Any]


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
        together and are joined by "/", to its values: a list, or a text as `values.read` has it.
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
            names = [name for joined in grid for name in joined.split(values.JOINED)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{name} is varied twice: give all its values at once.")
            found.update(dict.fromkeys(names))
        return list(found)

    @property
    def drawn(self) -> dict[str, values.Drawn]:
        """The settings that are drawn at random."""
        found = {}
        for grid in self.over:
            for name, given in grid.items():
                of_name = values.read(name, given)
                if isinstance(of_name, values.Drawn):
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
            of_name = values.read(joined, given)
            if isinstance(of_name, values.Drawn):
                drawn[joined] = of_name
            else:
                axes.append([values.settings(joined, value) for value in of_name])
        draws = [{}]
        if drawn:
            draws = [self._draw(drawn, i) for i in range(self.random)]
        found = []
        for parts in itertools.product(draws, *axes):
            found.append({name: value for part in parts for name, value in part.items()})
        return found

    def _draw(self, drawn: Mapping[str, values.Drawn], i: int) -> Settings:
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
    """A value as a flag has it: true and false in small letters, a list with commas, else JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(text, value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)
