"""Meta-training's whole state on disk, by orbax: a checkpoint appears whole or not at all."""

import json
import os

import jax
import numpy as np

from learned_opt import _checks, _files

CONFIGURATION = "meta_train.json"


class Checkpoints:
    """The checkpoints of one stage of meta-training, numbered by episode; without a directory it keeps nothing."""

    def __init__(self, directory):
        self._manager = None
        if directory is not None:
            ocp = import_orbax()
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            self._manager = ocp.CheckpointManager(os.path.abspath(directory), options=options)

    def restore(self, state):
        """The newest `(state, log)`, or `(state, {})` where there is none; `state` gives structure and dtypes."""
        if self._manager is None or self._manager.latest_step() is None:
            return state, {}
        args = import_orbax().args
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        step = self._manager.latest_step()
        wanted = args.Composite(state=args.StandardRestore(abstract), log=args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=wanted)
        except Exception as error:  # orbax and tensorstore raise many kinds
            where = os.path.join(self._manager.directory, str(step))
            raise ValueError(
                f"the checkpoint {where} is damaged: delete that directory to go on from the one before "
                "it."
            ) from error
        return restored["state"], restored["log"]

    def save(self, state, log):
        """Saves at the state's episode, unless that is there already."""
        step = int(np.max(state.episode))
        if self._manager is None or step == self._manager.latest_step():
            return
        args = import_orbax().args
        self._manager.save(
            step, args=args.Composite(state=args.StandardSave(state), log=args.JsonSave(log))
        )

    def close(self):
        """Releases orbax's threads."""
        if self._manager is not None:
            self._manager.close()


def import_orbax():
    """orbax, which only those need who keep checkpoints."""
    return _checks.extra("orbax.checkpoint", "orbax-checkpoint", "meta_train with a workdir")


def claim(workdir, configuration):
    """Makes `workdir` this configuration's, or checks that it is.

    Raises:
      ValueError: if the directory belongs to another configuration; names what differs.
    """
    path = os.path.join(workdir, CONFIGURATION)
    configuration = json.loads(json.dumps(configuration))
    if not os.path.exists(path):
        _files.write_json(path, configuration)
        return
    check_same(_files.read_json(path), configuration, workdir)


def check_same(there, here, workdir):
    """Raises ValueError naming the first setting in which two configurations differ."""
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"workdir {workdir} belongs to a run with {name}={there.get(name)!r}, not "
                f"{here.get(name)!r}: choose another workdir, or repeat that run's settings to resume it."
            )
