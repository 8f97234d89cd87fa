"""Hands the parts of a sweep to Slurm, through submitit."""

import os
from collections.abc import Mapping
from typing import Any

from experiments.sweeps.work import Options, Part
from learned_opt import _checks

HERE = "here"
SLURM = "slurm"
LOCAL = "local"  # submitit's processes on this machine
EXECUTORS = (HERE, SLURM, LOCAL)
MOST_PARTS = 256  # of an array, unless another number is asked for
MOST_REQUEUES = 1_000
LOGS = "jobs"


def submit(
    workdir: str,
    name: str,
    num_parts: int,
    parameters: Mapping[str, Any],
    options: Options,
) -> list[Any]:
    """Submits an array of parts. A part that is pre-empted, or out of time, is requeued.

    Args:
      workdir: of a sweep that is prepared.
      name: SLURM or LOCAL.
      num_parts: how many parts.
      parameters: of submitit, such as `{"timeout_min": 60, "slurm_partition": "gpu"}`.
      options: see `Part`.

    Returns:
      submitit's jobs.

    Raises:
      ImportError: where submitit is missing.
      ValueError: for a parameter that submitit does not know.
    """
    submitit = _checks.extra("submitit", "submitit", f"--executor={name}")
    logs = os.path.join(workdir, LOGS)
    try:
        executor = submitit.AutoExecutor(
            folder=logs, cluster=name, slurm_max_num_timeout=MOST_REQUEUES
        )
    except RuntimeError as error:
        raise ValueError(f"executor {name!r} cannot be used here: {error}") from None
    try:
        executor.update_parameters(
            name="sweep", slurm_additional_parameters={"requeue": True}, **parameters
        )
    except (NameError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"a parameter of --slurm is not known to submitit: {said}") from None
    parts = []
    for i in range(1, num_parts + 1):
        parts.append(Part(workdir, f"{i}/{num_parts}", options))
    with executor.batch():
        return [executor.submit(part) for part in parts]
