"""Meta-training: truncated backpropagation through time, validation, early stopping, checkpoints."""

import functools
import os
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.meta import checkpoints, episode, fingerprint, progress, signals
from learned_opt.meta import gradient as gradient_lib
from learned_opt.meta.imitation import is_alone
from learned_opt.meta.settings import RandomSearch, check
from learned_opt.optimizees import base as optimizee_base


class MetaTrainResult(NamedTuple):
    """What meta-training gives.

    Attributes:
      phi: the weights with the best loss, as `selection` has it.
      validation_loss: of these weights, the mean final loss over the validation problems.
      learning_rate: the meta-learning rate, given or found.
      history: one dict an epoch: `epoch`, `num_steps` (the horizon), `meta_loss` (mean loss of a step, over the epoch's
        finite windows; not with imitation alone), `average_loss` (moving average of what is minimised, weighted as it
        is), `imitation_loss` (with `imitation`: 1 for doing nothing), `validation_loss`, `skipped` (meta-gradients that
        were not finite, so far in this stage), `seconds` (of training so far in this stage, the compilation of its
        program included, validations not).
      skipped: how many meta-gradients were not finite and not applied.
    """

    phi: Any
    validation_loss: float
    learning_rate: float
    history: list
    skipped: int


class MetaTrainingError(RuntimeError):
    """Meta-gradients stayed non-finite. `best_phi` holds the best validated weights so far."""

    def __init__(self, message, best_phi):
        super().__init__(message)
        self.best_phi = best_phi


def meta_train(
    opt,
    problem,
    key,
    *,
    num_steps=100,
    window=20,
    num_problems=16,
    num_epochs=40,
    episodes_per_epoch=25,
    learning_rate=3e-3,
    schedule="cosine",
    clip_norm=1.0,
    weights=None,
    num_validation=64,
    patience=None,
    max_skipped=100,
    selection="validation",
    imitation=None,
    method=None,
    block_size=None,
    coordinates=None,
    workdir=None,
    progress_bar=True,
    reference=None,
    on_epoch=None,
    phi=None,
):
    """Learns an optimizer for a family of problems.

    Each episode draws fresh problems and lets them live for `num_steps` steps; after every window of `window` steps
    phi takes one step of Adam along the meta-gradient of that window, and the optimizer's state is carried on
    (Andrychowicz et al. 2016, section 3). After every epoch phi is frozen and validated on problems of its own; the
    best phi is kept. Far longer horizons need a `Curriculum` or a `Mixture`, and an `Imitation`. A meta-gradient that
    is not finite is not applied, but counted and shown.

    Args:
      opt: the `LearnedOptimizer`.
      problem: an `Optimizee`.
      key: draws the initial weights, all problems, and the rates of a search.
      num_steps: the horizon, in steps, or a `Curriculum` of horizons one after the other, or a `Mixture` of some.
      window: steps of one meta-gradient; divides every horizon.
      num_problems: problems of a horizon at once; the meta-gradient is their mean.
      num_epochs: at most so many epochs, in each stage of a curriculum.
      episodes_per_epoch: horizons between two validations.
      learning_rate: of Adam on phi, or a `RandomSearch`, or "search" for one with its defaults.
      schedule: "cosine" lets the rate decay to zero over all epochs of all stages, "constant" keeps it.
      clip_norm: meta-gradients are clipped to this global norm.
      weights: w_1 .. w_T of the meta-loss for the horizon, or for one window and repeated (with several horizons always
        these); None for ones.
      num_validation: validation problems.
      patience: stop after so many epochs without a better validation loss; None for never.
      max_skipped: stop with an error after so many non-finite meta-gradients in a row.
      selection: which phi is kept: that with the best "validation" loss; with the lowest moving average of the
        "training" loss (Lv, Jiang, Li 2017, section 5; decay 0.9, over epochs); or the "last", which with the cosine
        schedule has come to rest, where validation problems are so few that the best of them is luck.
      imitation: an `Imitation` of another optimizer, or None.
      method: see `meta_gradient`.
      block_size: see `meta_gradient`.
      coordinates: see `meta_gradient`; every window of every horizon draws its own. For networks of thousands of
        coordinates the benchmarks (benchmarks/README.md) recommend about a sixteenth of them.
      workdir: where the whole state is saved after every epoch and on SIGTERM or SIGINT; a call with the same
        directory and settings goes on where the last one was stopped, to the same weights, bit for bit; one with
        other settings, or another problem, is refused.
      progress_bar: whether to show one, on stderr.
      reference: `(name, loss)` to show beside the validation loss, such as the best tuned baseline's.
      on_epoch: called after every epoch, before its checkpoint, with the epoch's entry of the history and the best phi
        so far; not for epochs that an earlier call has finished.
      phi: weights to go on from, such as those of `learned_opt.load_pretrained`; None for fresh ones.

    Returns:
      A `MetaTrainResult`.

    Raises:
      ValueError: for settings that are not possible, or a workdir of another configuration.
      MetaTrainingError: if `max_skipped` meta-gradients in a row are not finite.
      Interrupted: (a SystemExit) after SIGTERM with a workdir, once the state is saved; KeyboardInterrupt for SIGINT.
    """
    settings = check(
        opt,
        problem,
        key,
        num_steps=num_steps,
        window=window,
        num_problems=num_problems,
        num_epochs=num_epochs,
        episodes_per_epoch=episodes_per_epoch,
        learning_rate=learning_rate,
        schedule=schedule,
        clip_norm=clip_norm,
        weights=weights,
        num_validation=num_validation,
        patience=patience,
        max_skipped=max_skipped,
        selection=selection,
        imitation=imitation,
        method=method,
        coordinates=coordinates,
    )
    if phi is not None:
        _checks.same_tree("phi", phi, "the weights of opt", jax.eval_shape(opt.init, key))
    problem = optimizee_base.as_partials(problem)
    # Blocks change the order of a sum: they are settings of the run, or a resumed one would not be bit-identical.
    windows = gradient_lib.windows_of(method, block_size, coordinates=settings.coordinates)
    if workdir is not None:
        workdir = os.path.expanduser(os.fspath(workdir))
        checkpoints.import_orbax()  # before anything is written
        os.makedirs(workdir, exist_ok=True)
        checkpoints.claim(
            workdir,
            {
                **settings.plain(problem, key),
                "method": method,
                "block_size": block_size,
                "phi": phi and fingerprint.of_arrays(phi),
                **fingerprint.of(opt, problem, key),
            },
        )
    loss_name = "imitation" if is_alone(settings.imitation) else "meta-loss"
    bar = progress.Bar(settings.total_episodes, progress_bar, reference, loss_name)
    with signals.Watch(active=workdir is not None) as watch, bar:
        session = _Session(opt, phi, windows, settings, problem, key, workdir, watch, bar, on_epoch)
        rate = (
            session.search()
            if isinstance(settings.learning_rate, RandomSearch)
            else settings.learning_rate
        )
        state, logs = session.train(rate)
    _check_learned(state, logs[-1]["history"], settings)
    history = [entry for log in logs for entry in log["history"]]
    return MetaTrainResult(
        state.best_phi,
        _validation_loss_of_best(logs[-1]["history"], settings),
        float(rate),
        history,
        sum(log["history"][-1]["skipped"] for log in logs),
    )


def validation_key(key):
    """What `meta_train` with `key` draws its validation problems from: `evaluate` with it measures others on them."""
    return jax.random.split(key, 4)[2]


class _Stage(NamedTuple):
    """A search, or the training on one horizon.

    `number` is that of its horizon, `key` draws its problems, `lift` vmaps over trials, or does not.
    """

    name: str
    number: int
    num_epochs: int
    patience: int | None
    key: Any
    lift: Any


class _Session:
    """One call of `meta_train`: what its stages, search and training, share."""

    def __init__(self, opt, phi, windows, settings, problem, key, workdir, watch, bar, on_epoch):
        self._opt, self._phi, self._windows, self._settings = opt, phi, windows, settings
        self._problem, self._workdir, self._watch, self._bar, self._on_epoch = (
            problem,
            workdir,
            watch,
            bar,
            on_epoch,
        )
        self._init_key, self._train_key, _, self._search_key = jax.random.split(key, 4)
        self._validation_key = validation_key(key)

    def search(self):
        """The best of some random learning rates."""
        search = self._settings.learning_rate
        logs = jax.random.uniform(
            self._search_key,
            (search.num_trials,),
            minval=np.log(search.low),
            maxval=np.log(search.high),
        )
        stage = _Stage("search", 0, search.num_epochs, None, self._train_key, jax.vmap)
        plan = self._plan(stage, 0.0, 1.0)
        state = jax.vmap(functools.partial(episode.init, plan, self._init_key, self._phi))(
            jnp.exp(logs)
        )
        state, _ = self._run(stage, plan, state)
        return float(state.learning_rate[jnp.argmin(state.best_loss)])

    def train(self, learning_rate):
        """The training itself; returns the last state and the log of every stage."""
        settings, logs, state = self._settings, [], None
        last = len(settings.horizons) - 1
        for i, horizon in enumerate(settings.horizons):
            patience = settings.patience if i == last else settings.stage_patience
            name = f"train-{horizon}" if last else "train"
            key = jax.random.fold_in(self._train_key, i) if i else self._train_key
            stage = _Stage(name, i, settings.num_epochs, patience, key, _alone)
            plan = self._plan(stage, i / (last + 1), (i + 1) / (last + 1))
            begun = (
                episode.init(plan, self._init_key, self._phi, learning_rate)
                if state is None
                else episode.next_stage(plan, self._init_key, state)
            )
            state, log = self._run(stage, plan, begun)
            logs.append(log)
        return state, logs

    def _plan(self, stage, start, end):
        settings, horizons = self._settings, self._settings.horizons
        num_episodes = stage.num_epochs * settings.episodes_of_stage(stage.number)
        schedule = episode.Schedule(settings.schedule == "cosine", start, end, num_episodes)
        if not schedule.cosine and settings.imitation is None:
            schedule = episode.FOREVER  # nothing decays: runs of other lengths share their programs
        return episode.Plan(
            self._opt,
            self._windows,
            horizons[stage.number] // settings.window,
            tuple(horizon // settings.window for horizon in settings.shorter),
            settings.window,
            settings.num_problems,
            settings.clip_norm,
            schedule,
            settings.selection,
            horizons[min(stage.number + 1, len(horizons) - 1)],
            settings.imitation,
        )

    def _run(self, stage, plan, state):
        """Runs epochs from wherever the last checkpoint of this stage stands."""
        run, validate = _programs(plan, self._settings.num_validation, stage.lift)
        episodes = self._settings.episodes_of_stage(stage.number)
        weights = self._settings.weights_of_stage(stage.number)
        store = checkpoints.Checkpoints(
            self._workdir and os.path.join(self._workdir, "checkpoints", stage.name)
        )
        try:
            state, log = store.restore(state)
            log = {"history": [], "seconds": 0.0, **log}
            self._bar.start_stage(stage.name, int(np.max(state.episode)), log["history"])
            while not _finished(log["history"], stage.num_epochs, stage.patience):
                self._leave_if_asked(store, state, log)
                start = time.perf_counter()
                state = run(self._problem, stage.key, weights, state)
                self._check_finite(state)  # waits for the device
                log["seconds"] += time.perf_counter() - start
                self._bar.advance(state)
                if int(np.max(state.episode)) % episodes == 0:
                    state, log = self._end_epoch(plan, validate, state, log)
                    store.save(state, log)
        finally:
            store.close()
        self._bar.end_stage(stage.num_epochs * episodes - int(np.max(state.episode)))
        return state, log

    def _end_epoch(self, plan, validate, state, log):
        counts = np.asarray(state.loss_count)
        mean = {
            "meta_loss": np.asarray(state.loss_sum),
            "imitation_loss": np.asarray(state.imitation_sum),
        }
        mean = {
            name: np.where(counts > 0, total / np.maximum(counts, 1), np.inf)
            for name, total in mean.items()
        }
        if plan.imitation is None:
            del mean["imitation_loss"]
        elif plan.imitation.alone:
            del mean["meta_loss"]
        loss, average, state = validate(self._problem, self._validation_key, state)
        entry = {
            "epoch": len(log["history"]) + 1,
            "num_steps": plan.num_windows * plan.window,
            **{name: value.tolist() for name, value in mean.items()},
            "average_loss": np.asarray(average).tolist(),
            "validation_loss": np.asarray(loss).tolist(),
            "skipped": np.asarray(state.skipped).tolist(),
            "seconds": log["seconds"],
        }
        self._bar.show_epoch(entry)
        if self._on_epoch is not None:
            self._on_epoch(
                entry, jax.tree.map(jnp.copy, state.best_phi)
            )  # the state itself is donated
        return state, {**log, "history": [*log["history"], entry]}

    def _check_finite(self, state):
        if np.min(state.skipped_in_a_row) < self._settings.max_skipped:
            return
        kept = f" The last finished epoch is in {self._workdir}." if self._workdir else ""
        raise MetaTrainingError(
            f"{np.min(state.skipped_in_a_row)} meta-gradients in a row were not finite, up to episode "
            f"{np.max(state.episode)}, at learning_rate={np.asarray(state.learning_rate)}: the loss diverges under "
            f"this optimizer. Lower learning_rate or the optimizer's output_scale, or check the loss.{kept}",
            state.best_phi,
        )

    def _leave_if_asked(self, store, state, log):
        if self._watch.received is None:
            return
        store.save(state, log)
        message = (
            f"meta-training stopped on signal {self._watch.received} after episode {np.max(state.episode)}; "
            f"its state is saved in {self._workdir}: run the same command again to go on."
        )
        print(f"\n{message}", file=sys.stderr, flush=True)
        if self._watch.received == signals.signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise signals.Interrupted(self._watch.received, message)


def _check_learned(state, history, settings):
    """Says so where nothing was learned, or nothing could be validated."""
    num_windows = settings.horizons[-1] // settings.window
    if history[-1]["skipped"] == int(state.episode) * num_windows:
        raise MetaTrainingError(
            "no meta-gradient was finite: nothing was learned. Check the loss.", state.best_phi
        )
    if not np.isfinite(state.best_loss):
        warnings.warn(
            "no epoch ended with a finite validation loss, some validation problem always diverges: the last "
            "weights are returned.",
            stacklevel=3,
        )


def _validation_loss_of_best(history, settings):
    """The validation loss of the epoch whose phi is kept."""
    if settings.selection == "last":
        return float(history[-1]["validation_loss"])
    name = "validation_loss" if settings.selection == "validation" else "average_loss"
    losses = [entry[name] for entry in history]
    return float(history[losses.index(min(losses))]["validation_loss"])


@functools.lru_cache(maxsize=8)  # runs that differ in their key alone compile once
def _programs(plan, num_validation, lift):
    run = lift(functools.partial(episode.run, plan), in_axes=(None, None, None, 0))
    validate = lift(
        lambda problem, key, state: episode.validate(plan, problem, key, num_validation, state),
        in_axes=(None, None, 0),
    )
    return jax.jit(run, donate_argnums=3), jax.jit(validate)


def _alone(function, **axes):
    """In the place of `jax.vmap`, for one run alone."""
    del axes
    return function


def _finished(history, num_epochs, patience):
    if len(history) >= num_epochs:
        return True
    losses = [entry["validation_loss"] for entry in history]
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
