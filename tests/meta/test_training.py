import os
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import estimators
from learned_opt.meta import programs, progress, runs, session, training
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(5)
TINY = {
    "num_steps": 4,
    "num_problems": 3,
    "num_epochs": 3,
    "episodes_per_epoch": 2,
    "estimator": estimators.Adjoint(window=2),
    "validation": learned_opt.Validation(num_problems=4),
    "progress_bar": False,
}
CONSTANT = learned_opt.ClippedAdam(schedule="constant")
WILD = learned_opt.ClippedAdam(clip_norm=100.0, schedule="constant")
UPHILL = optax.sgd(-0.02)  # every step makes the weights worse


def small_lstm():
    return learned_opt.lstm(hidden_sizes=(3,))


def quadratic():
    return learned_opt.optimizees.quadratic(2)


def tiny(problem=None, **settings):
    problem = quadratic() if problem is None else problem
    return learned_opt.meta_train(small_lstm(), problem, KEY, **{**TINY, **settings})


def validation(**settings):
    return learned_opt.Validation(**{"num_problems": 4, **settings})


def without_seconds(result):
    """A result without what the clock has to do with."""
    history = [{k: v for k, v in e.items() if k != "seconds"} for e in result.history]
    return result._replace(history=history)


def fresh_phi(opt=None):
    return (opt or small_lstm()).init(jax.random.split(KEY, 4)[0])


@pytest.mark.parametrize(("coordinates", "method"), [(None, "autodiff"), (4, "adjoint")])
def test_one_episode_is_adam_on_the_meta_gradients_of_its_windows(coordinates, method):
    """One window a horizon: meta_train is Adam along `meta_gradient`, written out with optax."""
    opt, problem = small_lstm(), quadratic()
    result = tiny(
        estimator=estimators.Adjoint(4, coordinates),
        num_epochs=1,
        episodes_per_epoch=3,
        optimizer=learned_opt.ClippedAdam(clip_norm=0.5, schedule="constant"),
        learning_rate=0.01,
    )
    train_key = jax.random.split(KEY, 4)[1]
    phi = fresh_phi()
    meta = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01))
    state = meta.init(phi)
    losses = []
    for episode in range(3):
        key = jax.random.fold_in(train_key, episode)
        loss, gradient = learned_opt.meta_gradient(
            opt, phi, problem, key, 4, 3, method=method, coordinates=coordinates
        )
        updates, state = meta.update(gradient, state)
        phi = optax.apply_updates(phi, updates)
        losses.append(loss / 4)
    chex.assert_trees_all_close(result.phi, phi, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.history[0]["meta_loss"], np.mean(losses), rtol=1e-4)


def test_state_is_carried_across_windows():
    """Windows that start afresh would see the same losses twice; these see one life."""
    result = tiny(num_epochs=1, episodes_per_epoch=1, learning_rate=1e-12)
    train_key = jax.random.split(KEY, 4)[1]
    keys = jax.random.split(jax.random.fold_in(train_key, 0), 3)
    pair = small_lstm(), fresh_phi()
    losses = [learned_opt.unroll(pair, quadratic(), k, 4).losses[1:] for k in keys]
    np.testing.assert_allclose(result.history[0]["meta_loss"], np.mean(losses), rtol=1e-5)


def test_meta_training_beats_the_best_learning_rates():
    """On quadratics in one dimension, within seconds."""
    opt, problem = learned_opt.lstm(hidden_sizes=(8,)), learned_opt.optimizees.quadratic(1)
    result = learned_opt.meta_train(
        opt,
        problem,
        KEY,
        num_steps=10,
        estimator=estimators.Adjoint(window=10),
        num_problems=32,
        num_epochs=8,
        episodes_per_epoch=60,
        learning_rate=0.01,
        progress_bar=False,
    )
    key = jax.random.key(9)
    ours = learned_opt.evaluate((opt, result.phi), problem, key, 10, 256)[:, -1].mean()
    sgd = learned_opt.LearnedOptimizer(lambda key: {}, optax.sgd, True, None)
    rates = 2.0 ** np.arange(10, 22) * 1e-6
    best = min(learned_opt.evaluate((sgd, r), problem, key, 10, 256)[:, -1].mean() for r in rates)
    assert ours < best


def test_validation_keeps_the_best_phi():
    """A rate so high that weights get worse: what did best in validation comes back."""
    result = tiny(num_epochs=6, learning_rate=0.5, optimizer=WILD)
    losses = [entry["validation_loss"] for entry in result.history]
    assert result.validation_loss == min(losses)
    assert losses[-1] > min(losses)
    key = training.validation_key(KEY)
    curves = learned_opt.evaluate((small_lstm(), result.phi), quadratic(), key, 4, 4)
    np.testing.assert_allclose(curves[:, -1].mean(), result.validation_loss, rtol=1e-5)


def test_going_on_from_weights_never_returns_worse_ones():
    """The weights that training starts from are validated before the first step."""
    key, pair = training.validation_key(KEY), small_lstm()
    good = tiny(num_epochs=10, episodes_per_epoch=10).phi
    before = learned_opt.evaluate((pair, good), quadratic(), key, 4, 4)[:, -1].mean()
    result = tiny(phi=good, optimizer=UPHILL, num_epochs=2)
    assert min(entry["validation_loss"] for entry in result.history) > before
    np.testing.assert_allclose(result.validation_loss, before, rtol=1e-5)
    chex.assert_trees_all_equal(result.phi, good)


def test_a_stage_of_a_curriculum_does_not_forget_the_best_of_the_one_before():
    """The second stage only makes things worse: what the first one reached is what comes back."""
    seen = []

    def rate_of(rate, num_updates):
        del num_updates
        # Fair steps in the first stage, of six windows, then wild ones.
        return optax.sgd(optax.piecewise_constant_schedule(rate, {6: 1e6}))

    result = tiny(
        num_steps=learned_opt.Curriculum((2, 4), patience=50),
        optimizer=rate_of,
        learning_rate=1e-3,
        callback=lambda p: seen.append((p.entry["num_steps"], p.best_phi)) and None,
    )
    first_stage = [best for steps, best in seen if steps == 2][-1]
    chex.assert_trees_all_equal(result.phi, first_stage)


def test_history_counts_the_seconds_of_training_alone(monkeypatch):
    """On a clock that only validations and windows move, each by its own."""
    now = [0.0]
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(session._Pace, "windows", lambda self, most: most)

    def slow(function, cost):
        def call(*args):
            now[0] += cost
            return function(*args)

        return call

    monkeypatch.setattr(runs, "windows", slow(runs.windows, 1.0))
    monkeypatch.setattr(runs, "end_epoch", slow(runs.end_epoch, 100.0))
    assert [entry["seconds"] for entry in tiny().history] == [1, 2, 3]


def test_equal_optimizers_and_other_keys_and_weights_share_their_programs():
    """A second run, with another key and an optimizer built anew, compiles nothing."""
    family, traced = quadratic(), []

    def loss(*args):
        traced.append(1)
        return family.loss(*args)

    problem = family._replace(loss=loss)
    learned_opt.meta_train(small_lstm(), problem, KEY, **TINY)
    checks_alone = _traces_of_checks(problem, traced)
    traced.clear()
    learned_opt.meta_train(small_lstm(), problem, jax.random.key(6), **TINY)
    assert len(traced) <= checks_alone


def _traces_of_checks(problem, traced):
    traced.clear()
    training.check(small_lstm(), problem, KEY)
    return len(traced)


def test_early_stopping():
    result = tiny(
        num_epochs=30, learning_rate=0.5, optimizer=WILD, validation=validation(patience=2)
    )
    losses = [entry["validation_loss"] for entry in result.history]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 3


def test_last_step_loss_and_partition():
    parts = {"a": small_lstm(), "b": learned_opt.lstm(hidden_sizes=(2,))}
    opt = learned_opt.partition(parts, {"a": "a", "*": "b"})

    def init(key, instance):
        del instance
        return {"a": jax.random.normal(key, (2,)), "b": jax.random.normal(key, (3,))}

    problem = learned_opt.Optimizee(
        lambda key: (), init, lambda t, i, k: jnp.sum(t["a"] ** 2) + jnp.sum(t["b"] ** 4)
    )
    meta_loss = learned_opt.MetaLoss(weights=[0.0, 1.0])
    result = learned_opt.meta_train(opt, problem, KEY, meta_loss=meta_loss, **TINY)
    before = fresh_phi(opt)
    for label in "ab":
        assert not np.allclose(result.phi[label]["output"]["w"], before[label]["output"]["w"])


def test_random_search_finds_the_rate_that_learns():
    search = learned_opt.RandomSearch(low=1e-7, high=1e-1, num_trials=6, num_epochs=2)
    result = tiny(learning_rate=search, episodes_per_epoch=10)
    assert 1e-7 <= result.learning_rate <= 1e-1
    assert result.learning_rate > 1e-4  # those below move nothing in twenty episodes
    assert result.validation_loss < tiny(learning_rate=1e-7).validation_loss


# What a researcher bends


def test_an_optimizer_of_phi_of_ones_own():
    """Plain SGD, without clipping: written out."""
    result = tiny(
        optimizer=optax.sgd(0.01),
        estimator=estimators.Adjoint(4),
        num_epochs=1,
        episodes_per_epoch=1,
    )
    key = jax.random.fold_in(jax.random.split(KEY, 4)[1], 0)
    phi = fresh_phi()
    _, gradient = learned_opt.meta_gradient(small_lstm(), phi, quadratic(), key, 4, 3)
    want = jax.tree.map(lambda p, g: p - 0.01 * g, phi, gradient)
    chex.assert_trees_all_close(result.phi, want, rtol=1e-4, atol=1e-6)
    by_rate = tiny(
        optimizer=lambda rate, num_updates: optax.sgd(rate),
        learning_rate=0.01,
        estimator=estimators.Adjoint(4),
        num_epochs=1,
        episodes_per_epoch=1,
    )
    chex.assert_trees_all_close(by_rate.phi, result.phi, rtol=1e-6)


def other_family():
    """Another shape and another scale."""
    return learned_opt.Optimizee(
        lambda key: (),
        lambda key, i: {"w": jax.random.normal(key, (2, 3)), "b": jnp.ones(())},
        lambda theta, i, key: 50 * jnp.sum(jnp.square(theta["w"] + theta["b"])),
    )


def test_several_families_of_different_shapes_and_weights():
    """One window: Adam along the weighted mean of the meta-gradients of both."""
    families = [quadratic(), (other_family(), 3.0)]
    settings = {
        "estimator": estimators.Adjoint(4),
        "num_epochs": 1,
        "episodes_per_epoch": 1,
        "optimizer": optax.sgd(1e-3),
    }
    result = learned_opt.meta_train(small_lstm(), families, KEY, **{**TINY, **settings})
    key = jax.random.fold_in(jax.random.split(KEY, 4)[1], 0)
    phi = fresh_phi()
    want = phi
    for i, (family, weight) in enumerate(((quadratic(), 0.25), (other_family(), 0.75))):
        own_key = jax.random.fold_in(key, i) if i else key
        _, gradient = learned_opt.meta_gradient(small_lstm(), phi, family, own_key, 4, 3)
        want = jax.tree.map(lambda p, g, w=weight: p - 1e-3 * w * g, want, gradient)
    chex.assert_trees_all_close(result.phi, want, rtol=1e-4, atol=1e-6)
    losses = []
    for i, (family, weight) in enumerate(((quadratic(), 0.25), (other_family(), 0.75))):
        own_key = training.validation_key(KEY)
        own_key = jax.random.fold_in(own_key, i) if i else own_key
        curves = learned_opt.evaluate((small_lstm(), result.phi), family, own_key, 4, 4)
        losses.append(weight * curves[:, -1].mean())
    np.testing.assert_allclose(result.validation_loss, sum(losses), rtol=1e-5)


def test_validation_on_a_family_and_a_horizon_of_its_own():
    chosen = validation(problem=other_family(), num_steps=7)
    result = tiny(validation=chosen)
    key = training.validation_key(KEY)
    curves = learned_opt.evaluate((small_lstm(), result.phi), other_family(), key, 7, 4)
    np.testing.assert_allclose(result.validation_loss, curves[:, -1].mean(), rtol=1e-5)


def test_a_callback_sees_newest_and_best_and_can_stop_the_run(tmp_path):
    seen = []

    def callback(progress):
        seen.append(progress)
        return len(seen) == 4

    settings = {"num_epochs": 9, "optimizer": UPHILL, "workdir": tmp_path}
    result = tiny(callback=callback, **settings)
    assert [p.entry["epoch"] for p in seen] == [1, 2, 3, 4]
    assert len(result.history) == 4
    losses = [p.entry["validation_loss"] for p in seen]
    best = int(np.argmin(losses))
    assert best < 3, "the newest is not the best here"
    chex.assert_trees_all_equal(seen[-1].best_phi, seen[best].phi)
    assert not np.allclose(seen[-1].phi["output"]["w"], seen[-1].best_phi["output"]["w"])
    again = tiny(callback=callback, **settings)
    chex.assert_trees_all_equal(again, result)  # it is over: nothing is called or trained again
    assert len(seen) == 4


def test_a_meta_loss_of_ones_own_learns_by_every_estimator():
    """Held-out targets, in logarithms: what is minimized falls."""
    problem = learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (3,)),
        lambda key, target: jnp.zeros(3),
        lambda theta, target, key: jnp.sum((theta - target - jax.random.normal(key, (3,))) ** 2),
        held_out=lambda theta, target, key: jnp.sum((theta - target) ** 2) + 0.01,
    )
    for estimator in (
        estimators.Adjoint(window=2),
        estimators.NRES(window=2, sigma=0.1, shortest=None),
    ):
        result = tiny(
            problem,
            estimator=estimator,
            meta_loss=learned_opt.MetaLoss(shape="log", held_out=True),
            num_problems=32,
            num_epochs=6,
            episodes_per_epoch=20,
            learning_rate=0.02,
        )
        losses = [entry["meta_loss"] for entry in result.history]
        assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    "estimator", [pytest.param(estimators.PES, marks=pytest.mark.thorough), estimators.NRES]
)
def test_small_fc_lopt_learns_by_evolution_strategies(estimator):
    """On quadratics, beside the weights that it begins with."""
    opt = learned_opt.small_fc_lopt()
    result = learned_opt.meta_train(
        opt,
        learned_opt.optimizees.quadratic(4),
        KEY,
        num_steps=40,
        num_problems=32,
        num_epochs=8,
        episodes_per_epoch=20,
        estimator=estimator(window=10, sigma=0.03, shortest=20),
        meta_loss=learned_opt.MetaLoss(shape="relative"),
        learning_rate=0.02,
        progress_bar=False,
    )
    key, before = training.validation_key(KEY), fresh_phi(opt)
    curves = learned_opt.evaluate((opt, before), learned_opt.optimizees.quadratic(4), key, 40, 64)
    assert result.validation_loss < 0.7 * curves[:, -1].mean()


# What is not finite


def sometimes_infinite(when):
    """A quadratic whose loss is not a number for some problems."""
    family = quadratic()

    def loss(theta, instance, key):
        return jnp.where(when(instance.y[0]), jnp.nan, family.loss(theta, instance, key))

    return family._replace(loss=loss)


def test_non_finite_meta_gradients_are_counted_and_not_applied():
    result = tiny(sometimes_infinite(lambda y: y > 0.8), num_epochs=4, episodes_per_epoch=5)
    num_windows = 4 * 5 * 2
    assert 0 < result.skipped < num_windows
    assert result.history[-1]["skipped"] == result.skipped
    chex.assert_tree_all_finite(result.phi)
    assert all(np.isfinite(entry["meta_loss"]) for entry in result.history)


def test_a_loss_that_stays_non_finite_stops_with_an_error():
    with pytest.raises(
        learned_opt.MetaTrainingError, match=r"\d+ meta-gradients in a row were not finite"
    ) as error:
        tiny(sometimes_infinite(lambda y: y > -100), max_skipped=6, num_epochs=10)
    chex.assert_trees_all_equal(error.value.best_phi, fresh_phi())


def test_nothing_learned_is_an_error_and_nothing_validated_a_warning(tmp_path):
    with pytest.raises(learned_opt.MetaTrainingError, match="no meta-gradient was finite"):
        tiny(sometimes_infinite(lambda y: y > -100), num_epochs=1)
    with pytest.warns(UserWarning, match="no epoch ended with a finite validation loss"):
        result = tiny(
            sometimes_infinite(lambda y: y > 0),
            num_problems=1,
            validation=validation(num_problems=30),
        )
    assert not np.allclose(result.phi["output"]["w"], fresh_phi()["output"]["w"])
    learned_opt.save(tmp_path / "x", small_lstm(), result.phi, {"history": result.history})


# Work directories


def test_a_work_directory_belongs_to_one_configuration(tmp_path):
    first = tiny(workdir=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to a run with num_problems=3, not 4"):
        tiny(workdir=tmp_path, num_problems=4)
    with pytest.raises(ValueError, match=r"belongs to a run with coordinates=None, not 3"):
        tiny(workdir=tmp_path, estimator=estimators.Adjoint(2, coordinates=3))
    with pytest.raises(ValueError, match="belongs to a run with estimator='Adjoint', not 'NRES'"):
        tiny(workdir=tmp_path, estimator=estimators.NRES(window=2, shortest=None))
    with pytest.raises(ValueError, match=r"with clip_norm=1\.0, not None"):
        tiny(workdir=tmp_path, optimizer=learned_opt.ClippedAdam(clip_norm=None))
    with pytest.raises(ValueError, match="problem"):
        tiny(learned_opt.optimizees.quadratic(2, init_scale=2.0), workdir=tmp_path)
    again = tiny(workdir=tmp_path)
    chex.assert_trees_all_equal(first, again)


def test_a_work_directory_of_another_version(tmp_path):
    (tmp_path / "meta_train.json").write_text('{"num_steps": 4}')
    with pytest.raises(ValueError, match="belongs to another version of learned_opt"):
        tiny(workdir=tmp_path)


def test_a_changed_loss_is_another_problem(tmp_path):
    def problem(factor):
        family = quadratic()
        return family._replace(loss=lambda t, i, key: factor * jnp.sum((i.w @ t) ** 2))

    tiny(problem(1.0), workdir=tmp_path)
    tiny(problem(1.0), workdir=tmp_path)
    with pytest.raises(ValueError, match="belongs to a run with problem="):
        tiny(problem(2.0), workdir=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    tiny(workdir=tmp_path)
    for file in (tmp_path / "checkpoints/train/12").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/12 is damaged: delete that directory"):
        tiny(workdir=tmp_path)


def test_training_goes_on_from_given_weights(tmp_path):
    phi = small_lstm().init(jax.random.key(9))
    still = tiny(phi=phi, learning_rate=1e-12, workdir=tmp_path)
    chex.assert_trees_all_close(still.phi, phi, atol=1e-9)
    other = small_lstm().init(jax.random.key(8))
    with pytest.raises(ValueError, match="belongs to a run with phi="):
        tiny(phi=other, learning_rate=1e-12, workdir=tmp_path)
    with pytest.raises(ValueError, match="phi"):
        tiny(phi=learned_opt.lstm(hidden_sizes=(4,)).init(jax.random.key(9)))


class PowerCutError(Exception):
    """The machine goes down, without a word."""


@pytest.mark.parametrize(
    "estimator",
    [
        estimators.Adjoint(2, coordinates=3),
        estimators.PES(window=2, shortest=2),
        pytest.param(
            estimators.Mixture(estimators.Imitate(optax.adam(0.1), window=2), (2,)),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch, estimator):
    """Cut off in the second epoch, between two windows: its first half is done again."""
    never_stopped = tiny(estimator=estimator)
    advance = progress.Bar.advance

    def cut(self, state, windows):
        advance(self, state, windows)
        if int(state.window) >= 5:
            raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(progress.Bar, "advance", cut)
        patched.setattr(session._Pace, "windows", lambda self, most: 1)
        with pytest.raises(PowerCutError):
            tiny(estimator=estimator, workdir=tmp_path)
    resumed = tiny(estimator=estimator, workdir=tmp_path)
    chex.assert_trees_all_equal(without_seconds(resumed), without_seconds(never_stopped))


def test_a_notice_is_followed_after_the_window_at_hand(tmp_path, monkeypatch):
    """In the middle of a horizon: its lives are in the checkpoint, and go on to the same bits."""
    settings = {"num_steps": 40, "num_epochs": 1, "episodes_per_epoch": 1}
    never_stopped = tiny(**settings)
    monkeypatch.setattr(session._Pace, "windows", lambda self, most: 1)
    advance = progress.Bar.advance

    def ask_to_leave(self, state, windows):
        advance(self, state, windows)
        if int(state.window) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(progress.Bar, "advance", ask_to_leave)
        with pytest.raises(learned_opt.Interrupted, match="after window 7"):
            tiny(workdir=tmp_path, **settings)
    assert os.listdir(tmp_path / "checkpoints/train") == ["7"]
    resumed = tiny(workdir=tmp_path, **settings)
    chex.assert_trees_all_equal(without_seconds(resumed), without_seconds(never_stopped))


# A program that is killed, so it runs by itself. It slows down every window: there is time to kill.
PROGRAM = """
import hashlib, sys, time
import jax, numpy as np
import learned_opt
from learned_opt.meta import progress, session

advance = progress.Bar.advance
def slowly(self, state, windows):
    advance(self, state, windows)
    print("window", np.max(state.window), flush=True)
    time.sleep(float(sys.argv[2]))
progress.Bar.advance = slowly
session._Pace.windows = lambda self, most: 1

result = learned_opt.meta_train(
    learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2), jax.random.key(0),
    num_steps=4, num_problems=3, num_epochs=4, episodes_per_epoch=3,
    estimator=learned_opt.estimators.Adjoint(window=2),
    validation=learned_opt.Validation(num_problems=4), workdir=sys.argv[1] or None,
    learning_rate=learned_opt.RandomSearch(num_trials=2, num_epochs=1), progress_bar=False)
weights = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(result.phi))
print("digest", hashlib.sha256(weights).hexdigest(), result.learning_rate, len(result.history))
"""


def start(workdir, pause):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(workdir), str(pause)]
    # One pipe for both: of two, the one that is not read could fill up and stop the program.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def digest_of(output):
    """The line with the digest of the weights that a program ended with."""
    digests = [line for line in output.splitlines() if line.startswith("digest")]
    assert digests, output
    return digests[-1]


def read_until(process, windows):
    """Reads lines until so many windows are done (those of the search included)."""
    seen = 0
    while seen < windows:
        line = process.stdout.readline()
        assert line, "the program ended before its time"
        seen += line.startswith("window")


@pytest.mark.thorough
def test_killed_and_resumed_runs_end_with_identical_weights(tmp_path):
    never_stopped, _ = start("", 0).communicate()

    killed = start(tmp_path, 0.05)
    read_until(killed, 15)  # in the middle of the second epoch of training
    killed.kill()
    killed.wait()

    asked = start(tmp_path, 0.05)
    read_until(asked, 5)
    asked.send_signal(signal.SIGTERM)
    words, _ = asked.communicate()
    assert asked.returncode == 128 + signal.SIGTERM
    assert f"its state is saved in {tmp_path}: run the same command again to go on" in words

    resumed, _ = start(tmp_path, 0).communicate()
    assert digest_of(resumed) == digest_of(never_stopped)
    windows = [line for line in resumed.splitlines() if line.startswith("window")]
    assert len(windows) < 20  # it did not begin again


@pytest.mark.thorough
def test_twenty_kills_at_random_moments(tmp_path):
    never_stopped, _ = start("", 0).communicate()
    random = np.random.default_rng(0)
    for _ in range(20):
        process = start(tmp_path, 0.05)
        try:
            process.communicate(timeout=float(random.uniform(3, 12)))
        except subprocess.TimeoutExpired:
            process.send_signal([signal.SIGKILL, signal.SIGTERM][random.integers(2)])
            process.communicate()
        if process.returncode == 0:
            break
    resumed, _ = start(tmp_path, 0).communicate()
    assert digest_of(resumed) == digest_of(never_stopped)


def test_the_progress_bar_shows_meta_loss_its_note_and_time_left(capfd):
    tiny(progress_bar="best baseline 0.5 (Adam)")
    shown = capfd.readouterr().err
    for part in (
        "meta-training",
        "meta-loss",
        "validation",
        "best baseline 0.5 (Adam)",
        "12/12",
        "<",
    ):
        assert part in shown


# Curricula, mixtures, imitation


def test_a_curriculum_goes_on_from_the_best_phi_and_validates_on_the_next_horizon():
    """Stage by stage it is meta_train with one horizon; the first is exactly a run of its own."""
    seen = []

    def note(p):
        seen.append((p.entry["num_steps"], p.entry["epoch"], p.best_phi))

    curriculum = learned_opt.Curriculum((4, 8), patience=50)
    result = tiny(num_steps=curriculum, optimizer=CONSTANT, callback=note)
    assert [e["num_steps"] for e in result.history] == [4] * 3 + [8] * 3
    assert [s[:2] for s in seen] == [(s, e) for s in (4, 8) for e in (1, 2, 3)]
    alone = tiny(num_steps=4, optimizer=CONSTANT)
    first = [e["meta_loss"] for e in result.history[:3]]
    assert first == [e["meta_loss"] for e in alone.history]
    key = training.validation_key(KEY)
    on_next = learned_opt.evaluate((small_lstm(), seen[0][2]), quadratic(), key, 8, 4)
    want = on_next[:, -1].mean()
    np.testing.assert_allclose(result.history[0]["validation_loss"], want, rtol=1e-5)
    chex.assert_trees_all_equal(seen[-1][2], result.phi)


def test_a_curriculum_s_stage_ends_when_validation_no_longer_improves():
    # Nothing is learned: the second epoch is not better.
    result = tiny(
        num_steps=learned_opt.Curriculum((2, 4, 8), patience=1), num_epochs=5, learning_rate=1e-12
    )
    assert [e["num_steps"] for e in result.history] == [2] * 2 + [4] * 2 + [8] * 5


@pytest.mark.thorough
def test_an_interrupted_curriculum_ends_with_the_same_weights(tmp_path):
    teacher = optax.adam(0.1)
    adjoint = estimators.Adjoint(window=2)
    imitate = estimators.Imitate(teacher, window=2, beside=adjoint)
    settings = {"num_steps": learned_opt.Curriculum((2, 4), patience=9), "estimator": imitate}

    def stop(p):
        if (p.entry["num_steps"], p.entry["epoch"]) == (4, 2):
            raise PowerCutError

    whole = tiny(**settings)
    with pytest.raises(PowerCutError):
        tiny(**settings, workdir=tmp_path, callback=stop)
    resumed = tiny(**settings, workdir=tmp_path)
    chex.assert_trees_all_equal(whole.phi, resumed.phi)
    assert without_seconds(whole).history == without_seconds(resumed).history
    other = estimators.Imitate(optax.adam(0.2), window=2, beside=adjoint)
    with pytest.raises(ValueError, match="belongs to a run with teacher="):
        tiny(**{**settings, "estimator": other}, workdir=tmp_path)


def test_selection_by_the_moving_average_of_the_training_loss():
    seen = []
    result = tiny(
        validation=validation(selection="training"),
        num_epochs=6,
        learning_rate=0.05,
        callback=lambda p: seen.append(p) and None,
    )
    average, weight = 0.0, 0.0
    for p in seen:
        average = 0.9 * average + 0.1 * p.entry["meta_loss"]
        weight = 0.9 * weight + 0.1
        np.testing.assert_allclose(p.entry["average_loss"], average / weight, rtol=1e-5)
    best = int(np.argmin([p.entry["average_loss"] for p in seen]))
    chex.assert_trees_all_equal(result.phi, seen[best].phi)
    np.testing.assert_allclose(result.validation_loss, seen[best].entry["validation_loss"])


def test_the_last_phi_can_be_kept():
    seen = []
    result = tiny(
        validation=validation(selection="last"),
        learning_rate=0.5,
        callback=lambda p: seen.append(p) and None,
    )
    losses = [p.entry["validation_loss"] for p in seen]
    assert np.argmin(losses) < len(losses) - 1, "the last one is not the best here"
    assert result.validation_loss == losses[-1]
    chex.assert_trees_all_equal(result.phi, seen[-1].phi)
    assert tiny(learning_rate=0.5).validation_loss == min(losses)


# Bad input


def test_nothing_to_learn():
    with pytest.raises(ValueError, match="which has none"):
        learned_opt.meta_train(learned_opt.from_optax(optax.adam(0.1)), quadratic(), KEY, **TINY)


def test_coordinates_with_plain_functions_and_with_an_optimizer_that_has_none(tmp_path):
    """The recommended setting serves everybody's own problem, a namespace of plain functions
    too.
    """
    family = quadratic()
    plain = learned_opt.Optimizee(
        lambda key: family.sample(key),
        lambda key, i: family.init(key, i),
        lambda theta, i, key: family.loss(theta, i, key),
    )
    estimator = estimators.Adjoint(2, coordinates=3)
    assert np.isfinite(tiny(plain, estimator=estimator).validation_loss)
    opt = small_lstm()._replace(coordinatewise=False)
    settings = {**TINY, "estimator": estimator}
    with pytest.raises(ValueError, match="coordinates=3 needs an optimizer that is coordinatewise"):
        learned_opt.meta_train(opt, quadratic(), KEY, workdir=tmp_path / "work", **settings)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 5}, "window must divide num_steps=5, got 2; the nearest that do: 1, 5"),
        ({"num_epochs": 0}, "num_epochs .* got 0"),
        ({"episodes_per_epoch": -1}, "episodes_per_epoch .* got -1"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number above 0, got -0.1"),
        ({"learning_rate": "serch"}, "a number above 0 or 'search', got 'serch'"),
        (
            {"learning_rate": learned_opt.RandomSearch(low=1.0, high=0.1)},
            "low must not be above high",
        ),
        (
            {"learning_rate": "search", "optimizer": optax.sgd(0.1)},
            "a search .* needs an optimizer",
        ),
        ({"optimizer": 0.1}, "optimizer must be an optax transformation .* got float"),
        ({"estimator": "adjoint"}, "estimator must be an Estimator, got str"),
        ({"validation": 64}, "validation must be a Validation, got int"),
        (
            {"meta_loss": learned_opt.MetaLoss(weights=[1.0] * 3)},
            "weights must be a vector of 4 or 2 numbers",
        ),
        ({"problem": []}, "got an empty list"),
        (
            {"problem": [(learned_opt.optimizees.quadratic(2), -1.0)]},
            "the weight of a family .* -1",
        ),
        ({"num_steps": learned_opt.Curriculum((8, 4))}, "horizons must ascend"),
        ({"num_steps": learned_opt.Curriculum((2, 5))}, "window must divide num_steps=5, got 2"),
        (
            {"estimator": estimators.Mixture(estimators.Adjoint(2), (2, 4))},
            r"num_steps must be above all horizons of the mixture, \(2, 4\), got 4",
        ),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learned_opt.ClippedAdam(clip_norm=0), "clip_norm .* got 0"),
        (lambda: learned_opt.ClippedAdam(schedule="cosinus"), "Did you mean 'cosine'"),
        (lambda: learned_opt.Validation(patience=0), "patience .* got 0"),
        (lambda: learned_opt.Validation(selection="test"), "selection"),
        (lambda: estimators.Adjoint(coordinates=0), "coordinates .* got 0"),
        (lambda: estimators.Adjoint(window=2.5), "window .* got 2.5"),
        (lambda: estimators.Mixture(estimators.Adjoint(2), (5,)), "window must divide num_steps=5"),
        (lambda: estimators.Mixture(estimators.Adjoint(2), 4), "as a tuple, got 4"),
        (lambda: estimators.Mixture("adjoint"), "estimator must be an Estimator, got str"),
        (lambda: estimators.Imitate(0.1), "teacher must be an optax transformation, got float"),
        (lambda: estimators.Imitate(optax.sgd(0.1), fraction=2.0), "fraction must be in"),
        (
            lambda: estimators.Imitate(optax.sgd(0.1), beside=estimators.Adjoint(3)),
            "beside must have the window of the imitation, 20, got 3",
        ),
    ],
)
def test_bad_settings_are_told_where_they_are_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda t, i, k: t, r"one real floating-point scalar, got float32\[2\]"),
        (lambda t, i, k: (jnp.sum(t), 1.0), "got float32"),
        (lambda t, i, k: jnp.argmax(t), "got int32"),
    ],
)
def test_a_loss_that_is_none(loss, message):
    with pytest.raises(ValueError, match=message):
        tiny(quadratic()._replace(loss=loss))


def test_programs_are_counted():
    """Meta-training's programs are among those of which a process keeps a bounded number."""
    programs.clear()
    tiny()
    assert 0 < programs.count() < 10


def test_validation_problems_are_those_of_evaluate():
    family = optimizee_base.as_family(quadratic())
    keys = optimizee_base.problem_keys(training.validation_key(KEY), 4)
    assert optimizee_base.begin_all(family, keys).theta_0.shape == (4, 2)
