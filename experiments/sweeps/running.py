"""Carries the units of a sweep out: each in a process of its own, some of them at once."""

import collections
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

import tqdm

from experiments.sweeps import claims, folders, plan, programs
from experiments.sweeps.claims import Claim
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep, Unit
from learned_opt.meta.signals import Interrupted, Watch

GRACE = 60  # seconds that a program has to save its state after a SIGTERM
PAUSE = 1  # seconds between looks at a unit that another process works on
LOOK = 0.1  # seconds between looks at a program that runs
# What asks a whole job to leave reaches program and sweep in any order, within so many seconds.
TOGETHER = 5
LEFT = (-signal.SIGTERM, 128 + signal.SIGTERM)


class Event(NamedTuple):
    """What has happened to a unit.

    Attributes:
      folder: of the unit.
      kind: "started", "elsewhere" (another process works on it), "stopped", or
        `folders.DONE`, `folders.FAILED` (for good) or `folders.MISSING` (to be tried again).
    """

    folder: Folder
    kind: str


STARTED, ELSEWHERE, STOPPED, BROKEN = "started", "elsewhere", "stopped", "broken"


class Runner:
    """Runs units until each is done, or has failed too often.

    A unit that another process works on is waited for, and taken over when that process is gone.

    Args:
      workdir: of the sweep.
      sweep: the `Sweep`.
      units: those to run.
      jobs: how many run at once.
      tries: how often a unit is tried.

    Raises:
      ValueError: where a unit's folder belongs to another configuration.
    """

    def __init__(
        self,
        workdir: str,
        sweep: Sweep,
        units: Iterable[Unit],
        jobs: int = 1,
        tries: int = 3,
    ) -> None:
        self._program = programs.describe(sweep.program)
        self._tries = tries
        self._on_terminal = sys.stderr.isatty()
        self._names = sweep.names
        self._folders = [Folder(workdir, unit) for unit in units]
        for folder in self._folders:
            folder.check()
        open_ones = [f for f in self._folders if not f.is_done and len(f.failures) < tries]
        self._waiting = collections.deque((folder, 0.0) for folder in open_ones)
        self._num_left = len(open_ones)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._events: queue.Queue[Event | BaseException] = queue.Queue()
        slots = range(min(jobs, self._num_left))
        self._workers = [threading.Thread(target=self._work, args=(slot,)) for slot in slots]

    def run(self) -> None:
        """Runs the units, and shows how far they are.

        Raises:
          Interrupted: after SIGTERM or SIGINT, when the programs have left.
        """
        on_terminal = self._on_terminal
        bar = tqdm.tqdm(
            total=len(self._folders),
            initial=len(self._folders) - self._num_left,
            desc=self._program.name.rpartition(".")[2],
            unit="unit",
            mininterval=0.5 if on_terminal else 10,
            dynamic_ncols=on_terminal,
        )
        with bar, Watch() as watch:
            for worker in self._workers:
                worker.start()
            try:
                while self._num_left and watch.received is None:
                    self._show_next(bar)
            finally:
                self.stop()
        if watch.received is not None:
            message = "Stopped: the same command goes on from here."
            print(f"\n{message}", file=sys.stderr)
            raise Interrupted(watch.received, message)

    def stop(self) -> None:
        """Asks the programs that run to save their state and to leave, and waits for them."""
        self._stop.set()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join()

    def _show_next(self, bar: tqdm.tqdm) -> None:
        """Waits for an event, and shows it."""
        try:
            event = self._events.get(timeout=0.5)
        except queue.Empty:
            if self._on_terminal:
                bar.refresh()
            return
        if isinstance(event, BaseException):
            raise event
        words = plan.shown(event.folder.unit, self._names)
        words = words.removeprefix(self._program.name).strip()
        bar.set_postfix_str(f"{event.kind}: {words}", refresh=self._on_terminal)
        if event.kind in (BROKEN, folders.FAILED):
            last = event.folder.failures[-1]
            count = f"{len(event.folder.failures)} of {self._tries}"
            bar.write(f"Failed ({count}): {words}: {last['said']}", file=sys.stderr)
        if event.kind in (folders.DONE, folders.FAILED):
            self._num_left -= 1
            bar.update()

    def _work(self, slot: int) -> None:
        """One worker: takes unit after unit."""
        try:
            while not self._stop.is_set():
                folder = self._next()
                if folder is None:
                    self._stop.wait(LOOK)
                    continue
                kind = self._attempt(folder, slot)
                if kind in (ELSEWHERE, BROKEN):
                    pause = PAUSE if kind == ELSEWHERE else 0
                    with self._lock:
                        self._waiting.append((folder, time.monotonic() + pause))
                self._events.put(Event(folder, kind))
        except BaseException as error:
            self._events.put(error)

    def _next(self) -> Folder | None:
        """The next unit whose time has come."""
        with self._lock:
            for _ in range(len(self._waiting)):
                folder, when = self._waiting.popleft()
                if time.monotonic() >= when:
                    return folder
                self._waiting.append((folder, when))
        return None

    def _attempt(self, folder: Folder, slot: int) -> str:
        """Tries one unit; returns the kind of the `Event`."""
        if folder.is_done:
            return folders.DONE
        claim = claims.take(folder.claim)
        if claim is None:
            return ELSEWHERE
        try:
            if folder.is_done:  # in the meantime
                return folders.DONE
            if len(folder.failures) >= self._tries:
                return folders.FAILED
            folder.begin()
            return self._carry_out(folder, claim, slot)
        finally:
            claim.release()

    def _carry_out(
        self,
        folder: Folder,
        claim: Claim,
        slot: int,
    ) -> str:
        """Runs a unit's program, and keeps what came of it."""
        self._events.put(Event(folder, STARTED))
        results = os.path.join(folder.work, "results")
        command = programs.command(self._program, folder.unit, results, slot)
        started = time.monotonic()
        with open(folder.log, "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=programs.environment(folder.unit, slot),
                start_new_session=True,  # Ctrl-C is for the sweep, which asks the program to leave
            )
            claim.note_child(process.pid)
            status = self._wait(process, claim)
        seconds = time.monotonic() - started
        if status == 0:
            tries = len(folder.failures) + 1
            folder.finish(seconds=round(seconds, 1), tries=tries, host=socket.gethostname())
            return folders.DONE
        if status is None:
            return ELSEWHERE
        if self._stop.wait(TOGETHER if status in LEFT else 0):
            return STOPPED
        folder.note_failure(status, seconds)
        return folders.FAILED if len(folder.failures) >= self._tries else BROKEN

    def _wait(self, process: subprocess.Popen, claim: Claim) -> int | None:
        """The exit status of a program; None where the claim was lost, and it was ended."""
        touched = time.monotonic()
        while True:
            try:
                return process.wait(timeout=LOOK)
            except subprocess.TimeoutExpired:
                pass
            if self._stop.is_set():
                return _end(process)
            if time.monotonic() - touched > claims.HEARTBEAT:
                touched = time.monotonic()
                if not claim.is_held():
                    _end(process)
                    return None


def _end(process: subprocess.Popen) -> int:
    """Asks a program to leave, and ends what does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            return process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def status(
    workdir: str,
    units: Iterable[Unit],
    tries: int,
) -> dict[str, list[Folder]]:
    """The units by their state: `folders.DONE`, RUNNING, FAILED and MISSING."""
    found: dict[str, list[Folder]] = {
        folders.DONE: [],
        folders.RUNNING: [],
        folders.FAILED: [],
        folders.MISSING: [],
    }
    for unit in units:
        folder = Folder(workdir, unit)
        folder.check()
        found[folder.state(tries)].append(folder)
    return found
