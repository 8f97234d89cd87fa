"""Where a sweep keeps its units.

    WORKDIR/units/NAME    a unit that is done. The folder appears whole, by being renamed
    WORKDIR/work/NAME     one that is not: it was interrupted, has failed, or is being worked on
    WORKDIR/claims/NAME   who works on it, see `claims`

A unit's folder has config.json, results/ (what its program has written), log.txt (what the program
has said), failures.json if it has failed before, and, when it is done, done.json.
"""

import os
import time
from typing import Any, NamedTuple

from experiments.sweeps import claims, plan
from experiments.sweeps.plan import Unit
from learned_opt import _files

DONE, FAILED, RUNNING, MISSING = "done", "failed", "running", "missing"


class Folder(NamedTuple):
    """The folder of one unit.

    Attributes:
      workdir: of the sweep.
      unit: the `Unit`.
    """

    workdir: str
    unit: Unit

    @property
    def done(self) -> str:
        """Where it is when it is done."""
        return os.path.join(self.workdir, "units", self.unit.name)

    @property
    def work(self) -> str:
        """Where it is until then."""
        return os.path.join(self.workdir, "work", self.unit.name)

    @property
    def claim(self) -> str:
        """Its claim."""
        return os.path.join(self.workdir, "claims", f"{self.unit.name}.json")

    @property
    def log(self) -> str:
        """What its program says."""
        return os.path.join(self.work, "log.txt")

    @property
    def _failures(self) -> str:
        return os.path.join(self.work, "failures.json")

    @property
    def is_done(self) -> bool:
        """Whether it is done."""
        return os.path.exists(self.done)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """How often it has failed, and what it said."""
        try:
            return _files.read_json(self._failures)
        except FileNotFoundError:
            return []

    def state(self, tries: int) -> str:
        """DONE, RUNNING, FAILED (so often that it is not tried again), or MISSING."""
        if self.is_done:
            return DONE
        if claims.is_live(self.claim):
            return RUNNING
        return FAILED if len(self.failures) >= tries else MISSING

    def check(self) -> None:
        """Checks that what is there is this unit's.

        Raises:
          ValueError: where it is another configuration's.
        """
        for folder in (self.done, self.work):
            if not os.path.exists(folder):
                continue
            path = os.path.join(folder, "config.json")
            there = _files.read_json(path) if os.path.exists(path) else None
            # A unit that was stopped before its first file is nobody's yet.
            is_empty = folder == self.work and not os.listdir(folder)
            if there != _files.portable(self.unit.config) and not is_empty:
                raise ValueError(
                    f"the folder {folder} is not that of {plan.shown(self.unit)}, but of another "
                    "configuration: choose another workdir, or move that folder away."
                )

    def begin(self) -> None:
        """Makes the folder, or checks the one that is there."""
        self.check()
        os.makedirs(self.work, exist_ok=True)
        path = os.path.join(self.work, "config.json")
        if not os.path.exists(path):
            _files.write_json(path, self.unit.config)

    def finish(self, **notes: Any) -> None:
        """The unit is done: its folder appears."""
        _files.write_json(os.path.join(self.work, "done.json"), notes)
        os.makedirs(os.path.dirname(self.done), exist_ok=True)
        os.rename(self.work, self.done)

    def note_failure(self, status: int, seconds: float) -> None:
        """Keeps that the unit has failed."""
        failure = {
            "status": status,
            "when": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seconds": round(seconds, 1),
            "said": last_line(self.log),
        }
        failures = [*self.failures, failure]
        _files.write_json(self._failures, failures)

    def forget(self) -> None:
        """Forgets its failures, so that it is tried again from where it stood."""
        if self.failures:
            os.unlink(self._failures)


def last_line(path: str) -> str:
    """The last line of a text file that says something; an empty one where there is none."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - 10_000))
            text = f.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
