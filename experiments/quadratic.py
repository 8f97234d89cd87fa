"""Learns an optimizer for random 10-dimensional quadratic functions (Andrychowicz et al. 2016, figure 4, left).

Tunes the hand-designed optimizers, meta-trains the coordinatewise LSTM optimizer without pre- or postprocessing,
compares all of them on fresh functions, and leaves in --workdir: optimizer.safetensors and its card optimizer.json,
curves.png (the picture), table.md, summary.json (the table's numbers), curves.npz (every run's curve), config.json,
and the checkpoints from which a run that was stopped goes on when the same command is given again.

On two CPU cores about a minute. Example:

    python -m experiments.quadratic --workdir=results/quadratic --seed=1
"""

import dataclasses

from absl import flags

import learned_opt
from experiments import config_flags, main, study

_WORKDIR = flags.DEFINE_string("workdir", "results/quadratic", "Where results and checkpoints go.")


@dataclasses.dataclass(frozen=True)
class Config(study.Config):
    """Settings of this study."""

    dim: int = config_flags.field(10, "Parameters of a quadratic function.")
    num_epochs: int = config_flags.field(
        50, "Epochs of meta-training; each ends with a validation."
    )


def run():
    """Runs the study that the command line asks for."""
    config = config_flags.read(Config)
    steps = (*(s for s in (10, 20, 50, 100) if s < config.num_steps), config.num_steps)
    study.run(
        study.Study(
            opt=learned_opt.lstm("quadratic"),
            problem=learned_opt.optimizees.quadratic(config.dim),
            horizons=(config.num_steps,),
            steps=(steps,),
            title=f"Random {config.dim}-dimensional quadratics",
        ),
        config,
        _WORKDIR.value,
    )


if __name__ == "__main__":
    config_flags.define(Config)
    main.run(run)
