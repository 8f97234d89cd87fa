"""Chooses the two constants of a frozen Adam, on a problem that no figure of the papers has.

The rate is first / (1 + t / half). It stands beside every optimizer of which somebody says that
nothing is to be tuned, so its constants are chosen once and elsewhere: on perceptrons on the
embedded digits, and on CIFAR-10, with images of half the sides, for runs of 500 to 5,000 steps
alike. The smallest mean logarithm of the loss at these steps wins. Prints the table; the best pairs
are those of `FROZEN` in learned_opt/evaluation/baselines.py.

Examples, one minute and five on two cores:

    python -m experiments.inverse_time
    python -m experiments.inverse_time --dataset=cifar10 --data_dir=~/tensorflow_datasets
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags

from experiments import main
from experiments.families import FamilySpec
from learned_opt import data
from learned_opt.evaluation import baselines, halving, report
from learned_opt.meta import evaluating, unrolling
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem

FIRST = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
HALF = (500, 1_000, 2_000, 4_000, 8_000)
STEPS = (500, 1_000, 2_000, 5_000)
SHARE = 0.05  # the loss at a step is the mean over this share of the steps before it
RUNS = 20
SEED = 0


@functools.partial(jax.jit, static_argnums=(4,))
def _scores(
    family: Family,
    problems: Problem,
    pairs: jax.Array,
    index: jax.Array,
    steps: tuple[int, ...],
) -> jax.Array:
    """The mean logarithm of the loss at the steps, of each job `[jobs]`: a pair and a run."""

    def score(pair: jax.Array, i: jax.Array) -> jax.Array:
        problem = jax.tree.map(lambda x: x[i], problems)
        tx = optax.with_extra_args_support(optax.adam(baselines.inverse_time(*pair)))
        losses = unrolling.life(tx, family, problem, steps[-1]).losses
        widths = [max(1, round(SHARE * step)) for step in steps]
        means = [
            jnp.mean(losses[step + 1 - width : step + 1])
            for step, width in zip(steps, widths, strict=True)
        ]
        return jnp.mean(jnp.log(jnp.stack(means)))

    return jax.vmap(score)(pairs, index)


def choose(
    dataset: str,
    data_dir: str | None,
    num_runs: int = RUNS,
    steps: tuple[int, ...] = STEPS,
) -> halving.Searched:
    """Tries all pairs; candidate i is pair i - 1 of `pairs()`.

    Args:
      dataset: the name of the data set.
      data_dir: the TFDS directory.
      num_runs: runs of the pairs that come near.
      steps: at which steps the loss counts.
    """
    splits = data.load(dataset, data_dir)
    family = optimizee_base.as_family(FamilySpec("mlp", shrink=2).build(splits).family)
    problems = evaluating.begin_runs(family, jax.random.key(SEED), num_runs)
    values = jnp.asarray(pairs())
    at_once = min(evaluating.runs_at_once(problems), len(values))
    bar = tqdm.tqdm(
        desc="choosing the decay", unit="run", total=halving.planned(len(values), num_runs, False)
    )

    def evaluate(candidates: np.ndarray, runs: np.ndarray) -> np.ndarray:
        scores = []
        for start in range(0, len(runs), at_once):
            index = np.arange(start, start + at_once) % len(runs)
            which = candidates[index].astype(int) - 1
            part = _scores(family, problems, values[which], jnp.asarray(runs[index]), steps)
            scores.append(np.asarray(part)[: len(runs) - start])
            bar.update(len(scores[-1]))
        return np.concatenate(scores)

    with bar:
        return halving.search(evaluate, range(1, len(values) + 1), num_runs, refine=False)


def pairs() -> list[tuple[float, float]]:
    """All pairs of constants."""
    return list(itertools.product(FIRST, map(float, HALF)))


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("dataset", "digits", f"One of {', '.join(data.DATASETS)}.")
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data set; not needed for digits."
    )


def run() -> None:
    """Chooses, and prints what came out."""
    found = choose(flags.FLAGS.dataset, flags.FLAGS.data_dir)
    lines = []
    for position, row in enumerate(found.values):
        first, half = pairs()[position]
        done = row[~np.isnan(row)]
        mark = "best" if position == found.best else "tied" if position in found.tied else ""
        lines.append([f"{first:g}", f"{half:g}", f"{done.mean():.4f}", str(len(done)), mark])
    print(report.markdown(["first", "half", "mean log loss", "runs", ""], lines))


if __name__ == "__main__":
    define_flags()
    main.run(run)
