"""What a study and a figure have in common: a work directory of their own, and random keys."""

import os
from typing import Any

import jax

from learned_opt import _files
from learned_opt.evaluation import environment
from learned_opt.meta import checkpoints


def claim(
    workdir: str,
    config: dict,
    **notes: Any,
) -> None:
    """Makes a work directory this configuration's, or checks that it is.

    `config.json` holds the configuration. Beside it stand the versions that began the work and the
    notes; both may differ when the work goes on.

    Args:
      workdir: the directory.
      config: plain data; another call must bring the same.
      **notes: plain data that are kept as well.

    Raises:
      ValueError: if the directory belongs to another configuration; names what differs.
    """
    path = os.path.join(workdir, "config.json")
    config = _files.portable(config)
    if _files.exists(path):
        there = _files.read_json(path)
        checkpoints.check_same(there.get("config", {}), config, workdir)
        return
    _files.write_json(path, {"config": config, **notes, "environment": environment.record()})


def keys(evaluation_seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of the problems on which optimizers are compared, and on which they are tuned."""
    key = jax.random.fold_in(jax.random.key(evaluation_seed), 1)
    evaluation_key, tune_key = jax.random.split(key)
    return evaluation_key, tune_key
