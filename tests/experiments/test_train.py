"""Recipes, the program that carries them out, and shipping."""

import json
import os

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments import recipes, ship, teachers, train
from learned_opt import saving

SHORT = {
    "num_epochs": 3,
    "episodes_per_epoch": 1,
    "num_validation": 1,
    "horizons": (4,),
    "window": 2,
    "num_problems": 1,
    "coordinates": 20,
    "dataset": "digits",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("trained"))
    return train.run_recipe("rnnprop-mnist", None, workdir, **SHORT)


def test_training_leaves_weights_card_snapshots_and_a_picture(trained):
    workdir = os.path.dirname(trained)
    assert {"optimizer.safetensors", "optimizer.json", "training.png", "snapshots"} <= set(
        os.listdir(workdir)
    )
    stems = {f.split(".")[0] for f in os.listdir(os.path.join(workdir, "snapshots"))}
    assert stems == {"1", "2", "3"}
    info = saving.read_card(trained)["info"]
    assert (info["recipe"], info["seed"], info["dataset"], info["selection"]) == (
        "rnnprop-mnist",
        0,
        "digits",
        "training",
    )
    assert len(info["history"]) == 3
    opt, phi = learned_opt.load(trained)
    assert opt.spec["name"] == "rnnprop"
    last = learned_opt.load(os.path.join(workdir, "snapshots", "3.safetensors"))[1]
    chex.assert_trees_all_equal(phi, last)


def test_another_run_finds_it_done(trained):
    before = saving.read_card(trained)["sha256"]
    assert train.run_recipe("rnnprop-mnist", None, os.path.dirname(trained), **SHORT) == trained
    assert saving.read_card(trained)["sha256"] == before


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match=r"unknown recipe 'lstm-mnis'\. Did you mean 'lstm-mnist'"):
        train.run_recipe("lstm-mnis", None, "unused")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_s_settings_are_possible(name):
    recipe = recipes.RECIPES[name]
    assert all(horizon % recipe.window == 0 for horizon in recipe.horizons)
    assert recipe.num_epochs >= recipes.SNAPSHOTS
    assert recipe.settings()["num_problems"] == recipe.num_problems
    assert recipe.optimizer().spec["name"] == recipe.architecture


def test_a_teacher_hands_over():
    """The first one alone at step 0, half of each at step `time`, the second one in the end."""
    tx = teachers.hand_over(optax.sgd(1.0), optax.sgd(lambda count: 3.0 + count / 10), time=2)
    state, updates = tx.init(jnp.zeros(())), []
    for _ in range(101):
        u, state = tx.update(jnp.ones(()), state)
        updates.append(float(-u))
    assert updates[0] == 1.0
    np.testing.assert_allclose(updates[2], (1.0 + 3.2) / 2, rtol=1e-6)
    np.testing.assert_allclose(updates[100], 1.0 + 12.0 * 100**2 / (100**2 + 2**2), rtol=1e-6)


def row(mean, rate=None):
    return {
        "learning_rate": rate,
        "diverged": 0.0,
        "loss": {"100": {"mean": mean, "low": mean, "high": mean}},
    }


def test_shipping_writes_weights_and_both_cards(trained, tmp_path):
    results, folder = tmp_path / "results" / "figure", tmp_path / "weights"
    results.mkdir(parents=True)
    folder.mkdir()
    rows = {"rnnprop-mnist": row(0.3), "Adam": row(0.4, 0.01), "NAG": row(0.35, 0.1)}
    on_all = {
        name: {**row, "measure": {"loss on all data": {"mean": mean, "low": mean, "high": mean}}}
        for (name, row), mean in zip(rows.items(), (0.1, 0.2, 0.3), strict=True)
    }
    (results / "summary.json").write_text(
        json.dumps({"figure": "figure", "cases": {"mlp-100": rows, "mlp-9": on_all, "other": {}}})
    )
    assert ship.ship("rnnprop-mnist", os.path.dirname(trained), tmp_path, str(folder)) == 2
    assert learned_opt.load(folder / "rnnprop-mnist")[0].spec["name"] == "rnnprop"
    case, measured = saving.read_card(folder / "rnnprop-mnist")["info"]["measured"]
    assert (case["case"], case["best_baseline"]) == ("mlp-100", "NAG")
    assert case["optimizers"]["Adam"]["learning_rate"] == 0.01
    assert (measured["best_baseline"], measured["optimizers"]["Adam"]["loss"]["mean"]) == (
        "Adam",
        0.2,
    )
    text = (folder / "rnnprop-mnist.md").read_text()
    line = "| mlp-100 | loss of the last minibatch | 0.3 [0.3, 0.3] | 0.4 [0.4, 0.4] | NAG 0.35 [0.35, 0.35] | 0 %"
    assert line in " ".join(text.split())
