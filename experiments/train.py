"""Meta-trains a learned optimizer from nothing, by one of the recipes.

The weights that come with the package were made by these recipes. --workdir receives
optimizer.safetensors and its card (.json), snapshots/ of the weights after each third of the
horizons, training.png (the curve), and the state from which the same command goes on after an
interruption. A GPU is used where there is one, and all devices where there are --shards. Without a
folder neural_art in --data_dir, neural-art is trained on embedded pictures of half the sides and
for half the epochs, in minutes; --set and --num_epochs change that.

%s

Examples:

    python -m experiments.train --recipe=lstm-mnist --data_dir=~/tensorflow_datasets
    python -m experiments.train --recipe=rnnprop-mnist --dataset=digits --num_epochs=5
    python -m experiments.train --recipe=lstm-quadratic --set=learning_rate=0.01
        --set=estimator.window=10 --set=family.arguments.dim=5
"""

from absl import flags

from experiments import config_flags, main, recipes, training
from learned_opt import _checks, data

_LINES = [f"    {name:<22} {recipe.about}" for name, recipe in recipes.RECIPES.items()]
__doc__ %= "\n".join(_LINES)

# Fields of a recipe that the command line can change.
_OVERRIDES = {
    "num_epochs": "How many epochs, instead of the recipe's.",
    "episodes_per_epoch": "Whole lives in an epoch, instead of the recipe's.",
    "num_problems": "Problems that live at once, instead of the recipe's.",
    "shards": "Into how many shards the problems are cut; several go over all devices, which must "
    "divide them.",
}


def define_flags() -> None:
    """Defines the flags of this program."""
    names = ", ".join(recipes.RECIPES)
    config_flags.define_required("recipe", f"One of {names}.")
    flags.DEFINE_string(
        "workdir", None, "Where results and checkpoints go; default results/train/RECIPE."
    )
    flags.DEFINE_string(
        "dataset", None, f"One of {', '.join(data.DATASETS)}; default the recipe's own."
    )
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )
    flags.DEFINE_integer("seed", 0, "Seed of meta-training: initial weights and training problems.")
    flags.DEFINE_integer(
        "num_seeds",
        1,
        "How many seeds, from --seed on, are trained as one program that goes over all devices; "
        "the optimizer of each is in seed-SEED within --workdir.",
        lower_bound=1,
    )
    for name, description in _OVERRIDES.items():
        flags.DEFINE_integer(name, None, description)
    flags.DEFINE_multi_string(
        "set",
        [],
        "PLACE=VALUE, another value in a place of the recipe, such as learning_rate=0.01, "
        "num_steps=50 or estimator.window=10. Values are JSON, or else text",
    )


def run() -> None:
    """Trains what the command line asks for."""
    given = flags.FLAGS
    overrides = {}
    for name in _OVERRIDES:
        value = getattr(given, name)
        if value is not None:
            overrides[name] = _checks.positive_int(name, value)
    paths = training.run_recipe(
        given.recipe,
        given.data_dir,
        given.workdir or f"results/train/{given.recipe}",
        given.dataset,
        given.seed,
        given.num_seeds,
        config_flags.settings("set", given.set),
        **overrides,
    )
    for path in paths:
        print(f"The optimizer is in {path}")
    print("Use it: opt, phi = learned_opt.load(path); tx = opt.transform(phi)")


if __name__ == "__main__":
    define_flags()
    main.run(run)
