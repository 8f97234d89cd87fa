"""Meta-trains on one, two and four devices, and prints what has the same bits on all of them.

It runs by itself: the suite's XLA neither optimizes nor divides programs as a user's does.

    python -m tests.meta.same_bits [CASE]
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
import optax

import learned_opt
from learned_opt import devices, estimators
from learned_opt.optimizees import quadratic

KEY = jax.random.key(5)
LSTM = learned_opt.lstm(hidden_sizes=(3,))
GAC = learned_opt.lstm_gac("mnist", hidden_sizes=(3,), num_averaged=2)
TWO = [quadratic(2), (quadratic(3), 2.0)]
SEARCH = learned_opt.RandomSearch(num_trials=2, num_epochs=1)
COMMON = {
    "num_steps": 4,
    "num_problems": 8,
    "num_epochs": 2,
    "episodes_per_epoch": 2,
    "estimator": estimators.Adjoint(window=2),
    "validation": learned_opt.Validation(num_problems=5),
    "progress_bar": False,
}
CASES = {
    "drawn coordinates": (LSTM, quadratic(2), {"estimator": estimators.Adjoint(2, 3)}),
    "a search": (LSTM, quadratic(2), {"learning_rate": SEARCH}),
    "coordinates that meet, two families": (GAC, TWO, {}),
    "PES": (LSTM, quadratic(2), {"estimator": estimators.PES(2, shortest=2)}),
    "NRES": (LSTM, quadratic(2), {"estimator": estimators.NRES(2, shortest=2)}),
    "autodiff": (LSTM, quadratic(2), {"estimator": estimators.Autodiff(2, False)}),
    "a mixture": (
        LSTM,
        quadratic(2),
        {"estimator": estimators.Mixture(estimators.Adjoint(2), (2,))},
    ),
    "imitation": (LSTM, quadratic(2), {"estimator": estimators.Imitate(optax.adam(0.1), 2)}),
}


def train(num_devices, opt, problem, settings, key=KEY, shards=4):
    """What meta-training gives on so many devices."""
    with devices.use(jax.devices()[:num_devices]):
        return learned_opt.meta_train(opt, problem, key, shards=shards, **{**COMMON, **settings})


def numbers(result):
    """All numbers of a result, without what the clock has to do with."""
    of_epochs = [entry["validation_loss"] for entry in result.history]
    return [*jax.tree.leaves(result.phi), np.asarray(of_epochs)]


def report(name, one, other):
    """Prints a line of a comparison."""
    same = all(np.array_equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True))
    print(f"{'same' if same else 'different'}: {name}", flush=True)


def main():
    """Compares a case on one device and four, or every case, and seeds with each alone."""
    if len(sys.argv) > 1:
        case = CASES[sys.argv[1]]
        report(f"{sys.argv[1]} on 4", train(4, *case), train(1, *case))
        return
    for name, case in CASES.items():
        want = train(1, *case)
        for num_devices in (2, 4):
            report(f"{name} on {num_devices}", train(num_devices, *case), want)
    keys = jax.random.split(KEY, 4)
    with learned_opt.xla_loops():  # one device alone of several has no others
        seeds = learned_opt.meta_train_seeds(LSTM, quadratic(2), keys, **COMMON)
        report("seeds", seeds[2], train(1, LSTM, quadratic(2), {}, keys[2], shards=1))
        uneven = {
            "num_steps": learned_opt.Curriculum((2, 4), patience=1),
            "num_epochs": 4,
            "learning_rate": SEARCH,
            "validation": learned_opt.Validation(num_problems=5, patience=1),
        }
        seeds = learned_opt.meta_train_seeds(LSTM, quadratic(2), keys, **{**COMMON, **uneven})
        for i, key in enumerate(keys):
            alone = train(1, LSTM, quadratic(2), uneven, key, shards=1)
            report(f"seed {i} that ends by itself", seeds[i], alone)
    many = learned_opt.meta_train_seeds(LSTM, quadratic(2), keys, **{**COMMON, "shards": 2})
    report("sharded seeds", many[2], train(2, LSTM, quadratic(2), {}, keys[2], shards=2))


if __name__ == "__main__":
    main()
