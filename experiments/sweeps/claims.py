"""Which process works on which unit: a file for each, which is there while the work goes on.

A claim says on which machine which process works. Its age is told by the file system's own clock:
the process touches it every few seconds. On the same machine a claim is stale when its process and
the program that it has started are gone; from another one, when it was not touched for `STALE`
seconds.
"""

import contextlib
import json
import os
import pathlib
import socket
import tempfile
import uuid
from typing import Any

from learned_opt import _files

HEARTBEAT = 10  # seconds
STALE = 180  # more than file systems of several machines keep what they know of a file


class Claim:
    """A claim that is held. See `take`."""

    def __init__(self, path: str, owner: dict[str, Any]) -> None:
        self._path = path
        self._owner = owner

    def is_held(self) -> bool:
        """Shows a sign of life; False where another process has taken the claim over."""
        theirs = read(self._path)
        if theirs is None or theirs.get("token") != self._owner["token"]:
            return False
        os.utime(self._path)
        return True

    def note_child(self, pid: int) -> None:
        """Names the process that does the work."""
        self._owner["child"] = _process(pid)
        _files.write_json(self._path, self._owner)

    def release(self) -> None:
        """Gives the claim back, unless another process has taken it over."""
        if self.is_held():
            os.unlink(self._path)


def take(path: str) -> Claim | None:
    """Claims what a file stands for.

    Returns:
      The `Claim`, or None where another process holds it.
    """
    owner = {
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": _process(os.getpid()),
        "child": None,
        "token": uuid.uuid4().hex,
    }
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not _created(path, owner):
        if is_live(path):
            return None
        _remove_stale(path)
        if not _created(path, owner):
            return None
    return Claim(path, owner)


def read(path: str) -> dict[str, Any] | None:
    """Who holds a claim; None for nobody, an empty dict for a file that is not written yet."""
    try:
        return _files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def is_live(path: str) -> bool:
    """Whether a process holds a claim and shows signs of life."""
    owner = read(path)
    if owner is None:
        return False
    if owner.get("machine") == _machine():
        return _is_running(owner["process"]) or _is_running(owner["child"])
    return age(path) < STALE


def age(path: str) -> float:
    """Seconds since a claim's last sign of life, by the clock of its file system."""
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".now-") as f:
        now = os.stat(f.name).st_mtime
    try:
        return now - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _created(path: str, owner: dict[str, Any]) -> bool:
    """Writes a claim, unless there is one."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as f:
        f.write(json.dumps(owner, indent=2))
    return True


def _remove_stale(path: str) -> None:
    """Takes a stale claim away.

    Two processes may do so at once. The second one would take away the new claim of the first: what
    it has moved aside is looked at again, and put back if it is live.
    """
    aside = f"{path}.{uuid.uuid4().hex}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if is_live(aside) and not os.path.exists(path):
        os.rename(aside, path)
    else:
        os.unlink(aside)


def _machine() -> str:
    """What tells the processes of this machine, and of this container, from all others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(parts)


def _process(pid: int) -> dict[str, Any]:
    return {"pid": pid, "started": _state(pid)[1]}


def _is_running(process: dict[str, Any] | None) -> bool:
    """Whether a process is there, and no other one that has got its number since."""
    if process is None:
        return False
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, started = _state(process["pid"])
    return state != "Z" and started == process["started"]


def _state(pid: int) -> tuple[str | None, str | None]:
    """State and time of start of a process, where the system tells them."""
    try:
        line = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None, None
    fields = line.rpartition(")")[2].split()
    return fields[0], fields[19]
