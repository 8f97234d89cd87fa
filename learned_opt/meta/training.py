"""Meta-training: windows and updates of phi, validation, early stopping, checkpoints."""

import functools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from learned_opt import _checks, _files, _fingerprint, devices
from learned_opt.devices import WHOLE, Shards
from learned_opt.estimators import Estimator, MetaLoss
from learned_opt.meta import checkpoints, episode, programs, progress, signals
from learned_opt.meta.episode import ALONE, SEEDS, Lift, MetaState, Plan, Share
from learned_opt.meta.optimizer import Bound
from learned_opt.meta.settings import MetaTrainSettings, Validation, check
from learned_opt.optimizers.base import LearnedOptimizer, Phi

# A request to leave waits for the windows at hand: so many seconds of them are started at once.
SECONDS_AT_ONCE = 0.5


class MetaTrainResult(NamedTuple):
    """What meta-training gives.

    Attributes:
      phi: the weights with the best loss, as `Validation.selection` has it.
      validation_loss: of these weights, the mean final loss over the validation problems.
      learning_rate: of phi's optimizer, given or found.
      history: one dict an epoch: `epoch`; `num_steps`, the horizon; `meta_loss`, the mean loss of a
        step over the epoch's finite windows; `average_loss`, the moving average of what is
        minimized, weighted as it is; `validation_loss`; `skipped`, the meta-gradients that were
        not finite, so far in this stage; `seconds` of training so far in this stage, with the
        compilation of its program and without validations.
      skipped: how many meta-gradients were not finite and not applied.
    """

    phi: Phi
    validation_loss: float
    learning_rate: float
    history: list
    skipped: int


class MetaTrainingError(RuntimeError):
    """Meta-gradients stayed non-finite. `best_phi` holds the best validated weights so far."""

    def __init__(self, message: str, best_phi: Phi) -> None:
        super().__init__(message)
        self.best_phi = best_phi


def meta_train(
    opt: LearnedOptimizer,
    problem: Any,
    key: jax.Array,
    *,
    num_steps: Any = 100,
    num_problems: int = 16,
    num_epochs: int = 40,
    episodes_per_epoch: int = 50,
    estimator: Estimator | None = None,
    meta_loss: MetaLoss | None = None,
    optimizer: Any = None,
    learning_rate: Any = 0.003,
    validation: Validation | None = None,
    max_skipped: int = 100,
    shards: int = 1,
    phi: Phi | None = None,
    workdir: Any = None,
    callback: Callable[[progress.Progress], Any] | None = None,
    progress_bar: bool | str = True,
) -> MetaTrainResult:
    """Learns an optimizer for a family of problems.

    Problems live for `num_steps` steps, in windows. After every window phi takes one step along an
    estimate of the gradient of that window's meta-loss, and the lives go on (Andrychowicz et al.
    2016, section 3). After every epoch phi is validated on problems of its own, and the best phi is
    kept. A meta-gradient that is not finite is not applied, but counted and shown.

    Args:
      opt: the `LearnedOptimizer`.
      problem: a family of problems, an `Optimizee`; or a list of families, of any shapes, which are
        trained on side by side. `(family, weight)` in the place of a family says by what its
        meta-gradient counts.
      key: draws the initial weights, all problems, and the rates of a search.
      num_steps: the horizon: the steps of the longest life. Or a `Curriculum` of horizons.
      num_problems: problems of a family at once; the meta-gradient is their mean.
      num_epochs: at most so many epochs, in each stage of a curriculum.
      episodes_per_epoch: an epoch has so many horizons' worth of windows.
      estimator: how the meta-gradient is estimated, one of `learned_opt.estimators`; None for
        `Adjoint(window=20)`. For networks of thousands of coordinates the benchmarks
        (benchmarks/README.md) recommend `Adjoint(coordinates=...)` with about a sixteenth of them.
      meta_loss: what is minimized, a `MetaLoss`; None for the papers'.
      optimizer: of phi: an optax transformation, or a function `(learning_rate, num_updates) ->
        optax transformation`. None for `ClippedAdam()`: Adam, clipping and cosine decay.
      learning_rate: of phi's optimizer; or a `RandomSearch`; or "search" for one with its defaults.
        It has no part where `optimizer` is a transformation already.
      validation: a `Validation`: on which problems, how many, and which phi is kept.
      max_skipped: stop with an error after so many non-finite meta-gradients in a row.
      shards: into how many shards the problems of a family are cut; divides `num_problems`. The
        meta-gradient is the mean of what the shards estimate, each from its own problems and with
        its own random draws. Several shards go over all devices, which must divide them, and the
        weights are the same, bit for bit, on any number of devices and processes. One shard runs
        on one device.
      phi: weights to go on from, such as those of `learned_opt.load_pretrained`; None for fresh
        ones. They are validated first, so that nothing worse is kept.
      workdir: where the whole state is saved after every epoch, and on SIGTERM or SIGINT after the
        windows at hand. A call with the same directory and settings goes on where the last one was
        stopped, to the same weights, bit for bit. One with other settings, or another problem, is
        refused.
      callback: called with a `Progress` after every epoch, before its checkpoint: the epoch's
        entry of the history, the newest phi and the best one. If it returns True, training ends.
        It is not called for epochs that an earlier call has finished.
      progress_bar: whether to show one, on stderr; or a text to show in it, such as the loss of the
        best baseline.

    Returns:
      A `MetaTrainResult`.

    Raises:
      ValueError: for settings that are not possible, or a workdir of another configuration.
      MetaTrainingError: if `max_skipped` meta-gradients in a row are not finite.
      Interrupted: (a SystemExit) after SIGTERM with a workdir, once the state is saved;
        KeyboardInterrupt for SIGINT.

    Example:
      >>> import jax, learned_opt
      >>> result = learned_opt.meta_train(
      ...     learned_opt.lstm(hidden_sizes=(4,)), learned_opt.optimizees.quadratic(2),
      ...     jax.random.key(0), num_steps=4, num_epochs=1, episodes_per_epoch=1,
      ...     estimator=learned_opt.estimators.Adjoint(window=2), progress_bar=False)
      >>> len(result.history)
      1
    """
    settings = check(
        opt,
        problem,
        key,
        num_steps=num_steps,
        num_problems=num_problems,
        num_epochs=num_epochs,
        episodes_per_epoch=episodes_per_epoch,
        estimator=estimator,
        meta_loss=meta_loss,
        optimizer=optimizer,
        learning_rate=learning_rate,
        validation=validation,
        max_skipped=max_skipped,
        shards=shards,
    )
    if phi is not None:
        _checks.same_tree("phi", phi, "the weights of opt", jax.eval_shape(opt.init, key))
    layout = devices.layout(settings.shards)
    workdir = _claimed(workdir, settings, key, phi)
    bar = progress.Bar(settings.total_windows, progress_bar)
    with signals.Watch(active=workdir is not None) as watch, bar:
        session = _Session(settings, layout, phi, key, workdir, watch, bar, callback)
        rate = session.search() if settings.is_searched else settings.learning_rate
        state, logs = session.train(rate)
    if layout.mesh is not None:
        state = devices.to_local(state._replace(lives=()))
    return _result(state, logs, rate)


def meta_train_seeds(
    opt: LearnedOptimizer,
    problem: Any,
    keys: jax.Array,
    *,
    phi: Phi | None = None,
    workdir: Any = None,
    progress_bar: bool | str = True,
    **settings: Any,
) -> list[MetaTrainResult]:
    """`meta_train` with each of several keys, as one program that goes over all devices.

    The weights are those of `meta_train` with each key alone, bit for bit. Devices share the seeds,
    and nothing is communicated between them, as long as they divide them. Where a device has
    several seeds they run one after the other.

    Args:
      opt, problem: see `meta_train`.
      keys: `[seeds]` random keys.
      phi: weights that all of them go on from, or None.
      workdir: of all seeds together; see `meta_train`.
      progress_bar: see `meta_train`.
      **settings: the other settings of `meta_train`, without a search, a `Curriculum` or a
        `Validation.patience`, after which seeds would be done at different times, and without a
        callback.

    Returns:
      A `MetaTrainResult` for each key. Their `seconds` are those of all together.

    Raises:
      ValueError: see `meta_train`.
      MetaTrainingError: if the meta-gradients of one of them are not finite.

    Example:
      >>> import jax, learned_opt
      >>> results = learned_opt.meta_train_seeds(
      ...     learned_opt.lstm(hidden_sizes=(4,)), learned_opt.optimizees.quadratic(2),
      ...     jax.random.split(jax.random.key(0), 4), num_steps=4, num_epochs=1,
      ...     episodes_per_epoch=1, estimator=learned_opt.estimators.Adjoint(window=2),
      ...     progress_bar=False)
      >>> len(results)
      4
    """
    _check_keys(keys)
    checked = check(opt, problem, keys[0], **settings)
    _check_same_length(checked)
    if phi is not None:
        _checks.same_tree("phi", phi, "the weights of opt", jax.eval_shape(opt.init, keys[0]))
    layout = devices.layout(checked.shards, len(keys))
    workdir = _claimed(workdir, checked, keys[0], phi, keys)
    bar = progress.Bar(checked.total_windows, progress_bar)
    with signals.Watch(active=workdir is not None) as watch, bar:
        session = _Session(checked, layout, phi, keys, workdir, watch, bar, None, SEEDS)
        state, logs = session.train(checked.learning_rate)
    state = devices.to_local(state._replace(lives=()))
    results = []
    for i in range(len(keys)):
        own_state, own_logs = jax.tree.map(lambda x, i=i: x[i], state), _logs_of(logs, i)
        results.append(_result(own_state, own_logs, checked.learning_rate))
    return results


def _check_keys(keys: Any) -> None:
    is_vector = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not is_vector or keys.ndim != 1 or not keys.size:
        raise ValueError(
            "keys must be a vector of random keys, one for each seed: make it with "
            "jax.random.split(jax.random.key(seed), num_seeds)."
        )


def _check_same_length(settings: MetaTrainSettings) -> None:
    """Raises ValueError where seeds would be done at different times."""
    for name, is_given in {
        "a search of the learning rate": settings.is_searched,
        "a Curriculum": len(settings.horizons) > 1,
        "Validation.patience": settings.validation.patience is not None,
    }.items():
        if is_given:
            raise ValueError(
                f"several seeds in one program must all take the same time, got {name}: leave it "
                "out, or call meta_train with one key after the other."
            )


def _logs_of(logs: list[dict], seed: int) -> list[dict]:
    """The logs of one seed."""
    own = []
    for log in logs:
        history = []
        for entry in log["history"]:
            history.append({k: v[seed] if isinstance(v, list) else v for k, v in entry.items()})
        own.append({**log, "history": history})
    return own


def _result(state: MetaState, logs: list[dict], rate: Any) -> MetaTrainResult:
    _check_learned(state)
    history = [entry for log in logs for entry in log["history"]]
    skipped = sum(log["history"][-1]["skipped"] for log in logs)
    return MetaTrainResult(
        state.best_phi, float(state.best_validation), float(rate), history, skipped
    )


def validation_key(key: jax.Array) -> jax.Array:
    """What `meta_train` with `key` draws its validation problems from.

    `evaluate` with it measures other optimizers on the same problems.
    """
    return jax.random.split(key, 4)[2]


def _claimed(
    workdir: Any,
    settings: MetaTrainSettings,
    key: jax.Array,
    phi: Phi | None,
    keys: jax.Array | None = None,
) -> str | None:
    """The work directory, which is this run's from now on."""
    if workdir is None and not devices.is_several():
        return None
    configuration = settings.plain(key)
    configuration["phi"] = None if phi is None else _fingerprint.of_arrays(phi)
    if keys is not None:
        configuration["key"] = _fingerprint.of_key(keys)
    devices.check_alike("settings", {**configuration, "workdir": str(workdir)})
    if workdir is None:
        return None
    workdir = os.path.expanduser(os.fspath(workdir))
    checkpoints.import_orbax()  # before anything is written
    _files.make_folder(workdir)
    checkpoints.claim(workdir, configuration)
    return workdir


def _split(key: jax.Array) -> tuple:
    return tuple(jax.random.split(key, 4))


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


class _Session:
    """One call of `meta_train`: what its stages, search and training, share."""

    def __init__(
        self,
        settings: MetaTrainSettings,
        shards: Shards,
        phi: Phi | None,
        key: jax.Array,
        workdir: str | None,
        watch: signals.Watch,
        bar: progress.Bar,
        callback: Callable | None,
        lift: Lift = ALONE,
    ) -> None:
        self._settings, self._phi, self._workdir = settings, phi, workdir
        self._watch, self._bar, self._callback = watch, bar, callback
        self._shards, self._lift = shards, lift
        families = tuple(weighted.family for weighted in settings.families)
        self._families = self._placed(families)
        validated = tuple(w.family for w in settings.validation_families)
        self._validation_families = self._placed(validated)
        self._init_key, self._train_key, _, self._search_key = self._of_each(_split, key)
        self._validation_key = self._placed(self._of_each(validation_key, key))

    def _placed(self, tree: Any) -> Any:
        return devices.placed(tree, self._shards.mesh)

    def _of_each(self, function: Callable, keys: jax.Array) -> Any:
        """A function of a key, of the key of every seed."""
        return function(keys) if self._lift.key_axis is None else jax.vmap(function)(keys)

    def search(self) -> float:
        """The best of some random learning rates."""
        search = self._settings.learning_rate
        logs = jax.random.uniform(
            self._search_key,
            (search.num_trials,),
            minval=np.log(search.low),
            maxval=np.log(search.high),
        )
        plan = _plan(self._settings, self._shards, 0, search.num_epochs, Span(0.0, 1.0))
        lift = episode.TRIALS_OF_A_SEARCH
        stage = _Stage("search", 0, search.num_epochs, None, self._train_key, lift, plan)

        def begin() -> MetaState:
            return self._init(stage, self._phi, jnp.exp(logs))

        state, _ = self._run(stage, begin)
        rates, losses = devices.to_host((state.learning_rate, state.best_loss))
        return float(rates[np.argmin(losses)])

    def train(self, learning_rate: float) -> tuple[MetaState, list[dict]]:
        """The training itself: the last state, and the log of every stage."""
        settings = self._settings
        logs: list[dict] = []
        state: MetaState | None = None
        num_stages = len(settings.horizons)
        for i, horizon in enumerate(settings.horizons):
            is_last = i == num_stages - 1
            patience = settings.validation.patience if is_last else settings.stage_patience
            name = "train" if num_stages == 1 else f"train-{horizon}"
            # Several stages have one seed alone.
            key = jax.random.fold_in(self._train_key, i) if i else self._train_key
            span = Span(i / num_stages, (i + 1) / num_stages)
            plan = _plan(settings, self._shards, i, settings.num_epochs, span)
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
        learning_rate: float,
    ) -> Callable[[], MetaState]:
        """What makes the state in which a stage of the training begins."""

        def begin() -> MetaState:
            if before is None:
                shape = self._train_key.shape if self._lift is SEEDS else ()
                return self._init(stage, self._phi, jnp.full(shape, learning_rate))
            begun = self._init(stage, before.best_phi, before.learning_rate)
            return begun._replace(optimizer=before.optimizer)

        return begin

    def _init(
        self,
        stage: _Stage,
        phi: Phi | None,
        learning_rate: jax.Array,
    ) -> MetaState:
        """The state in which a stage begins, from `phi` or fresh weights."""
        if phi is None:
            phi = self._fresh()
        elif stage.lift is SEEDS:
            phi = jax.tree.map(lambda x: jnp.stack([x] * len(stage.key)), phi)
        rates = learning_rate.astype(jnp.result_type(float))
        key, phi, rates = self._placed((stage.key, phi, rates))
        state = _begun(stage.plan, stage.lift, self._families, key, phi, rates)
        return jax.tree.map(episode.own, state)

    def _fresh(self) -> Phi:
        """The initial weights, of every seed."""
        init = self._settings.opt.init
        if self._lift is not SEEDS:
            return init(self._init_key)
        every = [init(key) for key in self._init_key]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)

    def _run(self, stage: _Stage, begin: Callable[[], MetaState]) -> tuple[MetaState, dict]:
        """Runs epochs from wherever the last checkpoint of this stage stands."""
        settings = self._settings
        num_validation = settings.validation.num_problems
        run = functools.partial(_windows, stage.plan, stage.lift)
        validate = functools.partial(_end_epoch, stage.plan, stage.lift, num_validation)
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
            while not _finished(log, stage.num_epochs, stage.patience):
                self._leave_if_asked(store, done, state, log)
                start = time.perf_counter()
                num = pace.windows(per_epoch - done % per_epoch)
                first, count = self._placed((jnp.int32(done), jnp.int32(num)))
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
        return state, log

    def _validated_first(self, stage: _Stage, state: MetaState) -> MetaState:
        """Weights that come from elsewhere are the first candidate, and not to be made worse."""
        is_given = self._phi is not None or stage.number > 0
        if not is_given or stage.plan.selection != "validation":
            return state
        num_validation = self._settings.validation.num_problems
        return _validate_first(
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
        if self._callback is not None and stage.name != "search":
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


def _plan(
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


def lowered(
    opt: LearnedOptimizer,
    problem: Any,
    key: jax.Array,
    lay: Callable[[Any, bool], Any] | None = None,
    **settings: Any,
) -> jax.stages.Lowered:
    """The program of `meta_train`'s windows for the devices there are; nothing is run.

    Compiled, it tells beforehand what a window costs: `learned_opt.evaluation.counting`. Within
    `devices.use` it is that of other devices, which need not exist: those of a topology.

    Args:
      opt, problem, key: see `meta_train`.
      lay: `lay(shapes, is_of_problems)` lays out arrays, of problems or of anything else, in a way
        of its own, for one shard; None for that of `meta_train`.
      **settings: the settings of `meta_train` that `settings.check` knows.
    """
    checked = check(opt, problem, key, **settings)
    shards = devices.layout(checked.shards)
    plan = _plan(checked, shards, 0, checked.num_epochs, Span(0.0, 1.0))
    families = tuple(weighted.family for weighted in checked.families)
    phi = jax.eval_shape(opt.init, key)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    rate = jax.ShapeDtypeStruct((), jnp.result_type(float))
    of_start = plan, ALONE, families, key, phi, rate
    state = jax.eval_shape(_begun.program(*of_start), *of_start[2:])
    weights = jax.ShapeDtypeStruct((plan.num_windows, plan.estimator.window), rate.dtype)
    shared = families, key, weights, scalar, scalar
    if lay is None:
        shared = devices.shapes(shared, shards.mesh)
        specs = ALONE.specs(shards)
        cut = [devices.shapes(x, shards.mesh, s) for x, s in zip(state, specs, strict=True)]
        states = MetaState(*cut)
    else:
        shared = lay(shared, False)
        states = lay(state, False)._replace(lives=lay(state.lives, True))
    program: Any = _windows.program(plan, ALONE, *shared, states)
    return program.lower(*shared, states)


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


def _check_learned(state: MetaState) -> None:
    """Says so where nothing was learned, or nothing could be validated."""
    if int(state.skipped) == int(state.window):
        raise MetaTrainingError(
            "no meta-gradient was finite: nothing was learned. Check the loss.", state.best_phi
        )
    if not np.isfinite(state.best_loss):
        warnings.warn(
            "no epoch ended with a finite validation loss, some validation problem always "
            "diverges: the last weights are returned.",
            stacklevel=4,
        )


@functools.partial(programs.jit, static_argnums=(0, 1))
def _begun(
    plan: Plan,
    lift: Lift,
    families: tuple,
    key: jax.Array,
    phi: Phi,
    learning_rate: jax.Array,
) -> MetaState:
    def every(
        families: tuple,
        key: jax.Array,
        phi: Phi,
        learning_rate: jax.Array,
    ) -> MetaState:
        one = functools.partial(episode.init, plan, families)
        axes = lift.key_axis, lift.key_axis, 0
        return lift.transform(one, in_axes=axes)(key, phi, learning_rate)

    own = lift.spec_of_key()
    rates = PartitionSpec(*lift.axes)
    cut = WHOLE, own, own, rates
    mapped = plan.shards.over_devices(every, cut, lift.specs(plan.shards))
    return mapped(families, key, phi, learning_rate)


@functools.partial(programs.jit, static_argnums=(0, 1), donate_argnums=(7,))
def _windows(
    plan: Plan,
    lift: Lift,
    families: tuple,
    key: jax.Array,
    weights: jax.Array,
    first: jax.Array,
    num: jax.Array,
    state: MetaState,
) -> MetaState:
    run = functools.partial(episode.run, plan)
    axes = None, lift.key_axis, None, None, None, 0
    specs = lift.specs(plan.shards)
    cut = WHOLE, lift.spec_of_key(), WHOLE, WHOLE, WHOLE, specs
    every = plan.shards.over_devices(lift.transform(run, in_axes=axes), cut, specs)
    return every(families, key, weights, first, num, state)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def _end_epoch(
    plan: Plan,
    lift: Lift,
    num_validation: int,
    families: tuple,
    key: jax.Array,
    state: MetaState,
) -> tuple[jax.Array, jax.Array, MetaState]:
    def one(
        families: tuple,
        key: jax.Array,
        state: MetaState,
    ) -> tuple[jax.Array, jax.Array, MetaState]:
        return episode.end_epoch(plan, families, key, num_validation, state)

    specs = lift.specs(plan.shards)
    of_run = PartitionSpec(*lift.axes)
    cut = WHOLE, lift.spec_of_key(), specs
    lifted = lift.transform(one, in_axes=(None, lift.key_axis, 0))
    return plan.shards.over_devices(lifted, cut, (of_run, of_run, specs))(families, key, state)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def _validate_first(
    plan: Plan,
    lift: Lift,
    num_validation: int,
    families: tuple,
    key: jax.Array,
    state: MetaState,
) -> MetaState:
    def one(
        families: tuple,
        key: jax.Array,
        state: MetaState,
    ) -> MetaState:
        return episode.validate_first(plan, families, key, num_validation, state)

    specs = lift.specs(plan.shards)
    cut = WHOLE, lift.spec_of_key(), specs
    lifted = lift.transform(one, in_axes=(None, lift.key_axis, 0))
    return plan.shards.over_devices(lifted, cut, specs)(families, key, state)


def _finished(
    log: dict,
    num_epochs: int,
    patience: int | None,
) -> bool:
    history = log["history"]
    if len(history) >= num_epochs or log.get("stopped"):
        return True
    losses = [entry["validation_loss"] for entry in history]
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
