"""What every experiment's `main` does around its own work."""

import sys
from collections.abc import Callable

from absl import app, logging

import learned_opt
from experiments import processes, terminal

# What a user can get wrong, and what a machine may lack.
TOLD_IN_ONE_LINE = (
    ValueError,
    OSError,
    ImportError,
    OverflowError,
    learned_opt.MetaTrainingError,
)


def run(main: Callable[[], None]) -> None:
    """Runs `main()` as an absl program, in one process or, with --distributed, in several.

    What a user got wrong is told in one line. The whole trace is shown with --v=1.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(unexpected(argv[1]))
        if logging.get_verbosity() <= logging.INFO:
            # The checkpoint library reports each of its own steps.
            logging.set_verbosity(logging.WARNING)
        processes.run(main, told)

    processes.define_flags()
    terminal.fit_help()
    app.run(guarded)


def unexpected(argument: str) -> str:
    """What is said of an argument that is no flag."""
    return f"unexpected argument {argument!r}: settings are given as --name=value, see --help."


def told(error: BaseException) -> str | None:
    """The one line in which an error is told, or None for one that is shown with its trace."""
    if isinstance(error, KeyboardInterrupt):
        return "\nStopped: the same command goes on from here."
    if not isinstance(error, TOLD_IN_ONE_LINE) or logging.get_verbosity() >= logging.DEBUG:
        return None
    return f"{type(error).__name__}: {error}"
