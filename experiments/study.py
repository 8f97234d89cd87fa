"""The course of a study: tune the baselines, learn an optimizer, compare on fresh problems, write it all down."""

import dataclasses
import os
from typing import Any

import jax

import learned_opt
from experiments import config_flags
from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, comparison, environment, report
from learned_opt.meta import checkpoints
from learned_opt.meta.settings import check

LEARNED = "LSTM"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings that all studies have; each study's configuration adds its own and chooses the defaults."""

    seed: int = config_flags.field(
        0, "Seed of meta-training: initial weights and training problems."
    )
    evaluation_seed: int = config_flags.field(
        0, "Seed of the problems on which everything is compared."
    )
    num_steps: int = config_flags.field(100, "Horizon in steps, of training and of evaluation.")
    window: int = config_flags.field(20, "Steps of one meta-gradient; divides --num_steps.")
    num_problems: int = config_flags.field(16, "Problems that live at once in meta-training.")
    num_epochs: int = config_flags.field(
        40, "Epochs of meta-training; each ends with a validation."
    )
    episodes_per_epoch: int = config_flags.field(50, "Horizons in an epoch.")
    learning_rate: str = config_flags.field(
        "0.003", "Meta-learning rate of Adam, or 'search' for a random search."
    )
    coordinates: int = config_flags.field(
        0,
        "Coordinates from which a meta-gradient is estimated; 0 for all, exactly. "
        "About a sixteenth of all learns fastest where there are thousands.",
    )
    patience: int = config_flags.field(
        0, "Stop after so many epochs without a better validation loss; 0 for never."
    )
    num_validation: int = config_flags.field(128, "Validation problems.")
    tune_runs: int = config_flags.field(
        128, "Problems on which each baseline's learning rate is tuned."
    )
    num_runs: int = config_flags.field(512, "Fresh problems on which everything is compared.")
    baselines: str = config_flags.field(
        ",".join(baselines.BASELINES), "The hand-designed optimizers to compare with."
    )


@dataclasses.dataclass(frozen=True)
class Study:
    """What differs between two studies.

    Attributes:
      opt: the `LearnedOptimizer`.
      problem: the `Optimizee`.
      horizons: to which steps the optimizers are compared; the first is also what is trained for.
      steps: for every horizon, at which steps the table shows the loss.
      title: of the pictures.
      measure: what is measured of theta at the end besides the loss, or None.
      measure_name: what that is called.
    """

    opt: Any
    problem: Any
    horizons: tuple
    steps: tuple
    title: str
    measure: Any = None
    measure_name: str | None = None


def run(study, config, workdir):
    """Runs a study, from wherever an earlier run with this work directory stopped, and prints what came out."""
    settings = _settings(config)
    key = jax.random.key(config.seed)
    check(study.opt, study.problem, key, **settings)
    for name in ("tune_runs", "num_runs"):
        _checks.positive_int(name, getattr(config, name))
    names = [name.strip() for name in config.baselines.split(",")]
    for name in names:
        _checks.choice("baseline", name, baselines.BASELINES)
    workdir = os.path.expanduser(workdir)
    _claim(workdir, config)
    evaluation_key, tune_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.evaluation_seed), 1)
    )
    tuned = {
        h: comparison.tune_all(
            study.problem,
            jax.random.fold_in(tune_key, h),
            h,
            config.tune_runs,
            names,
            os.path.join(workdir, f"baselines-{h}.json"),
        )
        for h in study.horizons
    }
    result = learned_opt.meta_train(
        study.opt,
        study.problem,
        key,
        workdir=os.path.join(workdir, "meta_training"),
        reference=_best(tuned[config.num_steps]),
        **settings,
    )
    if result.skipped:
        print(f"{result.skipped} meta-gradients were not finite and were not applied.")
    path = os.path.join(workdir, "optimizer.safetensors")
    learned_opt.save(path, study.opt, result.phi, info=_card(study, config, result))
    for horizon, steps in zip(study.horizons, study.steps, strict=True):
        suffix = "" if horizon == study.horizons[0] else f"-{horizon}"
        done = report.read(workdir, suffix)
        if done is None:
            compared = comparison.compare(
                {LEARNED: study.opt.transform(result.phi)},
                study.problem,
                evaluation_key,
                horizon,
                config.num_runs,
                tuned=tuned[horizon],
                measure=study.measure,
            )
            done = report.summary(compared, steps), compared.curves
        _report(study, workdir, *done, horizon, suffix)
    print(
        f"\nEverything is in {workdir}. The learned optimizer in a training loop of your own:\n\n{_usage(path)}"
    )


def _settings(config):
    """The arguments of `meta_train` that a configuration gives."""
    rate = config.learning_rate
    try:
        rate = rate if rate == "search" else float(rate)
    except ValueError:
        raise ValueError(
            f"learning_rate must be a number above 0 or 'search', got {rate!r}."
        ) from None
    return {
        "num_steps": config.num_steps,
        "window": config.window,
        "num_problems": config.num_problems,
        "num_epochs": config.num_epochs,
        "episodes_per_epoch": config.episodes_per_epoch,
        "learning_rate": rate,
        "patience": config.patience or None,
        "num_validation": config.num_validation,
        "coordinates": config.coordinates or None,
    }


def _claim(workdir, config):
    """Makes the directory this configuration's; what was made by which versions is noted, and may change later."""
    path = os.path.join(workdir, "config.json")
    plain = dataclasses.asdict(config)
    if os.path.exists(path):
        checkpoints.check_same(_files.read_json(path).get("config", {}), plain, workdir)
    else:
        _files.write_json(path, {"config": plain, "environment": environment.record()})


def _best(tuned):
    name = min(tuned, key=lambda name: tuned[name].final_loss)
    return name, tuned[name].final_loss


def _card(study, config, result):
    return {
        "problem": study.title,
        "config": dataclasses.asdict(config),
        "meta_learning_rate": result.learning_rate,
        "validation_loss": result.validation_loss,
        "skipped": result.skipped,
        "history": result.history,
        "environment": environment.record(),
    }


def _report(study, workdir, rows, curves, horizon, suffix):
    title = f"{study.title}, {horizon} steps"
    first_step = study.horizons[0] if suffix else 0
    print(
        f"\n{title}\n\n{report.write(workdir, rows, curves, title, study.measure_name, suffix, first_step)}"
    )
    final = {name: float(row["loss"][str(horizon)]["mean"]) for name, row in rows.items()}
    ours = final.pop(LEARNED)
    best = min(final, key=final.get)
    verdict = "below" if ours < final[best] else "not below"
    print(
        f"After {horizon} steps the {LEARNED} optimizer is at {ours:.3g}, {verdict} the best tuned baseline "
        f"({best}, {final[best]:.3g})."
    )


def _usage(path):
    return (
        f'    opt, phi = learned_opt.load("{path}")\n'
        "    tx = opt.transform(phi)         # an optax transformation: it stands wherever optax.adam(...) stands\n"
        "    state = tx.init(params)         # then tx.update(gradients, state, params) and optax.apply_updates"
    )
