"""Measures sparse recovery in sixteen steps, where LISTA's accuracy has been published.

Signals of 250 numbers are 10 %% dense codes of 500 numbers times a Gaussian dictionary, with noise
40 dB below them. Each method has --num_steps iterations to find the codes; its numbers are chosen
on other signals. What is printed is the squared error of the codes over their squared norm, in dB.
Borgerding, Schniter and Rangan 2017 (AMP-inspired deep networks for sparse linear inverse problems)
have LISTA at -35 dB after 16 layers of learned matrices. --workdir receives table.md and
summary.json.

Example:

    python -m experiments.recovery
"""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import learned_opt
from experiments import main
from experiments.rivals import admm, sparse
from learned_opt import _checks, _files
from learned_opt.evaluation import environment, report, statistics
from learned_opt.optimizees.sparse import dictionary

ROWS, COLUMNS, DENSITY, NOISE = 250, 500, 0.1, 0.01
PUBLISHED = -35.0  # dB, after 16 layers
PENALTIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
NUM_TUNING = 256
NUM_UPDATES, NUM_PROBLEMS, RATE = 2_000, 64, 0.05

Solver = Callable[[jax.Array], jax.Array]  # from signals to codes


class Coded(NamedTuple):
    """An instance: a signal, and the code that it was made from."""

    signal: jax.Array
    code: jax.Array


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("workdir", "results/recovery", "Where results go.")
    flags.DEFINE_integer("num_steps", 16, "Iterations of each method.")
    flags.DEFINE_integer("num_signals", 500, "How many fresh signals are measured.")
    flags.DEFINE_integer("seed", 0, "Draws the dictionary and all signals.")


def run() -> None:
    """Carries out the command line."""
    num_steps = _checks.positive_int("num_steps", flags.FLAGS.num_steps)
    num_signals = _checks.positive_int("num_signals", flags.FLAGS.num_signals, minimum=20)
    workdir = os.path.expanduser(flags.FLAGS.workdir)
    rows = measure(num_steps, num_signals, flags.FLAGS.seed)
    summary = {
        "num_steps": num_steps,
        "num_signals": num_signals,
        "seed": flags.FLAGS.seed,
        "published": PUBLISHED,
        "rows": rows,
        "environment": environment.record(),
    }
    os.makedirs(workdir, exist_ok=True)
    text = table(summary)
    _files.write_text(os.path.join(workdir, "table.md"), text + "\n")
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    print(text)
    print(f"\nEverything is in {workdir}: table.md, summary.json.")


def table(summary: dict[str, Any]) -> str:
    """The methods from the most accurate one, LISTA's published number among them.

    Args:
      summary: what `run` writes.
    """
    found = [(row["mean"], name, _interval(row)) for name, row in summary["rows"].items()]
    found.append((summary["published"], "LISTA, published, 16 layers", f"{summary['published']:g}"))
    lines = [[name, shown] for _, name, shown in sorted(found)]
    return report.markdown(["method", f"error after {summary['num_steps']} steps, dB"], lines)


def _interval(row: dict[str, float]) -> str:
    return f"{row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def measure(
    num_steps: int,
    num_signals: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """The error of each method in dB, with its 95 % interval over signals.

    Args:
      num_steps: iterations of each.
      num_signals: fresh ones.
      seed: draws the dictionary and all signals.
    """
    columns = dictionary(ROWS, COLUMNS, seed)
    tuning_key, training_key, test_key = jax.random.split(jax.random.key(seed), 3)
    family = family_of(columns)
    tuning = _draw(family, tuning_key, NUM_TUNING)
    test = _draw(family, test_key, num_signals)
    found = {}
    for name, candidates in _classical(columns, num_steps).items():
        best = min(candidates, key=lambda solve: float(np.mean(errors(solve, tuning))))
        found[name] = errors(best, test)
    found["ADMM, its numbers learned"] = errors(
        learned(columns, family, num_steps, training_key), test
    )
    return {name: _in_decibels(values, seed) for name, values in found.items()}


def family_of(columns: np.ndarray) -> learned_opt.Optimizee:
    """Codes of signals; the loss is a code's squared error over the squared norm of the true one.

    Args:
      columns: the dictionary `[ROWS, COLUMNS]`.
    """
    as_array = jnp.asarray(columns, jnp.float32)
    # Signals have DENSITY * COLUMNS / ROWS in each number on average.
    deviation = NOISE * np.sqrt(DENSITY * COLUMNS / ROWS)

    def sample(key: jax.Array) -> Coded:
        where_key, code_key, noise_key = jax.random.split(key, 3)
        is_there = jax.random.bernoulli(where_key, DENSITY, (COLUMNS,))
        code = is_there * jax.random.normal(code_key, (COLUMNS,))
        return Coded(as_array @ code + deviation * jax.random.normal(noise_key, (ROWS,)), code)

    def init(key: jax.Array, instance: Coded) -> jax.Array:
        del key
        return jnp.zeros_like(instance.code)

    def loss(codes: jax.Array, instance: Coded, key: jax.Array) -> jax.Array:
        del key
        return jnp.sum((codes - instance.code) ** 2) / jnp.sum(instance.code**2)

    return learned_opt.Optimizee(sample, init, loss)


def learned(
    columns: np.ndarray,
    family: learned_opt.Optimizee,
    num_steps: int,
    key: jax.Array,
) -> Solver:
    """ADMM whose numbers, five in each iteration, are learned for the error of the codes.

    Args:
      columns: the dictionary.
      family: from `family_of`.
      num_steps: its iterations.
      key: draws the signals that it learns from.
    """
    method = admm.unrolled(columns, 0.01, num_steps)
    numbers = learned_opt.learn_method(
        lambda numbers, instance: method.method(numbers, instance.signal),
        method.numbers(key),
        family,
        key,
        num_updates=NUM_UPDATES,
        num_problems=NUM_PROBLEMS,
        learning_rate=RATE,
    )
    return method.solve(numbers)


def _classical(columns: np.ndarray, num_steps: int) -> dict[str, list[Solver]]:
    """Methods for the LASSO, with each of the numbers that are tried."""
    admms = itertools.product(PENALTIES, (0.02, 0.05, 0.1, 0.2, 0.4, 0.8), (1.0, 1.6, 1.85))
    proximal = functools.partial(sparse.accelerated, num_steps, columns)
    return {
        "ISTA": [proximal(penalty, sparse.no_momentum) for penalty in PENALTIES],
        "FISTA": [proximal(penalty, sparse.growing_momentum) for penalty in PENALTIES],
        "ADMM, tuned": [admm.plain(num_steps, columns, *numbers) for numbers in admms],
    }


def errors(solve: Solver, instances: Coded) -> np.ndarray:
    """The squared error of each code over its squared norm, `[signals]`."""
    codes = np.asarray(solve(instances.signal), np.float64)
    true = np.asarray(instances.code, np.float64)
    return np.sum((codes - true) ** 2, axis=1) / np.sum(true**2, axis=1)


def _draw(
    family: learned_opt.Optimizee,
    key: jax.Array,
    count: int,
) -> Coded:
    return jax.jit(jax.vmap(family.sample))(jax.random.split(key, count))


def _in_decibels(values: np.ndarray, seed: int) -> dict[str, float]:
    """Of the mean error, as the paper has it."""
    found = statistics.interval(values, seed)
    decibels = (float(10 * np.log10(value)) for value in found)
    return dict(zip(("mean", "low", "high"), decibels, strict=True))


if __name__ == "__main__":
    define_flags()
    main.run(run)
