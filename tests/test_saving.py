"""Optimizers as files: what was written comes back exactly, and nothing else is taken for it."""

import json
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy

import learned_opt
from learned_opt import _files, saving

THETA = {"conv": {"kernel": jnp.ones((2, 2))}, "dense": {"kernel": jnp.arange(3.0)}}


def by_function(theta):
    return {k: "a" if k == "conv" else "b" for k in theta}


def small_partition(label_fn):
    return learned_opt.partition(
        {
            "a": learned_opt.lstm("mnist", hidden_sizes=(3,)),
            "b": learned_opt.lstm(hidden_sizes=(2, 2), state_dtype="bfloat16"),
        },
        label_fn,
    )


def updates(opt, phi):
    tx = opt.transform(phi)
    return jax.jit(lambda g: tx.update(g, tx.init(THETA), THETA)[0])(THETA)


@pytest.fixture
def saved(tmp_path):
    """A small saved optimizer: its path, the optimizer and its weights."""
    path = tmp_path / "optimizer.safetensors"
    opt = learned_opt.lstm("mnist", hidden_sizes=(3,))
    phi = opt.init(jax.random.key(0))
    learned_opt.save(path, opt, phi)
    return path, opt, phi


# Round trips


@pytest.mark.parametrize(
    "make",
    [
        lambda: learned_opt.lstm("mnist"),
        lambda: learned_opt.lstm_gac(hidden_sizes=(4, 3), num_averaged=2),
        lambda: learned_opt.ntm_bfgs(
            hidden_sizes=(3,), num_averaged=1, num_reads=2, num_writes=1, memory_scale=0.5
        ),
        lambda: learned_opt.ntm_lbfgs("mnist", hidden_sizes=(3,), num_averaged=0, history=4),
        lambda: learned_opt.lstm(
            hidden_sizes=(3, 2), preprocess_p=7.5, output_scale=0.3, state_dtype="bfloat16"
        ),
        lambda: small_partition({"conv/*": "a", "*": "b"}),
        lambda: small_partition(by_function),
        lambda: learned_opt.partition({"x": small_partition({"*": "a"})}, {"*": "x"}),
        lambda: learned_opt.small_fc_lopt(momenta=(0.5,), factored=(0.7, 0.8)),
    ],
    ids=[
        "preset",
        "gac",
        "ntm-bfgs",
        "ntm-lbfgs",
        "arguments",
        "patterns",
        "function",
        "nested",
        "small-fc",
    ],
)
def test_round_trip_is_exact(tmp_path, make):
    opt = make()
    phi = opt.init(jax.random.key(0))
    path = tmp_path / "new" / "optimizer.safetensors"
    learned_opt.save(path, opt, phi)
    has_function = opt.parts is not None and opt.spec["args"]["label_fn"] is None
    loaded, loaded_phi = learned_opt.load(path, by_function if has_function else None)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded_phi, phi)
    chex.assert_trees_all_equal(loaded_phi, phi)
    assert loaded.spec == opt.spec
    assert loaded == opt
    chex.assert_trees_all_equal(updates(loaded, loaded_phi), updates(opt, phi))


def test_the_path_may_be_a_string_without_a_suffix(tmp_path, saved):
    _, opt, phi = saved
    learned_opt.save(str(tmp_path / "other"), opt, phi)
    assert sorted(os.listdir(tmp_path)) == [
        "optimizer.json",
        "optimizer.safetensors",
        "other.json",
        "other.safetensors",
    ]
    chex.assert_trees_all_equal(learned_opt.load(str(tmp_path / "other"))[1], phi)


def test_scalars_bfloat16_and_fortran_order(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    phi = opt.init(jax.random.key(0))
    phi["output"]["b"] = jnp.float32(-1.5)
    phi["layers"][0]["b"] = phi["layers"][0]["b"].astype(jnp.bfloat16)
    phi["layers"][0]["w"] = np.asfortranarray(phi["layers"][0]["w"])
    learned_opt.save(tmp_path / "o", opt, phi)
    _, loaded = learned_opt.load(tmp_path / "o")
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, phi)
    chex.assert_trees_all_equal(loaded, phi)
    assert loaded["output"]["b"].shape == ()
    assert float(loaded["output"]["b"]) == -1.5


def test_float64(tmp_path, x64):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    phi = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) / 3, opt.init(jax.random.key(0)))
    learned_opt.save(tmp_path / "o", opt, phi)
    _, loaded = learned_opt.load(tmp_path / "o")
    chex.assert_trees_all_equal_dtypes(loaded, phi)
    chex.assert_trees_all_equal(loaded, phi)


def test_the_card(tmp_path):
    opt = learned_opt.lstm("mnist", hidden_sizes=(3,))
    learned_opt.save(
        tmp_path / "o", opt, opt.init(jax.random.key(0)), info={"steps": 100, "losses": [2.0, 1.0]}
    )
    card = json.loads((tmp_path / "o.json").read_text())
    assert card["format"] == "learned_opt optimizer"
    assert card["format_version"] == 1
    assert card["spec"] == opt.spec
    assert card["weights"] == "o.safetensors"
    assert card["num_weights"] == 12 * 5 + 12 + 3 + 1
    assert card["info"] == {"steps": 100, "losses": [2.0, 1.0]}
    assert saving.read_card(tmp_path / "o") == card


def test_the_weights_stand_by_themselves(saved):
    path, opt, phi = saved
    path.with_suffix(".json").unlink()
    loaded, loaded_phi = learned_opt.load(path)
    assert loaded.spec == opt.spec
    assert saving.read_card(path) is None
    chex.assert_trees_all_equal(loaded_phi, phi)


def test_a_labelling_function_is_asked_for(tmp_path):
    opt = small_partition(by_function)
    learned_opt.save(tmp_path / "o", opt, opt.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"built with a labelling function.*label_fn="):
        learned_opt.load(tmp_path / "o")


# One's own architecture


def momentum(decay, rate=0.1, name="momentum"):
    """Somebody's own architecture: `decay` is a setting, the rate is learned."""

    def update(phi, g, m):
        m = decay * m + g
        return -phi["rate"] * m[0], m

    rule = learned_opt.CoordinateRule(lambda dtype: jnp.zeros(1, dtype), update)
    spec = {"name": name, "args": {"decay": decay, "rate": rate}}
    return learned_opt.from_rule(rule, lambda key: {"rate": jnp.float32(rate)}, spec)


@pytest.mark.parametrize("place", ["alone", "in a partition"])
def test_ones_own_architecture(tmp_path, place):
    opt = momentum(0.5, rate=0.25)
    if place != "alone":
        opt = learned_opt.partition({"a": opt, "b": learned_opt.lstm()}, {"conv/*": "a", "*": "b"})
    phi = opt.init(jax.random.key(0))
    learned_opt.save(tmp_path / "mine", opt, phi)
    loaded, loaded_phi = learned_opt.load(tmp_path / "mine", architectures={"momentum": momentum})
    assert loaded.spec == opt.spec
    chex.assert_trees_all_equal(loaded_phi, phi)
    chex.assert_trees_all_equal(updates(loaded, loaded_phi), updates(opt, phi))
    with pytest.raises(
        ValueError, match=r"unknown architecture 'momentum'.*architectures=\{'momentum': build\}"
    ):
        learned_opt.load(tmp_path / "mine")
    with pytest.raises(
        ValueError, match=r"unknown architecture 'momentum'\. Did you mean 'momentun'"
    ):
        learned_opt.load(tmp_path / "mine", architectures={"momentun": momentum})


def test_an_architecture_that_builds_something_else_is_told(tmp_path):
    opt = momentum(0.5)
    learned_opt.save(tmp_path / "mine", opt, opt.init(jax.random.key(0)))

    def other_weights(decay, rate):
        return momentum(decay, rate)._replace(init=lambda key: {"log_rate": jnp.float32(rate)})

    for build, message in (
        (lambda decay, rate: optax.sgd(rate), "must be a LearnedOptimizer, got Gradient"),
        (lambda decay: momentum(decay), "'momentum' takes no argument 'rate'"),
        (other_weights, "does not hold the weights of its optimizer.*'log_rate', 'rate'"),
    ):
        with pytest.raises(ValueError, match=message):
            learned_opt.load(tmp_path / "mine", architectures={"momentum": build})


def test_no_architecture_has_the_name_of_one_of_the_library(tmp_path):
    opt = momentum(0.5, name="lstm")._replace(spec=learned_opt.lstm().spec)
    with pytest.raises(
        ValueError, match="the name 'lstm', and what it builds is another optimizer"
    ):
        learned_opt.save(tmp_path / "mine", opt, opt.init(jax.random.key(0)))
    opt = momentum(0.5)
    learned_opt.save(tmp_path / "mine", opt, opt.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="must not have the name 'lstm', which is one of the lib"):
        learned_opt.load(tmp_path / "mine", architectures={"lstm": momentum})


def test_a_digest_identifies_weights(saved):
    path, opt, phi = saved
    assert saving.digest(opt.spec, phi) == saving.read_card(path)["sha256"]
    changed = jax.tree.map(lambda x: x + 1e-6, phi)
    others = {saving.digest(None, phi), saving.digest(opt.spec, changed)}
    assert len(others | {saving.digest(opt.spec, phi)}) == 3


# What is refused before anything is written


def not_finite(phi):
    phi["layers"][0]["w"] = phi["layers"][0]["w"].at[0, 0].set(jnp.nan)
    return phi


@pytest.mark.parametrize(
    ("make", "change", "info", "message"),
    [
        (
            lambda: learned_opt.from_optax(optax.sgd(1.0)),
            dict,
            None,
            "opt cannot be saved, .* holds functions that no file can hold",
        ),
        (
            lambda: learned_opt.partition(
                {"a": learned_opt.from_optax(optax.sgd(1.0))}, {"*": "a"}
            ),
            dict,
            None,
            "opt cannot be saved, .* holds functions that no file can hold",
        ),
        (
            lambda: learned_opt.lstm(hidden_sizes=(3,)),
            lambda phi: {**phi, "more": jnp.ones(1)},
            None,
            "phi have the leaf more",
        ),
        (
            lambda: learned_opt.lstm(hidden_sizes=(3,)),
            lambda phi: learned_opt.lstm().init(jax.random.key(0)),
            None,
            "phi have the leaf layers/1/b",
        ),
        (
            lambda: learned_opt.lstm(hidden_sizes=(3,)),
            not_finite,
            None,
            "phi is not finite at layers/0/w",
        ),
        (
            lambda: learned_opt.lstm(hidden_sizes=(3,)),
            dict,
            {"when": object()},
            "info must be plain data",
        ),
        (
            lambda: learned_opt.partition({"x": small_partition(by_function)}, {"*": "x"}),
            dict,
            None,
            "inside another one cannot be saved with a labelling function",
        ),
        (
            lambda: momentum(object()),
            dict,
            None,
            "opt.spec must be plain data",
        ),
        (
            lambda: momentum(0.5)._replace(init=lambda key: {"a": {"b": 1.0}, "a/b": 2.0}),
            dict,
            None,
            "two leaves of phi have the name 'a/b'",
        ),
    ],
    ids=[
        "from_optax",
        "from_optax-inside",
        "more-weights",
        "other-weights",
        "nan",
        "info",
        "function-inside",
        "spec",
        "equal-names",
    ],
)
def test_what_cannot_be_saved(tmp_path, make, change, info, message):
    opt = make()
    with pytest.raises(ValueError, match=message):
        learned_opt.save(tmp_path / "o", opt, change(opt.init(jax.random.key(0))), info)
    assert not os.listdir(tmp_path)


def test_an_optax_transformation_is_not_a_learned_optimizer(tmp_path):
    with pytest.raises(ValueError, match="opt must be a LearnedOptimizer"):
        learned_opt.save(tmp_path / "o", optax.sgd(1.0), {})


# Files that are not what they say


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere.safetensors"):
        learned_opt.load(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 100, 0.5, 0.9, -1])
def test_truncated(saved, length):
    path, _, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    with pytest.raises(ValueError, match=f"{path} is truncated or is no safetensors file"):
        learned_opt.load(path)


@pytest.mark.parametrize("offset", [-1, -2, -100])
def test_changed_byte_in_the_weights(saved, offset):
    path, _, _ = saved
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} was changed after it was written"):
        learned_opt.load(path)


@pytest.mark.parametrize("has_card", [True, False])
def test_changed_description_in_the_weights(saved, has_card):
    path, _, _ = saved
    content = path.read_bytes()
    assert content.count(b'output_scale\\": 0.1') == 1
    path.write_bytes(content.replace(b'output_scale\\": 0.1', b'output_scale\\": 0.9'))
    if not has_card:
        path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=f"{path}"):
        learned_opt.load(path)


def test_no_byte_can_change_unnoticed(saved):
    """In the description and in the weights, one at a time, without the card."""
    path, _, _ = saved
    path.with_suffix(".json").unlink()
    content = path.read_bytes()

    def is_refused(offset):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :])
        try:
            learned_opt.load(path)
        except ValueError as error:
            return str(path) in str(error)
        return False

    assert [offset for offset in range(0, len(content), 3) if not is_refused(offset)] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.update(sha256="0" * 64),
        lambda card: card["spec"]["args"].update(output_scale=10.0),
        lambda card: card.pop("spec"),
    ],
)
def test_changed_card(saved, change):
    path, _, _ = saved
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text())
    change(card)
    card_path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"{card_path} does not belong to {path}"):
        learned_opt.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is truncated or is no JSON file"),
        (b"\xff\xfe", "is truncated or is no JSON file"),
        (b"[]", "was not written by learned_opt.save"),
        (b'{"format": "something else"}', "was not written by learned_opt.save"),
        (b'{"format": "learned_opt optimizer"}', "no valid format version: None"),
        (
            b'{"format": "learned_opt optimizer", "format_version": "1"}',
            "no valid format version: '1'",
        ),
        (b'{"format": "learned_opt optimizer", "format_version": 0}', "no valid format version: 0"),
        (
            b'{"format": "learned_opt optimizer", "format_version": 99}',
            "format version 99, newer than 1.*upgrade",
        ),
    ],
)
def test_cards_that_are_no_cards(saved, content, message):
    path, _, _ = saved
    path.with_suffix(".json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.with_suffix('.json')} .*{message}"):
        learned_opt.load(path)


def rewrite(path, change):
    """Writes the weights again with another description."""
    with safetensors.safe_open(path, framework="np") as f:
        header = json.loads(f.metadata()["learned_opt"])
    arrays = safetensors.numpy.load_file(path)
    change(header, arrays)
    safetensors.numpy.save_file(arrays, path, metadata={"learned_opt": json.dumps(header)})
    path.with_suffix(".json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header, arrays: header.update(format_version=2),
            "format version 2, newer than 1.*upgrade",
        ),
        (
            lambda header, arrays: header.update(format="other"),
            "was not written by learned_opt.save",
        ),
        (lambda header, arrays: header.pop("sha256"), "changed"),
        (lambda header, arrays: header.pop("spec"), "changed"),
        (lambda header, arrays: arrays.pop("output/b"), "changed"),
        (lambda header, arrays: arrays.update(more=np.ones(1, np.float32)), "changed"),
    ],
)
def test_other_descriptions(saved, change, message):
    path, _, _ = saved
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"{path} .*{message}"):
        learned_opt.load(path)


def test_random_bytes(tmp_path):
    (tmp_path / "o.safetensors").write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=r"o.safetensors is truncated or is no safetensors file"):
        learned_opt.load(tmp_path / "o")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"learned_opt": "null"}, {"learned_opt": "[1]"}]
)
def test_safetensors_of_somebody_else(tmp_path, metadata):
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "o.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"was not written by learned_opt.save"):
        learned_opt.load(tmp_path / "o")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "o.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"o.safetensors is truncated or is no safetensors file"):
        learned_opt.load(tmp_path / "o")


# Whole or not at all


def fail_in_the_middle(monkeypatch, error):
    def write_half(arrays, path, metadata):
        del arrays, metadata
        with open(path, "wb") as f:
            f.write(b"half")
        raise error

    monkeypatch.setattr(safetensors.numpy, "save_file", write_half)


@pytest.mark.parametrize(
    "error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
def test_a_failed_save_leaves_the_old_one(saved, monkeypatch, error):
    path, opt, phi = saved
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    fail_in_the_middle(monkeypatch, error)
    with pytest.raises(type(error)):
        learned_opt.save(path, opt, jax.tree.map(lambda x: 2 * x, phi))
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    chex.assert_trees_all_equal(learned_opt.load(path)[1], phi)


def test_a_failed_first_save_leaves_nothing(tmp_path, monkeypatch):
    opt = learned_opt.lstm(hidden_sizes=(3,))
    fail_in_the_middle(monkeypatch, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        learned_opt.save(tmp_path / "o", opt, opt.init(jax.random.key(0)))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_save_that_ends_between_its_files_leaves_an_optimizer(saved, monkeypatch, nth):
    """Killed before one of the two files takes its name: the old one or the new, never neither."""
    path, opt, phi = saved
    replace, calls = os.replace, []

    def replace_until(source, target):
        calls.append(target)
        if len(calls) == nth:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(_files.os, "replace", replace_until)
    new_phi = jax.tree.map(lambda x: 2 * x, phi)
    with pytest.raises(KeyboardInterrupt):
        learned_opt.save(path, opt, new_phi)
    monkeypatch.undo()
    assert not [name for name in os.listdir(path.parent) if "partial" in name]
    _, loaded = learned_opt.load(path)
    chex.assert_trees_all_equal(loaded, phi if nth == 1 else new_phi)
    learned_opt.save(path, opt, new_phi)
    chex.assert_trees_all_equal(learned_opt.load(path)[1], new_phi)
