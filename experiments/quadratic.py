"""Learns an optimizer for random quadratics (Andrychowicz et al. 2016, figure 4, left).

Tunes the hand-designed optimizers, meta-trains the coordinatewise LSTM optimizer without pre- or
postprocessing, compares all of them on fresh functions, and leaves in --workdir:
optimizer.safetensors and its card optimizer.json, curves.png (the picture), table.md, summary.json
(the table's numbers), curves.npz (every run's curve), config.json, and the checkpoints from which a
run that was stopped goes on when the same command is given again.

On two CPU cores about a minute. Example:

    python -m experiments.quadratic --workdir=results/quadratic --seed=1
"""

import dataclasses

from absl import flags

from experiments import config_flags, main, study
from experiments.families import FamilySpec
from experiments.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Config(study.Config):
    """Settings of this study."""

    dim: int = config_flags.field(10, "Parameters of a quadratic function.")
    num_epochs: int = config_flags.field(
        50, "Epochs of meta-training; each ends with a validation."
    )


def plan(config: Config) -> study.Study:
    """The study of a configuration."""
    recipe = Recipe(
        "The LSTM optimizer, for random quadratics",
        "lstm",
        "Andrychowicz et al. 2016, section 3.1",
        preset="quadratic",
        family=FamilySpec("quadratic", {"dim": config.dim}),
    )
    before = [step for step in (10, 20, 50, 100) if step < config.num_steps]
    return study.Study(
        recipe,
        horizons=(config.num_steps,),
        steps=((*before, config.num_steps),),
        title=f"Random {config.dim}-dimensional quadratics",
    )


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define(Config)
    flags.DEFINE_string("workdir", "results/quadratic", "Where results and checkpoints go.")


def run() -> None:
    """Runs the study that the command line asks for."""
    config = config_flags.read(Config)
    study.run(plan(config), config, flags.FLAGS.workdir)


if __name__ == "__main__":
    define_flags()
    main.run(run)
