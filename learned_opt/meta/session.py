"""One call of `meta_train`: its stages, one after the other, and what the device runs of them."""

import functools
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import devices
from learned_opt.devices import Shards
from learned_opt.meta import checkpoints, episode, progress, runs, signals
from learned_opt.meta.episode import MetaState, Plan, Share
from learned_opt.meta.optimizer import Bound
from learned_opt.meta.runs import ALONE, SEEDS, TRIALS_AT_ONCE, TRIALS_IN_TURN, Lift
from learned_opt.meta.settings import MetaTrainSettings
from learned_opt.optimizers.base import Phi

# A request to leave waits for the windows at hand: so many seconds of them are started at once.
SECONDS_AT_ONCE = 0.5


class MetaTrainingError(RuntimeError):
    """Meta-gradients stayed non-finite. `best_phi` holds the best validated weights so far."""

    def __init__(self, message: str, best_phi: Phi) -> None:
        super().__init__(message)
        self.best_phi = best_phi


class Keys(NamedTuple):
    """What a run draws, each with a key of its own."""

    init: jax.Array
    train: jax.Array
    validation: jax.Array
    search: jax.Array


def keys_of(key: jax.Array) -> Keys:
    """The keys of a run."""
    return Keys(*jax.random.split(key, 4))


class _Counts(NamedTuple):
    """What the host sees of a state after some windows; of every run where there are several."""

    window: Any
    sums: episode.Sums
    skipped: Any
    skipped_in_a_row: Any


def _counts(state: MetaState) -> _Counts:
    seen = _Counts(state.window, state.sums, state.skipped, state.skipped_in_a_row)
    return devices.to_host(seen)


class _Stage(NamedTuple):
    """A search, or the training on one horizon.

    Attributes:
      name: of its folder of checkpoints.
      number: of its horizon.
      num_epochs: at most.
      patience: epochs without a better validation loss after which it ends, or None.
      key: draws its problems.
      lift: how many runs it is, side by side.
      plan: what its windows do.
    """

    name: str
    number: int
    num_epochs: int
    patience: int | None
    key: jax.Array
    lift: Lift
    plan: Plan

    def ends(self, log: dict) -> list[int | None]:
        """After how many epochs each seed is done; None for one that is not done yet."""
        num_seeds = len(self.key) if self.lift is SEEDS else 1
        ends = []
        for i in range(num_seeds):
            losses = [np.ravel(entry["validation_loss"])[i] for entry in log["history"]]
            ends.append(_end(losses, self.num_epochs, self.patience))
        return ends

    def are_done(self, log: dict) -> list[bool]:
        """Which of the seeds are done."""
        return [bool(log.get("stopped")) or end is not None for end in self.ends(log)]


class Session:
    """One call of `meta_train`: what its stages, search and training, share."""

    def __init__(
        self,
        settings: MetaTrainSettings,
        phi: Phi | None,
        workdir: str | None,
        watch: signals.Watch,
        bar: progress.Bar,
        key: jax.Array,
        shards: Shards,
        lift: Lift = ALONE,
        callback: Callable | None = None,
    ) -> None:
        self._settings, self._phi, self._workdir = settings, phi, workdir
        self._watch, self._bar, self._callback = watch, bar, callback
        self._shards, self._lift = shards, lift
        families = tuple(weighted.family for weighted in settings.families)
        self._families = self._placed(families)
        validated = tuple(w.family for w in settings.validation_families)
        self._validation_families = self._placed(validated)
        self._keys = self._of_each(keys_of, key)
        self._validation_key = self._placed(self._keys.validation)

    def _placed(self, tree: Any) -> Any:
        return devices.placed(tree, self._shards.mesh)

    def _of_each(self, function: Callable, keys: jax.Array) -> Any:
        """A function of a key, of the key of every seed."""
        return function(keys) if self._lift.key_axis is None else jax.vmap(function)(keys)

    def search(self, name: str = "search") -> float:
        """The best of some random learning rates.

        Args:
          name: of its folder of checkpoints.
        """
        search = self._settings.learning_rate
        logs = jax.random.uniform(
            self._keys.search,
            (search.num_trials,),
            minval=np.log(search.low),
            maxval=np.log(search.high),
        )
        plan = plan_of(self._settings, self._shards, 0, search.num_epochs, Span(0.0, 1.0))
        lift = TRIALS_AT_ONCE if self._shards.num == 1 else TRIALS_IN_TURN
        stage = _Stage(name, 0, search.num_epochs, None, self._keys.train, lift, plan)

        def begin() -> MetaState:
            return self._init(stage, self._first_phi(), jnp.exp(logs))

        state, _ = self._run(stage, begin)
        rates, losses = devices.to_host((state.learning_rate, state.best_loss))
        return float(rates[np.argmin(losses)])

    def train(self, learning_rate: float | jax.Array) -> tuple[MetaState, list[dict]]:
        """The training itself: the last state, and the log of every stage.

        Args:
          learning_rate: of phi's optimizer; one of every seed where there are several.
        """
        settings = self._settings
        logs: list[dict] = []
        state: MetaState | None = None
        num_stages = len(settings.horizons)
        for i, horizon in enumerate(settings.horizons):
            is_last = i == num_stages - 1
            patience = settings.validation.patience if is_last else settings.stage_patience
            name = "train" if num_stages == 1 else f"train-{horizon}"
            fold = functools.partial(jax.random.fold_in, data=i)
            key = self._of_each(fold, self._keys.train) if i else self._keys.train
            span = Span(i / num_stages, (i + 1) / num_stages)
            plan = plan_of(settings, self._shards, i, settings.num_epochs, span)
            stage = _Stage(name, i, settings.num_epochs, patience, key, self._lift, plan)
            state, log = self._run(stage, self._beginning(stage, state, learning_rate))
            logs.append(log)
            if log.get("stopped"):
                break
        assert state is not None  # there is at least one horizon
        return state, logs

    def _beginning(
        self,
        stage: _Stage,
        before: MetaState | None,
        learning_rate: float | jax.Array,
    ) -> Callable[[], MetaState]:
        """What makes the state in which a stage of the training begins."""

        def begin() -> MetaState:
            if before is None:
                return self._init(stage, self._first_phi(), jnp.asarray(learning_rate))
            state = self._init(stage, before.best_phi, before.learning_rate)
            return state._replace(optimizer=before.optimizer)

        return begin

    def _init(
        self,
        stage: _Stage,
        phi: Phi,
        learning_rate: jax.Array,
    ) -> MetaState:
        """The state in which a stage begins."""
        rates = learning_rate.astype(jnp.result_type(float))
        key, phi, rates = self._placed((stage.key, phi, rates))
        state = runs.begun(stage.plan, stage.lift, self._families, key, phi, rates)
        return jax.tree.map(episode.own, state)

    def _first_phi(self) -> Phi:
        """The weights at first, of every seed: those that were given, or fresh ones."""
        init = self._settings.opt.init
        if self._lift is not SEEDS:
            return init(self._keys.init) if self._phi is None else self._phi
        every = [init(key) if self._phi is None else self._phi for key in self._keys.init]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)

    def _run(self, stage: _Stage, begin: Callable[[], MetaState]) -> tuple[MetaState, dict]:
        """Runs epochs from wherever the last checkpoint of this stage stands."""
        settings = self._settings
        num_validation = settings.validation.num_problems
        run = functools.partial(runs.windows, stage.plan, stage.lift)
        validate = functools.partial(runs.end_epoch, stage.plan, stage.lift, num_validation)
        per_epoch = settings.windows_of_epoch(stage.number)
        weights = settings.meta_loss.of_windows(settings.estimator.window, stage.plan.num_steps)
        key, weights = self._placed((stage.key, weights))
        folder = self._workdir and os.path.join(self._workdir, "checkpoints", stage.name)
        store = checkpoints.Checkpoints(folder)
        pace = _Pace()
        try:
            state, log = store.restore(begin())
            if log is None:
                state, log = self._validated_first(stage, state), {"history": [], "seconds": 0.0}
            done = int(np.max(devices.to_host(state.window)))
            self._bar.start_stage(stage.name, done, log["history"])
            while not all(are_done := stage.are_done(log)):
                self._leave_if_asked(store, done, state, log)
                start = time.perf_counter()
                num = pace.windows(per_epoch - done % per_epoch)
                count = jnp.int32(num)
                if stage.lift is SEEDS:  # one that is done waits for the others
                    count = jnp.where(jnp.asarray(are_done), 0, count)
                first, count = self._placed((jnp.int32(done), count))
                state = run(self._families, key, weights, first, count, state)
                counts = _counts(state)  # waits for the device
                self._check_finite(counts, state)
                seconds = time.perf_counter() - start
                log["seconds"] += seconds
                pace.note(num, seconds)
                done += num
                self._bar.advance(counts, num)
                if done % per_epoch == 0:
                    state, log = self._finish_epoch(stage, validate, state, log)
                    store.save(done, state, log)
        finally:
            store.close()
        self._bar.end_stage(stage.num_epochs * per_epoch - done)
        return state, {**log, "ends": stage.ends(log)}

    def _validated_first(self, stage: _Stage, state: MetaState) -> MetaState:
        """Weights that come from elsewhere are the first candidate, and not to be made worse."""
        is_given = self._phi is not None or stage.number > 0
        if not is_given or stage.plan.selection != "validation":
            return state
        num_validation = self._settings.validation.num_problems
        return runs.validate_first(
            stage.plan,
            stage.lift,
            num_validation,
            self._validation_families,
            self._validation_key,
            state,
        )

    def _finish_epoch(
        self,
        stage: _Stage,
        validate: Callable,
        state: MetaState,
        log: dict,
    ) -> tuple[MetaState, dict]:
        """Validates, writes the history, and calls back."""
        counts, total = devices.to_host((state.sums.count, state.sums.loss))
        meta_loss = np.where(counts > 0, total / np.maximum(counts, 1), np.inf)
        loss, average, state = validate(self._validation_families, self._validation_key, state)
        loss, average, skipped = devices.to_host((loss, average, state.skipped))
        entry = {
            "epoch": len(log["history"]) + 1,
            "num_steps": stage.plan.num_steps,
            "meta_loss": meta_loss.tolist(),
            "average_loss": average.tolist(),
            "validation_loss": loss.tolist(),
            "skipped": skipped.tolist(),
            "seconds": log["seconds"],
        }
        self._bar.show_epoch(entry)
        log = {**log, "history": [*log["history"], entry]}
        if self._callback is not None:
            # The state itself is donated to the next window.
            own = jax.tree.map(jnp.copy, (state.phi, state.best_phi))
            phi, best_phi = own if self._shards.mesh is None else devices.to_local(own)
            stopped = bool(self._callback(progress.Progress(entry, phi, best_phi)))
            log["stopped"] = devices.of_first(stopped)
        return state, log

    def _check_finite(self, counts: _Counts, state: MetaState) -> None:
        # A search goes on with the rates that do not diverge.
        worst = np.max if self._lift is SEEDS else np.min
        in_a_row = worst(counts.skipped_in_a_row)
        if in_a_row < self._settings.max_skipped:
            return
        kept = f" The last finished epoch is in {self._workdir}." if self._workdir else ""
        raise MetaTrainingError(
            f"{in_a_row} meta-gradients in a row were not finite, up to window "
            f"{np.max(counts.window)}, at learning_rate={devices.to_host(state.learning_rate)}: "
            "the loss diverges under this optimizer. Lower learning_rate or the optimizer's "
            f"output_scale, or check the loss.{kept}",
            devices.to_local(state.best_phi),
        )

    def _leave_if_asked(
        self,
        store: checkpoints.Checkpoints,
        windows: int,
        state: MetaState,
        log: dict,
    ) -> None:
        # A notice to one process is one to all of them.
        received = int(devices.most(self._watch.received or 0)[0])
        if not received:
            return
        store.save(windows, state, log)
        message = (
            f"meta-training stopped on signal {received} after window {windows}; its state is "
            f"saved in {self._workdir}: run the same command again to go on."
        )
        if devices.is_first():
            print(f"\n{message}", file=sys.stderr, flush=True)
        if received == signals.signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise signals.Interrupted(received, message)


class Span(NamedTuple):
    """Which part of all meta-training a stage is."""

    start: float
    end: float


def plan_of(
    settings: MetaTrainSettings,
    shards: Shards,
    number: int,
    num_epochs: int,
    span: Span,
) -> Plan:
    """What the windows of a stage do."""
    num_episodes = num_epochs * settings.episodes_of_stage(number)
    return Plan(
        opt=settings.opt,
        estimator=settings.estimator,
        optimizer=Bound(settings.optimizer, settings.total_windows),
        num_steps=settings.horizons[number],
        num_problems=settings.num_problems,
        family_weights=tuple(weighted.weight for weighted in settings.families),
        share=Share(span.start, span.end, num_episodes),
        selection=settings.validation.selection,
        validation_steps=settings.validation_steps(number),
        validation_weights=tuple(w.weight for w in settings.validation_families),
        shards=shards,
    )


class _Pace:
    """How many windows to start at once: about `SECONDS_AT_ONCE` of them."""

    def __init__(self) -> None:
        self._seconds: float | None = None  # of one window

    def windows(self, most: int) -> int:
        """How many of the next windows; one until it is known how long a window takes."""
        if self._seconds is None:
            return 1
        return max(1, min(most, math.floor(SECONDS_AT_ONCE / max(self._seconds, 1e-6))))

    def note(self, num: int, seconds: float) -> None:
        """So many windows took so long; the first time is mostly compilation."""
        # All processes start as many as the slowest of them would.
        self._seconds = devices.most(seconds / num)[0]


def _end(
    losses: list[float],
    num_epochs: int,
    patience: int | None,
) -> int | None:
    """After how many epochs with these validation losses a run is done; None if not yet."""
    for epochs in range(1, len(losses) + 1):
        if epochs == num_epochs:
            return epochs
        if patience is None or epochs <= patience:
            continue
        if min(losses[epochs - patience : epochs]) >= min(losses[: epochs - patience]):
            return epochs
    return None
