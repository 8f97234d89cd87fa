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
from learned_opt.meta import gradient, imitation, progress, training
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(5)
TINY = {
    "num_steps": 4,
    "window": 2,
    "num_problems": 3,
    "num_epochs": 3,
    "episodes_per_epoch": 2,
    "num_validation": 4,
    "progress_bar": False,
}


def tiny(**settings):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    return learned_opt.meta_train(
        opt, learned_opt.optimizees.quadratic(2), KEY, **{**TINY, **settings}
    )


def without_seconds(result):
    """A result without what the clock has to do with."""
    return result._replace(
        history=[{k: v for k, v in entry.items() if k != "seconds"} for entry in result.history]
    )


@pytest.mark.parametrize(("coordinates", "method"), [(None, "autodiff"), (4, "adjoint")])
def test_one_episode_is_adam_on_the_meta_gradients_of_its_windows(coordinates, method):
    """One window a horizon: meta_train is Adam along `meta_gradient`, written out with optax."""
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2)
    settings = {
        **TINY,
        "num_steps": 4,
        "window": 4,
        "num_epochs": 1,
        "episodes_per_epoch": 3,
        "clip_norm": 0.5,
        "schedule": "constant",
        "learning_rate": 0.01,
        "coordinates": coordinates,
    }
    result = learned_opt.meta_train(opt, problem, KEY, **settings)
    init_key, train_key, _, _ = jax.random.split(KEY, 4)
    phi = opt.init(init_key)
    meta = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01))
    state = meta.init(phi)
    losses = []
    for episode in range(3):
        loss, gradient = learned_opt.meta_gradient(
            opt,
            phi,
            problem,
            jax.random.fold_in(train_key, episode),
            4,
            3,
            method=method,
            coordinates=coordinates,
        )
        updates, state = meta.update(gradient, state)
        phi = optax.apply_updates(phi, updates)
        losses.append(loss / 4)
    chex.assert_trees_all_close(result.phi, phi, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.history[0]["meta_loss"], np.mean(losses), rtol=1e-4)


def test_state_is_carried_across_windows():
    """Windows that start afresh would see the same losses twice; these see one life of four steps."""
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2)
    result = tiny(num_epochs=1, episodes_per_epoch=1, learning_rate=1e-12)
    init_key, train_key, _, _ = jax.random.split(KEY, 4)
    keys = jax.random.split(jax.random.fold_in(train_key, 0), 3)
    tx = opt.transform(opt.init(init_key))
    losses = [learned_opt.unroll(tx, problem, k, 4).losses[1:] for k in keys]
    np.testing.assert_allclose(result.history[0]["meta_loss"], np.mean(losses), rtol=1e-5)


def test_meta_training_beats_the_best_learning_rates():
    """On quadratics in one dimension, within seconds."""
    opt, problem = learned_opt.lstm(hidden_sizes=(8,)), learned_opt.optimizees.quadratic(1)
    result = learned_opt.meta_train(
        opt,
        problem,
        KEY,
        num_steps=10,
        window=10,
        num_problems=32,
        num_epochs=8,
        episodes_per_epoch=60,
        learning_rate=0.01,
        progress_bar=False,
    )
    ours = learned_opt.evaluate(opt.transform(result.phi), problem, jax.random.key(9), 10, 256)[
        :, -1
    ].mean()
    rates = 2.0 ** np.arange(30) * 1e-6
    best = min(
        learned_opt.evaluate(optax.sgd(rate), problem, jax.random.key(9), 10, 256)[:, -1].mean()
        for rate in rates[10:22]
    )
    assert ours < best


def test_validation_keeps_the_best_phi():
    """A rate so high that weights get worse: what is returned is what did best on the validation problems."""
    result = tiny(num_epochs=6, learning_rate=0.5, schedule="constant", clip_norm=100.0)
    losses = [entry["validation_loss"] for entry in result.history]
    assert result.validation_loss == min(losses)
    assert losses[-1] > min(losses)
    opt, key = learned_opt.lstm(hidden_sizes=(3,)), training.validation_key(KEY)
    curves = learned_opt.evaluate(
        opt.transform(result.phi), learned_opt.optimizees.quadratic(2), key, 4, 4
    )
    np.testing.assert_allclose(curves[:, -1].mean(), result.validation_loss, rtol=1e-5)


def test_history_counts_the_seconds_of_training_alone(monkeypatch):
    """On a clock that only validations and episodes move, each by its own."""
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    programs = training._programs

    def slow(*args):
        return tuple(
            lambda *a, f=f, cost=cost: now.__setitem__(0, now[0] + cost) or f(*a)
            for f, cost in zip(programs(*args), (1.0, 100.0), strict=True)
        )

    monkeypatch.setattr(training, "_programs", slow)
    assert [entry["seconds"] for entry in tiny().history] == [2, 4, 6]


def test_a_second_run_with_another_key_does_not_compile_again():
    quadratic, traced = learned_opt.optimizees.quadratic(2), []
    problem = quadratic._replace(loss=lambda *args: traced.append(1) or quadratic.loss(*args))
    opt, counts = learned_opt.lstm(hidden_sizes=(3,)), []
    for key in (KEY, jax.random.key(6)):
        traced.clear()
        learned_opt.meta_train(opt, problem, key, **TINY)
        counts.append(len(traced))
    assert counts[1] < counts[0] / 2  # the checks alone


def test_early_stopping():
    result = tiny(
        num_epochs=30, learning_rate=0.5, schedule="constant", clip_norm=100.0, patience=2
    )
    losses = [entry["validation_loss"] for entry in result.history]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 3


def test_last_step_loss_and_partition():
    opt = learned_opt.partition(
        {"a": learned_opt.lstm(hidden_sizes=(3,)), "b": learned_opt.lstm(hidden_sizes=(2,))},
        {"a": "a", "*": "b"},
    )
    problem = learned_opt.Optimizee(
        lambda key: (),
        lambda key, i: {"a": jax.random.normal(key, (2,)), "b": jax.random.normal(key, (3,))},
        lambda t, i, k: jnp.sum(t["a"] ** 2) + jnp.sum(t["b"] ** 4),
    )
    result = learned_opt.meta_train(opt, problem, KEY, weights=[0.0, 1.0], **TINY)
    before = opt.init(jax.random.split(KEY, 4)[0])
    for label in "ab":
        assert not np.allclose(result.phi[label]["output"]["w"], before[label]["output"]["w"])


def test_random_search_finds_the_rate_that_learns():
    search = learned_opt.RandomSearch(low=1e-7, high=1e-1, num_trials=6, num_epochs=2)
    result = tiny(learning_rate=search, episodes_per_epoch=10)
    assert 1e-7 <= result.learning_rate <= 1e-1
    assert result.learning_rate > 1e-4  # those below move nothing in twenty episodes
    assert result.validation_loss < tiny(learning_rate=1e-7).validation_loss


def sometimes_infinite(when):
    """A quadratic whose loss is not a number for some problems."""
    quadratic = learned_opt.optimizees.quadratic(2)
    return quadratic._replace(
        loss=lambda theta, instance, key: jnp.where(
            when(instance.y[0]), jnp.nan, quadratic.loss(theta, instance, key)
        )
    )


def test_non_finite_meta_gradients_are_counted_and_not_applied():
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), sometimes_infinite(lambda y: y > 0.8)
    result = learned_opt.meta_train(
        opt, problem, KEY, **{**TINY, "num_epochs": 4, "episodes_per_epoch": 5}
    )
    num_windows = 4 * 5 * 2
    assert 0 < result.skipped < num_windows
    assert result.history[-1]["skipped"] == result.skipped
    chex.assert_tree_all_finite(result.phi)
    assert all(np.isfinite(entry["meta_loss"]) for entry in result.history)


def test_a_loss_that_stays_non_finite_stops_with_an_error():
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), sometimes_infinite(lambda y: y > -100)
    with pytest.raises(
        learned_opt.MetaTrainingError, match="6 meta-gradients in a row were not finite"
    ) as error:
        learned_opt.meta_train(opt, problem, KEY, **{**TINY, "max_skipped": 6, "num_epochs": 10})
    chex.assert_trees_all_equal(error.value.best_phi, opt.init(jax.random.split(KEY, 4)[0]))


def test_a_work_directory_belongs_to_one_configuration(tmp_path):
    first = tiny(workdir=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to a run with num_problems=3, not 4"):
        tiny(workdir=tmp_path, num_problems=4)
    with pytest.raises(ValueError, match=r"belongs to a run with coordinates=None, not 3"):
        tiny(workdir=tmp_path, coordinates=3)
    with pytest.raises(ValueError, match="problem"):
        learned_opt.meta_train(
            learned_opt.lstm(hidden_sizes=(3,)),
            learned_opt.optimizees.quadratic(2, init_scale=2.0),
            KEY,
            workdir=tmp_path,
            **TINY,
        )
    again = tiny(workdir=tmp_path)
    chex.assert_trees_all_equal(first, again)


def test_the_progress_bar_shows_meta_loss_baseline_and_time_left(capfd):
    tiny(progress_bar=True, reference=("Adam", 0.5))
    shown = capfd.readouterr().err
    for part in (
        "meta-training",
        "meta-loss",
        "validation",
        "best baseline 0.5 (Adam)",
        "6/6",
        "<",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 3}, "window must divide num_steps=4, got 3; the nearest that do: 2, 4"),
        ({"num_epochs": 0}, "num_epochs .* got 0"),
        ({"episodes_per_epoch": -1}, "episodes_per_epoch .* got -1"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number above 0, got -0.1"),
        ({"learning_rate": "serch"}, "Did you mean 'search'"),
        (
            {"learning_rate": learned_opt.RandomSearch(low=1.0, high=0.1)},
            "low must not be above high",
        ),
        ({"schedule": "cosinus"}, "Did you mean 'cosine'"),
        ({"clip_norm": 0}, "clip_norm .* got 0"),
        ({"weights": [1.0] * 3}, "weights must be a vector of 4 or 2 numbers"),
        ({"patience": 0}, "patience .* got 0"),
        ({"coordinates": 0}, "coordinates .* got 0"),
        (
            {"coordinates": 3, "method": "autodiff"},
            "coordinates=3 has no meaning for method='autodiff'",
        ),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_coordinates_of_an_optimizer_that_has_none_leave_nothing_behind(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(3,))._replace(coordinatewise=False)
    with pytest.raises(ValueError, match="coordinates=3 needs an optimizer that is coordinatewise"):
        learned_opt.meta_train(
            opt,
            learned_opt.optimizees.quadratic(2),
            KEY,
            coordinates=3,
            workdir=tmp_path / "work",
            **TINY,
        )
    assert not (tmp_path / "work").exists()


def test_an_interrupted_run_on_few_coordinates_draws_them_again(tmp_path, monkeypatch):
    class PowerCutError(Exception):
        pass

    def cut(self, state):
        if (
            np.max(state.episode) == 3
        ):  # in the middle of the second epoch: its first half is done again
            raise PowerCutError

    whole, never_stopped = tiny(), tiny(coordinates=3)
    with monkeypatch.context() as patched:
        patched.setattr(progress.Bar, "advance", cut)
        with pytest.raises(PowerCutError):
            tiny(coordinates=3, workdir=tmp_path)
    resumed = tiny(coordinates=3, workdir=tmp_path)
    chex.assert_trees_all_equal(without_seconds(resumed), without_seconds(never_stopped))
    assert not np.allclose(never_stopped.phi["output"]["w"], whole.phi["output"]["w"])


def test_nothing_to_learn():
    with pytest.raises(ValueError, match="no weights to learn"):
        learned_opt.meta_train(
            learned_opt.from_optax(optax.adam(0.1)), learned_opt.optimizees.quadratic(), KEY, **TINY
        )


# A program that is killed, so it runs by itself. It slows down every episode: there is time to kill it.
PROGRAM = """
import hashlib, sys, time
import jax, numpy as np
import learned_opt
from learned_opt.meta import progress

advance = progress.Bar.advance
def slowly(self, state):
    advance(self, state)
    print("episode", np.max(state.episode), flush=True)
    time.sleep(float(sys.argv[2]))
progress.Bar.advance = slowly

result = learned_opt.meta_train(
    learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2), jax.random.key(0), num_steps=4, window=2,
    num_problems=3, num_epochs=4, episodes_per_epoch=3, num_validation=4, workdir=sys.argv[1] or None,
    learning_rate=learned_opt.RandomSearch(num_trials=2, num_epochs=1), progress_bar=False)
weights = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(result.phi))
print("digest", hashlib.sha256(weights).hexdigest(), result.learning_rate, len(result.history))
"""


def start(workdir, pause):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(workdir), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def read_until(process, episodes):
    """Reads lines until so many episodes are done (those of the search included)."""
    seen = 0
    while seen < episodes:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        seen += line.startswith("episode")


def test_killed_and_resumed_runs_end_with_identical_weights(tmp_path):
    never_stopped, _ = start("", 0).communicate()
    digest = never_stopped.splitlines()[-1]
    assert digest.startswith("digest")

    killed = start(tmp_path, 0.2)
    read_until(killed, 8)  # in the middle of the second epoch of training
    killed.kill()
    killed.wait()

    asked = start(tmp_path, 0.2)
    read_until(asked, 4)
    asked.send_signal(signal.SIGTERM)
    _, words = asked.communicate()
    assert asked.returncode == 128 + signal.SIGTERM
    assert f"its state is saved in {tmp_path}: run the same command again to go on" in words

    resumed, errors = start(tmp_path, 0).communicate()
    assert resumed.splitlines()[-1] == digest, errors
    assert resumed.count("episode") < 12  # it did not begin again


def test_a_changed_loss_is_another_problem(tmp_path):
    def problem(factor):
        quadratic = learned_opt.optimizees.quadratic(2)
        return quadratic._replace(
            loss=lambda theta, instance, key: factor * jnp.sum((instance.w @ theta) ** 2)
        )

    opt = learned_opt.lstm(hidden_sizes=(3,))
    learned_opt.meta_train(opt, problem(1.0), KEY, workdir=tmp_path, **TINY)
    learned_opt.meta_train(opt, problem(1.0), KEY, workdir=tmp_path, **TINY)
    with pytest.raises(ValueError, match="belongs to a run with problem="):
        learned_opt.meta_train(opt, problem(2.0), KEY, workdir=tmp_path, **TINY)


def test_nothing_learned_is_an_error_and_nothing_validated_a_warning(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    with pytest.raises(learned_opt.MetaTrainingError, match="no meta-gradient was finite"):
        learned_opt.meta_train(
            opt, sometimes_infinite(lambda y: y > -100), KEY, **{**TINY, "num_epochs": 1}
        )
    with pytest.warns(UserWarning, match="no epoch ended with a finite validation loss"):
        result = learned_opt.meta_train(
            opt,
            sometimes_infinite(lambda y: y > 0),
            KEY,
            **{**TINY, "num_problems": 1, "num_validation": 30},
        )
    before = opt.init(jax.random.split(KEY, 4)[0])
    assert not np.allclose(result.phi["output"]["w"], before["output"]["w"])
    learned_opt.save(
        tmp_path / "x", opt, result.phi, {"history": result.history}
    )  # infinite losses and all


def test_a_damaged_checkpoint_is_named(tmp_path):
    tiny(workdir=tmp_path)
    for file in (tmp_path / "checkpoints/train/6").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/6 is damaged: delete that directory"):
        tiny(workdir=tmp_path)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda t, i, k: t, r"one real floating-point scalar, got float32\[2\]"),
        (lambda t, i, k: (jnp.sum(t), 1.0), "got float32"),
        (lambda t, i, k: jnp.argmax(t), "got int32"),
    ],
)
def test_a_loss_that_is_none(loss, message):
    problem = learned_opt.optimizees.quadratic(2)._replace(loss=loss)
    with pytest.raises(ValueError, match=message):
        learned_opt.meta_train(learned_opt.lstm(), problem, KEY, **TINY)


def test_a_curriculum_goes_on_from_the_best_phi_and_validates_on_the_next_horizon():
    """Stage by stage it is meta_train with one horizon; the first stage is exactly that of a run of its own."""
    seen = []
    result = tiny(
        num_steps=learned_opt.Curriculum((4, 8), patience=50),
        window=2,
        schedule="constant",
        on_epoch=lambda entry, phi: seen.append((entry["num_steps"], entry["epoch"], phi)),
    )
    assert [e["num_steps"] for e in result.history] == [4] * 3 + [8] * 3
    assert [(steps, epoch) for steps, epoch, _ in seen] == [
        (s, e) for s in (4, 8) for e in (1, 2, 3)
    ]
    alone = tiny(num_steps=4, window=2, schedule="constant")
    assert [e["meta_loss"] for e in result.history[:3]] == [e["meta_loss"] for e in alone.history]
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2)
    on_next = learned_opt.evaluate(
        opt.transform(seen[0][2]), problem, training.validation_key(KEY), 8, 4
    )
    np.testing.assert_allclose(
        result.history[0]["validation_loss"], on_next[:, -1].mean(), rtol=1e-5
    )
    chex.assert_trees_all_equal(seen[-1][2], result.phi)
    assert result.validation_loss == min(e["validation_loss"] for e in result.history[3:])


def test_a_curriculum_s_stage_ends_when_validation_no_longer_improves():
    result = tiny(
        num_steps=learned_opt.Curriculum((2, 4, 8), patience=1),
        window=2,
        num_epochs=5,
        learning_rate=1e-12,
    )  # nothing is learned: the second epoch is not better
    assert [e["num_steps"] for e in result.history] == [2] * 2 + [4] * 2 + [8] * 5


def test_a_mixture_takes_the_mean_over_horizons_whose_problems_begin_anew():
    """Written out: in five windows one life of ten steps, and beside it two of four and one that is cut."""
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(2)
    result = tiny(
        num_steps=learned_opt.Mixture((4, 10)),
        num_epochs=1,
        episodes_per_epoch=1,
        learning_rate=0.01,
        schedule="constant",
    )
    init_key, train_key, _, _ = jax.random.split(KEY, 4)
    key, windows = jax.random.fold_in(train_key, 0), gradient.windows_of("autodiff")
    short_key, problem = jax.random.fold_in(key, 1), optimizee_base.as_partials(problem)
    phi, all_losses = opt.init(init_key), []
    meta = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))
    state = meta.init(phi)
    begin = jax.jit(lambda phi, key: windows.begin(opt, phi, problem, jax.random.split(key, 3)))
    run = jax.jit(lambda phi, lives: windows.run(opt, phi, problem, lives, jnp.ones(2)))
    long = begin(phi, key)
    for number in range(5):
        if number % 2 == 0:
            short = begin(phi, jax.random.fold_in(short_key, number // 2))
        losses, long_gradient, long = run(phi, long)
        short_losses, short_gradient, short = run(phi, short)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, long_gradient, short_gradient)
        updates, state = meta.update(mean, state)
        phi = optax.apply_updates(phi, updates)
        all_losses += [losses, short_losses]
    chex.assert_trees_all_close(result.phi, phi, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.history[0]["meta_loss"], np.mean(all_losses), rtol=1e-4)


def test_an_interrupted_curriculum_ends_with_the_same_weights(tmp_path):
    settings = {
        "num_steps": learned_opt.Curriculum((2, 4), patience=9),
        "window": 2,
        "imitation": learned_opt.Imitation(optax.adam(0.1)),
    }

    class StopError(Exception):
        pass

    def stop(entry, phi):
        del phi
        if (entry["num_steps"], entry["epoch"]) == (4, 2):
            raise StopError

    whole = tiny(**settings)
    with pytest.raises(StopError):
        tiny(**settings, workdir=tmp_path, on_epoch=stop)
    resumed = tiny(**settings, workdir=tmp_path)
    chex.assert_trees_all_equal(whole.phi, resumed.phi)
    assert without_seconds(whole).history == without_seconds(resumed).history
    with pytest.raises(ValueError, match="belongs to a run with imitation="):
        tiny(**{**settings, "imitation": learned_opt.Imitation(optax.adam(0.2))}, workdir=tmp_path)


@pytest.mark.parametrize("coordinates", [None, 3])
def test_imitation_s_gradient_is_that_of_its_loss(coordinates):
    """Against autodiff of the definition, written out: Adam moves theta, the LSTM reads the same gradients."""
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(3)
    problem, teacher, num_steps = optimizee_base.as_partials(problem), optax.adam(0.1), 4
    phi = opt.init(jax.random.key(1))
    keys = jax.random.split(KEY, 2)
    problems = [optimizee_base.begin(problem, key) for key in keys]

    def loss_of(phi, begun):
        theta, tx = begun.theta_0, opt.transform(phi)
        state, teacher_state, wrong, size = tx.init(theta), teacher.init(theta), 0.0, 0.0
        for t in range(num_steps):
            g = jax.grad(problem.loss)(
                theta, begun.instance, optimizee_base.minibatch_key(begun.key, t)
            )
            u, state = tx.update(g, state)
            taught, teacher_state = teacher.update(g, teacher_state, theta)
            wrong += jnp.sum((u - taught) ** 2)
            size += jnp.sum(taught**2)
            theta = theta + taught
        return wrong, size

    def definition(phi):
        (wrong_0, size_0), (wrong_1, size_1) = (loss_of(phi, begun) for begun in problems)
        return (wrong_0 + wrong_1) / (size_0 + size_1)

    def windowed(phi):
        lives = imitation.begin(opt, phi, problem, keys, teacher)
        return imitation.window(
            opt, phi, problem, lives, teacher, num_steps, coordinates=coordinates
        )[:2]

    expected = jax.jit(jax.value_and_grad(definition))(phi)
    loss, gradient = jax.jit(windowed)(phi)
    if coordinates is None:
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
        chex.assert_trees_all_close(gradient, expected[1], rtol=1e-4, atol=1e-6)
    else:  # an estimate: finite, and not the whole
        chex.assert_tree_all_finite(gradient)
        assert loss != expected[0]


def test_imitation_alone_learns_the_teacher():
    """Without a meta-gradient the updates come near to the teacher's; the rate alone says how fast."""
    result = tiny(
        imitation=learned_opt.Imitation(optax.sgd(0.01), fraction=0.1, alone=True),
        num_steps=4,
        window=4,
        num_epochs=10,
        episodes_per_epoch=30,
        learning_rate=0.01,
    )
    assert "meta_loss" not in result.history[0]
    losses = [entry["imitation_loss"] for entry in result.history]
    assert losses[-1] < 0.1 * losses[0]


def test_imitation_fades():
    """After its fraction of the training it leaves no trace."""
    result = tiny(imitation=learned_opt.Imitation(optax.sgd(0.1), fraction=1 / 3))
    assert [entry["imitation_loss"] > 0 for entry in result.history] == [True, False, False]


def test_selection_by_the_moving_average_of_the_training_loss():
    seen = []
    result = tiny(
        selection="training",
        num_epochs=6,
        learning_rate=0.05,
        on_epoch=lambda entry, phi: seen.append((entry, phi)),
    )
    average, weight = 0.0, 0.0
    for entry, _ in seen:
        average, weight = 0.9 * average + 0.1 * entry["meta_loss"], 0.9 * weight + 0.1
        np.testing.assert_allclose(entry["average_loss"], average / weight, rtol=1e-5)
    best = int(np.argmin([entry["average_loss"] for entry, _ in seen]))
    chex.assert_trees_all_equal(result.phi, seen[best][1])
    assert result.validation_loss == seen[best][0]["validation_loss"]


def test_training_goes_on_from_given_weights(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    phi = opt.init(jax.random.key(9))
    still = tiny(phi=phi, learning_rate=1e-12, workdir=tmp_path)
    chex.assert_trees_all_close(still.phi, phi, atol=1e-9)
    with pytest.raises(ValueError, match="belongs to a run with phi="):
        tiny(phi=opt.init(jax.random.key(8)), learning_rate=1e-12, workdir=tmp_path)
    with pytest.raises(ValueError, match="phi"):
        tiny(phi=learned_opt.lstm(hidden_sizes=(4,)).init(jax.random.key(9)))


def test_the_last_phi_can_be_kept():
    seen = []
    result = tiny(
        selection="last", learning_rate=0.5, on_epoch=lambda entry, phi: seen.append((entry, phi))
    )
    losses = [entry["validation_loss"] for entry, _ in seen]
    assert np.argmin(losses) < len(losses) - 1, "the last one is not the best here"
    assert result.validation_loss == losses[-1]
    chex.assert_trees_all_equal(result.phi, seen[-1][1])
    best = tiny(learning_rate=0.5)
    assert best.validation_loss == min(losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": learned_opt.Curriculum((8, 4))}, "horizons must ascend"),
        ({"num_steps": learned_opt.Mixture((2, 5))}, "window must divide num_steps=5, got 2"),
        (
            {"num_steps": learned_opt.Mixture(4)},
            "horizons must be one number of steps or several, as a tuple, got 4",
        ),
        (
            {"imitation": learned_opt.Imitation(optax.adam(0.1), alone="no")},
            "alone must be True or False, got 'no'",
        ),
        (
            {"imitation": learned_opt.Imitation(optax.adam(0.1), alone=True), "weights": [1.0] * 2},
            "weights have no part",
        ),
        ({"num_steps": learned_opt.Curriculum((2, 5))}, "window must divide num_steps=5, got 2"),
        (
            {"num_steps": learned_opt.Curriculum((2, 4)), "weights": [1.0] * 4},
            "weights must be a vector of 2 numbers",
        ),
        ({"selection": "test"}, "selection"),
        ({"imitation": optax.adam(0.1)}, "imitation"),
        ({"imitation": learned_opt.Imitation(optax.adam(0.1), fraction=2.0)}, "fraction"),
        (
            {"imitation": learned_opt.Imitation(optax.adam(0.1)), "method": "autodiff"},
            "imitation needs method='adjoint'",
        ),
    ],
)
def test_bad_curricula_imitations_and_selections(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)
