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
    there = {name: flags.FLAGS[name] for name in flags.FLAGS}
    # Other programs of this process, such as the benchmarks, have flags of the same names.
    aside = {name: flag for name, flag in there.items() if _is_program(name)}
    flags.FLAGS.remove_flag_values(aside)
    kept = set(flags.FLAGS)
    try:
        module.define_flags()
        flags.FLAGS([module.__name__, *given])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main.app, "run", lambda guarded: guarded([module.__name__]))
            main.run(module.run)
    except SystemExit as left:
        return left.code
    finally:
        flags.FLAGS.remove_flag_values([name for name in flags.FLAGS if name not in kept])
        for name, flag in aside.items():
            flags.FLAGS[name] = flag
    return 0


def _is_program(name):
    """Whether a flag belongs to a program, and not to absl itself."""
    return not flags.FLAGS.find_module_defining_flag(name, default="").startswith("absl")
