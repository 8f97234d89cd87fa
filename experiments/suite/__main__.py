"""Compares a learned optimizer with rivals on networks that it was never trained on.

For each task the rivals that are tuned are tuned on problems of their own, by the mean of the last
5 %% of the training losses: Adam and AdamW with cosine decay over some 15 rates, Muon over 7 rates
and 3 decays, and beyond them where the best rate lies at their end. Others have one setting for all
tasks, as a person without time would use them. All of them then meet the same fresh problems and
minibatches, and all seeds of one are one program. An optimizer with a schedule also has runs of
%s of the steps, each with a schedule of its own: so it is seen how many of a
rival's steps it needs.

--workdir receives a folder for each task, with a file for each optimizer (whole curves of every
seed), then table.md (goals, means over all tasks, each task), summary.json, values.csv, pictures.
What is there is not run again: a run that was stopped goes on with the same command, and several
processes may work on different --tasks in one --workdir. Other settings are refused there. The
smaller the task, the more of its time is compilation, which
XLA_FLAGS=--xla_backend_optimization_level=1 about halves on a CPU; steps are no slower with it.

Tasks (--tasks takes names, groups %s, or all):

%s

Optimizers (--optimizers takes names, tuned, frozen, learned, or all):

%s

Examples:

    python -m experiments.suite --data_dir=~/tensorflow_datasets
    python -m experiments.suite --tasks=gru,quadratic-vector --optimizers=tuned,frozen
    python -m experiments.suite --edition=full --data_dir=~/tensorflow_datasets
    python -m experiments.suite --costs        # on a quiet machine
    python -m experiments.suite --report_only
"""

import os

import jax
from absl import flags

from experiments import main, terminal
from experiments.config_flags import split
from experiments.suite import kept, optimizers, results, running, shares, tasks, writing
from experiments.suite.sources import Sources
from learned_opt import _checks

EMBEDDED, TFDS = "embedded", "TFDS"

__doc__ %= (
    ", ".join(f"{share:g}" for share in shares.SHARES[:-1]),
    ", ".join(tasks.GROUPS),
    "\n".join(f"    {name:<28} {task.about}" for name, task in tasks.TASKS.items()),
    "\n".join(f"    {name:<16} {one.about}" for name, one in optimizers.OPTIMIZERS.items()),
)


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "edition", "small", "The size of the networks: small, for two CPU cores, or full."
    )
    flags.DEFINE_list("tasks", ["all"], "The tasks, by name, or all.")
    flags.DEFINE_list(
        "optimizers", ["all"], "The optimizers: names, tuned, frozen, learned, or all."
    )
    flags.DEFINE_integer(
        "num_steps", 2_000, "Steps of a run; the long tasks have five times as many."
    )
    flags.DEFINE_integer("seeds", 5, "Runs of each optimizer that are reported.")
    flags.DEFINE_integer("tune_runs", 5, "Other runs, on which the rates are tuned.")
    flags.DEFINE_integer("evaluation_seed", 0, "Seed of the problems.")
    flags.DEFINE_string(
        "data_dir",
        None,
        "A TFDS directory with mnist, cifar10 and tiny_shakespeare; left out for embedded data: "
        "digits, and the source of Python's standard library.",
    )
    flags.DEFINE_string("workdir", None, "Where results go; default results/suite-EDITION.")
    flags.DEFINE_bool(
        "at_once",
        None,
        "Put all rates, runs and lengths of an optimizer on a task into one program: quicker where "
        "a step costs the same for many networks as for one. Left out: on an accelerator.",
    )
    flags.DEFINE_bool(
        "costs", False, "Time a step of each optimizer on each task, and run nothing else."
    )
    flags.DEFINE_bool(
        "report_only",
        False,
        "Write tables and pictures of the runs that are there, and run nothing.",
    )


def run() -> None:
    """Carries out the command line."""
    given = flags.FLAGS
    settings = kept.Settings(
        _checks.choice("edition", given.edition, tasks.EDITIONS),
        _checks.positive_int("num_steps", given.num_steps),
        _checks.positive_int("seeds", given.seeds),
        _checks.positive_int("tune_runs", given.tune_runs),
        TFDS if given.data_dir else EMBEDDED,
        given.evaluation_seed,
    )
    chosen = tasks.chosen(split(",".join(given.tasks)))
    compared = optimizers.chosen(split(",".join(given.optimizers)))
    workdir = os.path.expanduser(given.workdir or f"results/suite-{settings.edition}")
    sources = Sources(settings.edition, given.data_dir)
    if given.costs:
        running.measure_costs(chosen, compared, settings, sources, workdir)
        print(terminal.shown(writing.costs(workdir, chosen)))
    elif not given.report_only:
        at_once = jax.default_backend() != "cpu" if given.at_once is None else given.at_once
        running.run(chosen, compared, settings, sources, workdir, at_once)
    there = results.load(workdir)
    if there:
        text = writing.write(workdir, there, settings)
        print(terminal.shown(text, ("what", "verdict", "measured", "final loss", "over Adam")))
    elif not given.costs:
        raise ValueError(f"--workdir={workdir} has no runs yet: run without --report_only.")
    print(f"Everything is in {workdir}.")


if __name__ == "__main__":
    define_flags()
    main.run(run)
