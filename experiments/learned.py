"""Learned optimizers by name: a file, one that comes with the library, or what a recipe has trained."""

import fractions
import hashlib
import os
from typing import Any, NamedTuple

import jax
import numpy as np

import learned_opt
from learned_opt import _checks, saving


class Learned(NamedTuple):
    """A learned optimizer with its weights.

    Attributes:
      name: what it is called in tables.
      opt: the `LearnedOptimizer`.
      phi: its weights.
      note: where it comes from, in a few words.
    """

    name: str
    opt: Any
    phi: Any
    note: str

    @property
    def digest(self):
        """What tells its weights from others."""
        digest = hashlib.sha256(repr(self.opt.spec).encode())
        for leaf in jax.tree.leaves(self.phi):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


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


def find_all(texts, places):
    """The optimizers that a list of texts names, see `find`; raises ValueError where two have one name."""
    found = {}
    for text in texts:
        learned = find(text, places)
        if learned.name in found:
            raise ValueError(
                f"two optimizers are called {learned.name!r}: give one another name with NAME=PATH."
            )
        found[learned.name] = learned
    return found


def find(text, places):
    """The optimizer that a text names.

    Args:
      text: `PATH` or `NAME=PATH`, a file that `learned_opt.load` reads; `NAME`, an optimizer that comes with the
        library or else the result of the recipe of that name; `NAME:SEED`, that of the recipe with another seed of
        meta-training; `NAME@FRACTION`, the snapshot of the recipe's training after that fraction of it.
      places: where recipes' results are.

    Returns:
      A `Learned`.

    Raises:
      ValueError: for a text that names nothing.
      FileNotFoundError: for what is not there; names the command that makes it.
    """
    name, _, path = text.rpartition("=")
    if path.endswith(saving.SUFFIX) or os.path.isfile(os.path.expanduser(path)):
        name = name or os.path.splitext(os.path.basename(path))[0]
        return Learned(name, *learned_opt.load(path), path)
    trained, at, fraction = text.partition("@")
    recipe, seed = _split_seed(trained)
    if not at and text in _pretrained_names():
        return Learned(text, *learned_opt.load_pretrained(text), "comes with the library")
    path = os.path.join(os.path.expanduser(places.train_dir), folder(recipe, seed))
    if not os.path.exists(os.path.join(path, "optimizer.safetensors")):
        _checks.choice("optimizer", recipe, [*_pretrained_names(), *_recipe_names()])
        _train(recipe, seed, path, places)
    if at:
        return _snapshot(text, os.path.join(path, "snapshots"), fraction)
    return Learned(text, *learned_opt.load(os.path.join(path, "optimizer.safetensors")), path)


def _pretrained_names():
    return getattr(learned_opt, "PRETRAINED", ())


def _recipe_names():
    from experiments import recipes

    return recipes.RECIPES


def folder(recipe, seed):
    """The name of a recipe's work directory."""
    return f"{recipe}-seed{seed}" if seed else recipe


def _split_seed(text):
    """`(recipe, seed)` of `NAME` or `NAME:SEED`."""
    recipe, colon, seed = text.partition(":")
    if colon and not seed.isdecimal():
        raise ValueError(f"the seed of {text!r} must be a whole number, as in {recipe}:1.")
    return recipe, int(seed or 0)


def _train(recipe, seed, path, places):
    """Trains a recipe, or says how to."""
    if not places.train:
        data_dir = f" --data_dir={places.data_dir}" if places.data_dir else ""
        raise FileNotFoundError(
            f"the optimizer {recipe!r} is not trained yet: python -m experiments.train "
            f"--recipe={recipe} --seed={seed}{data_dir} --workdir={path} trains it, or --train "
            "here."
        )
    from experiments import train

    train.run_recipe(recipe, places.data_dir, path, seed=seed)


def _snapshot(text, folder, fraction):
    """The snapshot nearest to a fraction of the training: files are called by how many horizons were trained."""
    try:
        share = float(fractions.Fraction(fraction))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"the fraction of {text!r} must be like 1/3 or 0.5.") from None
    files = os.listdir(folder) if os.path.isdir(folder) else []
    numbers = sorted(
        int(stem) for stem in (f.removesuffix(saving.SUFFIX) for f in files) if stem.isdigit()
    )
    if not numbers:
        raise FileNotFoundError(
            f"the optimizer {text!r} needs snapshots, and there are none in {folder}."
        )
    number = min(numbers, key=lambda n: abs(n - share * numbers[-1]))
    return Learned(
        text,
        *learned_opt.load(os.path.join(folder, f"{number}{saving.SUFFIX}")),
        f"{number} horizons",
    )
