"""What every experiment's `main` does around its own work."""

import sys
from collections.abc import Callable

from absl import app, logging

import learned_opt

# What a user can get wrong, and what a machine may lack.
TOLD_IN_ONE_LINE = (
    ValueError,
    OSError,
    ImportError,
    OverflowError,
    learned_opt.MetaTrainingError,
)


def run(main: Callable[[], None]) -> None:
    """Runs `main()` as an absl program.

    What a user got wrong is told in one line. The whole trace is shown with --v=1.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(
                f"unexpected argument {argv[1]!r}: settings are given as --name=value."
            )
        if logging.get_verbosity() <= logging.INFO:
            # The checkpoint library reports each of its own steps.
            logging.set_verbosity(logging.WARNING)
        try:
            main()
        except KeyboardInterrupt:
            print("\nStopped: the same command goes on from here.", file=sys.stderr)
            sys.exit(130)
        except TOLD_IN_ONE_LINE as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)
