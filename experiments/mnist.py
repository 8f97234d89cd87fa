"""Learns an optimizer for a small network (Andrychowicz et al. 2016, figure 4, centre and right).

The network has one hidden layer of 20 sigmoid units and classifies images; the optimizer is the
coordinatewise LSTM with the preprocessing of appendix A and output scale 0.1. It is trained for 100
steps and compared with tuned baselines on fresh theta_0 and minibatches over 100 steps (centre) and
200 (right; the baselines are tuned again), with the accuracy on test images at the end and the cost
of a step beside every loss. --workdir receives the same files as experiments.quadratic; those of
the longer horizon end in -200.

With the embedded digits three to four minutes on a CPU with two cores. Examples:

    python -m experiments.mnist
    python -m experiments.mnist --dataset=mnist --data_dir=~/tensorflow_datasets
"""

import dataclasses

from absl import flags

from experiments import config_flags, main, study
from experiments.families import FamilySpec
from experiments.recipe import Recipe
from learned_opt import data


@dataclasses.dataclass(frozen=True)
class Config(study.Config):
    """Settings of this study."""

    dataset: str = config_flags.field("digits", f"One of {', '.join(data.DATASETS)}.")
    width: int = config_flags.field(20, "Units of each hidden layer.")
    depth: int = config_flags.field(1, "How many hidden layers.")
    activation: str = config_flags.field(
        "sigmoid", "Of the hidden units: sigmoid, relu, elu or tanh."
    )
    batch_size: int = config_flags.field(128, "Examples of a minibatch.")
    num_problems: int = config_flags.field(1, "Problems that live at once in meta-training.")
    learning_rate: str = config_flags.field(
        "0.01", "Meta-learning rate of Adam, or 'search' for a random search."
    )
    num_validation: int = config_flags.field(
        20, "Problems on which the weights are validated after each epoch."
    )
    tune_runs: int = config_flags.field(
        20, "Problems on which each baseline's learning rate is tuned."
    )
    num_runs: int = config_flags.field(100, "Fresh problems on which everything is compared.")


def plan(config: Config) -> study.Study:
    """The study of a configuration."""
    network = {
        "width": config.width,
        "depth": config.depth,
        "activation": config.activation,
        "batch_size": config.batch_size,
    }
    recipe = Recipe(
        "The 2016 optimizer: an LSTM that reads gradients",
        "lstm",
        "Andrychowicz et al. 2016, section 3.2",
        family=FamilySpec("mlp", network),
    )
    horizons = (config.num_steps, 2 * config.num_steps)
    shape = f"MLP {config.depth} x {config.width}, {config.activation}"
    return study.Study(
        recipe,
        horizons=horizons,
        steps=tuple((h // 10, h // 2, h) for h in horizons),
        title=f"{config.dataset}: {shape}",
    )


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define(Config)
    flags.DEFINE_string(
        "workdir", None, "Where results and checkpoints go; default results/mnist-DATASET."
    )
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )


def run() -> None:
    """Runs the study that the command line asks for."""
    config = config_flags.read(Config)
    splits = data.load(config.dataset, flags.FLAGS.data_dir)
    workdir = flags.FLAGS.workdir or f"results/mnist-{config.dataset}"
    study.run(plan(config), config, workdir, config.dataset, splits)


if __name__ == "__main__":
    define_flags()
    main.run(run)
