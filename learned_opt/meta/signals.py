"""Leaving in order when asked to."""

import signal
import threading


class Interrupted(SystemExit):
    """Meta-training was asked to stop; its state is saved. Exits with 128 + the signal's number, as a shell expects."""

    def __init__(self, signal_number, message):
        super().__init__(128 + signal_number)
        self.message = message

    def __str__(self):
        return self.message


class Watch:
    """Within this context SIGTERM and SIGINT are noted in `received` and the work goes on to its next safe point."""

    def __init__(self, active=True):
        self.received = None
        # Python lets only the main thread set handlers.
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self._active:
            self._before = {
                s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *error):
        if self._active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number, frame):
        del frame
        self.received = number
