"""One small meta-training in one process or in several, started, killed and started again.

Each process runs `main` below: a program of `experiments.main`, with --distributed and its flags.
What it prints last is what identifies phi and the history.

    python -m tests.processes --workdir=/tmp/run
"""

import os
import re
import socket
import subprocess
import sys
import time

from absl import flags

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARDS = 8


class Group:
    """The processes of one program, each with some CPU devices.

    Args:
      workdir: of the meta-training; None for none.
      num_processes: how many.
      num_devices: of each.
      *given: other flags.
      wait: seconds that every chunk of windows takes longer, so that there is time to kill.
      cwd: the current directory of each, or None.
      environment: variables of some, by their index, beside those of all.
      of_each: flags of each, or None.
    """

    def __init__(
        self,
        workdir,
        num_processes,
        num_devices,
        *given,
        wait=0.0,
        cwd=None,
        environment=None,
        of_each=None,
    ):
        command = [sys.executable, "-m", "tests.processes", f"--wait={wait}", *given]
        if workdir is not None:
            command.append(f"--workdir={workdir}")
        if num_processes > 1:
            command += ["--distributed", f"--coordinator=localhost:{_free_port()}"]
            command.append(f"--num_processes={num_processes}")
        self.processes = []
        for i in range(num_processes):
            own = [f"--process_index={i}"] if num_processes > 1 else []
            own += of_each[i] if of_each else []
            # Neither the suite's devices nor its faster compilation, which has other bits.
            env = {
                **os.environ,
                "PYTHONPATH": ROOT,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
                "JAX_NUM_CPU_DEVICES": "-1",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                **((environment or {}).get(i, {})),
            }
            self.processes.append(
                subprocess.Popen(
                    [*command, *own],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=env,
                    cwd=cwd[i] if cwd else ROOT,
                )
            )

    def ends(self, timeout=120):
        """Waits for all: their exit statuses, what the first printed, and every stderr."""
        done = []
        limit = time.monotonic() + timeout
        try:
            for process in self.processes:
                done.append(process.communicate(timeout=max(0.1, limit - time.monotonic())))
        finally:
            self.kill()
        return [p.returncode for p in self.processes], done[0][0], [e for _, e in done]

    def signal(self, index, number):
        """Sends a signal to one process."""
        self.processes[index].send_signal(number)

    def is_alive(self):
        """Whether all of them are still there."""
        return all(process.poll() is None for process in self.processes)

    def kill(self):
        """Kills all that are still there, as the launcher of a cluster does."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def wait_for(self, text):
        """Reads what the first process prints, until a line has this in it, or it ends."""
        return any(text in line for line in self.processes[0].stdout)


def identity(printed):
    """What identifies the result, of what a process printed, or None."""
    found = re.findall(r"^phi (\w+)$", printed, re.MULTILINE)
    return found[-1] if found else None


def _free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def define_flags():
    """Defines the flags of this program."""
    flags.DEFINE_string("workdir", None, "Of the meta-training.")
    flags.DEFINE_integer("num_epochs", 4, "Epochs.")
    flags.DEFINE_integer("shards", SHARDS, "Shards.")
    flags.DEFINE_float("wait", 0.0, "Seconds that every chunk of windows takes longer.")
    flags.DEFINE_string("search", "", "Whether the learning rate is searched for: 'search'.")


def run():
    """Meta-trains, and prints what identifies the result."""
    import hashlib
    import json

    import jax
    import numpy as np

    import learned_opt
    from learned_opt.meta import progress, session

    given = flags.FLAGS
    advance = progress.Bar.advance

    def slowly(self, counts, windows):
        advance(self, counts, windows)
        time.sleep(given.wait)
        print(f"window {int(np.max(counts.window))}", flush=True)

    if given.wait:
        progress.Bar.advance = slowly
        session._Pace.windows = lambda self, most: 1
    result = learned_opt.meta_train(
        learned_opt.lstm(hidden_sizes=(3,)),
        learned_opt.optimizees.quadratic(2),
        jax.random.key(5),
        num_steps=4,
        num_problems=16,
        num_epochs=given.num_epochs,
        episodes_per_epoch=3,
        estimator=learned_opt.estimators.Adjoint(window=2),
        learning_rate=given.search or 0.003,
        validation=learned_opt.Validation(num_problems=5),
        shards=given.shards,
        workdir=given.workdir,
        progress_bar=bool(given.wait),
    )
    history = [{k: v for k, v in e.items() if k != "seconds"} for e in result.history]
    digest = hashlib.sha256(json.dumps(history).encode())
    for leaf in jax.tree.leaves(result.phi):
        digest.update(np.asarray(leaf).tobytes())
    print(f"phi {digest.hexdigest()[:16]}", flush=True)


def main():
    """Runs the program under absl, as every experiment is run."""
    from experiments import main as experiments_main

    define_flags()
    experiments_main.run(run)


if __name__ == "__main__":
    main()
