"""Carries out a recipe: `experiments.train` and the studies train through it."""

import dataclasses
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import learned_opt
from experiments import art, recipes
from experiments.families import Subject
from experiments.recipe import Recipe
from learned_opt import _checks
from learned_opt.estimators import Estimator, Mixture
from learned_opt.evaluation import environment, plots
from learned_opt.meta.settings import check
from learned_opt.meta.training import MetaTrainResult
from learned_opt.optimizers import LearnedOptimizer

SNAPSHOTS = 3
WEIGHTS = "optimizer.safetensors"
CHECKPOINTS = "meta_training"


class Prepared(NamedTuple):
    """A recipe that can be carried out: everything is built and checked, nothing is written.

    Attributes:
      recipe: the `Recipe`.
      opt: the optimizer that is trained.
      subject: what it is trained on.
      key: of meta-training.
      settings: the arguments of `meta_train`.
      card: what is known of the result beforehand.
      num_horizons: how many horizons are trained, at most.
    """

    recipe: Recipe
    opt: LearnedOptimizer
    subject: Subject
    key: jax.Array
    settings: dict[str, Any]
    card: dict[str, Any]
    num_horizons: int


class Trained(NamedTuple):
    """A trained optimizer.

    Attributes:
      path: the file of its weights.
      opt: the optimizer.
      result: what `meta_train` gives.
    """

    path: str
    opt: LearnedOptimizer
    result: MetaTrainResult


def prepare(
    recipe: Recipe,
    dataset: str | None = None,
    splits: Any = None,
    seed: int = 0,
    notes: dict[str, Any] | None = None,
) -> Prepared:
    """Builds and checks what a recipe needs.

    Args:
      recipe: the recipe.
      dataset: the name of the data set.
      splits: the data set, `data.Splits` or an `art.Source`; None for a recipe that needs none.
      seed: of meta-training.
      notes: plain data for the card, such as the recipe's name.

    Raises:
      ValueError: for settings that are not possible.
    """
    opt = recipe.learned_optimizer()
    subject = recipe.family.build(splits)
    key = jax.random.key(seed)
    settings = recipe.settings()
    if recipe.validation_family is not None:
        validated = recipe.validation_family.build(splits).family
        settings["validation"] = dataclasses.replace(settings["validation"], problem=validated)
    checked = check(opt, subject.family, key, **settings)
    card = {
        **(notes or {}),
        "seed": seed,
        **recipe.card(dataset),
        "horizons": _horizons(checked.horizons, checked.estimator),
        "window": checked.estimator.window,
        "meta_training": checked.plain(key),
    }
    return Prepared(recipe, opt, subject, key, settings, card, checked.total_episodes)


def _horizons(horizons: tuple[int, ...], estimator: Estimator) -> list[int]:
    """All horizons, ascending: those of a mixture too."""
    beside = estimator.horizons if isinstance(estimator, Mixture) else ()
    return [*beside, *horizons]


def carry_out(
    prepared: Prepared,
    workdir: str,
    num_snapshots: int = 0,
    progress_bar: bool | str = True,
) -> Trained:
    """Meta-trains, from wherever an earlier call with this work directory stopped.

    Args:
      prepared: from `prepare`.
      workdir: where the weights, their card, the snapshots and the checkpoints go.
      num_snapshots: how many times the weights are kept in the course of the training.
      progress_bar: see `meta_train`.
    """
    result = learned_opt.meta_train(
        prepared.opt,
        prepared.subject.family,
        prepared.key,
        phi=prepared.recipe.weights(),
        workdir=os.path.join(workdir, CHECKPOINTS),
        callback=_snapshots([prepared], [workdir], num_snapshots),
        progress_bar=progress_bar,
        **prepared.settings,
    )
    return _finished(prepared, workdir, result)


def carry_out_seeds(
    seeds: Sequence[Prepared],
    workdir: str,
    num_snapshots: int = 0,
    progress_bar: bool | str = True,
) -> list[Trained]:
    """Meta-trains several seeds of one recipe as one program, which goes over all devices.

    Args:
      seeds: from `prepare`, of one recipe with several seeds.
      workdir: where the checkpoints go, and the weights of each seed, to `seed-SEED`.
      num_snapshots, progress_bar: see `carry_out`.
    """
    first = seeds[0]
    workdirs = [os.path.join(workdir, f"seed-{each.card['seed']}") for each in seeds]
    results = learned_opt.meta_train_seeds(
        first.opt,
        first.subject.family,
        jnp.stack([each.key for each in seeds]),
        phi=first.recipe.weights(),
        workdir=os.path.join(workdir, CHECKPOINTS),
        callback=_snapshots(seeds, workdirs, num_snapshots),
        progress_bar=progress_bar,
        **first.settings,
    )
    done = zip(seeds, workdirs, results, strict=True)
    return [_finished(*of_seed) for of_seed in done]


def _snapshots(
    seeds: Sequence[Prepared],
    workdirs: Sequence[str],
    num_snapshots: int,
) -> Callable[[learned_opt.Progress], None]:
    """A callback that keeps the weights of every seed some times in the course of the training."""
    recipe = seeds[0].recipe
    marks = [recipe.num_epochs * part // num_snapshots for part in range(1, num_snapshots + 1)]

    def snapshot(progress: learned_opt.Progress) -> None:
        epoch = progress.entry["epoch"]
        if epoch not in marks:
            return
        num_horizons = epoch * recipe.episodes_per_epoch
        phis = [progress.best_phi]
        if np.ndim(progress.entry["validation_loss"]):  # those of several seeds are stacked
            phis = [jax.tree.map(lambda x, i=i: x[i], progress.best_phi) for i in range(len(seeds))]
        for prepared, workdir, phi in zip(seeds, workdirs, phis, strict=True):
            _save(os.path.join(workdir, "snapshots", str(num_horizons)), prepared, phi)

    return snapshot


def _finished(
    prepared: Prepared,
    workdir: str,
    result: MetaTrainResult,
) -> Trained:
    """Saves what a training gave."""
    path = os.path.join(workdir, WEIGHTS)
    _save(
        path,
        prepared,
        result.phi,
        meta_learning_rate=result.learning_rate,
        validation_loss=result.validation_loss,
        skipped=result.skipped,
        history=result.history,
    )
    return Trained(path, prepared.opt, result)


def _save(
    path: str,
    prepared: Prepared,
    phi: Any,
    **course: Any,
) -> None:
    """Saves weights with their card; `course` is what is known of the whole training."""
    card = {**prepared.card, "environment": environment.record(), **course}
    learned_opt.save(path, prepared.opt, phi, info=card)


def run_recipe(
    name: str,
    data_dir: str | None,
    workdir: str,
    dataset: str | None = None,
    seed: int = 0,
    num_seeds: int = 1,
    changes: Mapping[str, Any] = types.MappingProxyType({}),
    **overrides: Any,
) -> list[str]:
    """Meta-trains by one of the recipes.

    Args:
      name: one of `recipes.RECIPES`.
      data_dir: TFDS directory.
      workdir: where everything goes.
      dataset: what to train on, where the recipe needs a data set; None for the recipe's own.
      seed: of meta-training.
      num_seeds: how many seeds, from that one on, as one program; each has a folder in `workdir`
        where they are several.
      changes: other values in some places of the recipe, see `Recipe.changed`.
      **overrides: fields of the recipe.

    Returns:
      The path of the trained optimizer, of each seed.

    Raises:
      ValueError: for settings that are not possible, before anything is written.
    """
    recipe = recipes.RECIPES[_checks.choice("recipe", name, recipes.RECIPES)]
    if recipe.embedded and not art.has_folder(data_dir):
        recipe = recipe.changed(recipe.embedded)
        changed = ", ".join(f"{place}={value}" for place, value in recipe.embedded.items())
        print(f"On {art.EMBEDDED} it takes minutes, with {changed} where you set nothing else.")
    recipe = dataclasses.replace(recipe, **overrides).changed(changes)
    workdir = os.path.expanduser(workdir)
    dataset = (dataset or recipe.dataset) if recipe.needs_data else None
    if recipe.family.builder.of_pictures:
        dataset = _checks.choice("data set", dataset, [art.DATASET])
    splits = art.load_any(dataset, data_dir) if dataset else None
    notes: dict[str, Any] = {"recipe": name}
    if changes:
        notes["changed"] = dict(changes)
    words = splits.about if isinstance(splits, art.Source) else dataset
    numbers = range(seed, seed + num_seeds)
    seeds = [prepare(recipe, words, splits, number, notes) for number in numbers]
    at_most = f"{seeds[0].num_horizons:,} horizons at most"
    of_each = at_most if num_seeds == 1 else f"{num_seeds} seeds, {at_most} each"
    print(f"{name}: {recipe.about}; {of_each}.")
    if num_seeds == 1:
        trained = [carry_out(seeds[0], workdir, SNAPSHOTS)]
    else:
        trained = carry_out_seeds(seeds, workdir, SNAPSHOTS)
    for number, each in zip(numbers, trained, strict=True):
        picture = os.path.join(os.path.dirname(each.path), "training.png")
        plots.history(picture, each.result.history, f"{name}, seed {number}")
    return [each.path for each in trained]
