"""Programs of `experiments` as a user runs them: each in a process of its own, or in this one."""

import subprocess
import sys

import pytest
from absl import flags

from experiments import main


def program(name, *given):
    """The finished process of a command."""
    command = [sys.executable, "-m", f"experiments.{name}", *given]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def in_process(module, *given):
    """Runs a program here, from its flags on; returns its exit status.

    What it prints is what `capsys` reads.
    """
    there = set(flags.FLAGS)
    module.define_flags()
    try:
        flags.FLAGS([module.__name__, *given])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main.app, "run", lambda guarded: guarded([module.__name__]))
            main.run(module.run)
    except SystemExit as left:
        return left.code
    finally:
        flags.FLAGS.remove_flag_values(set(flags.FLAGS) - there)
    return 0
