"""Learned optimizers by name: a file, one that comes with the library, or a recipe's result."""

import fractions
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import learned_opt
from experiments import recipes, training
from learned_opt import _checks, _fingerprint, optimizers, saving
from learned_opt.optimizers import LearnedOptimizer

STATE_DTYPES = ("float32", "bfloat16", "float16")


class Learned(NamedTuple):
    """A learned optimizer with its weights.

    Attributes:
      name: what it is called in tables.
      opt: the `LearnedOptimizer`.
      phi: its weights.
      note: where it comes from, in a few words.
      teacher: one of `teachers.TEACHERS`, whose updates it has learned, or empty.
    """

    name: str
    opt: LearnedOptimizer
    phi: Any
    note: str
    teacher: str = ""

    @property
    def digest(self) -> str:
        """What tells its weights from others."""
        return _fingerprint.of_arrays(self.phi, repr(self.opt.spec))

    @property
    def architecture(self) -> str:
        """The name of its architecture."""
        return self.opt.spec["name"]


class Places(NamedTuple):
    """Where recipes' results are, and what makes those that are missing.

    Attributes:
      train_dir: the folder that has a recipe's work directory under the name that `folder` gives.
      data_dir: the TFDS directory.
      train: whether to train what is missing.
    """

    train_dir: str
    data_dir: str | None
    train: bool


def find_all(texts: Iterable[str], places: Places) -> dict[str, Learned]:
    """The optimizers that a list of texts names, see `find`.

    Raises:
      ValueError: where two of them have one name.
    """
    found: dict[str, Learned] = {}
    for text in texts:
        learned = find(text, places)
        if learned.name in found:
            raise ValueError(
                f"two optimizers are called {learned.name!r}: give one another name with NAME=PATH."
            )
        found[learned.name] = learned
    return found


def find(text: str, places: Places) -> Learned:
    """The optimizer that a text names.

    Args:
      text: `NAME+DTYPE`, what NAME names with its state in another dtype, such as bfloat16; or
        `PATH` or `NAME=PATH`, a file that `learned_opt.load` reads; `NAME`, an optimizer that
        comes with the library or else the result of the recipe of that name; `NAME:SEED`, that of
        the recipe with another seed of meta-training; `NAME@FRACTION`, the snapshot of the recipe's
        training after that fraction of it.
      places: where recipes' results are.

    Returns:
      A `Learned`.

    Raises:
      ValueError: for a text that names nothing.
      FileNotFoundError: for what is not there; names the command that makes it.
    """
    named, plus, dtype = text.rpartition("+")
    if plus and dtype in STATE_DTYPES:
        return _with_state(find(named, places), dtype)
    name, _, path = text.rpartition("=")
    if name or path.endswith(saving.SUFFIX) or os.path.isfile(os.path.expanduser(path)):
        stem, _ = os.path.splitext(os.path.basename(path))
        return _load(name or stem, path, note=path)
    trained, at, fraction = text.partition("@")
    recipe, seed = _split_seed(trained)
    if text in learned_opt.PRETRAINED:
        opt, phi = learned_opt.load_pretrained(text)
        teacher = learned_opt.pretrained_card(text)["info"].get("teacher", "")
        return Learned(text, opt, phi, "comes with the library", teacher)
    workdir = os.path.join(os.path.expanduser(places.train_dir), folder(recipe, seed))
    weights = os.path.join(workdir, training.WEIGHTS)
    if not os.path.exists(weights):
        known = [*learned_opt.PRETRAINED, *recipes.RECIPES]
        _checks.choice("optimizer", recipe, known)
        _train(recipe, seed, workdir, places)
    if at:
        return _snapshot(text, os.path.join(workdir, "snapshots"), fraction)
    return _load(text, weights, note=workdir)


def _with_state(learned: Learned, dtype: str) -> Learned:
    """An optimizer with the same weights and its state in another dtype."""
    build = optimizers.ARCHITECTURES[learned.architecture]
    arguments = {**learned.opt.spec["args"], "state_dtype": dtype}
    name = f"{learned.name}+{dtype}"
    note = f"{learned.note}, state in {dtype}"
    return learned._replace(name=name, opt=build(**arguments), note=note)


def _load(
    name: str,
    path: str,
    note: str,
) -> Learned:
    opt, phi = learned_opt.load(path)
    card = saving.read_card(path) or {}
    teacher = card.get("info", {}).get("teacher", "")
    return Learned(name, opt, phi, note, teacher)


def folder(recipe: str, seed: int) -> str:
    """The name of a recipe's work directory."""
    return f"{recipe}-seed{seed}" if seed else recipe


def without_seed(name: str) -> str:
    """What the seeds of one training have in common: `NAME@SHARE` of `NAME:SEED@SHARE`."""
    seeded, at, share = name.partition("@")
    recipe, _, _ = seeded.partition(":")
    return f"{recipe}{at}{share}"


def _split_seed(text: str) -> tuple[str, int]:
    """`(recipe, seed)` of `NAME` or `NAME:SEED`."""
    recipe, colon, seed = text.partition(":")
    if colon and not seed.isdecimal():
        raise ValueError(f"the seed of {text!r} must be a whole number, as in {recipe}:1.")
    return recipe, int(seed or 0)


def _train(
    recipe: str,
    seed: int,
    workdir: str,
    places: Places,
) -> None:
    """Trains a recipe, or says how to."""
    if not places.train:
        given = [f"--recipe={recipe}", f"--seed={seed}"]
        if places.data_dir:
            given.append(f"--data_dir={places.data_dir}")
        given.append(f"--workdir={workdir}")
        command = " ".join(["python -m experiments.train", *given])
        raise FileNotFoundError(
            f"the optimizer {recipe!r} is not trained yet: {command} trains it, and so does "
            "experiments.reproduce with --train."
        )
    training.run_recipe(recipe, places.data_dir, workdir, seed=seed)


def _snapshot(
    text: str,
    snapshots: str,
    fraction: str,
) -> Learned:
    """The snapshot nearest to a fraction of the training.

    Files are called by how many horizons were trained.
    """
    try:
        share = float(fractions.Fraction(fraction))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"the fraction of {text!r} must be like 1/3 or 0.5.") from None
    numbers = _numbers(snapshots)
    if not numbers:
        raise FileNotFoundError(
            f"the optimizer {text!r} needs snapshots, and there are none in {snapshots}: train it "
            "anew with experiments.train, which keeps them."
        )
    wanted = share * max(numbers)
    number = min(numbers, key=lambda number: abs(number - wanted))
    path = os.path.join(snapshots, f"{number}{saving.SUFFIX}")
    return _load(text, path, note=f"{number} horizons")


def _numbers(snapshots: str) -> list[int]:
    """After how many horizons there is a snapshot, ascending."""
    if not os.path.isdir(snapshots):
        return []
    numbers = []
    for name in os.listdir(snapshots):
        stem = name.removesuffix(saving.SUFFIX)
        if stem.isdigit():
            numbers.append(int(stem))
    return sorted(numbers)
