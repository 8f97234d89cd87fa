"""Looks at what a learned optimizer does: figures 10 to 13 of Andrychowicz et al. 2016, in numbers.

On the problem that it was trained on, or another one, it meets fresh problems. Along its own
trajectories SGD and Adam, tuned for that problem, are shown the same gradients. --workdir receives
histories.png (updates of two coordinates), proposals.png (updates as functions of the gradient of
the moment, at three steps), answers.png (how long one gradient is remembered), table.md (the
numbers that decide what the paper says, with intervals over coordinates and runs), summary.json,
and config.json. experiments.numbers keeps it in docs/measured, and experiments.claims judges it.

The numbers need an optimizer whose coordinates do not depend on each other; learned_opt.watch looks
at any. Families: %s.

Examples:

    python -m experiments.watching --optimizer=lstm-mnist --data_dir=~/tensorflow_datasets
    python -m experiments.watching --optimizer=rnnprop-long --num_steps=1000 --data_dir=DIR
    python -m experiments.watching --optimizer=lstm-quadratic --family=quadratic --num_runs=64
"""

import dataclasses
import os
import shlex

import jax
import numpy as np
import tqdm
from absl import flags

import learned_opt
from experiments import (
    art,
    config_flags,
    families,
    habits,
    keeping,
    learned,
    main,
    measuring,
    recipes,
    terminal,
)
from experiments.cases import Case
from experiments.families import FamilySpec
from experiments.habits import Habits, Recorded
from experiments.learned import Learned
from learned_opt import _checks, _files, data, devices
from learned_opt.evaluation import comparison, environment, plots, report, statistics
from learned_opt.meta.unrolling import Transformation
from learned_opt.optimizees import Optimizee

_FAMILIES = [name for name in families.BUILDERS if name != "classifier"]
__doc__ %= ", ".join(_FAMILIES)

RIVALS = ("SGD", "Adam")
DRAWN = 2  # coordinates in the pictures
# Coordinates whose gradients vary less than this, relative to the median of all that have any, are
# left out: rounding hides what a push of that size does.
LEAST_SPREAD = 0.01


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of this program."""

    optimizer: str = config_flags.field(
        "lstm-mnist", "The learned optimizer: NAME, PATH or NAME=PATH of a file."
    )
    family: str = config_flags.field(
        "", f"One of {', '.join(_FAMILIES)}; empty for what the optimizer was trained on."
    )
    arguments: str = config_flags.field("{}", "Settings of --family, as JSON.")
    dataset: str = config_flags.field(
        "", f"One of {', '.join(data.DATASETS)}; empty for that of the optimizer's training."
    )
    num_steps: int = config_flags.field(100, "Steps of each run.")
    num_runs: int = config_flags.field(20, "How many fresh problems.")
    tune_runs: int = config_flags.field(20, "Problems on which SGD and Adam are tuned.")
    coordinates: int = config_flags.field(
        32, "Coordinates that are looked at, drawn from those that have a gradient in all runs."
    )
    evaluation_seed: int = config_flags.field(0, "Seed of the problems.")


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define(Config)
    flags.DEFINE_string("workdir", None, "Where results go; default results/watching/OPTIMIZER.")
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )
    flags.DEFINE_string(
        "train_dir", "results/train", "Where experiments.train has left its results."
    )
    flags.DEFINE_string("tuned_dir", "results/tuned", "Where tuned baselines are kept.")


def run() -> None:
    """Watches what the command line asks for."""
    given = flags.FLAGS
    config = config_flags.read(Config)
    for setting, least in (("num_steps", habits.NUM_LAGS + 2), ("num_runs", 2), ("coordinates", 2)):
        _checks.positive_int(setting, getattr(config, setting), least)
    found = learned.find(config.optimizer, learned.Places(given.train_dir, given.data_dir, False))
    if not found.opt.coordinatewise:
        raise ValueError(
            f"optimizer must be one whose coordinates do not depend on each other, got "
            f"{found.name!r}: learned_opt.watch looks at any."
        )
    spec, dataset = _problem(config, found.name)
    splits = art.load_any(dataset, given.data_dir) if spec.builder.needs_data else None
    family = spec.build(splits).family
    workdir = os.path.expanduser(given.workdir or os.path.join("results", "watching", found.name))
    measuring.claim(workdir, {**dataclasses.asdict(config), "weights": found.digest})
    text = _watch(config, found, family, spec, dataset, workdir, given.tuned_dir)
    print(f"{terminal.shown(text)}\nEverything is in {workdir}.")


def _problem(config: Config, name: str) -> tuple[FamilySpec, str]:
    """What is watched on, and the data set that it is made of."""
    recipe = recipes.RECIPES.get(learned.without_seed(name))
    if config.family:
        arguments = config_flags.json_object("arguments", config.arguments)
        spec = FamilySpec(_checks.choice("family", config.family, _FAMILIES), arguments)
    elif recipe is None:
        raise ValueError(
            f"--family must be given for {name!r}, which is no recipe's name: one of "
            f"{', '.join(_FAMILIES)}."
        )
    else:
        # Random Scaling and convex functions belong to the training, not to the problem.
        spec = dataclasses.replace(recipe.family, scaling=0.0, convex=False)
    return spec, config.dataset or (recipe.dataset if recipe else "digits")


def _watch(
    config: Config,
    found: Learned,
    family: Optimizee,
    spec: FamilySpec,
    dataset: str,
    workdir: str,
    tuned_dir: str,
) -> str:
    """Measures, draws and writes; returns the table."""
    tx = found.opt, found.phi
    key, tune_key = measuring.keys(config.evaluation_seed)
    tuned = comparison.tune_all(
        family,
        jax.random.fold_in(tune_key, config.num_steps),
        config.num_steps,
        config.tune_runs,
        RIVALS,
        tuned_dir,
        last=Case("watched", "", spec, config.num_steps).tune_last,
    )
    others: dict[str, Transformation] = {name: tuned[name].tx for name in RIVALS}
    chosen, recorded = _recorded(tx, family, key, config, os.path.join(workdir, "recorded.npz"))
    at, pushes = habits.asked(config.num_steps)
    ours = habits.observe(tx, recorded, at, pushes)
    theirs = {name: habits.observe(other, recorded, at, pushes) for name, other in others.items()}
    numbers = habits.numbers(ours, theirs, recorded)
    title = f"{found.name} on {spec.words(dataset)}"
    spread = recorded.gradients.std(axis=0).mean(axis=-1)
    by_spread = chosen[np.argsort(spread)]
    drawn = [int(by_spread[-1]), int(by_spread[len(by_spread) // 2])]
    _draw(tx, family, key, drawn, others, config.num_steps, title, workdir)
    answers = _answers({found.name: ours, **theirs})
    plots.answers(os.path.join(workdir, "answers.png"), answers, [found.name], title)
    lines = [[name, report.interval(value)] for name, value in numbers.items()]
    rates = ", ".join(f"{name} at {tuned[name].learning_rate:.3g}" for name in RIVALS)
    legend = (
        f"{config.num_runs} runs of {config.num_steps:,} steps, {recorded.gradients.shape[1]} "
        f"coordinates; {rates}, tuned on {config.tune_runs} other runs."
    )
    text = f"## {title}\n\n{report.markdown(['', 'mean and 95 % interval'], lines)}\n\n{legend}\n"
    _files.write_text(os.path.join(workdir, "table.md"), text)
    summary = {
        "watched": found.name,
        "title": title,
        "legend": legend,
        "command": _command(config),
        "numbers": numbers,
        "answers": answers,
        "config": dataclasses.asdict(config),
        "environment": environment.record(),
    }
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    return text


def _command(config: Config) -> str:
    given = []
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value != field.default or field.name == "optimizer":
            text = f"--{field.name}={keeping.without_folders(value)}"
            given.append(shlex.quote(text))
    return " ".join(["python -m experiments.watching", *given, "--data_dir=DIR"])


def _recorded(
    tx: Transformation,
    family: Optimizee,
    key: jax.Array,
    config: Config,
    path: str,
) -> tuple[np.ndarray, Recorded]:
    """What `_record` returns, kept in a file: a run that was stopped goes on from there."""
    if not _files.exists(path):
        chosen, recorded = _record(tx, family, key, config)
        with _files.whole(path) as temporary:
            np.savez_compressed(temporary, chosen, *recorded)
    with _files.here(path) as there, np.load(there) as arrays:
        chosen, gradients, theta = (arrays[name] for name in arrays.files)
    return chosen, Recorded(gradients, theta)


def _record(
    tx: Transformation,
    family: Optimizee,
    key: jax.Array,
    config: Config,
) -> tuple[np.ndarray, Recorded]:
    """Which coordinates are looked at, and their gradients along the optimizer's trajectories.

    A coordinate that has hardly a gradient in some run, such as that of a black pixel, is left out:
    it has neither a scale nor an answer.
    """
    choose_key, run_key = jax.random.split(key)
    theta = jax.eval_shape(lambda: family.init(run_key, family.sample(run_key)))
    size = sum(x.size for x in jax.tree.leaves(theta))
    some = min(size, 4 * config.coordinates)
    candidates = np.asarray(jax.random.choice(choose_key, size, (some,), replace=False)).tolist()
    gradients, places = [], []
    bar = tqdm.trange(config.num_runs, desc="recording", unit="run", disable=not devices.is_first())
    for i in bar:
        seen = learned_opt.watch(
            tx,
            family,
            jax.random.fold_in(run_key, i),
            config.num_steps,
            coordinates=candidates,
            others={},
            at=[1],
            num_points=2,
        )
        gradients.append(seen.gradients)
        places.append(seen.theta)
    recorded = Recorded(np.stack(gradients, axis=-1), np.stack(places, axis=-1))
    spread = recorded.gradients.std(axis=0)
    least = LEAST_SPREAD * np.median(spread[spread > 0]) if spread.any() else np.inf
    kept = np.flatnonzero((spread > least).all(axis=-1))[: config.coordinates]
    if len(kept) < DRAWN:
        raise ValueError(
            f"{len(kept)} of {some} coordinates have a gradient in all runs, and {DRAWN} are "
            "needed: look at more --coordinates."
        )
    return np.asarray(candidates)[kept], Recorded(*(values[:, kept] for values in recorded))


def _draw(
    tx: Transformation,
    family: Optimizee,
    key: jax.Array,
    drawn: list[int],
    others: dict[str, Transformation],
    num_steps: int,
    title: str,
    workdir: str,
) -> None:
    """The paper's pictures, of some coordinates of one run."""
    _, run_key = jax.random.split(key)
    seen = learned_opt.watch(
        tx, family, jax.random.fold_in(run_key, 0), num_steps, coordinates=drawn, others=others
    )
    plots.histories(os.path.join(workdir, "histories.png"), seen, title)
    plots.proposals(os.path.join(workdir, "proposals.png"), seen, title)


def _answers(every: dict[str, Habits]) -> dict[str, dict[str, list[float]]]:
    """What one gradient adds to the updates after it, as a share of all, by lag.

    Returns:
      Dict from a name to `mean`, `low` and `high`, a number for each lag.
    """
    found = {}
    for name, one in every.items():
        sizes = np.abs(one.answers).sum(axis=(0, 1))
        shares = -one.answers.sum(axis=0) / np.maximum(sizes, 1e-300)
        intervals = np.array([statistics.interval(share) for share in shares])
        found[name] = dict(zip(("mean", "low", "high"), intervals.T.tolist(), strict=True))
    return found


if __name__ == "__main__":
    define_flags()
    main.run(run)
