"""The loss curves of one optimizer on fresh problems of one family.

The optimizer is a hand-designed one at --learning_rate, a learned one that comes with the library,
the result of a recipe, or a file. --workdir receives curves.npz (the loss of every run at every
step), summary.json (the last loss, its mean with a 95 %% interval), config.json and curves.png. To
have many rates, optimizers and families side by side, sweep it with experiments.sweep.

Optimizers with a rate: %s.
Families: %s.

Examples:

    python -m experiments.curves --optimizer=Adam --learning_rate=0.1 --family=quadratic
    python -m experiments.curves --optimizer=gac-quadratic --family=quadratic --num_runs=512
    python -m experiments.curves --optimizer=rnnprop-mnist --family=mlp --dataset=digits
        --arguments='{"width": 40, "activation": "relu"}'
"""

import dataclasses
import os

import numpy as np
from absl import flags

import learned_opt
from experiments import config_flags, families, learned, main, measuring
from experiments.families import FamilySpec
from learned_opt import _checks, _files, data
from learned_opt.evaluation import baselines, environment, plots, statistics
from learned_opt.meta.unrolling import Transformation

_FAMILIES = [name for name in families.BUILDERS if name != "classifier"]
__doc__ %= (", ".join(baselines.BASELINES), ", ".join(_FAMILIES))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of this program."""

    optimizer: str = config_flags.field("Adam", "A hand-designed optimizer, or a learned one.")
    learning_rate: float = config_flags.field(
        0.0, "The rate of a hand-designed optimizer; leave it out for one that has none."
    )
    family: str = config_flags.field("quadratic", f"One of {', '.join(_FAMILIES)}.")
    arguments: str = config_flags.field("{}", "Settings of the family, as JSON.")
    dataset: str = config_flags.field(
        "digits", f"One of {', '.join(data.DATASETS)}, for a family that needs one."
    )
    num_steps: int = config_flags.field(100, "Steps of each run.")
    num_runs: int = config_flags.field(64, "How many fresh problems.")
    seed: int = config_flags.field(0, "Seed of the problems.")


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define(Config)
    flags.DEFINE_string("workdir", "results/curves", "Where results go.")
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )
    flags.DEFINE_string(
        "train_dir", "results/train", "Where experiments.train has left its results."
    )


def run() -> None:
    """Measures what the command line asks for."""
    given = flags.FLAGS
    config = config_flags.read(Config)
    places = learned.Places(given.train_dir, given.data_dir, train=False)
    name, tx = _optimizer(config, places)
    arguments = config_flags.json_object("arguments", config.arguments)
    spec = FamilySpec(_checks.choice("family", config.family, _FAMILIES), arguments)
    splits = data.load(config.dataset, given.data_dir) if spec.builder.needs_data else None
    subject = spec.build(splits)
    workdir = os.path.expanduser(given.workdir)
    measuring.claim(workdir, dataclasses.asdict(config))
    key, _ = measuring.keys(config.seed)
    losses = learned_opt.evaluate(tx, subject.family, key, config.num_steps, config.num_runs)
    _write(workdir, config, name, spec.words(config.dataset), np.asarray(losses))


def _optimizer(config: Config, places: learned.Places) -> tuple[str, Transformation]:
    """The optimizer, and what it is called."""
    if config.optimizer in baselines.BASELINES:
        rate = _checks.positive_float("--learning_rate", config.learning_rate)
        tx = baselines.baseline(config.optimizer, rate, config.num_steps)
        return f"{config.optimizer} at {rate:g}", tx
    if config.learning_rate:
        raise ValueError(
            f"--learning_rate is for {', '.join(baselines.BASELINES)}, got "
            f"{config.learning_rate!r} for {config.optimizer!r}: leave it out."
        )
    if config.optimizer in baselines.FROZEN:
        return config.optimizer, baselines.FROZEN[config.optimizer](config.num_steps)
    found = learned.find(config.optimizer, places)
    return found.name, (found.opt, found.phi)


def _write(
    workdir: str,
    config: Config,
    name: str,
    words: str,
    losses: np.ndarray,
) -> None:
    last = statistics.summarize(losses[:, -1])
    title = f"{name}, {words}, {config.num_steps} steps"
    is_learned = config.optimizer not in {*baselines.BASELINES, *baselines.FROZEN}
    plots.curves(
        os.path.join(workdir, "curves.png"), {name: losses}, [name] if is_learned else [], title
    )
    with _files.whole(os.path.join(workdir, "curves.npz")) as temporary:
        np.savez_compressed(temporary, losses=losses)
    summary = {"title": title, "last": last._asdict(), "environment": environment.record()}
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    print(f"{title}: {last.mean:.4g} [{last.low:.4g}, {last.high:.4g}]")


if __name__ == "__main__":
    define_flags()
    main.run(run)
