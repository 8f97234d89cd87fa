"""Runs a unit's program in a process that does not outlive its sweep.

    python -m experiments.sweeps.unit MODULE --flag=value ...

is `python -m MODULE --flag=value ...`. On Linux the process gets a SIGTERM as soon as the sweep is
gone, also where the sweep was killed: otherwise it would go on, and the next sweep would begin the
same unit in the same folder. Slurm sends its notice of a time limit, SIGUSR2, to all processes of a
job: it is for the sweep, which then asks the program to leave, and would end the program at once.
"""

import ctypes
import os
import runpy
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


def run(argv: list[str]) -> None:
    """Runs the program that `argv` names, with its flags."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    parent = os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be watched
            sys.exit(128 + signal.SIGTERM)
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(sys.argv[1:])
