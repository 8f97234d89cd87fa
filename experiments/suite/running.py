"""Runs optimizers on tasks: one file for each pair, which appears whole or not at all."""

import functools
import json
import os
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import measuring
from experiments.suite import shares
from experiments.suite.families import Built
from experiments.suite.optimizers import CONSTANT, Optimizer
from experiments.suite.sources import Sources
from experiments.suite.tasks import Task
from learned_opt import _files, _fingerprint
from learned_opt.evaluation import baselines, cost, halving
from learned_opt.meta import evaluating, unrolling
from learned_opt.optimizees import base

COSTS = "costs.json"
CURVES = "losses"  # of a whole run; those of shorter ones are "losses@SHARE"
SAME = 1e-6  # rates that differ by less, relatively, are one
# Where the best rate lies at the end of its grid, the grid goes on beyond it.
OCTAVES_BEYOND = 3
MOST_EXTENSIONS = 3


class Settings(NamedTuple):
    """What two runs in one work directory must have in common.

    Attributes:
      edition: of the tasks, see `tasks.EDITIONS`.
      num_steps: of most tasks.
      seeds: how many runs of each optimizer are reported.
      tune_runs: how many other runs rates are tuned on.
      data: "embedded" or "TFDS".
      evaluation_seed: draws the problems.
    """

    edition: str
    num_steps: int
    seeds: int
    tune_runs: int
    data: str
    evaluation_seed: int


class Done(NamedTuple):
    """What the file of one optimizer on one task holds.

    Attributes:
      curves: dict from a share of the horizon to losses `[seeds, steps + 1]`; 1 is always there.
      measures: dict from name to `[seeds]`.
      record: plain data: the horizon, what was tuned, what tells the optimizer from others, and
        whether it is constant: then a shorter run is the beginning of a longer one.
    """

    curves: dict[float, np.ndarray]
    measures: dict[str, np.ndarray]
    record: dict[str, Any]


def path_of(
    workdir: str,
    task: str,
    optimizer: str,
) -> str:
    """The file of one optimizer on one task."""
    return os.path.join(workdir, task, f"{optimizer}.npz")


def read(path: str) -> Done | None:
    """What `_write` has written, or None where it is not there or is damaged."""
    try:
        with np.load(path) as arrays:
            record = json.loads(str(arrays["record"]))
            curves = {}
            measures = {}
            for name in arrays.files:
                kind, _, rest = name.partition("@")
                if kind == CURVES:
                    curves[float(rest or 1)] = arrays[name]
                elif kind == "measure":
                    measures[rest] = arrays[name]
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
        return None
    return Done(curves, measures, record)


def _write(path: str, done: Done) -> None:
    arrays = {f"{CURVES}@{share:g}": losses for share, losses in done.curves.items()}
    arrays.update({f"measure@{name}": values for name, values in done.measures.items()})
    with _files.whole(path) as temporary:
        np.savez_compressed(temporary, record=json.dumps(_files.portable(done.record)), **arrays)


def run(
    tasks: dict[str, Task],
    chosen: dict[str, Optimizer],
    settings: Settings,
    sources: Sources,
    workdir: str,
) -> None:
    """Runs each optimizer on each task, unless its file is there.

    Raises:
      ValueError: where the work directory, a task's folder or a file in it belongs to something
        else; names what differs.
    """
    digests = {name: _digest(optimizer, settings) for name, optimizer in chosen.items()}
    measuring.claim(workdir, settings._asdict())
    missing = {}
    for name in tasks:
        missing[name] = [
            other for other in chosen if not _is_done(workdir, name, other, digests[other])
        ]
    planned = {
        (name, other): work(tasks[name], chosen[other], settings)
        for name, others in missing.items()
        for other in others
    }
    with _Bar(planned) as bar:
        for name, others in missing.items():
            if not others:
                continue
            built = tasks[name].built(sources, settings.edition)
            _claim_task(os.path.join(workdir, name), built)
            for other in others:
                bar.start(name, other)
                one = _One(tasks[name], built, chosen[other], settings, bar.advance)
                done = one.run()
                done.record.update(optimizer=digests[other], about=chosen[other].about)
                _write(path_of(workdir, name, other), done)


class _Bar:
    """The work that is done, and an estimate of the time for all that is left.

    Args:
      planned: dict from the names of a task and an optimizer to the work of the pair. Tuning may
        make more or fewer runs than planned.
    """

    def __init__(self, planned: dict[tuple[str, str], float]) -> None:
        on_terminal = sys.stderr.isatty()
        self._planned = planned
        self._left = sum(planned.values())
        self._bar = tqdm.tqdm(
            total=self._left,
            desc="suite",
            # The total is planned work, in milliseconds of Adam: a share says more than a number.
            bar_format="{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=on_terminal,
            mininterval=0.5 if on_terminal else 30,
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def start(self, task: str, optimizer: str) -> None:
        """Begins a pair: what was planned for it no longer counts as left after it."""
        self._bar.total = self._bar.n + self._left
        self._left = max(0.0, self._left - self._planned[task, optimizer])
        self._bar.set_postfix_str(f"{task}: {optimizer}")

    def advance(self, amount: float) -> None:
        """Some work is done."""
        self._bar.total = max(self._bar.total, self._bar.n + amount + self._left)
        self._bar.update(amount)


def _digest(optimizer: Optimizer, settings: Settings) -> str:
    """What tells an optimizer from another of the same name, such as one with other weights."""
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    horizon = settings.num_steps
    if optimizer.decays is None:
        builds = [optimizer.build(horizon)]
    else:
        builds = [build(1.0, horizon) for build in optimizer.decays.values()]
    digests = [_digest_of(tx, params) for tx in builds]
    return _fingerprint.of_arrays([], repr((digests, optimizer.rates, optimizer.refine)))


def _digest_of(tx: Any, params: Any) -> str:
    rule, phi = unrolling.separate(tx)
    joined = unrolling.join(rule, phi)

    def update(
        g: Any,
        state: Any,
        value: jax.Array,
    ) -> Any:
        return joined.update(g, state, g, value=value, grad=g, value_fn=lambda theta: value)

    state = jax.eval_shape(joined.init, params)
    digest = _fingerprint.of_function(update, params, state, jnp.zeros(()))
    return _fingerprint.of_arrays(phi, digest)


def _is_done(
    workdir: str,
    task: str,
    optimizer: str,
    digest: str,
) -> bool:
    path = path_of(workdir, task, optimizer)
    done = read(path)
    if done is None:
        return False
    if done.record["optimizer"] != digest:
        raise ValueError(
            f"{path} is of another optimizer of the name {optimizer!r}, with other weights or "
            "settings: delete the file to run it again, or choose another --workdir."
        )
    return True


def _claim_task(folder: str, built: Built) -> None:
    """A task's folder is of one family: a task that was changed is told from what it was."""
    family = base.as_family(built.family)
    path = os.path.join(folder, "family.json")
    here = _files.portable(_fingerprint.of_family(family))
    if not os.path.exists(path):
        _files.write_json(path, here)
        return
    there = _files.read_json(path)
    different = [name for name in here if here[name] != there.get(name)]
    if different:
        raise ValueError(
            f"{folder} holds runs of another task of that name (its {different[0]} differs: other "
            "data, another version of Python or JAX, or a change of the suite): choose another "
            "--workdir."
        )


def work(
    task: Task,
    optimizer: Optimizer,
    settings: Settings,
) -> float:
    """How much there is to do: steps of one run, each as much as one of a millisecond."""
    horizon = task.horizon(settings.num_steps)
    lives = float(settings.seeds)
    if optimizer.scheduled:
        lives *= sum(shares.SHARES)
    if optimizer.decays is not None:
        jobs = halving.planned(len(optimizer.rates), settings.tune_runs, optimizer.refine)
        lives += jobs * len(optimizer.decays)
    return lives * horizon * task.milliseconds


class _One(NamedTuple):
    """One optimizer on one task; `advance` is told of the work that is done."""

    task: Task
    built: Built
    optimizer: Optimizer
    settings: Settings
    advance: Callable[[float], Any]

    def run(self) -> Done:
        """Tunes it where there is something to tune, and runs it on the problems reported."""
        horizon = self.task.horizon(self.settings.num_steps)
        build, tuned = self._chosen(horizon)
        lengths = shares.SHARES if self.optimizer.scheduled else (1.0,)
        curves = {}
        measures: dict[str, np.ndarray] = {}
        for share in lengths:
            num_steps = shares.horizon(horizon, share)
            measure = (self.built.measures or None) if share == 1 else None
            curves[share], measured = self._evaluated(build(num_steps), num_steps, measure)
            measures.update(measured or {})
        constant = not self.optimizer.scheduled and (not tuned or tuned["decay"] == CONSTANT)
        return Done(curves, measures, {"horizon": horizon, "tuned": tuned, "constant": constant})

    def _evaluated(
        self,
        tx: Any,
        num_steps: int,
        measure: Any,
    ) -> tuple[np.ndarray, Any]:
        key, _ = measuring.keys(self.settings.evaluation_seed)
        losses, measured = evaluating.evaluate_with(
            measure, tx, self.built.family, key, num_steps, self.settings.seeds
        )
        losses, measured = jax.tree.map(np.asarray, (losses, measured))
        self.advance(self.settings.seeds * num_steps * self.task.milliseconds)
        return losses, measured

    def _chosen(self, horizon: int) -> tuple[Callable[[int], Any], dict | None]:
        """How it is built for a number of steps, and what was tuned."""
        if self.optimizer.decays is None:
            return self.optimizer.build, None
        rates = [rate * self.task.factor for rate in self.optimizer.rates]
        tuned = {
            decay: self._tuned(build, rates, horizon)
            for decay, build in self.optimizer.decays.items()
        }
        best = min(tuned, key=lambda decay: tuned[decay]["final_loss"])
        rate = tuned[best]["learning_rate"]
        build = functools.partial(self.optimizer.decays[best], rate)
        record = {
            "decay": best,
            "learning_rate": rate,
            "at_the_end_of_the_grid": tuned[best]["at_the_end_of_the_grid"],
            "decays": tuned,
        }
        return build, record

    def _tuned(
        self,
        build: Callable,
        rates: list[float],
        horizon: int,
    ) -> dict[str, Any]:
        """The best rate of a grid, and beyond it as long as the best one lies at its end."""
        found = self._tuned_within(build, rates, horizon)
        tried = dict(zip(found.rates.tolist(), found.grid.tolist(), strict=True))
        at_end = _side(found.learning_rate, rates)
        for _ in range(MOST_EXTENSIONS):
            if not at_end:
                break
            best = found.learning_rate
            further = sorted(best * 2.0 ** (at_end * k) for k in range(OCTAVES_BEYOND + 1))
            found = self._tuned_within(build, further, horizon)
            tried.update(zip(found.rates.tolist(), found.grid.tolist(), strict=True))
            at_end = _side(found.learning_rate, further) if found.learning_rate != best else 0
        return {
            "learning_rate": found.learning_rate,
            "final_loss": found.final_loss,
            "at_the_end_of_the_grid": bool(at_end),
            "rates": sorted(tried),
            "grid": [tried[rate] for rate in sorted(tried)],
        }

    def _tuned_within(
        self,
        build: Callable,
        rates: list[float],
        horizon: int,
    ) -> baselines.Tuned:
        def advance(jobs: int) -> None:
            self.advance(jobs * horizon * self.task.milliseconds)

        _, key = measuring.keys(self.settings.evaluation_seed)
        return baselines.tune(
            build,
            self.built.family,
            key,
            horizon,
            self.settings.tune_runs,
            rates,
            last=shares.num_last(horizon),
            on_jobs=advance,
            refine=self.optimizer.refine,
        )


def _side(rate: float, rates: list[float]) -> int:
    """1 for a rate at the upper end of a grid, -1 at the lower one, 0 between them."""
    if abs(rate / max(rates) - 1) < SAME:
        return 1
    return -1 if abs(rate / min(rates) - 1) < SAME else 0


def measure_costs(
    tasks: dict[str, Task],
    chosen: dict[str, Optimizer],
    settings: Settings,
    sources: Sources,
    workdir: str,
) -> None:
    """Times a step of each optimizer on each task, side by side, unless that is done.

    Nothing else should run on the machine. What is tuned is timed at some rate: the rate does not
    change the time.
    """
    measuring.claim(workdir, settings._asdict())
    bar = tqdm.tqdm(tasks.items(), desc="timing", unit="task", dynamic_ncols=sys.stderr.isatty())
    for name, task in bar:
        bar.set_postfix_str(name)
        path = os.path.join(workdir, name, COSTS)
        if os.path.exists(path) and set(chosen) <= set(_files.read_json(path)):
            continue
        built = task.built(sources, settings.edition)
        horizon = task.horizon(settings.num_steps)
        timed = {other: _any_rate(optimizer, horizon) for other, optimizer in chosen.items()}
        measured = cost.measure(timed, built.family, jax.random.key(settings.evaluation_seed))
        _files.write_json(path, {other: one._asdict() for other, one in measured.items()})


def _any_rate(optimizer: Optimizer, horizon: int) -> Any:
    if optimizer.decays is None:
        return optimizer.build(horizon)
    build = next(iter(optimizer.decays.values()))
    return build(optimizer.rates[0], horizon)
