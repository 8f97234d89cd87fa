"""Meta-training: of one seed, and of several as one program."""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks, _files, _fingerprint, devices
from learned_opt.estimators import Estimator, MetaLoss
from learned_opt.meta import checkpoints, progress, runs, signals
from learned_opt.meta.episode import MetaState
from learned_opt.meta.runs import ALONE, SEEDS
from learned_opt.meta.session import MetaTrainingError, Session, Span, keys_of, plan_of
from learned_opt.meta.settings import MetaTrainSettings, Validation, check
from learned_opt.optimizers.base import LearnedOptimizer, Phi, check_phi


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
        check_phi(phi, "opt", jax.eval_shape(opt.init, key))
    # Not every number of devices can do the work, which is said before anything is written.
    layout = devices.layout(settings.shards)
    workdir = _claimed(workdir, settings, key, phi)
    bar = progress.Bar(settings.total_windows, progress_bar)
    with signals.Watch(active=workdir is not None) as watch, bar:
        shared = settings, phi, workdir, watch, bar
        rate = _rate(*shared, key, "search")
        session = Session(*shared, key, layout, callback=callback)
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
    callback: Callable | None = None,
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
      callback: called after each epoch as by `meta_train`, with a `Progress` whose weights, and
        losses in its entry, have the seeds on a first axis. What it returns ends all of them.
      **settings: the other settings of `meta_train`. A search finds a rate for each seed, one
        after the other. A seed that is done before others waits for them.

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
    if phi is not None:
        check_phi(phi, "opt", jax.eval_shape(opt.init, keys[0]))
    layout = devices.layout(checked.shards, len(keys))
    workdir = _claimed(workdir, checked, keys[0], phi, keys)
    num_windows = checked.total_windows + (len(keys) - 1) * checked.windows_of_search
    bar = progress.Bar(num_windows, progress_bar)
    with signals.Watch(active=workdir is not None) as watch, bar:
        shared = checked, phi, workdir, watch, bar
        rates = [_rate(*shared, key, f"search-{i}") for i, key in enumerate(keys)]
        session = Session(*shared, keys, layout, SEEDS, callback)
        state, logs = session.train(jnp.asarray(rates))
    state = devices.to_local(state._replace(lives=()))
    results = []
    for i, rate in enumerate(rates):
        own_state, own_logs = jax.tree.map(lambda x, i=i: x[i], state), _logs_of(logs, i)
        results.append(_result(own_state, own_logs, rate))
    return results


def _rate(
    settings: MetaTrainSettings,
    phi: Phi | None,
    workdir: str | None,
    watch: signals.Watch,
    bar: progress.Bar,
    key: jax.Array,
    name: str,
) -> float:
    """The learning rate of one seed: the one that was given, or what a search finds.

    Where the work is cut into shards, devices share the trials.
    """
    if not settings.is_searched:
        return settings.learning_rate
    num_trials = settings.learning_rate.num_trials if settings.shards > 1 else 1
    layout = devices.layout(settings.shards, num_trials)
    return Session(settings, phi, workdir, watch, bar, key, layout).search(name)


def _check_keys(keys: Any) -> None:
    is_vector = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not is_vector or keys.ndim != 1 or not keys.size:
        raise ValueError(
            f"keys must be a vector of random keys, one for each seed, got {_checks.shown(keys)}: "
            "make it with "
            "jax.random.split(jax.random.key(seed), num_seeds)."
        )


def _logs_of(logs: list[dict], seed: int) -> list[dict]:
    """The logs of one seed, as long as it was not done."""
    own = []
    for log in logs:
        history = []
        for entry in log["history"][: log["ends"][seed]]:
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
    return keys_of(key).validation


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
    plan = plan_of(checked, shards, 0, checked.num_epochs, Span(0.0, 1.0))
    families = tuple(weighted.family for weighted in checked.families)
    phi = jax.eval_shape(opt.init, key)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    rate = jax.ShapeDtypeStruct((), jnp.result_type(float))
    of_start = plan, ALONE, families, key, phi, rate
    state = jax.eval_shape(runs.begun.program(*of_start), *of_start[2:])
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
    program: Any = runs.windows.program(plan, ALONE, *shared, states)
    return program.lower(*shared, states)


def _check_learned(state: MetaState) -> None:
    """Says so where nothing was learned, or nothing could be validated."""
    if int(state.skipped) == int(state.window):
        raise MetaTrainingError(
            "no meta-gradient was finite, and nothing was learned: lower learning_rate or the "
            "optimizer's output_scale, or check the loss.",
            state.best_phi,
        )
    if not np.isfinite(state.best_loss):
        warnings.warn(
            "no epoch ended with a finite validation loss, some validation problem always "
            "diverges: the last weights are returned.",
            stacklevel=4,
        )
