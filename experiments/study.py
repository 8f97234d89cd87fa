"""A study: tune the baselines, train an optimizer by a recipe, compare on fresh problems."""

import dataclasses
import os

import jax

from experiments import config_flags, measuring, terminal, training
from experiments.cases import Case
from experiments.recipe import Recipe
from experiments.training import Trained
from learned_opt import _checks, data
from learned_opt.estimators import Adjoint
from learned_opt.evaluation import baselines, comparison, report
from learned_opt.evaluation.baselines import Tuned
from learned_opt.meta.settings import Validation

LEARNED = "LSTM"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings that all studies have; each study adds its own and chooses the defaults."""

    seed: int = config_flags.field(
        0, "Seed of meta-training: initial weights and training problems."
    )
    evaluation_seed: int = config_flags.field(
        0, "Seed of the problems on which everything is compared."
    )
    num_steps: int = config_flags.field(100, "Steps of a life, in training and in evaluation.")
    window: int = config_flags.field(20, "Steps that one meta-gradient sees; divides --num_steps.")
    num_problems: int = config_flags.field(16, "Problems that live at once in meta-training.")
    num_epochs: int = config_flags.field(
        40, "Epochs of meta-training; each ends with a validation."
    )
    episodes_per_epoch: int = config_flags.field(50, "Lives of --num_steps steps in an epoch.")
    learning_rate: str = config_flags.field(
        "0.003", "Meta-learning rate of Adam, or 'search' for a random search."
    )
    shards: int = config_flags.field(
        1,
        "Into how many shards the problems of meta-training are cut; divides --num_problems. "
        "Several go over all devices, which must divide them.",
    )
    coordinates: int = config_flags.field(
        0,
        "Coordinates from which a meta-gradient is estimated; 0 for all, which is exact. "
        "About a sixteenth of all learns fastest where there are thousands.",
    )
    patience: int = config_flags.field(
        0, "Stop after so many epochs without a better validation loss; 0 for never."
    )
    num_validation: int = config_flags.field(
        128, "Problems on which the weights are validated after each epoch."
    )
    tune_runs: int = config_flags.field(
        128, "Problems on which each baseline's learning rate is tuned."
    )
    num_runs: int = config_flags.field(512, "Fresh problems on which everything is compared.")
    baselines: str = config_flags.field(
        ",".join(baselines.BASELINES), "The hand-designed optimizers to compare with."
    )


@dataclasses.dataclass(frozen=True)
class Study:
    """A recipe, and what its result is compared on.

    Attributes:
      recipe: the `Recipe`; the `Config` takes the place of its settings.
      horizons: to which steps the optimizers are compared. The first is also what is trained for.
      steps: for every horizon, at which steps the table shows the loss.
      title: of the pictures.
    """

    recipe: Recipe
    horizons: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    title: str


def run(
    study: Study,
    config: Config,
    workdir: str,
    dataset: str | None = None,
    splits: data.Splits | None = None,
) -> None:
    """Runs a study, and prints what came out.

    A study that was stopped goes on where it was.

    Args:
      study: the study.
      config: its settings.
      workdir: where everything goes.
      dataset: the name of the data set, or None.
      splits: the data set, or None.

    Raises:
      ValueError: for settings that are not possible, before anything is written.
    """
    plain = dataclasses.asdict(config)
    if config.shards == 1:
        del plain["shards"]  # work directories from before there were several go on
    recipe = _configured(study.recipe, config)
    notes = {"problem": study.title, "config": plain}
    prepared = training.prepare(recipe, dataset, splits, config.seed, notes)
    names = _baseline_names(config)
    workdir = os.path.expanduser(workdir)
    measuring.claim(workdir, plain)
    tuned = {}
    for horizon in study.horizons:
        tuned[horizon] = _tune(prepared, config, names, horizon, workdir)
    best = min(tuned[config.num_steps].values(), key=_final_loss)
    note = f"best baseline {best.final_loss:.3g} ({best.name})"
    trained = training.carry_out(prepared, workdir, progress_bar=note)
    if trained.result.skipped:
        print(f"{trained.result.skipped} meta-gradients were not finite and were not applied.")
    for horizon, steps in zip(study.horizons, study.steps, strict=True):
        suffix = "" if horizon == study.horizons[0] else f"-{horizon}"
        done = report.read(workdir, suffix)
        if done is None:
            compared = _compare(prepared, trained, config, tuned[horizon], horizon)
            rows = report.summary(compared, steps)
            done = report.Report(rows, compared.curves, report.finals(compared))
        _report(study, workdir, done, horizon, suffix)
    print(
        f"\nEverything is in {workdir}. The learned optimizer in a training loop of your own:\n\n"
        f"{_usage(trained.path)}"
    )


def _configured(recipe: Recipe, config: Config) -> Recipe:
    """The recipe with a configuration's settings."""
    _checks.positive_int("num_validation", config.num_validation)
    for name in ("coordinates", "patience"):  # 0 means something
        _checks.positive_int(name, getattr(config, name), minimum=0)
    return dataclasses.replace(
        recipe,
        num_steps=config.num_steps,
        num_problems=config.num_problems,
        shards=config.shards,
        num_epochs=config.num_epochs,
        episodes_per_epoch=config.episodes_per_epoch,
        estimator=Adjoint(config.window, config.coordinates or None),
        learning_rate=_learning_rate(config.learning_rate),
        validation=Validation(config.num_validation, patience=config.patience or None),
    )


def _learning_rate(text: str) -> float | str:
    if text == "search":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"learning_rate must be a number above 0 or 'search', got {text!r}."
        ) from None


def _baseline_names(config: Config) -> list[str]:
    """The baselines, with the checks of what the comparison needs."""
    for name in ("tune_runs", "num_runs"):
        _checks.positive_int(name, getattr(config, name))
    names = config_flags.split(config.baselines)
    if not names:
        known = ", ".join(baselines.BASELINES)
        raise ValueError(f"--baselines must name at least one, got none: one or more of {known}.")
    for name in names:
        _checks.choice("baseline", name, baselines.BASELINES)
    return names


def _tune(
    prepared: training.Prepared,
    config: Config,
    names: list[str],
    horizon: int,
    workdir: str,
) -> dict[str, Tuned]:
    _, tune_key = measuring.keys(config.evaluation_seed)
    return comparison.tune_all(
        prepared.subject.family,
        jax.random.fold_in(tune_key, horizon),
        horizon,
        config.tune_runs,
        names,
        os.path.join(workdir, "tuned"),
        last=_tune_last(prepared, horizon),
    )


def _tune_last(prepared: training.Prepared, horizon: int) -> int:
    return Case("", "", prepared.recipe.family, horizon).tune_last


def _final_loss(tuned: Tuned) -> float:
    return tuned.final_loss


def _compare(
    prepared: training.Prepared,
    trained: Trained,
    config: Config,
    tuned: dict[str, Tuned],
    horizon: int,
) -> comparison.Comparison:
    evaluation_key, _ = measuring.keys(config.evaluation_seed)
    return comparison.compare(
        {LEARNED: (trained.opt, trained.result.phi)},
        prepared.subject.family,
        evaluation_key,
        horizon,
        config.num_runs,
        tuned=tuned,
        measure=prepared.subject.measures() or None,
    )


def _report(
    study: Study,
    workdir: str,
    done: report.Report,
    horizon: int,
    suffix: str,
) -> None:
    rows = done.rows
    title = f"{study.title}, {horizon} steps"
    first_step = study.horizons[0] if suffix else 0
    measured = tuple(rows[LEARNED].get("measure", {}))
    table = report.write(
        workdir,
        rows,
        done.curves,
        title,
        measured,
        suffix,
        first_step,
        values=done.finals,
    )
    first = [f"loss at {horizon}", "rate", *measured, "diverged", "step", "bytes"]
    print(f"\n{title}\n\n{terminal.shown(table, first)}")
    verdict = f"The {LEARNED} optimizer after {horizon} steps: {report.verdict(rows, LEARNED)}"
    print(terminal.shown(verdict))


def _usage(path: str) -> str:
    return (
        f'    opt, phi = learned_opt.load("{path}")\n'
        "    tx = opt.transform(phi)         "
        "# an optax transformation: it goes wherever optax.adam(...) goes\n"
        "    state = tx.init(params)         "
        "# then tx.update(gradients, state, params) and optax.apply_updates"
    )
