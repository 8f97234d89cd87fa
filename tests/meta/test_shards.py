"""Meta-training in shards: the same bits on any number of devices, one reduction a window."""

import subprocess
import sys

import chex
import jax
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import devices, estimators
from learned_opt.evaluation import counting
from learned_opt.meta import training

KEY = jax.random.key(5)
TINY = {
    "num_steps": 4,
    "num_problems": 8,
    "num_epochs": 2,
    "episodes_per_epoch": 2,
    "estimator": estimators.Adjoint(window=2),
    "validation": learned_opt.Validation(num_problems=5),  # no multiple of the shards
    "shards": 4,
}


def small_lstm():
    return learned_opt.lstm(hidden_sizes=(3,))


def quadratic():
    return learned_opt.optimizees.quadratic(2)


def train(num_devices, key=KEY, **settings):
    """What meta-training on so many devices gives, without what the clock has to do with."""
    with devices.use(jax.devices()[:num_devices]):
        result = learned_opt.meta_train(
            small_lstm(), quadratic(), key, progress_bar=False, **{**TINY, **settings}
        )
    return without_seconds(result)


def without_seconds(result):
    history = [{k: v for k, v in e.items() if k != "seconds"} for e in result.history]
    return result._replace(history=history)


def same_bits(*given):
    """What is the same, and what is not, as XLA compiles it for a user."""
    command = [sys.executable, "-m", "tests.meta.same_bits", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.thorough
def test_any_number_of_devices_gives_the_same_bits():
    assert same_bits("drawn coordinates") == ["same: drawn coordinates on 4"]


def test_any_number_of_devices_gives_the_same_numbers():
    """To rounding: without optimizations XLA fuses the same operations in several ways."""
    want, got = train(1), train(4)
    chex.assert_trees_all_close(got.phi, want.phi, rtol=1e-4, atol=1e-6)
    assert got.phi["output"]["w"].sharding.device_set == {jax.devices()[0]}


@pytest.mark.thorough
def test_everything_has_the_same_bits_on_any_number_of_devices():
    """Every estimator, a search, several families and seeds."""
    lines = same_bits()
    assert len(lines) == 22
    assert [line for line in lines if not line.startswith("same")] == []


def test_the_meta_gradient_is_the_mean_of_the_shards():
    """One window and a plain step: each shard has the estimate of a run with its own problems."""
    settings = {
        "num_steps": 2,
        "num_epochs": 1,
        "episodes_per_epoch": 1,
        "optimizer": optax.sgd(0.1),
        "validation": learned_opt.Validation(num_problems=4, selection="last"),
    }
    got = train(4, **settings)
    init_key, train_key = jax.random.split(KEY, 4)[:2]
    phi = small_lstm().init(init_key)
    gradients = []
    for shard in range(4):
        key = jax.random.fold_in(jax.random.fold_in(train_key, 0), shard)
        _, gradient = learned_opt.meta_gradient(small_lstm(), phi, quadratic(), key, 2, 2)
        gradients.append(gradient)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *gradients)
    want = jax.tree.map(lambda p, g: p - 0.1 * g, phi, mean)
    chex.assert_trees_all_close(got.phi, want, rtol=1e-4, atol=1e-6)


def window_on(num_devices, opt, problem, **settings):
    """What a device does in a window, counted from the compiled program."""
    with devices.use(jax.devices()[:num_devices]), learned_opt.xla_loops():
        lowered = training.lowered(opt, problem, KEY, **settings)
        of_device = settings["shards"] // num_devices
        return counting.count(lowered.compile().as_text(), (1, 1, of_device))


def test_devices_meet_once_in_a_window_and_repeat_no_work():
    settings = {"num_steps": 4, "num_problems": 64, "estimator": estimators.Adjoint(window=4)}
    opt, problem = learned_opt.lstm(hidden_sizes=(8,)), learned_opt.optimizees.quadratic(10)
    alone = window_on(1, opt, problem, shards=4, **settings)
    shared = window_on(4, opt, problem, shards=4, **settings)
    assert shared.collectives == {"all-gather": 1}
    assert shared.in_loops == 0
    assert alone.flops / (4 * shared.flops) >= 0.99


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shards": 3}, "shards must divide num_problems=8, got 3; the nearest that do: 2, 4"),
        ({"shards": 0}, "shards must be a whole number of at least 1, got 0"),
        ({"shards": 2}, "shards=2 cannot be shared by 4 devices"),
    ],
)
def test_shards_that_are_not_possible_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        train(4, **settings)


@pytest.mark.thorough
def test_seeds_that_end_at_different_times_are_those_of_each_alone():
    """Each has a rate of its own search, and stages that end when its own validation says so."""
    settings = {
        "num_steps": learned_opt.Curriculum((2, 4), patience=1),
        "num_epochs": 4,
        "learning_rate": learned_opt.RandomSearch(0.01, 1.0, num_trials=2, num_epochs=1),
        "validation": learned_opt.Validation(num_problems=5, patience=1),
        "shards": 1,
    }
    keys = jax.random.split(KEY, 2)
    with devices.use(jax.devices()[:2]):
        seeds = learned_opt.meta_train_seeds(
            small_lstm(), quadratic(), keys, progress_bar=False, **{**TINY, **settings}
        )
    epochs = []
    for key, got in zip(keys, seeds, strict=True):
        want = train(1, key, **settings)
        chex.assert_trees_all_close(got.phi, want.phi, rtol=1e-3, atol=1e-5)
        assert got.learning_rate == pytest.approx(want.learning_rate)
        course = [(entry["epoch"], entry["num_steps"]) for entry in got.history]
        assert course == [(entry["epoch"], entry["num_steps"]) for entry in want.history]
        epochs.append(len(course))
    assert epochs[0] != epochs[1]


def test_seeds_need_a_key_each():
    with pytest.raises(ValueError, match="keys must be a vector of random keys"):
        learned_opt.meta_train_seeds(small_lstm(), quadratic(), KEY, **TINY)


def test_the_number_of_shards_identifies_a_run_and_that_of_devices_does_not():
    def plain(**settings):
        checked = training.check(small_lstm(), quadratic(), KEY, num_problems=8, **settings)
        return checked.plain(KEY)

    assert plain(shards=4)["shards"] == 4
    assert "shards" not in plain()  # work directories from before there were several go on
    with devices.use(jax.devices()[:2]):
        assert plain(shards=4) == training.check(
            small_lstm(), quadratic(), KEY, num_problems=8, shards=4
        ).plain(KEY)


@pytest.mark.thorough
def test_threads_do_not_change_the_bits_from_run_to_run():
    """A stress test: the same evaluation and the same windows, many times on all cores at once."""
    opt = small_lstm()
    phi = opt.init(KEY)
    problem = learned_opt.optimizees.quadratic(30)
    first = learned_opt.evaluate((opt, phi), problem, KEY, 20, 32)
    assert np.isfinite(first).all()
    for _ in range(200):
        again = learned_opt.evaluate((opt, phi), problem, KEY, 20, 32)
        np.testing.assert_array_equal(again, first)
    want = train(4)
    for _ in range(10):
        chex.assert_trees_all_equal(train(4), want)
