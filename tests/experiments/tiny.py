"""A program to be swept that starts at once: its losses are a formula, and it can misbehave.

It imports neither JAX nor the library.
"""

import os
import signal
import sys
import time

import numpy as np
from absl import app, flags

NUM_RUNS = 24
NUM_STEPS = 5


def losses(rate, seed, optimizer):
    """`[runs, steps + 1]`."""
    noise = np.random.default_rng(seed).normal(size=(NUM_RUNS, 1))
    steps = np.arange(NUM_STEPS + 1)
    level = 1 + abs(np.log10(rate / 0.1)) + (ord(optimizer) - ord("a"))
    return level * (2.0 - steps / NUM_STEPS) + 0.01 * noise


def define_flags():
    """Not where the module is imported: the names are those of other programs too."""
    flags.DEFINE_string("workdir", None, "Where results go.")
    flags.DEFINE_float("learning_rate", 0.1, "The best one is 0.1.")
    flags.DEFINE_integer("seed", 0, "Of the noise.")
    flags.DEFINE_string("optimizer", "a", "The higher in the alphabet, the worse.")
    flags.DEFINE_string("mode", "good", "good, bad, flaky (fails once) or slow.")
    flags.DEFINE_string("data_dir", None, "Not read.")


def main(argv):
    del argv
    given = flags.FLAGS
    folder = given.workdir
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "starts.txt"), "a") as f:
        f.write(f"{os.getpid()} {os.environ.get('SLOT', '')}\n")
    if given.mode == "bad":
        sys.exit("ValueError: it is bad")
    if given.mode == "flaky" and not os.path.exists(os.path.join(folder, "half")):
        _half(folder)
        sys.exit(3)
    if given.mode == "slow" and not os.path.exists(os.path.join(folder, "half")):
        _half(folder)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        time.sleep(60)
    curves = losses(given.learning_rate, given.seed, given.optimizer)
    np.savez(os.path.join(folder, "curves.npz"), losses=curves)


def _half(folder):
    with open(os.path.join(folder, "half"), "w"):
        pass


if __name__ == "__main__":
    define_flags()
    app.run(main)
