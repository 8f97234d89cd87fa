"""How the solver of each family is learned: a start, then an optimizer, as data."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

import learned_opt
from experiments import measuring
from experiments.rivals.base import Task, Unrolled
from learned_opt import _files, _fingerprint, optimizees
from learned_opt.estimators import Autodiff
from learned_opt.optimizees.base import Optimizee, as_family
from learned_opt.optimizees.starts import Start
from learned_opt.optimizers import LearnedOptimizer

START = "start.safetensors"
OPTIMIZER = "optimizer.safetensors"
NUMBERS = "numbers.safetensors"
SECONDS = "seconds.json"

PRECONDITIONED = "preconditioned"
# Small ones, whose step need not cost much more than a gradient. Those of the first version of the
# 2016 paper let coordinates talk to each other.
ARCHITECTURES: dict[str, Callable[[], LearnedOptimizer]] = {
    "lstm": functools.partial(learned_opt.lstm, "mnist", hidden_sizes=(8, 8)),
    "lstm_gac": functools.partial(
        learned_opt.lstm_gac, "mnist", hidden_sizes=(8, 8), num_averaged=2
    ),
    "ntm_bfgs": functools.partial(
        learned_opt.ntm_bfgs, "mnist", hidden_sizes=(8, 8), num_averaged=2
    ),
}
NAMES = (PRECONDITIONED, *ARCHITECTURES)


@dataclasses.dataclass(frozen=True)
class SolverRecipe:
    """How a family's solver is learned.

    Attributes:
      rate: the step of the untrained optimizer.
      fallback_rate: of the gradient descent that guards it, about 1 / L.
      architecture: of the optimizer, one of `NAMES`.
      kind, num_matrices: see `learned_opt.preconditioned`, and for that alone. Dense matrices begin
        with the mean curvature.
      num_steps: for which it has weights.
      hidden_sizes: of the start network; see `learned_opt.learn_start`.
      start_updates, start_problems, start_rate, start_floor: of learning the start.
      num_epochs, episodes_per_epoch, num_problems, learning_rate: of learning the optimizer.
      unrolled_updates, unrolled_problems, unrolled_rate, unrolled_floor: of learning the numbers of
        `Task.unrolled`; see `learned_opt.learn_method`.
    """

    rate: float
    fallback_rate: float
    architecture: str = PRECONDITIONED
    kind: str = "dense"
    num_matrices: int = 1
    num_steps: int = 8
    hidden_sizes: tuple[int, ...] | None = (64, 64)
    start_updates: int = 1_000
    start_problems: int = 512
    start_rate: float = 3e-3
    start_floor: float | None = None
    num_epochs: int = 3
    episodes_per_epoch: int = 150
    num_problems: int = 128
    learning_rate: float = 3e-3
    unrolled_updates: int = 2_000
    unrolled_problems: int = 256
    unrolled_rate: float = 3e-3
    unrolled_floor: float | None = None


RECIPES = {
    # A start that costs little beside a step of Levenberg-Marquardt, which can go on from it.
    "curves": SolverRecipe(
        rate=1e-3,
        fallback_rate=1e-5,
        num_steps=5,
        num_matrices=12,
        hidden_sizes=(32, 32),
        start_updates=12_000,
        start_rate=5e-3,
        unrolled_updates=12_000,
        unrolled_problems=512,
        unrolled_rate=5e-3,
    ),
    # A dense matrix of 200 x 200 is learned slowly, and costs a step as much as the gradient does.
    "sparse": SolverRecipe(
        rate=0.15,
        fallback_rate=0.18,
        kind="diagonal",
        num_steps=24,
        hidden_sizes=None,
        start_updates=200,
        learning_rate=0.01,
        unrolled_updates=3_000,
        unrolled_problems=128,
        unrolled_rate=0.1,
        unrolled_floor=0.0,
    ),
    # A plan that only balances costs a thousandth of a swing-up. By relative losses both count
    # alike; the floor is the one that accuracy is measured with (`rivals.control`).
    "control": SolverRecipe(
        rate=0.01,
        fallback_rate=0.01,
        num_steps=6,
        num_matrices=6,
        hidden_sizes=(96, 96, 96),
        start_updates=60_000,
        start_rate=5e-3,
        start_floor=0.01,
    ),
    "users": SolverRecipe(
        rate=0.1,
        fallback_rate=0.1,
        num_steps=16,
        hidden_sizes=None,
        start_updates=200,
        start_problems=64,
        unrolled_updates=500,
        unrolled_problems=64,
        unrolled_rate=0.03,
        unrolled_floor=0.0,
    ),
}


class Learned(NamedTuple):
    """A learned solver.

    Attributes:
      family: with its learned start.
      opt, phi: the optimizer that goes on from there.
      num_steps: that it was trained for.
      fallback: the method that guards it.
      numbers: of `Task.unrolled`; None where there is none.
      seconds: what learning took: `{"start": .., "optimizer": .., "numbers": ..}`, with
        compilation.
    """

    family: Optimizee
    opt: LearnedOptimizer
    phi: Any
    num_steps: int
    fallback: optax.GradientTransformation
    numbers: Any
    seconds: dict[str, float]


def learn(
    task: Task,
    recipe: SolverRecipe,
    seed: int,
    workdir: str,
) -> Learned:
    """Learns a solver; a call with the same work directory goes on where the last one stopped.

    A start that was not finished is learned again, which takes seconds.

    Args:
      task: what for.
      recipe: how.
      seed: of all that is random.
      workdir: where everything goes.

    Raises:
      ValueError: if `workdir` has a solver of other settings, or of another family.
    """
    configuration = {
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "family": _fingerprint.of_family(as_family(task.family)),
    }
    measuring.claim(workdir, configuration)
    start_key, key = jax.random.split(jax.random.key(seed))
    numbers_key = jax.random.fold_in(key, 1)
    seconds = _Seconds(os.path.join(workdir, SECONDS))
    start = _start(task, recipe, start_key, os.path.join(workdir, START), seconds)
    family = optimizees.with_start(task.family, start)
    opt, phi = _optimizer(family, recipe, key, workdir, seconds)
    numbers = None
    if task.unrolled is not None:
        path = os.path.join(workdir, NUMBERS)
        numbers = _numbers(task, task.unrolled, recipe, numbers_key, path, seconds)
    fallback = optax.sgd(recipe.fallback_rate)
    return Learned(family, opt, phi, recipe.num_steps, fallback, numbers, seconds.found)


class _Seconds:
    """How long each part took, kept in a file: a rerun does not forget."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.found: dict[str, float] = _files.read_json(path) if _files.exists(path) else {}

    @contextlib.contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Adds the time of what is done within to a part's, also if it is interrupted."""
        began = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - began
            self.found[name] = self.found.get(name, 0.0) + passed
            _files.write_json(self._path, self.found)


def _start(
    task: Task,
    recipe: SolverRecipe,
    key: jax.Array,
    path: str,
    seconds: _Seconds,
) -> Start:
    if _files.exists(path):
        return learned_opt.load_start(path)
    with seconds.measured("start"):
        start = learned_opt.learn_start(
            task.family,
            key,
            hidden_sizes=recipe.hidden_sizes,
            num_updates=recipe.start_updates,
            num_problems=recipe.start_problems,
            learning_rate=recipe.start_rate,
            floor=recipe.start_floor,
        )
        jax.block_until_ready(start)
    learned_opt.save_start(path, start)
    return start


def _numbers(
    task: Task,
    unrolled: Unrolled,
    recipe: SolverRecipe,
    key: jax.Array,
    path: str,
    seconds: _Seconds,
) -> Any:
    begin_key, key = jax.random.split(key)
    numbers = unrolled.numbers(begin_key)
    if _files.exists(path):
        return _read(path, numbers)
    with seconds.measured("numbers"):
        numbers = learned_opt.learn_method(
            unrolled.method,
            numbers,
            task.family,
            key,
            num_updates=recipe.unrolled_updates,
            num_problems=recipe.unrolled_problems,
            learning_rate=recipe.unrolled_rate,
            floor=recipe.unrolled_floor,
        )
        jax.block_until_ready(numbers)
    _write(path, numbers)
    return numbers


def _write(path: str, numbers: Any) -> None:
    arrays = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(numbers))}
    with _files.whole(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary)


def _read(path: str, like: Any) -> Any:
    arrays = safetensors.numpy.load_file(path)
    leaves = [jnp.asarray(arrays[str(i)]) for i in range(len(arrays))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _optimizer(
    family: Optimizee,
    recipe: SolverRecipe,
    key: jax.Array,
    workdir: str,
    seconds: _Seconds,
) -> tuple[LearnedOptimizer, Any]:
    path = os.path.join(workdir, OPTIMIZER)
    if _files.exists(path):
        return learned_opt.load(path)
    opt = _untrained(family, recipe, key)
    curvature_key, key = jax.random.split(key)
    with seconds.measured("optimizer"):
        phi = None
        if recipe.architecture == PRECONDITIONED and recipe.kind == "dense":
            phi = learned_opt.with_mean_curvature(opt, family, curvature_key)
        result = learned_opt.meta_train(
            opt,
            family,
            key,
            num_steps=recipe.num_steps,
            num_problems=recipe.num_problems,
            num_epochs=recipe.num_epochs,
            episodes_per_epoch=recipe.episodes_per_epoch,
            estimator=Autodiff(window=recipe.num_steps, stop_gradient=False),
            learning_rate=recipe.learning_rate,
            phi=phi,
            validation=learned_opt.Validation(num_problems=256),
            workdir=os.path.join(workdir, "meta_training"),
        )
    learned_opt.save(path, opt, result.phi, {"recipe": dataclasses.asdict(recipe)})
    return opt, result.phi


def _untrained(
    family: Optimizee,
    recipe: SolverRecipe,
    key: jax.Array,
) -> LearnedOptimizer:
    if recipe.architecture != PRECONDITIONED:
        return ARCHITECTURES[recipe.architecture]()
    theta = jax.eval_shape(lambda key: family.init(key, family.sample(key)), key)
    dim = sum(x.size for x in jax.tree.leaves(theta))
    return learned_opt.preconditioned(
        dim,
        recipe.num_steps,
        num_matrices=recipe.num_matrices,
        kind=recipe.kind,
        rate=recipe.rate,
    )
