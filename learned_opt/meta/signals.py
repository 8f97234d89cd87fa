"""Leaving in order when asked to."""

import signal
import threading
from typing import Any


class Interrupted(SystemExit):
    """Meta-training was asked to stop, and its state is saved.

    It exits with 128 plus the signal's number, as a shell expects.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(128 + signal_number)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Watch:
    """Within this context SIGTERM and SIGINT are noted, and the work goes on to a safe point.

    Attributes:
      received: the number of the signal that came, or None.
    """

    def __init__(self, active: bool = True) -> None:
        self.received: int | None = None
        # Python lets only the main thread set handlers.
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Watch":
        if self._active:
            watched = (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._note) for number in watched}
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
