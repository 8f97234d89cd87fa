"""What came out of a sweep: every setting's curve, and the best of each kind."""

import dataclasses
import functools
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import study, training
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep, Unit
from learned_opt import _files, saving
from learned_opt.evaluation import report, statistics
from learned_opt.evaluation.statistics import Summary

RATE = "learning_rate"


class Outcome(NamedTuple):
    """What a unit has measured.

    Attributes:
      curves: losses `[runs, points]`.
      finals: what settings are compared by `[runs]`.
      axis: what the points of a curve are.
      label: what the losses are.
    """

    curves: np.ndarray
    finals: np.ndarray
    axis: str
    label: str


def _of_training(folder: str) -> Outcome | None:
    """Of `experiments.train`: the validation losses, and the one of the weights that are kept."""
    card = saving.read_card(os.path.join(folder, training.WEIGHTS))
    if card is None:
        return None
    info = card["info"]
    losses = [float(entry["validation_loss"]) for entry in info["history"]]
    last = float(info["validation_loss"])
    return Outcome(np.array([losses]), np.array([last]), "epoch", "validation loss")


def _of_study(folder: str) -> Outcome | None:
    """Of `experiments.quadratic` and `experiments.mnist`: the learned optimizer's losses."""
    done = report.read(folder)
    if done is None or study.LEARNED not in done.curves:
        return None
    return Outcome(done.curves[study.LEARNED], done.finals[study.LEARNED], "step", "loss")


def _of_curves(folder: str) -> Outcome | None:
    """Of `experiments.curves`."""
    try:
        with np.load(os.path.join(folder, "curves.npz")) as arrays:
            losses = arrays["losses"]
    except (FileNotFoundError, KeyError, zipfile.BadZipFile):
        return None
    return Outcome(losses, losses[:, -1], "step", "loss")


# The next kind of result goes here.
READERS: list[Callable[[str], Outcome | None]] = [_of_training, _of_study, _of_curves]


def read(folder: Folder) -> Outcome | None:
    """What a unit that is done has measured; None where that is no losses."""
    results = os.path.join(folder.done, "results")
    for reader in READERS:
        outcome = reader(results)
        if outcome is not None:
            return outcome
    return None


def read_benchmark(folder: Folder) -> dict[str, Any] | None:
    """What a benchmark has recorded; None where the unit is no benchmark."""
    path = os.path.join(folder.done, "results", "results.json")
    if not os.path.exists(path):
        return None
    recorded = _files.read_json(path)
    return recorded if "benchmark" in recorded else None


@dataclasses.dataclass(frozen=True)
class Setting:
    """All seeds of one setting.

    Attributes:
      values: of what is chosen, such as the learning rate.
      outcomes: dict from the seeds, a tuple, to the `Outcome`.
    """

    values: tuple
    outcomes: dict[tuple, Outcome]

    def finals(self, seeds: Sequence[tuple] | None = None) -> np.ndarray:
        """`[seeds, runs]`; of one run each `[seeds]`, which are then what varies."""
        seeds = list(self.outcomes) if seeds is None else seeds
        stacked = np.stack([self.outcomes[seed].finals for seed in seeds])
        return stacked[:, 0] if stacked.shape[1] == 1 else stacked

    @functools.cached_property
    def summary(self) -> Summary:
        """Of the final losses over seeds and runs."""
        return statistics.summarize(self.finals())

    @property
    def curve(self) -> np.ndarray:
        """The mean over seeds and runs at every point that all seeds have."""
        shortest = min(outcome.curves.shape[1] for outcome in self.outcomes.values())
        means = [outcome.curves[:, :shortest].mean(axis=0) for outcome in self.outcomes.values()]
        return np.mean(means, axis=0)


@dataclasses.dataclass(frozen=True)
class Group:
    """Everything of one optimizer and one problem, whatever these are called.

    Attributes:
      place: dict from the settings that groups differ in to their values.
      settings: the settings to choose from.
      num_seeds: how many seeds there are to be.
    """

    place: dict[str, Any]
    settings: list[Setting]
    num_seeds: int

    @functools.cached_property
    def best(self) -> Setting:
        """The setting with the lowest mean, among those with the most seeds."""
        most = max(len(setting.outcomes) for setting in self.settings)
        whole = [setting for setting in self.settings if len(setting.outcomes) == most]
        return min(whole, key=lambda setting: _order(setting.summary.mean))

    @functools.cached_property
    def tied(self) -> list[Setting]:
        """The best setting, and those whose paired difference to it has an interval with zero.

        Settings are compared on the seeds that both have.
        """
        best = self.best
        return [setting for setting in self.settings if _cannot_be_told(setting, best)]


def _order(mean: float) -> float:
    return mean if np.isfinite(mean) else np.inf


def _cannot_be_told(setting: Setting, best: Setting) -> bool:
    if setting is best:
        return True
    seeds = [seed for seed in best.outcomes if seed in setting.outcomes]
    if not seeds:
        return False
    ours, theirs = setting.finals(seeds), best.finals(seeds)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return False
    return statistics.paired(ours, theirs).verdict == statistics.NO_DIFFERENCE


def chosen_names(sweep: Sweep, best_over: Sequence[str]) -> list[str]:
    """The settings of which the best is chosen: those asked for, or the rate and what is drawn."""
    if best_over:
        return [name for name in sweep.names if name in best_over]
    return [name for name in sweep.names if name in sweep.drawn or _last(name) == RATE]


def seed_names(sweep: Sweep) -> list[str]:
    """The settings that are seeds."""
    return [name for name in sweep.names if _last(name).endswith("seed")]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def groups(
    sweep: Sweep,
    outcomes: Iterable[tuple[Unit, Outcome]],
    best_over: Sequence[str] = (),
) -> list[Group]:
    """The outcomes by what is neither a seed nor chosen.

    Args:
      sweep: the `Sweep`.
      outcomes: pairs of a unit that is done and of what it has measured.
      best_over: see `chosen_names`.

    Returns:
      Groups, in the order of the units.
    """
    chosen = chosen_names(sweep, best_over)
    seeds = [name for name in seed_names(sweep) if name not in chosen]
    others = [name for name in sweep.names if name not in (*chosen, *seeds)]
    found: dict[tuple, dict[tuple, dict[tuple, Outcome]]] = {}
    for unit, outcome in outcomes:
        of_place = found.setdefault(_key(unit, others), {})
        of_setting = of_place.setdefault(_key(unit, chosen), {})
        of_setting[_key(unit, seeds)] = outcome
    num_seeds = len({_key(unit, seeds) for unit in sweep.units})
    result = []
    for place, of_place in found.items():
        settings = [Setting(values, of_setting) for values, of_setting in of_place.items()]
        settings.sort(key=lambda setting: tuple(map(_sortable, setting.values)))
        result.append(Group(dict(zip(others, place, strict=True)), settings, num_seeds))
    return result


def _key(unit: Unit, names: Iterable[str]) -> tuple:
    """A unit's values of some settings; lists become tuples, which can be keys."""
    values = [unit.settings.get(name) for name in names]
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _sortable(value: Any) -> tuple:
    is_number = isinstance(value, (int, float))
    return (not is_number, value if is_number else 0, str(value))
