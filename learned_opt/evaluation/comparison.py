"""Optimizers side by side on the same fresh problems, hand-designed ones tuned first."""

import os
import urllib.parse
import zipfile
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, cost
from learned_opt.meta import evaluating
from learned_opt.optimizers import base


class Comparison(NamedTuple):
    """Optimizers measured on the same problems.

    Attributes:
      curves: dict from name to losses `[num_runs, num_steps + 1]`.
      learning_rates: dict from each baseline's name to its tuned rate.
      measures: dict from name to what was measured at the end of every run `[num_runs]`, or to a dict of such arrays;
        empty if nothing was.
      costs: dict from name to `Cost`.
    """

    curves: dict
    learning_rates: dict
    measures: dict
    costs: dict


def tune_all(
    problem,
    key,
    num_steps,
    num_runs,
    names=tuple(baselines.BASELINES),
    path=None,
    progress_bar=True,
    measure=None,
):
    """Tunes baselines on problems of their own (30 rates each, see `baselines.tune`).

    Args:
      problem, key, num_steps, num_runs: see `baselines.tune`.
      names: which of `baselines.BASELINES`.
      path: a JSON file in which what is tuned is kept; what is there already is not tuned again.
      progress_bar: whether to show one, on stderr.
      measure: what is to be small at the end, see `baselines.tune`.

    Returns:
      Dict from name to `baselines.Tuned`.
    """
    kept = _files.read_json(path) if path and os.path.exists(path) else {}
    bar = tqdm.tqdm(
        names,
        f"tuning baselines for {num_steps} steps",
        unit="baseline",
        leave=False,
        disable=not progress_bar,
    )
    tuned = {}
    for name in bar:
        bar.set_postfix_str(name)
        if name not in kept:
            found = baselines.tune(name, problem, key, num_steps, num_runs, measure=measure)
            kept[name] = {
                "learning_rate": found.learning_rate,
                "final_loss": found.final_loss,
                "grid": found.grid.tolist(),
            }
            if path:
                _files.write_json(path, kept)
        tx = baselines.baseline(name, kept[name]["learning_rate"], num_steps)
        tuned[name] = baselines.Tuned(
            name,
            kept[name]["learning_rate"],
            float(kept[name]["final_loss"]),
            tx,
            np.asarray(kept[name]["grid"], float),
        )
    return tuned


def compare(
    transformations,
    problem,
    key,
    num_steps=100,
    num_runs=100,
    *,
    tuned=None,
    tune_runs=None,
    measure=None,
    progress_bar=True,
    path=None,
):
    """Compares optimizers with tuned baselines on fresh problems: the same ones for all.

    Args:
      transformations: dict from name to optax transformation: the learned ones.
      problem: an `Optimizee`.
      key: draws the problems; those on which baselines are tuned are others than those that are reported.
      num_steps: the horizon T.
      num_runs: how many problems.
      tuned: dict from name to `baselines.Tuned`, as from `tune_all`; None to tune all baselines here.
      tune_runs: how many problems to tune on; None for as many as `num_runs`.
      measure: something of theta_T to be measured too, such as `optimizees.accuracy(network, test)`, or a dict of such
        functions.
      progress_bar: whether to show one, on stderr.
      path: a folder of this comparison alone in which each optimizer's runs are kept; those there are not run again.

    Returns:
      A `Comparison`; `report.summary` and `report.write` make a table, a picture and files of it.

    Raises:
      ValueError: for arguments that are not possible.
    """
    _checks.instance_of("transformations", transformations, dict, "name each optax transformation.")
    for name, tx in transformations.items():
        base.check_transformation(f"transformations[{name!r}]", tx)
    for name, runs in (
        ("num_runs", num_runs),
        ("tune_runs", num_runs if tune_runs is None else tune_runs),
    ):
        _checks.positive_int(name, runs)
    clash = sorted(
        transformations.keys() & (baselines.BASELINES if tuned is None else tuned).keys()
    )
    if clash:
        raise ValueError(
            f"transformations must not have a baseline's name, got {clash[0]!r}: choose another name."
        )
    tune_key, run_key, cost_key = jax.random.split(key, 3)
    if tuned is None:
        tuned = tune_all(
            problem, tune_key, num_steps, tune_runs or num_runs, progress_bar=progress_bar
        )
    everything = {**transformations, **{name: t.tx for name, t in tuned.items()}}
    curves, measures = {}, {}
    bar = tqdm.tqdm(
        everything.items(), "evaluating", unit="optimizer", leave=False, disable=not progress_bar
    )
    for name, tx in bar:
        bar.set_postfix_str(name)
        kept = path and os.path.join(path, urllib.parse.quote(name, safe=" ") + ".npz")
        done = _read_runs(kept, measure) if kept else None
        if done is None:
            done = evaluating.evaluate_with(measure, tx, problem, run_key, num_steps, num_runs)
            done = jax.tree.map(lambda x: np.asarray(x, np.float64), done)
            if kept:
                _write_runs(kept, *done)
        curves[name], values = done
        if measure is not None:
            measures[name] = values
    rates = {name: t.learning_rate for name, t in tuned.items()}
    return Comparison(curves, rates, measures, cost.measure(everything, problem, cost_key))


def _write_runs(path, losses, measures):
    """Losses in the first array, then what was measured, in the order of its names."""
    with _files.whole(path) as temporary:
        np.savez_compressed(temporary, losses, *jax.tree.leaves(measures))


def _read_runs(path, measure):
    """What `_write_runs` has written, or None where it is not there or is damaged."""
    structure = jax.tree.structure(measure, is_leaf=callable)
    try:
        with np.load(path) as arrays:
            losses, *values = (arrays[name] for name in arrays.files)
            return losses, structure.unflatten(values)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
