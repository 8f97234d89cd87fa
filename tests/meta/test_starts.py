"""Learned starting points: against exact minimizers and the network in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizees

KEY = jax.random.key(0)


def targets(dim=2):
    """|theta - (y + 3)|^2: the best start is y + 3, the best constant 3."""
    return learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (dim,)),
        lambda key, y: jnp.zeros(dim),
        lambda theta, y, key: jnp.sum((theta - y - 3.0) ** 2),
    )


def learned(hidden_sizes, **others):
    return learned_opt.learn_start(
        targets(),
        KEY,
        hidden_sizes=hidden_sizes,
        num_updates=600,
        num_problems=64,
        learning_rate=0.03,
        progress_bar=False,
        **others,
    )


def test_a_constant_start_is_the_best_common_one():
    np.testing.assert_allclose(learned(None)["offset"], [3.0, 3.0], atol=0.05)


def test_a_linear_start_reads_the_instance():
    family = optimizees.with_start(targets(), learned(()))
    y = jnp.array([0.7, -1.2])
    np.testing.assert_allclose(family.init(KEY, y), y + 3, atol=0.02)


def test_a_start_for_some_steps_of_an_optimizer():
    """After one step that overshoots by as much again, the start lies where the step leads back."""
    start = learned((), tx=optax.sgd(0.75), num_steps=1)
    family = optimizees.with_start(targets(), start)
    y = jnp.array([0.5, 0.5])
    # theta_1 - m = (1 - 1.5) (theta_0 - m) is zero where theta_0 = m.
    np.testing.assert_allclose(family.init(KEY, y), y + 3, atol=0.05)


def test_the_network_is_the_formula():
    family = optimizees.quadratic(3)
    start = optimizees.begin_start(family, KEY, (5, 4))
    keys = jax.random.split(KEY, 100)
    start["layers"][-1]["w"] = jax.random.normal(keys[0], (4, 3))
    started = optimizees.with_start(family, start)
    instance = family.sample(keys[1])
    x = np.concatenate([np.ravel(instance.w), instance.y])
    x = (x - np.asarray(start["mean"])) / np.asarray(start["deviation"])
    for layer in start["layers"][:-1]:
        x = np.maximum(x @ np.asarray(layer["w"]) + np.asarray(layer["b"]), 0)
    moved = x @ np.asarray(start["layers"][-1]["w"])
    expected = np.asarray(family.init(KEY, instance)) + moved
    np.testing.assert_allclose(started.init(KEY, instance), expected, rtol=1e-5)


def test_an_untrained_start_moves_nothing_and_the_rest_of_a_family_stays():
    box = optimizees.bounded(optimizees.quadratic(2), 0.0, 1.0)
    started = optimizees.with_start(box, optimizees.begin_start(box, KEY))
    instance = box.sample(KEY)
    np.testing.assert_array_equal(started.init(KEY, instance), box.init(KEY, instance))
    assert started.solution is box.solution
    assert started.loss is box.loss


def test_units_of_the_data_do_not_matter():
    """Nor does a number that was the same in all instances, and is another today."""
    tiny = learned_opt.Optimizee(
        lambda key: {"y": 1e-9 * jax.random.normal(key, (2,)), "same": jnp.ones(())},
        lambda key, data: jnp.zeros(2),
        lambda theta, data, key: jnp.sum((theta - 1e9 * data["y"] - 3.0) ** 2),
    )
    start = learned_opt.learn_start(
        tiny,
        KEY,
        hidden_sizes=(),
        num_updates=600,
        num_problems=64,
        learning_rate=0.03,
        progress_bar=False,
    )
    started = optimizees.with_start(tiny, start)
    today = {"y": 1e-9 * jnp.array([0.7, -1.2]), "same": jnp.asarray(1.1)}
    np.testing.assert_allclose(started.init(KEY, today), [3.7, 1.8], atol=1.0)


def test_settings_may_be_arrays():
    start = learned_opt.learn_start(
        targets(),
        KEY,
        hidden_sizes=None,
        num_updates=np.int64(3),
        learning_rate=jnp.asarray(0.03),
        floor=np.float32(0.5),
        progress_bar=False,
    )
    assert start["offset"].shape == (2,)


def test_going_on_from_a_start():
    start = learned(None)
    again = learned_opt.learn_start(
        targets(),
        KEY,
        hidden_sizes=None,
        num_updates=1,
        start=start,
        learning_rate=1e-6,
        progress_bar=False,
    )
    np.testing.assert_allclose(again["offset"], start["offset"], atol=1e-4)


@pytest.mark.parametrize("hidden_sizes", [None, (), (5, 4)])
def test_a_start_is_saved_and_read(tmp_path, hidden_sizes):
    start = optimizees.begin_start(optimizees.quadratic(3), KEY, hidden_sizes)
    learned_opt.save_start(tmp_path / "start", start)
    again = learned_opt.load_start(tmp_path / "start.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(start)
    jax.tree.map(np.testing.assert_array_equal, again, start)


def test_files_that_hold_no_start(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        learned_opt.load_start(tmp_path / "start")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match="is truncated or is no safetensors file"):
        learned_opt.load_start(tmp_path / "cut")
    opt = learned_opt.lstm(hidden_sizes=(2,))
    learned_opt.save(tmp_path / "lstm", opt, opt.init(KEY))
    with pytest.raises(ValueError, match=r"was not written by learned_opt.save_start"):
        learned_opt.load_start(tmp_path / "lstm")
    with pytest.raises(ValueError, match="start is not finite at offset"):
        learned_opt.save_start(tmp_path / "start", {"offset": np.array([np.nan])})
    for other in ({}, None, {"offset": np.zeros(2), "mean": np.zeros(2)}):
        with pytest.raises(
            ValueError, match=r"start is no start: give what learned_opt.learn_start returns"
        ):
            learned_opt.save_start(tmp_path / "start", other)
    assert not (tmp_path / "start.safetensors").exists()


def test_messages():
    with pytest.raises(ValueError, match="num_steps and tx belong together"):
        learned_opt.learn_start(targets(), KEY, num_steps=3)
    with pytest.raises(ValueError, match="num_updates must be a whole number of at least 1"):
        learned_opt.learn_start(targets(), KEY, num_updates=0)
    with pytest.raises(ValueError, match="belong together, got num_steps=0 and a tx"):
        learned_opt.learn_start(targets(), KEY, tx=optax.sgd(0.1))
    other = optimizees.begin_start(targets(3), KEY)
    with pytest.raises(ValueError, match="whose problems have 2 parameters: it moves 3"):
        optimizees.with_start(targets(), other)
    with pytest.raises(ValueError, match=r"start must come from learned_opt.learn_start, got None"):
        optimizees.with_start(targets(), None)
    broken = targets()._replace(sample=lambda key: jnp.full(2, jnp.nan))
    with pytest.raises(ValueError, match="leave instances with a NaN out"):
        learned_opt.learn_start(broken, KEY, hidden_sizes=None, progress_bar=False)
    with pytest.raises(ValueError, match="hidden_sizes must be None for a family whose"):
        optimizees.begin_start(optimizees.mlp("digits"), KEY)


def test_with_a_floor_instances_count_by_their_relative_change():
    """Of losses a (1 + (theta - y)^2), with a = 1 where y = 0 and a = 1000 where y = 1."""
    family = learned_opt.Optimizee(
        lambda key: jax.random.bernoulli(key).astype(float),
        lambda key, y: jnp.zeros(()),
        lambda theta, y, key: (1 + 999 * y) * (1 + (theta - y) ** 2),
    )
    settings = {"hidden_sizes": None, "num_updates": 500, "learning_rate": 0.03}
    plain, logs = (
        learned_opt.learn_start(
            family, KEY, **settings, floor=floor, num_problems=256, progress_bar=False
        )
        for floor in (None, 0.0)
    )
    np.testing.assert_allclose(plain["offset"], 1000 / 1001, atol=0.02)
    # By symmetry: y is 0 or 1 with the same probability.
    np.testing.assert_allclose(logs["offset"], 0.5, atol=0.1)


def test_a_floor_that_losses_lie_below():
    broken = learned_opt.Optimizee(
        lambda key: jax.random.normal(key),
        lambda key, y: jnp.zeros(()),
        lambda theta, y, key: (theta - y) ** 2 - 1.0,
    )
    with pytest.raises(ValueError, match="lower learning_rate, or raise floor"):
        learned_opt.learn_start(broken, KEY, hidden_sizes=None, floor=0.5, progress_bar=False)
    with pytest.raises(ValueError, match="floor must be 0 or a finite number above it, got -1"):
        learned_opt.learn_start(broken, KEY, floor=-1)
