"""Learned starting points as files: safetensors, as optimizers are."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from learned_opt import _checks, _files
from learned_opt.optimizees.starts import Start

FORMAT = "learned_opt start"
SUFFIX = ".safetensors"


def save_start(path: str | os.PathLike, start: Start) -> None:
    """Writes a learned start.

    Args:
      path: where to; the suffix .safetensors is added if it is missing.
      start: from `learned_opt.learn_start`.

    Raises:
      ValueError: if it is no start, or not finite.

    Example:
      >>> import jax, learned_opt, os, tempfile
      >>> start = learned_opt.optimizees.begin_start(
      ...     learned_opt.optimizees.quadratic(2), jax.random.key(0), hidden_sizes=None)
      >>> path = os.path.join(tempfile.mkdtemp(), "start")
      >>> learned_opt.save_start(path, start)
      >>> learned_opt.load_start(path)["offset"].shape
      (2,)
    """
    _check_structure("start", start)
    arrays = {
        _checks.leaf_name(place): np.asarray(x, order="C")
        for place, x in jax.tree_util.tree_leaves_with_path(start)
    }
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"start is not finite at {name}: learn it anew, with a lower learning_rate."
            )
    metadata = {"learned_opt": json.dumps({"format": FORMAT})}
    with _files.whole(_path(path)) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def load_start(path: str | os.PathLike) -> Start:
    """Reads what `save_start` has written, for `learned_opt.optimizees.with_start`.

    Args:
      path: the file; the suffix .safetensors may be missing.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is truncated, or something else.
    """
    path = _path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"there is no file {path}: check the path, or write one with learned_opt.save_start."
        )
    try:
        with safetensors.safe_open(path, framework="np") as f:
            header = json.loads((f.metadata() or {}).get("learned_opt", "{}"))
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or is no safetensors file ({error}): take a whole copy, or "
            "another file."
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by learned_opt.save_start: give one that was.")
    start = _start_of({name: jnp.asarray(array) for name, array in arrays.items()})
    _check_structure(path, start)
    return start


def _check_structure(name: str, start: Any) -> None:
    """Raises ValueError unless this is a tree like those of `begin_start`."""
    is_start = isinstance(start, dict) and "offset" in start
    if is_start and len(start) > 1:
        is_start = set(start) == {"offset", "mean", "deviation", "layers"}
        is_start = is_start and isinstance(start["layers"], list)
        is_start = is_start and all(set(layer) == {"w", "b"} for layer in start["layers"])
    if not is_start:
        raise ValueError(f"{name} is no start: give what learned_opt.learn_start returns.")


def _path(path: str | os.PathLike) -> str:
    path = os.path.expanduser(os.fspath(path))
    return path if path.endswith(SUFFIX) else path + SUFFIX


def _start_of(arrays: dict[str, jax.Array]) -> Start:
    """The tree of arrays whose names are like layers/0/w."""
    start: dict[str, Any] = {name: x for name, x in arrays.items() if "/" not in name}
    layers: dict[int, dict[str, jax.Array]] = {}
    for name, x in arrays.items():
        if "/" in name:
            _, number, part = name.split("/")
            layers.setdefault(int(number), {})[part] = x
    if layers:
        start["layers"] = [layers[number] for number in sorted(layers)]
    return start
