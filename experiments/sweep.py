"""Sweeps a program over anything that is one of its flags, or a place of a recipe.

A unit is one run of --program with all its settings. It is a folder in --workdir/units that appears
when the unit is done, and not before. The same command again does what is missing; several at once
share the work. A unit that fails --tries times is reported, and does not stop the rest. When all is
done, --workdir receives table.md (the best setting of each optimizer and problem, then every
setting), sweep.png (every setting's curve) and summary.json; --status writes them of what is done
so far. A sweep can grow: more values, seeds or draws with the same --workdir.

--over=NAME=VALUES makes a grid, --set=NAME=VALUE is for all units alike. NAME is

    a flag of the program        seed, learning_rate, sizes, ...: its --help has them
    a place of a recipe          learning_rate, estimator.window, family.arguments.dim, ... (of
                                 experiments.train)
    env.NAME                     an environment variable
    NAME/OTHER                   settings that change together

VALUES are

    1e-3,3e-3                    these
    0:3                          0, 1 and 2; 0:10:5 for 0 and 5
    log:1e-4:1e-1                --random draws, uniform in the logarithm; likewise uniform:0:1 and
                                 int:1:8
    lstm/mnist,rnnprop/null      for NAME/OTHER; null leaves a flag out

{slot} in a value is the number of the place, from 0 to --jobs - 1, on which a unit runs.

The table has the mean over seeds (settings whose names end in "seed") and runs. The best is chosen
over learning rates and whatever is drawn, or over --best_over; all other settings are optimizers
and problems, a line each. A benchmark's measurements stand in one table.

Examples:

    Three optimizers, five rates, three seeds of meta-training:

    python -m experiments.sweep --workdir=results/sweeps/quadratic
        --over=recipe=lstm-quadratic,gac-quadratic,ntm-bfgs-quadratic
        --over=learning_rate=3e-4,1e-3,3e-3,1e-2,3e-2 --over=seed=0:3

    Twenty draws of two settings:

    python -m experiments.sweep --workdir=results/sweeps/random --set=recipe=lstm-quadratic
        --random=20 --over=learning_rate=log:1e-4:1e-1 --over=num_problems=int:1:32

    Hand-designed optimizers on three families:

    python -m experiments.sweep --workdir=results/sweeps/hand --program=experiments.curves
        --over=optimizer=Adam,SGD,Momentum --over=learning_rate=1e-3,1e-2,1e-1
        --over=family=quadratic,rotated_quadratic,rosenbrock

    A benchmark over sizes and numbers of devices:

    python -m experiments.sweep --workdir=results/sweeps/update --program=benchmarks.update
        --over=sizes=10000,1000000 --over=env.JAX_NUM_CPU_DEVICES=1,2

    Eight GPUs, a unit on each:

    python -m experiments.sweep ... --jobs=8 --set=env.CUDA_VISIBLE_DEVICES={slot}

    Slurm, an array of 16 jobs; and how far it is:

    python -m experiments.sweep ... --executor=slurm --num_parts=16
        --slurm=timeout_min=240,slurm_partition=gpu,gpus_per_node=1
    python -m experiments.sweep --workdir=results/sweeps/quadratic --status

    Part 3 of 8, for machines that something else starts (experiments/launch has files for that):

    python -m experiments.sweep ... --parts=3/8
"""

import os

from absl import flags

from experiments import config_flags, main
from experiments.sweeps import executors, folders, plan, running, work
from experiments.sweeps.executors import HERE
from experiments.sweeps.plan import Sweep
from learned_opt import _checks, _files


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define_required("workdir", "The folder of the sweep.")
    flags.DEFINE_string("program", "experiments.train", "The module that each unit runs.")
    flags.DEFINE_multi_string("over", [], "NAME=VALUES, what varies")
    flags.DEFINE_multi_string("set", [], "NAME=VALUE, for all units")
    flags.DEFINE_string(
        "file",
        None,
        'A JSON file with "program", "set", "over" (a dict, or a list of dicts for several grids), '
        '"random" and "random_seed", in the place of the flags of these names.',
    )
    flags.DEFINE_integer(
        "random", 0, "How many draws there are of settings that are drawn at random."
    )
    flags.DEFINE_integer("random_seed", 0, "Seed of the draws.")
    flags.DEFINE_string("parts", work.WHOLE, "Run only part i of n of the units, given as i/n.")
    flags.DEFINE_integer("jobs", 1, "How many units run at once on this machine.")
    flags.DEFINE_integer("tries", 3, "How often a unit is tried before it counts as failed.")
    flags.DEFINE_bool("retry", False, "Try again what has failed.")
    flags.DEFINE_list(
        "best_over", [], "Of which settings the best is chosen; default learning rates and draws."
    )
    flags.DEFINE_bool("status", False, "Tell how far the sweep is, and run nothing.")
    flags.DEFINE_bool("plan", False, "Show the units, keep the sweep in --workdir, run nothing.")
    flags.DEFINE_enum(
        "executor",
        HERE,
        executors.EXECUTORS,
        "here: this process; slurm: an array of jobs, through submitit; local: submitit's own way "
        "to try that without Slurm.",
    )
    flags.DEFINE_integer(
        "num_parts", 0, f"Jobs of the array; 0 for one a unit, at most {executors.MOST_PARTS}."
    )
    flags.DEFINE_list(
        "slurm",
        [],
        "Parameters of submitit as name=value, such as timeout_min=240, mem_gb=16, "
        "gpus_per_node=1, slurm_partition=gpu.",
    )


def run() -> None:
    """Carries out the command line."""
    given = flags.FLAGS
    workdir = os.path.abspath(os.path.expanduser(given.workdir))
    options = work.Options(
        _checks.positive_int("jobs", given.jobs),
        _checks.positive_int("tries", given.tries),
        tuple(given.best_over),
    )
    sweep = _asked() or plan.read(workdir)
    _check_best_over(sweep, given.best_over)
    if given.status:
        work.show_status(workdir, plan.read(workdir), options)
        return
    # What is wrong is told before anything is made.
    plan.part_of(sweep.units, given.parts)
    work.prepare(workdir, sweep, given.retry)
    if given.plan:
        _show_plan(workdir, sweep)
    elif given.executor == HERE:
        work.Part(workdir, given.parts, options)()
    else:
        _submit(workdir, sweep, options)


def _asked() -> Sweep | None:
    """The sweep that the command line asks for; None where it leaves that to the work directory."""
    given = flags.FLAGS
    if given.file is not None:
        if given.over or given.set:
            raise ValueError("--file stands in the place of --over and --set: leave those out.")
        return plan.from_plain(_files.read_json(os.path.expanduser(given.file)), given.file)
    if not given.over and not given.set:
        return None
    over = {}
    for text in given.over:
        name, values = config_flags.setting("over", text)
        if name in over:
            raise ValueError(f"--over has {name!r} twice: give all its values at once.")
        over[name] = values
    return Sweep(
        given.program,
        config_flags.settings("set", given.set),
        [over],
        given.random,
        given.random_seed,
    )


def _check_best_over(sweep: Sweep, names: list[str]) -> None:
    for name in names:
        _checks.choice("setting of --best_over:", name, sweep.names)


def _show_plan(workdir: str, sweep: Sweep) -> None:
    for unit in sweep.units:
        print(plan.shown(unit))
    print(
        f"{len(sweep.units)} units. python -m experiments.sweep --workdir={workdir} runs them, "
        "with --parts=i/n those of one part."
    )


def _submit(
    workdir: str,
    sweep: Sweep,
    options: work.Options,
) -> None:
    """Hands the sweep to an executor."""
    given = flags.FLAGS
    if given.parts != work.WHOLE:
        raise ValueError(
            f"parts is {given.parts!r}, and --executor={given.executor} makes the parts itself: "
            "give --num_parts."
        )
    states = running.status(workdir, sweep.units, options.tries)
    num_left = len(states[folders.MISSING])
    if not num_left:
        work.show_status(workdir, sweep, options)
        return
    num_parts = _checks.positive_int("num_parts", given.num_parts, minimum=0)
    num_parts = num_parts or min(len(sweep.units), executors.MOST_PARTS)
    parameters = config_flags.settings("slurm", given.slurm)
    jobs = executors.submit(workdir, given.executor, num_parts, parameters, options)
    ids = [job.job_id for job in jobs]
    print(
        f"{num_left} units in {len(jobs)} jobs, {ids[0]} to {ids[-1]}; what they say is in "
        f"{os.path.join(workdir, executors.LOGS)}. How far they are:\n"
        f"    python -m experiments.sweep --workdir={workdir} --status"
    )
    if given.executor == executors.LOCAL:
        for job in jobs:
            job.wait()
        work.show_status(workdir, sweep, options)


if __name__ == "__main__":
    define_flags()
    main.run(run)
