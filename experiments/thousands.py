"""Solves the same kind of problem thousands of times, by a learned solver and by its rivals.

Learns a solver for the family: a start, then an optimizer of few steps. Then it solves fresh
instances with it, and with the methods that an expert would take. Each is set to the cheapest
effort (the fewest iterations, as a rule) at which 95 %% of the instances are as accurate as
practice asks for. What is printed is the time an instance at that effort, side by side in one run
and without compilation, and after how many instances the learning has paid for itself against each
rival. --workdir receives config.json, table.md, summary.json, totals.png (total time over the
number of instances), and the solver. A run that was stopped goes on with the same command.

%s

Examples:

    python -m experiments.thousands --family=control
    python -m experiments.thousands --family=users --num_instances=20000
    python -m experiments.thousands --family=curves --architecture=lstm_gac
"""

import dataclasses
import os

from absl import flags

from experiments import config_flags, main, payback, racing, rivals, solvers, terminal
from learned_opt import _checks, _files
from learned_opt.evaluation import environment

__doc__ %= "\n".join(f"    {name:<9} {about}" for name, about in rivals.TASKS.items())


def define_flags() -> None:
    """Defines the flags of this program."""
    names = ", ".join(rivals.TASKS)
    config_flags.define_required("family", f"One of {names}; all for all of them.")
    flags.DEFINE_string(
        "architecture",
        solvers.PRECONDITIONED,
        f"Of the optimizer that goes on from the start: {', '.join(solvers.NAMES)}.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Where results go; default results/thousands/FAMILY, or FAMILY-ARCHITECTURE for another "
        "architecture.",
    )
    flags.DEFINE_list(
        "methods",
        [],
        "Race the learned solver against these alone, by their names in the table, such as "
        "'iLQR with limits'; all if empty.",
    )
    flags.DEFINE_integer("num_instances", 4096, "How many fresh instances are solved.")
    flags.DEFINE_integer("seed", 0, "Seed of learning, and of the fresh instances.")


def run() -> None:
    """Carries out the command line."""
    asked = _checks.choice("family", flags.FLAGS.family, [*rivals.TASKS, "all"])
    names = list(rivals.TASKS) if asked == "all" else [asked]
    architecture = _checks.choice("architecture", flags.FLAGS.architecture, solvers.NAMES)
    num_instances = _checks.positive_int("num_instances", flags.FLAGS.num_instances)
    for name in names:
        folder = flags.FLAGS.workdir or "results/thousands"
        if not flags.FLAGS.workdir or len(names) > 1:
            folder = os.path.join(folder, payback.kept_as(name, architecture))
        folder = os.path.expanduser(folder)
        text = _solve_family(name, architecture, folder, num_instances, flags.FLAGS.seed)
        print(terminal.shown(text, payback.FIRST))
        print(f"\nEverything is in {folder}: table.md, summary.json, totals.png.")


def _solve_family(
    name: str,
    architecture: str,
    workdir: str,
    num_instances: int,
    seed: int,
) -> str:
    """One family: learns, measures, writes; returns what is printed."""
    task = rivals.build(name)
    os.makedirs(workdir, exist_ok=True)
    recipe = dataclasses.replace(solvers.RECIPES[name], architecture=architecture)
    learned = solvers.learn(task, recipe, seed, workdir)
    rows = racing.measure(task, learned, num_instances, seed, flags.FLAGS.methods)
    summary = {
        "family": name,
        "architecture": architecture,
        "about": rivals.TASKS[name],
        "why": task.why,
        "num_instances": num_instances,
        "seed": seed,
        "training": learned.seconds,
        "rows": rows,
        "environment": environment.record(),
    }
    text = payback.section(summary)
    _files.write_text(os.path.join(workdir, "table.md"), text + "\n")
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    payback.draw(os.path.join(workdir, "totals.png"), summary)
    return text


if __name__ == "__main__":
    define_flags()
    main.run(run)
