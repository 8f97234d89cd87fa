"""Runs optimizers on tasks: one file for each pair, which appears whole or not at all."""

import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from experiments import measuring
from experiments.suite import kept, shares
from experiments.suite.at_once import AtOnce
from experiments.suite.families import Built
from experiments.suite.in_turn import InTurn
from experiments.suite.kept import Settings
from experiments.suite.optimizers import Optimizer
from experiments.suite.sources import Sources
from experiments.suite.tasks import Task
from learned_opt import _files, _fingerprint
from learned_opt.evaluation import cost, halving
from learned_opt.meta import unrolling
from learned_opt.optimizees import base

COSTS = "costs.json"


def run(
    tasks: dict[str, Task],
    chosen: dict[str, Optimizer],
    settings: Settings,
    sources: Sources,
    workdir: str,
    at_once: bool = False,
) -> None:
    """Runs each optimizer on each task, unless its file is there.

    Args:
      tasks: by name.
      chosen: the optimizers, by name.
      settings: of all runs.
      sources: of data.
      workdir: where the files go.
      at_once: whether all lives of an optimizer on a task are one program, see `AtOnce`.

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
    kind = AtOnce if at_once else InTurn
    with _Bar(planned) as bar:
        for name, others in missing.items():
            if not others:
                continue
            built = tasks[name].built(sources, settings.edition)
            _claim_task(os.path.join(workdir, name), built)
            for other in others:
                bar.start(name, other)
                pair = kind(tasks[name], built, chosen[other], settings, bar.advance)
                done = pair.run()
                done.record.update(optimizer=digests[other], about=chosen[other].about)
                kept.write(kept.path_of(workdir, name, other), done)
                # Compiled programs stay in memory, each as many maps of it, and Linux allows a
                # process 65,530 of these: on a CPU some thirty pairs would be the last.
                jax.clear_caches()


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
    path = kept.path_of(workdir, task, optimizer)
    done = kept.read(path)
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
