"""One part of a sweep from its first unit to its table, and how far the whole sweep is."""

import dataclasses
import os
import sys
from collections.abc import Sequence

import numpy as np

from experiments import terminal
from experiments.sweeps import claims, folders, plan, programs, running, tables
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep
from experiments.sweeps.running import Runner
from learned_opt import _files

WHOLE = "1/1"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a sweep is carried out. None of it changes what comes out.

    Attributes:
      jobs: units that run at once.
      tries: how often a unit is tried.
      best_over: see `results.chosen_names`.
    """

    jobs: int = 1
    tries: int = 3
    best_over: tuple[str, ...] = ()


class Part:
    """One part of a sweep; submitit calls it, and starts it again after a requeue.

    Args:
      workdir: a folder that holds a sweep.
      text: which part, such as "1/8".
      options: how.
    """

    def __init__(
        self,
        workdir: str,
        text: str,
        options: Options,
    ) -> None:
        self._given = workdir, text, options
        self._runner: Runner | None = None

    def __call__(self) -> None:
        """Runs the part. Where the whole sweep is settled then, writes and prints its table.

        Raises:
          SystemExit: with 1 where a unit of this part has failed for good.
        """
        workdir, text, options = self._given
        sweep = plan.read(workdir)
        units = plan.part_of(sweep.units, text)
        self._runner = Runner(workdir, sweep, units, options.jobs, options.tries)
        self._runner.run()
        states = running.status(workdir, sweep.units, options.tries)
        num_left = len(states[folders.RUNNING]) + len(states[folders.MISSING])
        if num_left:
            print(f"Part {text} is through; {num_left} units of other parts are left.")
        else:
            report(workdir, sweep, states, options)
        names = {unit.name for unit in units}
        failed = [f for f in states[folders.FAILED] if f.unit.name in names]
        if failed:
            print(f"\n{_failures(sweep, failed)}", file=sys.stderr)
            sys.exit(1)

    def checkpoint(self) -> object:
        """What submitit starts again, after its programs have saved their state and left."""
        from submitit.helpers import DelayedSubmission

        if self._runner is not None:
            self._runner.stop()
        return DelayedSubmission(Part(*self._given))


def report(
    workdir: str,
    sweep: Sweep,
    states: dict[str, list[Folder]],
    options: Options,
) -> None:
    """Writes and prints the table of what is done."""
    table = tables.write(workdir, sweep, states[folders.DONE], options.best_over)
    if table:
        print(f"\n{terminal.shown(table, ['loss'])}")
        print(f"Everything is in {workdir}: table.md, summary.json, sweep.png, units/.")


def show_status(
    workdir: str,
    sweep: Sweep,
    options: Options,
) -> None:
    """Prints how far a sweep is, and writes the table of what is done."""
    states = running.status(workdir, sweep.units, options.tries)
    report(workdir, sweep, states, options)
    print(f"\n{len(sweep.units)} units of {sweep.program} in {workdir}:")
    for state, found in states.items():
        print(f"  {state:<8} {len(found)}")
    print(_estimate(states))
    for folder in states[folders.RUNNING]:
        owner = claims.read(folder.claim) or {}
        process = owner.get("process", {})
        print(
            f"running: {_words(sweep, folder)}: process {process.get('pid', '?')} of "
            f"{owner.get('host', '?')}, last sign of life {claims.age(folder.claim):.0f} s ago"
        )
    if states[folders.FAILED]:
        print(_failures(sweep, states[folders.FAILED]))


def _estimate(states: dict[str, list[Folder]]) -> str:
    """How much work is left."""
    left = len(states[folders.RUNNING]) + len(states[folders.MISSING])
    seconds = []
    for folder in states[folders.DONE]:
        done = _files.read_json(os.path.join(folder.done, "done.json"))
        seconds.append(done["seconds"])
    if not left:
        return "Nothing is left to do."
    if not seconds:
        return "No unit is done yet, so there is no estimate."
    mean = float(np.mean(seconds))
    return f"About {_duration(left * mean)} of work are left: a unit takes {_duration(mean)}."


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6_000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def _failures(sweep: Sweep, failed: Sequence[Folder]) -> str:
    lines = [f"{len(failed)} units have failed; --retry tries them again:"]
    if len(failed) == 1:
        lines = ["1 unit has failed; --retry tries it again:"]
    for folder in failed:
        failures = folder.failures
        lines.append(
            f"- {_words(sweep, folder)}, {len(failures)} times, the last one with exit status "
            f"{failures[-1]['status']}: {failures[-1]['said']} ({folder.log})"
        )
    return "\n".join(lines)


def _words(sweep: Sweep, folder: Folder) -> str:
    words = plan.shown(folder.unit, sweep.names)
    return words.removeprefix(sweep.program).strip() or sweep.program


def prepare(
    workdir: str,
    sweep: Sweep,
    retry: bool = False,
) -> None:
    """Checks a sweep and every folder that is there, and claims the work directory.

    Args:
      workdir: of the sweep.
      sweep: the `Sweep`.
      retry: whether to forget failures.

    Raises:
      ValueError: for settings that are not possible, and for folders that are others'.
    """
    programs.check(sweep)
    plan.claim(workdir, sweep)
    for unit in sweep.units:
        folder = Folder(workdir, unit)
        folder.check()
        if retry:
            folder.forget()
