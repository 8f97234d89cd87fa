"""What a program can be asked for, and the command of a unit."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import NamedTuple
from xml.etree import ElementTree

from experiments import recipes
from experiments.recipe import Recipe
from experiments.sweeps import plan
from experiments.sweeps.plan import Sweep, Unit
from learned_opt import _checks

FOLDERS = ("workdir", "output")  # flags that say where results go
ENVIRONMENT = "env."
CHANGES = "set"  # the flag of `experiments.train` for places of its recipe
_NUMBERS = {"int": int, "float": float}
_FIELDS = [field.name for field in dataclasses.fields(Recipe)]


class Program(NamedTuple):
    """A program of absl.

    Attributes:
      name: of its module.
      flags: dict from each flag to its type.
      folder: the flag that says where its results go.
    """

    name: str
    flags: dict[str, str]
    folder: str

    @property
    def has_recipe(self) -> bool:
        """Whether places of a recipe are settings, too."""
        return {"recipe", CHANGES} <= self.flags.keys()


@functools.cache
def describe(name: str) -> Program:
    """What a program tells of its flags.

    Args:
      name: of its module, such as `experiments.train`.

    Raises:
      ValueError: for a module that is not there, or is no such program.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise ValueError(
            f"there is no program {name!r}: give a module that python -m runs, such as "
            "experiments.train or benchmarks.update."
        )
    command = [sys.executable, "-m", name, "--helpxml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    flags = _flags(done.stdout)
    folder = next((flag for flag in FOLDERS if flag in flags), None)
    if folder is None:
        said = done.stderr.strip().splitlines()
        why = f" ({said[-1]})" if said and not flags else ""
        raise ValueError(
            f"{name} has neither --{' nor --'.join(FOLDERS)}{why}: a program to sweep is told "
            "where its results go."
        )
    return Program(name, flags, folder)


def _flags(text: str) -> dict[str, str]:
    """The type of each flag, from what --helpxml prints; without those that every program has."""
    try:
        root = ElementTree.fromstring(text[text.index("<?xml") :])
    except (ElementTree.ParseError, ValueError):
        return {}
    found = {}
    for flag in root.iter("flag"):
        if not flag.findtext("file", "").startswith("absl"):
            found[flag.findtext("name", "")] = flag.findtext("type", "")
    return found


def check(sweep: Sweep) -> Program:
    """Checks every unit of a sweep as far as that is possible before it runs.

    Raises:
      ValueError: for a setting that the program does not have, or for a value that is none.
    """
    program = describe(sweep.program)
    for name in [*sweep.fixed, *sweep.names]:
        _check_name(program, name)
    for unit in sweep.units:
        for name, value in unit.settings.items():
            _check_value(program, name, value)
        if program.has_recipe:
            _check_recipe(unit, _changes(program, unit))
    return program


def _check_name(program: Program, name: str) -> None:
    if name == program.folder:
        raise ValueError(
            f"{name} cannot be swept, as each unit has a folder of its own: leave it out."
        )
    if name in program.flags or name.startswith(ENVIRONMENT):
        return
    field = name.partition(".")[0]
    known = [*program.flags, *(_FIELDS if program.has_recipe else ())]
    _checks.choice(f"setting of {program.name}:", field, known)


def _check_value(
    program: Program,
    name: str,
    value: object,
) -> None:
    number = _NUMBERS.get(program.flags.get(name, ""))
    if number is None or value is None or plan.SLOT in str(value):
        return
    try:
        number(plan.text(value))
    except ValueError:
        kind = "a whole number" if number is int else "a number"
        raise ValueError(f"{name} of {program.name} must be {kind}, got {value!r}.") from None


def _check_recipe(unit: Unit, changes: dict) -> None:
    name = unit.settings.get("recipe")
    if name is None:
        raise ValueError(f"{unit.program} needs a recipe: --set=recipe=NAME.")
    recipe = recipes.RECIPES[_checks.choice("recipe", name, recipes.RECIPES)]
    recipe.changed(changes).learned_optimizer()


def _changes(program: Program, unit: Unit) -> dict:
    """The settings that are places of the recipe, and no flags."""
    found = {}
    for name, value in unit.settings.items():
        if name not in program.flags and not name.startswith(ENVIRONMENT):
            found[name] = value
    return found


def command(
    program: Program,
    unit: Unit,
    folder: str,
    slot: int,
) -> list[str]:
    """The command that carries a unit out, with results in a folder."""
    given = []
    for name, value in unit.settings.items():
        if name in program.flags and value is not None:
            given.append(f"--{name}={_filled(value, slot)}")
    for name, value in _changes(program, unit).items():
        given.append(f"--{CHANGES}={name}={json.dumps(value)}")
    started = [sys.executable, "-m", "experiments.sweeps.unit", program.name]
    return [*started, *given, f"--{program.folder}={folder}"]


def environment(unit: Unit, slot: int) -> dict[str, str]:
    """The environment of a unit: that of the sweep, and its `env.` settings."""
    found = dict(os.environ)
    for name, value in unit.settings.items():
        if name.startswith(ENVIRONMENT) and value is not None:
            found[name.removeprefix(ENVIRONMENT)] = _filled(value, slot)
    return found


def _filled(value: object, slot: int) -> str:
    return plan.text(value).replace(plan.SLOT, str(slot))
