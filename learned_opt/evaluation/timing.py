"""Timing programs side by side."""

import math
import sys
import time

import jax
import tqdm

MIN_SECONDS = 0.02  # what takes less is repeated within a round: a shorter timing is noise


def interleaved(programs, rounds, title=None, warm=True):
    """Times programs in turns, so that a busy moment of the machine falls on all of them.

    Args:
      programs: dict from name to a function without arguments that starts a run and returns arrays to wait for.
      rounds: number of rounds; the order rotates from one to the next.
      title: text before the progress bar, or None for no bar.
      warm: whether to run each once before it is timed, and what is short several times in a round; False times first
        runs, of what takes its time by itself.

    Returns:
      Dict from name to `[rounds]`, seconds of one run.
    """
    counts = {name: _repetitions(program) if warm else 1 for name, program in programs.items()}
    times = {name: [] for name in programs}
    names = list(programs)
    on_terminal = sys.stderr.isatty()  # a log file gets a line every ten seconds
    for r in tqdm.tqdm(
        range(rounds),
        desc=title,
        unit="round",
        dynamic_ncols=on_terminal,
        mininterval=0.5 if on_terminal else 10,
        disable=title is None,
    ):
        first = r % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(programs[name], counts[name]))
    return times


def _repetitions(program):
    _seconds(program, 1)  # warms up
    return max(1, math.ceil(MIN_SECONDS / max(_seconds(program, 2), 1e-7)))


def _seconds(program, count):
    start = time.perf_counter()
    for _ in range(count):
        out = program()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / count
