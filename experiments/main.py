"""What every experiment's `main` does around its own work."""

import sys

from absl import app, logging

import learned_opt


def run(main):
    """Runs `main()` as an absl program: what a user got wrong is told in one line (the whole trace with --v=1)."""

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(
                f"unexpected argument {argv[1]!r}: settings are given as --name=value."
            )
        if logging.get_verbosity() <= logging.INFO:
            logging.set_verbosity(
                logging.WARNING
            )  # the checkpoint library tells every step of its own
        try:
            main()
        except KeyboardInterrupt:
            print("\nStopped: the same command goes on from here.", file=sys.stderr)
            sys.exit(130)
        except (
            ValueError,
            OSError,
            ImportError,
            OverflowError,
            learned_opt.MetaTrainingError,
        ) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)
