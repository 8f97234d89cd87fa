"""The file of one optimizer on one task: what it holds, and how it is read and written."""

import json
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from learned_opt import _files

CURVES = "losses"  # of a whole run; those of shorter ones are "losses@SHARE"


class Settings(NamedTuple):
    """What two runs in one work directory must have in common.

    Attributes:
      edition: of the tasks, see `tasks.EDITIONS`.
      num_steps: of most tasks.
      seeds: how many runs of each optimizer are reported.
      tune_runs: how many other runs rates are tuned on.
      data: "embedded" or "TFDS".
      evaluation_seed: draws the problems.
    """

    edition: str
    num_steps: int
    seeds: int
    tune_runs: int
    data: str
    evaluation_seed: int


class Done(NamedTuple):
    """What the file of one optimizer on one task holds.

    Attributes:
      curves: dict from a share of the horizon to losses `[seeds, steps + 1]`; 1 is always there.
      measures: dict from name to `[seeds]`.
      record: plain data: the horizon, what was tuned, what tells the optimizer from others, and
        whether it is constant: then a shorter run is the beginning of a longer one.
    """

    curves: dict[float, np.ndarray]
    measures: dict[str, np.ndarray]
    record: dict[str, Any]


def path_of(
    workdir: str,
    task: str,
    optimizer: str,
) -> str:
    """The file of one optimizer on one task."""
    return os.path.join(workdir, task, f"{optimizer}.npz")


def read(path: str) -> Done | None:
    """What `write` has written, or None where it is not there or is damaged."""
    try:
        with np.load(path) as arrays:
            record = json.loads(str(arrays["record"]))
            curves = {}
            measures = {}
            for name in arrays.files:
                kind, _, rest = name.partition("@")
                if kind == CURVES:
                    curves[float(rest or 1)] = arrays[name]
                elif kind == "measure":
                    measures[rest] = arrays[name]
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
        return None
    return Done(curves, measures, record)


def write(path: str, done: Done) -> None:
    """Writes the file, which appears whole or not at all."""
    arrays = {f"{CURVES}@{share:g}": losses for share, losses in done.curves.items()}
    arrays.update({f"measure@{name}": values for name, values in done.measures.items()})
    with _files.whole(path) as temporary:
        np.savez_compressed(temporary, record=json.dumps(_files.portable(done.record)), **arrays)
