"""One program in several processes: --distributed, for every program of experiments and benchmarks.

Where the machines are part of a TPU pod, of GKE, or were started by Slurm or MPI, JAX finds the
other processes by itself. Elsewhere three flags say who they are:

    python -m experiments.train --recipe=lstm-mnist --num_problems=16 --shards=8 --distributed
    python -m ... --distributed --coordinator=host0:1234 --num_processes=2 --process_index=0

The first process writes, shows and asks.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

import learned_opt
from learned_opt import devices
from learned_opt.evaluation import environment

flags.disclaim_key_flags()  # they belong to the program that is run: its --help lists them

# What may differ between the processes of one program.
_OF_EACH = ("process_index", "data_dir")


def define_flags() -> None:
    """Defines --distributed and what goes with it, unless that is done."""
    if "distributed" in flags.FLAGS:
        return
    flags.DEFINE_bool(
        "distributed",
        False,
        "Whether this is one of several processes of one program, each started by this command.",
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first process, where JAX does not find the others by itself.",
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many processes there are, where JAX cannot tell."
    )
    flags.DEFINE_integer(
        "process_index", None, "Which of them this is, from 0, where JAX cannot tell."
    )


def start() -> None:
    """Becomes one of several processes where the command line asks for it.

    Raises:
      ValueError: where the others are not found, or run another program.
    """
    given = flags.FLAGS
    if not given.distributed:
        for name in ("coordinator", "num_processes", "process_index"):
            if getattr(given, name) is not None:
                raise ValueError(f"--{name} goes with --distributed: give both, or leave it out.")
        return
    devices.start(given.coordinator, given.num_processes, given.process_index)
    if not devices.is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as it runs)
    devices.check_alike("versions", environment.program())
    devices.check_alike("flags", _flags())


def _flags() -> dict[str, Any]:
    """The flags of the program, as they are and not as they were given."""
    values = {}
    for module, of_module in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("absl"):
            continue
        values.update({flag.name: str(flag.value) for flag in of_module})
    return {name: value for name, value in values.items() if name not in _OF_EACH}


def run(main: Callable[[], None], told: Callable[[BaseException], str | None]) -> None:
    """Runs `main()` in this process, and lets an error in it end all of them.

    Args:
      main: the program.
      told: the one line in which an error is told, or None for one that is shown with its trace.
    """
    try:
        start()
        main()
    except learned_opt.Interrupted:
        raise  # all processes leave together
    except BaseException as error:
        line = told(error)
        if line is None and not devices.is_several():
            raise
        _show(error, line)
        _leave(130 if isinstance(error, KeyboardInterrupt) else _status(error))


def _status(error: BaseException) -> int:
    """With which status a process leaves."""
    if not isinstance(error, SystemExit):
        return 1
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _show(error: BaseException, line: str | None) -> None:
    """Tells of an error on stderr; of one that all processes have, the first tells alone."""
    is_first = devices.is_first()
    if isinstance(error, SystemExit) or (
        not is_first and isinstance(error, (devices.DisagreementError, KeyboardInterrupt))
    ):
        return
    if devices.is_several() and _is_loss(error):
        first_line = str(error).strip().split("\n", 1)[0]
        line = (
            f"another process has left, or a device has failed: {first_line}\n"
            "What is saved is whole. Start all processes again to go on from there."
        )
    if line is None:
        traceback.print_exception(error)
        return
    prefix = "" if is_first else f"process {jax.process_index()}: "
    print(prefix + line, file=sys.stderr)


def _is_loss(error: BaseException) -> bool:
    """Whether an error is what a process sees when another one is gone."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return True
    # JAX raises what its runtime reports as several kinds.
    words = str(error).lower()
    return any(name in words for name in ("gloo", "nccl", "coordination service"))


def _leave(status: int) -> None:
    if not devices.is_several():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if devices.is_first():
        time.sleep(1)  # the others lose their coordinator with it
    # At an ordinary exit JAX would wait for processes that wait for this one.
    os._exit(status)
