"""Timing programs side by side."""

import math
import sys
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import tqdm

MIN_SECONDS = 0.02  # what takes less is repeated within a round: a shorter timing is noise


def interleaved(
    programs: dict[Any, Callable[[], Any]],
    rounds: int,
    title: str | None = None,
    warm: bool = True,
) -> dict[Any, list[float]]:
    """Times programs in turns, so that a busy moment of the machine falls on all of them.

    Args:
      programs: dict from name to a function without arguments, which starts a run and returns
        arrays to wait for.
      rounds: number of rounds. The order rotates from one to the next.
      title: text before the progress bar, or None for no bar.
      warm: True to run each program before it is timed, and to repeat short ones within a round.
        False to time first runs, of programs that take long.

    Returns:
      Dict from name to `[rounds]`, seconds of one run.
    """
    counts = dict.fromkeys(programs, 1)
    if warm:
        counts = {name: _repetitions(program) for name, program in programs.items()}
    times: dict[Hashable, list[float]] = {name: [] for name in programs}
    names = list(programs)
    for done in _bar(rounds, title):
        first = done % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(programs[name], counts[name]))
    return times


def _bar(rounds: int, title: str | None) -> tqdm.tqdm:
    on_terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        range(rounds),
        desc=title,
        unit="round",
        dynamic_ncols=on_terminal,
        mininterval=0.5 if on_terminal else 10,  # a log file gets a line every ten seconds
        disable=title is None,
    )


def _repetitions(program: Callable[[], Any]) -> int:
    _seconds(program, 1)  # compiles
    seconds = max(_seconds(program, 2), 1e-7)
    return max(1, math.ceil(MIN_SECONDS / seconds))


def _seconds(program: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        out = program()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / count
