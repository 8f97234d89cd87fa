"""Kills a meta-training at random moments, starts it again on another number, compares the bits.

    python -m tests.kills --num=50

A run is one small meta-training on a random number of processes and devices. A process of it is
killed, or gets a notice to leave: any of them, the coordinator too. What is left of the group has
some seconds to leave by itself; then it is killed, as the launcher of a cluster does. The run is
started again on another number of processes and devices, until it ends. Its weights and its history
have to be those of a run that nobody has disturbed, bit for bit. A line is printed after each run,
and the counts at the end.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from tests.processes import Group, identity

NUMBERS = [(1, 1), (1, 2), (1, 8), (2, 1), (2, 2), (4, 1)]  # of processes, and of devices of each

_NUM = flags.DEFINE_integer("num", 50, "How many kills.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments, the victims and the numbers.")
_WORKDIR = flags.DEFINE_string("folder", None, "Where the runs go; default a temporary folder.")


def count(num, folder, seed=0):
    """Kills so many times.

    Args:
      num: how many kills.
      folder: for the runs, and for what is compiled, so that a restart is quick.
      seed: of all that is random.

    Returns:
      A `collections.Counter`: of `kills`, by signal and of the coordinator; of the `restarts`; of
      the runs that `ended`, and of those that ended with the `same` bits.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, "compiled")
    rng = random.Random(seed)
    wanted = _result(Group(None, 1, 1), timeout=600)
    assert wanted is not None, "the undisturbed run did not end"
    counts = collections.Counter()
    while counts["kills"] < num or counts["ended"] < counts["runs"]:
        counts["runs"] += 1
        found = None
        while found is None:
            counts["starts"] += 1
            number = rng.choice(NUMBERS)
            group = Group(os.path.join(folder, str(counts["runs"])), *number, wait=0.3)
            if counts["kills"] < num:
                _disturb(group, rng, counts)
                found = _result(group, timeout=20)
            else:
                found = _result(group, timeout=600)
                assert found is not None, "a run that nobody disturbs did not end"
        counts["ended"] += 1
        counts["same"] += found == wanted
        print(f"run {counts['runs']}: {dict(counts)}", flush=True)
    return counts


def _disturb(group, rng, counts):
    """Kills one process, or asks it to leave, at a random moment of the training or before it."""
    if rng.random() < 0.8:
        group.wait_for("window")
        moment = rng.uniform(0, 8)
    else:
        moment = rng.uniform(0, 15)
    until = time.monotonic() + moment
    while time.monotonic() < until and group.is_alive():
        time.sleep(0.02)
    if not group.is_alive():
        return  # it has ended meanwhile
    victim = rng.randrange(len(group.processes))
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    group.signal(victim, number)
    counts["kills"] += 1
    counts[number.name] += 1
    if len(group.processes) > 1:
        counts["coordinator" if victim == 0 else "worker"] += 1


def _result(group, timeout):
    """What identifies the result of a group, or None where it did not come to one."""
    try:
        _, printed, _ = group.ends(timeout)
    except subprocess.TimeoutExpired:
        return None
    return identity(printed)


def main(argv):
    """Counts kills, and fails unless every run ended with the same bits."""
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        counts = count(_NUM.value, _WORKDIR.value or temporary, _SEED.value)
    print(f"\n{dict(counts)}")
    sys.exit(int(counts["same"] != counts["runs"]))


if __name__ == "__main__":
    app.run(main)
