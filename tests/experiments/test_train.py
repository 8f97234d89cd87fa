"""Recipes, the program that carries them out, and shipping."""

import dataclasses
import json
import os
import pathlib
import shutil

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments import art, papers, recipes, ship, teachers, train, training
from experiments.families import Builder, FamilySpec
from experiments.recipe import Recipe
from learned_opt import _files, data, devices, optimizees, saving, weights
from learned_opt.estimators import Adjoint, Autodiff, Imitate, MetaLoss
from learned_opt.evaluation import baselines, comparison, report, statistics
from learned_opt.meta import settings
from tests.experiments.programs import in_process, program

SHORT = {
    "num_epochs": 3,
    "episodes_per_epoch": 1,
    "num_steps": 4,
    "num_problems": 1,
    "estimator": Adjoint(window=2, coordinates=20),
    "meta_loss": MetaLoss(weights=[0.0, 1.0]),
}
KEPT = pathlib.Path(__file__).parents[2] / "docs" / "measured"
DIGITS = data.load("digits")
TINY_CNN = {"structure": "p-p-c-f", "channels": 1, "batch_size": 2}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("trained"))
    [path] = training.run_recipe("rnnprop-mnist", None, workdir, "digits", **SHORT)
    return path


def test_training_leaves_weights_card_snapshots_and_a_picture(trained):
    workdir = os.path.dirname(trained)
    assert {"optimizer.safetensors", "optimizer.json", "training.png", "snapshots"} <= set(
        os.listdir(workdir)
    )
    stems = {f.split(".")[0] for f in os.listdir(os.path.join(workdir, "snapshots"))}
    assert stems == {"1", "2", "3"}
    opt, phi = learned_opt.load(trained)
    assert opt.spec["name"] == "rnnprop"
    last = learned_opt.load(os.path.join(workdir, "snapshots", "3.safetensors"))[1]
    chex.assert_trees_all_equal(phi, last)


def test_a_card_is_written_from_its_recipe(trained):
    info = saving.read_card(trained)["info"]
    assert (info["recipe"], info["seed"], info["dataset"]) == ("rnnprop-mnist", 0, "digits")
    assert info["trained_on"] == (
        "digits, a perceptron with 1 x 20 hidden sigmoid units, minibatches of 128, "
        "theta_0 ~ N(0, 0.1), Random Scaling with L = 3, combined with convex functions"
    )
    assert (info["family"], info["scaling"], info["convex"]) == ("mlp", 3.0, True)
    assert info["meta_training"]["estimator"]["coordinates"] == 20
    assert info["meta_training"]["meta_loss"]["weights"] == [0.0, 1.0]
    assert info["meta_training"]["validation"]["selection"] == "training"
    assert len(info["history"]) == 3
    assert info["environment"]["versions"]["jax"] == jax.__version__


def test_another_run_finds_it_done(trained):
    before = saving.read_card(trained)["sha256"]
    workdir = os.path.dirname(trained)
    [again] = training.run_recipe("rnnprop-mnist", None, workdir, "digits", **SHORT)
    assert again == trained
    assert saving.read_card(trained)["sha256"] == before


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match=r"unknown recipe 'lstm-mnis'\. Did you mean 'lstm-mnist'"):
        training.run_recipe("lstm-mnis", None, "unused")


def test_on_embedded_pictures_a_training_takes_minutes(tmp_path, monkeypatch, capsys):
    """With smaller pictures for fewer epochs, unless somebody says another number."""
    prepared = []

    def carry_out(one, workdir, num_snapshots):
        prepared.append(one)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "carry_out", carry_out)
    changes = {"family.arguments.pool": 2, "validation_family.arguments.pool": 2}
    changes["family.arguments.size"] = 16
    with pytest.raises(KeyboardInterrupt):
        training.run_recipe("neural-art", None, str(tmp_path), changes=changes)
    [one] = prepared
    assert one.recipe.family.arguments["size"] == 16
    assert one.recipe.validation_family.arguments["size"] == 32
    assert one.recipe.num_epochs == 5
    assert "it takes minutes, with family.arguments.size=32, " in capsys.readouterr().out
    assert "16 x 16" in one.card["trained_on"]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_s_settings_are_possible(name):
    recipe = recipes.RECIPES[name]
    subject = recipe.family.build(_data_of(recipe))
    opt = recipe.learned_optimizer()
    checked = settings.check(opt, subject.family, KEY, **recipe.settings())
    assert checked.num_problems == recipe.num_problems
    assert recipe.num_epochs >= training.SNAPSHOTS
    parts = opt.spec["args"]["optimizers"].values() if recipe.parts else [opt.spec]
    assert {part["name"] for part in parts} == {recipe.architecture}
    words = recipe.trained_on("digits")
    assert ("digits" in words) == recipe.needs_data
    json.dumps(recipe.card("digits"))


def _data_of(recipe):
    return art.embedded() if recipe.family.builder.of_pictures else _even_digits()


def _even_digits():
    """Digits with sides that the recipes' factors divide."""
    few = DIGITS.train._replace(images=DIGITS.train.images[:10], labels=np.arange(10))
    return data.Splits(few, few)


def test_the_long_recipe_is_imitation_over_three_horizons():
    prepared = training.prepare(recipes.RECIPES["rnnprop-long"], "digits", _even_digits())
    mixture = prepared.settings["estimator"]
    assert (mixture.horizons, prepared.settings["num_steps"]) == ((100, 1_000), 10_000)
    assert isinstance(mixture.estimator, Imitate)
    assert (mixture.window, mixture.estimator.coordinates) == (25, 1_000)
    assert prepared.card["horizons"] == [100, 1_000, 10_000]
    assert prepared.card["teacher"] == "rnnprop-mnist, then Adam with 0.02 / (1 + t / 1500)"


@pytest.mark.thorough
def test_a_convolutional_network_is_trained_on(tmp_path):
    """The recipe of the library, with a smaller network."""
    family = dataclasses.replace(recipes.RECIPES["rnnprop-cnn"].family, arguments=TINY_CNN)
    [path] = training.run_recipe(
        "rnnprop-cnn", None, str(tmp_path), "digits", family=family, **{**SHORT, "num_epochs": 1}
    )
    opt, phi = learned_opt.load(path)
    chex.assert_tree_all_finite(phi)
    before = opt.init(jax.random.split(jax.random.key(0), 4)[0])
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), phi, before)
    assert max(jax.tree.leaves(moved)) > 0
    info = saving.read_card(path)["info"]
    assert info["family_arguments"] == TINY_CNN
    assert "a convolutional network p-p-c-f with 1 channels and relu units" in info["trained_on"]


class Tiny(nn.Module):
    """A network of a user's own."""

    num_classes: int
    width: int = 2

    @nn.compact
    def __call__(self, images):
        x = nn.tanh(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(x)


def bowl(dim):
    """A family of a user's own."""

    def init(key, instance):
        del instance
        return jax.random.normal(key, (dim,))

    def loss(theta, instance, key):
        del instance, key
        return jnp.sum(theta**2)

    return optimizees.Optimizee(lambda key: (), init, loss)


OWN = {
    "network": Recipe(
        "An LSTM for a network of one's own",
        "lstm",
        "nowhere",
        family=FamilySpec("classifier", {"network": Tiny, "width": 3, "init_scale": None}),
        dataset="digits",
    ),
    "family": Recipe(
        "A small MLP for a family of one's own",
        "small_fc_lopt",
        "nowhere",
        preset=None,
        family=FamilySpec(Builder(bowl, "bowls in {dim} dimensions"), {"dim": 3}),
    ),
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(
            "network",
            "digits, the network tests.experiments.test_train.Tiny, minibatches of 128, "
            "theta_0 of the network's own initializers",
            marks=pytest.mark.thorough,
        ),
        ("family", "bowls in 3 dimensions"),
    ],
)
def test_a_recipe_of_one_s_own_is_one_entry(name, words, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "mine", OWN[name])
    short = {**SHORT, "num_epochs": 1}
    if name == "family":
        short["estimator"] = Autodiff(window=2)
    [path] = training.run_recipe("mine", None, str(tmp_path), **short)
    info = saving.read_card(path)["info"]
    assert info["trained_on"] == words
    assert info["recipe"] == "mine"


@pytest.mark.thorough
def test_several_seeds_are_one_program(tmp_path, monkeypatch):
    """Each has weights, card, snapshots and a picture of its own."""
    own = dataclasses.replace(OWN["family"], estimator=Autodiff(window=2), num_problems=2)
    monkeypatch.setitem(recipes.RECIPES, "mine", own)
    short = {**SHORT, "estimator": Autodiff(window=2), "num_problems": 2, "shards": 2}
    with devices.use(jax.devices()[:2]):
        paths = training.run_recipe(
            "mine", None, str(tmp_path), seed=4, num_seeds=2, **{**short, "num_epochs": 3}
        )
    assert [os.path.relpath(path, tmp_path) for path in paths] == [
        "seed-4/optimizer.safetensors",
        "seed-5/optimizer.safetensors",
    ]
    phis = [learned_opt.load(path)[1] for path in paths]
    assert not np.allclose(*(jax.tree.leaves(phi)[0] for phi in phis))
    for path, phi, seed in zip(paths, phis, (4, 5), strict=True):
        info = saving.read_card(path)["info"]
        assert info["seed"] == seed
        assert [entry["epoch"] for entry in info["history"]] == [1, 2, 3]
        folder = os.path.dirname(path)
        assert {"training.png", "snapshots"} <= set(os.listdir(folder))
        _, last = learned_opt.load(os.path.join(folder, "snapshots", "3"))
        chex.assert_trees_all_equal(last, phi)


def test_an_unknown_family():
    with pytest.raises(ValueError, match=r"unknown family 'mpl'. Did you mean 'mlp'"):
        FamilySpec("mpl").build(DIGITS)


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


TRAIN = [
    "--recipe=lstm-quadratic",
    "--num_epochs=3",
    "--episodes_per_epoch=1",
]


@pytest.mark.thorough
def test_from_the_command_line_interrupted_and_resumed(tmp_path, monkeypatch, capsys):
    """A training goes on where it was stopped, to the weights of one that was not stopped."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert in_process(train, *TRAIN, f"--workdir={whole}") == 0
    assert "opt, phi = learned_opt.load(path)" in capsys.readouterr().out
    save = training._save

    def interrupted(*args, **course):
        save(*args, **course)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", interrupted)  # in the callback of the first epoch
        assert in_process(train, *TRAIN, f"--workdir={parts}") == 130
    assert [path.stem for path in (parts / "snapshots").glob("*.json")] == ["1"]
    assert in_process(train, *TRAIN, f"--workdir={parts}") == 0
    cards = [saving.read_card(folder / "optimizer") for folder in (whole, parts)]
    assert cards[0]["sha256"] == cards[1]["sha256"]


@pytest.mark.thorough
def test_the_command(tmp_path):
    done = program("train", *TRAIN, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "training.png").exists()


@pytest.fixture
def measured(tmp_path):
    """What is kept of one figure with three cases, in one of which nothing is ours."""
    shift = {"rnnprop-mnist": 0.0, "Adam": 0.1, "NAG": 0.05}
    rng = np.random.default_rng(0)
    hardness = rng.lognormal(size=(20, 1))
    kinds = {name: "learned" if "-" in name else "tuned" for name in shift}
    one = np.ones(1)
    compared = comparison.Comparison(
        curves={name: hardness + by for name, by in shift.items()},
        tuned={
            name: baselines.Tuned(name, 0.01, 1.0, None, one, one, one, (0.01,))
            for name in ("Adam", "NAG")
        },
        measures={
            name: {"loss on all data": 3 * hardness[:, 0] - by} for name, by in shift.items()
        },
        costs={},
        kinds=kinds,
    )
    rows = report.summary(compared, (0,))
    on_all = report.summary(compared, (0,), "loss on all data")
    for row in (*rows.values(), *on_all.values()):
        row["paper"] = None
    finals = {"mlp-100": (None, rows), "mlp-9": ("loss on all data", on_all), "other": (None, {})}
    cases = {
        folder: {"about": {"final": final}, "rows": rows}
        for folder, (final, rows) in finals.items()
    }
    kept = tmp_path / "measured"
    _files.write_json(kept / "l2l-fig4.json", {"figure": "l2l-fig4", "cases": cases})
    return kept


def test_shipping_writes_weights_and_both_cards(trained, measured, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    assert ship.ship("rnnprop-mnist", os.path.dirname(trained), str(measured), str(folder)) == 2
    assert learned_opt.load(folder / "rnnprop-mnist")[0].spec["name"] == "rnnprop"
    info = saving.read_card(folder / "rnnprop-mnist")["info"]
    case, on_all = info["measured"]
    assert (case["case"], case["best_baseline"], case["runs"]) == ("mlp-100", "NAG", 20)
    assert case["optimizers"]["Adam"]["learning_rate"] == 0.01
    assert on_all["best_baseline"] == "Adam"
    text = (folder / "rnnprop-mnist.md").read_text()
    assert "- mlp-100: " in text
    assert "below NAG (the best tuned baseline) by 0.05 [0.05, 0.05]; below Adam by 0.1 [" in text
    assert "above Adam (the best tuned baseline) by 0.1 [0.1, 0.1]" in text
    assert f"- Trained on: {info['trained_on']}; horizons 4, windows of 2; seed 0; 3 ep" in text
    assert "- Other than in the papers: meta-gradients are estimates from 1,000 coord" in text


def test_cards_alone_are_written_anew(measured, tmp_path, capsys):
    """The weights stay as they are, to the bit."""
    folder = tmp_path / "weights"
    shutil.copytree(os.path.dirname(weights.__file__), folder)
    before = (folder / "rnnprop-mnist.safetensors").read_bytes()
    assert ship.renew("rnnprop-mnist", str(measured), str(folder)) == 2
    assert (folder / "rnnprop-mnist.safetensors").read_bytes() == before
    assert "below NAG" in (folder / "rnnprop-mnist.md").read_text()
    assert in_process(ship, "--recipe=lstm-small", "--cards_only") == 1
    assert "unknown weights 'lstm-small'" in capsys.readouterr().err


@pytest.mark.parametrize("name", learned_opt.PRETRAINED)
def test_cards_that_ship_say_what_was_measured(name):
    """The page beside the weights is what the card's data say: no number was changed by hand."""
    info = learned_opt.pretrained_card(name)["info"]
    path = os.path.join(os.path.dirname(weights.__file__), f"{name}.md")
    with open(path, encoding="utf-8") as f:
        assert f.read() == ship.describe(name, info)
    assert info["departures"] == recipes.RECIPES[name].departures()
    assert info["measured"] == ship.measured(name, info["seed"], str(KEPT))
    for case in info["measured"]:
        assert case["runs"] >= statistics.LEAST_RUNS


def test_each_part_of_the_parameters_has_an_lstm_of_its_own():
    recipe = recipes.RECIPES["lstm-cifar10"]
    family = recipe.family.build(DIGITS).family
    theta = jax.eval_shape(family.init, KEY, ())
    opt = recipe.learned_optimizer()
    labels = opt.parts.label_fn(theta)
    assert labels["conv_2"] == {"kernel": "conv", "norm": {"scale": "conv", "bias": "conv"}}
    assert set(jax.tree.leaves([labels["dense_0"], labels["logits"]])) == {"fc"}
    # Weights of one LSTM are where each of the two begins; those of two are taken as they are.
    begun = dataclasses.replace(recipe, start="lstm-mnist").weights()
    _, shipped = learned_opt.load_pretrained("lstm-mnist")
    assert sorted(begun) == ["conv", "fc"]
    jax.tree.map(np.testing.assert_array_equal, begun["conv"], shipped)


def test_lstm_sub_has_seen_no_label_of_the_subsets():
    seen = set(recipes.RECIPES["lstm-cifar10-sub"].family.labels)
    subsets = [set(case.family.labels) for case in papers.FIGURES["l2l-fig7"].cases[1:]]
    assert [len(labels) for labels in subsets] == [5, 2]
    assert not seen & set.union(*subsets)


def test_departures_from_the_papers():
    """What the issue found untold: selection, a search of the rate, clipping, estimates."""
    told = "; ".join(recipes.RECIPES["lstm-mnist"].departures())
    for words in ("1,000 coordinates", "clipped to the norm 1", "random search", "not selected"):
        assert words in told
    assert recipes.RECIPES["lstm-mnist-paper"].departures() == []
    assert recipes.RECIPES["rnnprop-mnist-paper"].departures() == []
    for name in ("lstm-mnist-paper", "rnnprop-mnist-paper"):
        settings = recipes.RECIPES[name].settings()
        assert settings["estimator"].coordinates is None
        assert isinstance(settings["learning_rate"], learned_opt.RandomSearch)
        assert settings["optimizer"].clip_norm is None


def test_going_on_from_weights_that_ship():
    recipe = recipes.RECIPES["rnnprop-long-nres"]
    _, shipped = learned_opt.load_pretrained("rnnprop-long")
    jax.tree.map(np.testing.assert_array_equal, recipe.weights(), shipped)
    assert recipes.RECIPES["lstm-mnist"].weights() is None
