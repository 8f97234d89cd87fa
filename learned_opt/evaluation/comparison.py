"""Optimizers side by side on the same fresh problems; hand-designed ones are tuned first."""

import os
import urllib.parse
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tqdm

from learned_opt import _checks, _files, _fingerprint, devices
from learned_opt.evaluation import baselines as baselines_lib
from learned_opt.evaluation import cost, halving, statistics
from learned_opt.evaluation.baselines import Builder, Tuned
from learned_opt.meta import evaluating, unrolling
from learned_opt.meta.evaluating import Measure
from learned_opt.meta.unrolling import Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Optimizee
from learned_opt.optimizers import base

# What an optimizer of a comparison is.
LEARNED = "learned"  # it has weights that were meta-trained
TUNED = "tuned"  # a baseline with its best learning rate
GIVEN = "given"  # any other optax transformation, as the caller gave it


class Comparison(NamedTuple):
    """Optimizers measured on the same problems.

    Attributes:
      curves: dict from name to losses `[num_runs, num_steps + 1]`.
      tuned: dict from each baseline's name to its `baselines.Tuned`.
      measures: dict from name to what was measured at the end of every run `[num_runs]`, or to a
        dict of such arrays; empty if nothing was.
      costs: dict from name to `Cost`; empty if it was not asked for.
      kinds: dict from name to "learned", "tuned" or "given".
    """

    curves: dict[str, np.ndarray]
    tuned: dict[str, Tuned]
    measures: dict[str, Any]
    costs: dict[str, cost.Cost]
    kinds: dict[str, str]


def tune_all(
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
    num_runs: int,
    names: Iterable[str] | Mapping[str, Builder] | None = None,
    path: str | os.PathLike | None = None,
    progress_bar: bool = True,
    measure: Measure = None,
    last: int = 1,
) -> dict[str, Tuned]:
    """Tunes baselines on problems of their own, see `baselines.tune`.

    Args:
      problem, key, num_steps, num_runs: see `baselines.tune`.
      names: which of `baselines.BASELINES`, None for all. Or baselines of your own: a dict from
        name to a function `(learning_rate, num_steps) -> optax transformation`.
      path: a folder that keeps what is tuned, for all problems. What is there is not tuned again,
        as long as everything that it depends on is the same: problem, key, horizon, runs, measure,
        and what the baseline computes.
      progress_bar: whether to show one, on stderr.
      measure, last: what is to be small at the end, see `baselines.tune`.

    Returns:
      Dict from name to `baselines.Tuned`.
    """
    builders = baselines_lib.builders(names)
    store = _Store(path, problem, key, num_steps, num_runs, measure, last)
    missing = {name: build for name, build in builders.items() if not store.has(name, build)}
    lives = halving.planned(len(baselines_lib.LEARNING_RATES), num_runs)
    title = f"tuning for {num_steps} steps"
    with tqdm.tqdm(
        total=len(missing) * lives,
        desc=title,
        unit="run",
        leave=False,
        disable=not progress_bar or not missing or not devices.is_first(),
    ) as bar:
        for i, (name, build) in enumerate(missing.items(), start=1):
            bar.set_postfix_str(name)
            found = baselines_lib.tune(
                build,
                problem,
                key,
                num_steps,
                num_runs,
                measure=measure,
                last=last,
                on_jobs=bar.update,
            )
            store.keep(name, build, found)
            bar.update(i * lives - bar.n)  # a search is longer or shorter than planned
    return {name: store.tuned(name, build) for name, build in builders.items()}


class _Store:
    """Tuned baselines of one problem, in a file if there is a folder for it."""

    def __init__(
        self,
        folder: str | os.PathLike | None,
        problem: Optimizee,
        key: jax.Array,
        num_steps: int,
        num_runs: int,
        measure: Measure,
        last: int,
    ):
        family = optimizee_base.as_family(problem)
        self._num_steps = num_steps
        self._theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
        self._path = None
        self._kept: dict[str, Any] = {}
        if folder is None:
            return
        depends_on = _files.portable(
            {
                "problem": _fingerprint.of_family(family),
                "key": _fingerprint.of_key(key),
                "num_steps": num_steps,
                "num_runs": num_runs,
                "measure": evaluating.fingerprint(measure, family, num_steps),
                "last": last,
                "grid": list(baselines_lib.LEARNING_RATES),
            }
        )
        name = _fingerprint.of_arrays((), repr(depends_on))
        self._path = os.path.join(folder, f"tuned-{num_steps}-{name}.json")
        self._content = {"depends_on": depends_on, "baselines": self._kept}
        if _files.exists(self._path):
            self._kept.update(_files.read_json(self._path)["baselines"])

    def has(self, name: str, build: Builder) -> bool:
        """Whether this baseline is there, and still computes the same."""
        plain = self._kept.get(name)
        return plain is not None and plain["computes"] == self._computes(build)

    def keep(
        self,
        name: str,
        build: Builder,
        tuned: Tuned,
    ) -> None:
        """Keeps what was tuned, in the file too."""
        self._kept[name] = {
            "computes": self._computes(build),
            "learning_rate": tuned.learning_rate,
            "final_loss": tuned.final_loss,
            "tied": list(tuned.tied),
            "rates": tuned.rates.tolist(),
            "grid": tuned.grid.tolist(),
            "runs": tuned.runs.tolist(),
        }
        if self._path is not None:
            _files.write_json(self._path, self._content)

    def tuned(self, name: str, build: Builder) -> Tuned:
        """What was kept; JSON holds numbers that are not finite as text."""
        plain = self._kept[name]
        rate = plain["learning_rate"]
        return Tuned(
            name,
            rate,
            float(plain["final_loss"]),
            build(rate, self._num_steps),
            np.asarray(plain["rates"], float),
            np.asarray(plain["grid"], float),
            np.asarray(plain["runs"]),
            tuple(plain["tied"]),
        )

    def _computes(self, build: Builder) -> str:
        """What tells a baseline from another of the same name."""
        tx = optax.with_extra_args_support(build(1.0, self._num_steps))
        return _fingerprint.of_transformation(tx, self._theta)


def compare(
    transformations: dict[str, Transformation],
    problem: Optimizee,
    key: jax.Array,
    num_steps: int = 100,
    num_runs: int = 100,
    *,
    baselines: Iterable[str] | Mapping[str, Builder] | None = None,
    tuned: dict[str, Tuned] | None = None,
    tune_runs: int | None = None,
    measure: Measure = None,
    tune_last: int = 1,
    costs: bool = True,
    progress_bar: bool = True,
    path: str | os.PathLike | None = None,
) -> Comparison:
    """Compares optimizers with tuned baselines on fresh problems, the same ones for all.

    Args:
      transformations: dict from name to a pair `(opt, phi)` or an optax transformation. Weights in
        a pair are an argument of the compiled programs: other weights do not compile again.
      problem: an `Optimizee`.
      key: draws the problems. Baselines are tuned on other problems than those that are reported.
      num_steps: the horizon T.
      num_runs: how many problems.
      baselines: which hand-designed optimizers to tune: names of
        `learned_opt.evaluation.baselines.BASELINES`, None for all of them, or a dict from name to a
        function of your own, `(learning_rate, num_steps) -> optax transformation`.
      tuned: baselines that are tuned already, as `tune_all` returns them, instead of `baselines`.
      tune_runs: how many problems to tune on; None for as many as `num_runs`, and twenty at least.
      tune_last: of how many last steps the loss is the mean that rates are tuned for.
      measure: a function of theta_T that is measured too, such as
        `optimizees.accuracy(network, test)`, or a dict of such functions, see
        `evaluating.evaluate_with`.
      costs: whether to time a step of each.
      progress_bar: whether to show one, on stderr.
      path: a folder of this comparison alone, which keeps each optimizer's runs. Those that are
        there are not run again.

    Returns:
      A `Comparison`. `report.summary` and `report.write` make a table, a picture and files of it.

    Raises:
      ValueError: for arguments that are not possible.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.lstm()
      >>> phi = opt.init(jax.random.key(0))
      >>> problem = learned_opt.optimizees.quadratic(2)
      >>> compared = learned_opt.compare(
      ...     {"mine": (opt, phi)}, problem, jax.random.key(1), num_steps=5, num_runs=4,
      ...     baselines=["SGD"], progress_bar=False)
      >>> compared.kinds
      {'mine': 'learned', 'SGD': 'tuned'}
    """
    _check_transformations(transformations)
    num_runs = _checks.positive_int("num_runs", num_runs)
    if tune_runs is None:
        tune_runs = max(num_runs, statistics.LEAST_RUNS)
    tune_runs = _checks.positive_int("tune_runs", tune_runs)
    if tuned is not None and baselines is not None:
        raise ValueError(
            "compare takes baselines, which it tunes, or tuned, which are tuned already: give one."
        )
    builders = baselines_lib.builders(baselines)
    _check_names(transformations, builders if tuned is None else tuned)
    tune_key, run_key, cost_key = jax.random.split(key, 3)
    if tuned is None:
        tuned = tune_all(
            problem,
            tune_key,
            num_steps,
            tune_runs,
            names=builders,
            progress_bar=progress_bar,
            last=tune_last,
        )
    everything = {**transformations, **{name: found.tx for name, found in tuned.items()}}
    curves = {}
    measures = {}
    bar = tqdm.tqdm(
        everything,
        "evaluating",
        unit="optimizer",
        leave=False,
        disable=not progress_bar or not devices.is_first(),
    )
    for name in bar:
        bar.set_postfix_str(name)
        arguments = measure, everything[name], problem, run_key, num_steps, num_runs
        kept = None if path is None else _runs_path(path, name)
        curves[name], measures[name] = _runs(arguments, kept)
    kinds = {name: kind_of(tx) for name, tx in transformations.items()}
    kinds.update(dict.fromkeys(tuned, TUNED))
    timed = cost.measure(everything, problem, cost_key) if costs else {}
    return Comparison(curves, tuned, {} if measure is None else measures, timed, kinds)


def kind_of(tx: Transformation) -> str:
    """What an optimizer is that was not tuned: `LEARNED` if it has weights, or else `GIVEN`."""
    if unrolling.is_pair(tx):
        _, phi = tx
        has_weights = bool(jax.tree.leaves(phi))
    else:
        has_weights = isinstance(tx, base.LearnedTransformation)
    return LEARNED if has_weights else GIVEN


def _check_transformations(transformations: dict[str, Transformation]) -> None:
    remedy = "name each pair (opt, phi) or optax transformation."
    _checks.instance_of("transformations", transformations, dict, remedy)
    for name, tx in transformations.items():
        unrolling.check_transformation(f"transformations[{name!r}]", tx)


def _check_names(transformations: Iterable[str], baselines: Iterable[str]) -> None:
    clash = sorted(set(transformations) & set(baselines))
    if clash:
        raise ValueError(
            f"transformations must not have a baseline's name, got {clash[0]!r}: choose another "
            "name."
        )


def _runs(arguments: tuple, kept: str | None) -> tuple[np.ndarray, Any]:
    """`evaluate_with(*arguments)` in NumPy's numbers; from the file `kept` where it is there."""
    if kept is None:
        return _evaluated(arguments)
    measure = arguments[0]
    done = _read_runs(kept, measure)
    if done is None:
        done = _evaluated(arguments)
        _write_runs(kept, *done)
    return done


def _evaluated(arguments: tuple) -> tuple[np.ndarray, Any]:
    done = evaluating.evaluate_with(*arguments)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), done)


def _runs_path(folder: str | os.PathLike, name: str) -> str:
    return os.path.join(folder, urllib.parse.quote(name, safe=" ") + ".npz")


def _write_runs(
    path: str,
    losses: np.ndarray,
    measures: Any,
) -> None:
    """Losses in the first array, then what was measured, in the order of its names."""
    with _files.whole(path) as temporary:
        np.savez_compressed(temporary, losses, *jax.tree.leaves(measures))


def _read_runs(path: str, measure: Measure) -> tuple[np.ndarray, Any] | None:
    """What `_write_runs` has written, or None where it is not there or is damaged."""
    structure = jax.tree.structure(measure, is_leaf=callable)
    try:
        with _files.here(path) as there, np.load(there) as arrays:
            losses, *values = (arrays[name] for name in arrays.files)
            return losses, structure.unflatten(values)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
