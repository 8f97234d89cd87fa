"""Meta-trains a learned optimizer from nothing, by one of the recipes behind the weights that come with the package.

--workdir receives optimizer.safetensors and its card (.json), snapshots/ of the weights after each third of the
horizons, training.png (the curve), and the state from which the same command goes on after an interruption. A GPU is
used where there is one.

%s

Examples:

    python -m experiments.train --recipe=lstm-mnist --data_dir=~/tensorflow_datasets
    python -m experiments.train --recipe=rnnprop-mnist --dataset=digits --num_epochs=5
"""

import dataclasses
import os

import jax
from absl import flags

import learned_opt
from experiments import main, recipes
from learned_opt import _checks, data
from learned_opt.evaluation import environment, plots
from learned_opt.meta.settings import check

__doc__ %= "\n".join(f"    {name:<22} {recipe.about}" for name, recipe in recipes.RECIPES.items())


def run_recipe(name, data_dir, workdir, dataset="mnist", seed=0, **overrides):
    """Meta-trains by a recipe, from wherever an earlier call with this work directory stopped.

    Args:
      name: one of `recipes.RECIPES`.
      data_dir: TFDS directory.
      workdir: where everything goes.
      dataset: what to train on, where the recipe needs a data set.
      seed: of meta-training.
      **overrides: fields of the recipe.

    Returns:
      The path of the trained optimizer.
    """
    recipe = recipes.RECIPES[_checks.choice("recipe", name, recipes.RECIPES)]
    recipe = dataclasses.replace(recipe, **overrides)
    workdir = os.path.expanduser(workdir)
    dataset = dataset if recipe.needs_data else None
    opt, problem = (
        recipe.optimizer(),
        recipe.problem(data.load(dataset, data_dir).train if dataset else None),
    )
    key, settings = jax.random.key(seed), recipe.settings()
    info = {"recipe": name, "seed": seed, "dataset": dataset, **dataclasses.asdict(recipe)}
    checked = check(opt, problem, key, **settings)
    marks = [
        recipe.num_epochs * third // recipes.SNAPSHOTS for third in range(1, recipes.SNAPSHOTS + 1)
    ]

    def snapshot(entry, phi):
        if entry["epoch"] in marks:
            path = os.path.join(
                workdir, "snapshots", str(entry["epoch"] * recipe.episodes_per_epoch)
            )
            os.makedirs(os.path.dirname(path), exist_ok=True)
            learned_opt.save(path, opt, phi, {**info, "environment": environment.record()})

    print(f"{name}: {recipe.about}; {checked.total_episodes:,} horizons at most.")
    result = learned_opt.meta_train(
        opt,
        problem,
        key,
        workdir=os.path.join(workdir, "meta_training"),
        on_epoch=snapshot,
        **settings,
    )
    path = os.path.join(workdir, "optimizer.safetensors")
    learned_opt.save(
        path,
        opt,
        result.phi,
        {
            **info,
            "environment": environment.record(),
            "validation_loss": result.validation_loss,
            "skipped": result.skipped,
            "history": result.history,
        },
    )
    plots.history(os.path.join(workdir, "training.png"), result.history, f"{name}, seed {seed}")
    return path


def run():
    """Trains what the command line asks for."""
    given = {name: getattr(flags.FLAGS, name) for name in ("num_epochs", "episodes_per_epoch")}
    overrides = {
        name: _checks.positive_int(name, value)
        for name, value in given.items()
        if value is not None
    }
    path = run_recipe(
        _RECIPE.value,
        _DATA_DIR.value,
        _WORKDIR.value or f"results/train/{_RECIPE.value}",
        _DATASET.value,
        _SEED.value,
        **overrides,
    )
    print(f"The optimizer is in {path}: opt, phi = learned_opt.load(path); tx = opt.transform(phi)")


if __name__ == "__main__":
    _RECIPE = flags.DEFINE_string(
        "recipe", None, f"One of {', '.join(recipes.RECIPES)}.", required=True
    )
    _WORKDIR = flags.DEFINE_string(
        "workdir", None, "Where results and checkpoints go; default results/train/RECIPE."
    )
    _DATASET = flags.DEFINE_string("dataset", "mnist", f"One of {', '.join(data.DATASETS)}.")
    _DATA_DIR = flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )
    _SEED = flags.DEFINE_integer(
        "seed", 0, "Seed of meta-training: initial weights and training problems."
    )
    flags.DEFINE_integer("num_epochs", None, "Instead of the recipe's: epochs.")
    flags.DEFINE_integer(
        "episodes_per_epoch", None, "Instead of the recipe's: horizons of an epoch."
    )
    main.run(run)
