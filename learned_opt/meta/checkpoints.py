"""Meta-training's whole state on disk, by orbax: a checkpoint appears whole or not at all."""

import json
import os
import secrets
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import _checks, _files, devices

CONFIGURATION = "meta_train.json"


class Checkpoints:
    """The checkpoints of one stage of meta-training, numbered by window.

    Without a directory it keeps nothing.
    """

    def __init__(self, directory: str | None) -> None:
        self._manager = None
        if directory is not None:
            ocp = import_orbax()
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            self._manager = ocp.CheckpointManager(_files.absolute(directory), options=options)

    def restore(self, state: Any) -> tuple[Any, dict | None]:
        """The newest `(state, log)`, or `(state, None)` where there is none.

        Args:
          state: gives structure, shapes and dtypes.

        Raises:
          ValueError: if the checkpoint is damaged.
        """
        if self._manager is None or self._manager.latest_step() is None:
            return state, None
        args = import_orbax().args
        step = self._manager.latest_step()
        arrays = jax.tree.map(_abstract, _to_arrays(state))
        wanted = args.Composite(state=args.StandardRestore(arrays), log=args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=wanted)
        except Exception as error:  # orbax and tensorstore raise many kinds
            where = os.path.join(self._manager.directory, str(step))
            raise ValueError(
                f"the checkpoint {where} is damaged: delete that directory to go on from the one "
                "before it."
            ) from error
        return _from_arrays(restored["state"], state), restored["log"]

    def save(
        self,
        number: int,
        state: Any,
        log: dict,
    ) -> None:
        """Saves a state after so many windows, unless that is there already."""
        if self._manager is None or number == self._manager.latest_step():
            return
        args = import_orbax().args
        arrays = _to_arrays(state)
        saved = args.Composite(state=args.StandardSave(arrays), log=args.JsonSave(log))
        self._manager.save(number, args=saved)

    def close(self) -> None:
        """Releases orbax's threads."""
        if self._manager is not None:
            self._manager.close()


def _to_arrays(state: Any) -> dict[str, jax.Array]:
    """The leaves of a state as orbax can keep them: no random keys, nothing empty."""
    arrays = {}
    for i, leaf in enumerate(jax.tree.leaves(state)):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if leaf.size:
            arrays[str(i)] = leaf
    return arrays


def _from_arrays(arrays: dict[str, jax.Array], state: Any) -> Any:
    """What `_to_arrays` was given; `state` has its structure."""
    leaves, treedef = jax.tree.flatten(state)
    for i, leaf in enumerate(leaves):
        if str(i) not in arrays:
            continue
        array = arrays[str(i)]
        is_key = _is_key(leaf)
        leaves[i] = jax.random.wrap_key_data(array, impl=_key_impl(leaf)) if is_key else array
    return treedef.unflatten(leaves)


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(key: jax.Array) -> str:
    return str(jax.random.key_impl(key))


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def import_orbax() -> Any:
    """orbax, which only those need who keep checkpoints."""
    return _checks.extra("orbax.checkpoint", "orbax-checkpoint", "meta_train with a workdir")


def claim(workdir: str, configuration: dict) -> None:
    """Makes `workdir` this configuration's, or checks that it is.

    Raises:
      ValueError: if the directory belongs to another configuration; names what differs.
      DisagreementError: if several processes do not share it.
    """
    path = os.path.join(workdir, CONFIGURATION)
    configuration = json.loads(json.dumps(configuration))
    _check_shared(workdir)
    if not _files.exists(path):
        _files.write_json(path, configuration)
        return
    there = _files.read_json(path)
    if there.get("format") != configuration["format"]:
        raise ValueError(
            f"workdir {workdir} belongs to another version of learned_opt: choose another workdir, "
            "or finish that run with the version that began it."
        )
    check_same(there, configuration, workdir)


def _check_shared(workdir: str) -> None:
    """Raises DisagreementError unless all processes see what the first one writes."""
    if not devices.is_several():
        return
    name = devices.of_first(f".shared-{secrets.token_hex(8)}")
    path = os.path.join(workdir, name)
    _files.write_text(path, "")
    seen = devices.of_all(_files.is_seen(path))
    _files.remove(path)
    if not all(seen):
        raise devices.DisagreementError(
            f"all processes must see the same files, but process {seen.index(False)} does not see "
            f"what process 0 writes to {workdir}: choose a workdir on a file system that they "
            "share, or in a bucket (gs://...)."
        )


def check_same(
    there: dict,
    here: dict,
    workdir: str,
) -> None:
    """Raises ValueError naming the first setting in which two configurations differ."""
    for name in sorted({*there, *here}):
        if there.get(name) == here.get(name):
            continue
        place, old, new = _first_difference(name, there.get(name), here.get(name))
        raise ValueError(
            f"workdir {workdir} belongs to a run with {place}={_checks.shown(old)}, not "
            f"{_checks.shown(new)}: choose another workdir, or repeat that run's settings to "
            "resume it."
        )


def _first_difference(
    name: str,
    old: Any,
    new: Any,
) -> tuple[str, Any, Any]:
    """Goes down into settings that have settings of their own."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return name, old, new
    if old.get("name") != new.get("name"):
        return name, old.get("name"), new.get("name")
    for inner in sorted({*old, *new}):
        if old.get(inner) != new.get(inner):
            return _first_difference(inner, old.get(inner), new.get(inner))
    return name, old, new
