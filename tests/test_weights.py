import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from experiments import art
from learned_opt import optimizees, weights

FOLDER = os.path.dirname(weights.__file__)
KEY = jax.random.key(3)


def test_the_papers_optimizers_ship():
    assert {
        "lstm-mnist",
        "rnnprop-mnist",
        "rnnprop-long",
        "gac-quadratic",
        "ntm-bfgs-quadratic",
        "neural-art",
    } <= set(learned_opt.PRETRAINED)


SLOW = ("lstm-cifar10",)  # a convolutional network
FEWEST_EPOCHS = {"lstm-cifar10": 6, "general": 5}  # few, but long


@pytest.mark.parametrize("name", learned_opt.PRETRAINED)
def test_a_card_says_where_weights_come_from_and_what_they_are_for(name):
    card = learned_opt.pretrained_card(name)
    info = card["info"]
    for field in (
        "recipe",
        "seed",
        "environment",
        "history",
        "good_for",
        "not_for",
        "about",
    ):
        assert info[field] not in (None, ""), field
    assert info["recipe"] == name
    assert info["environment"]["commit"]
    assert info["measured"] or info["suite"], "an optimizer ships with its measurements"
    assert len(info["history"]) >= FEWEST_EPOCHS.get(name, 10)
    sizes = [
        os.path.getsize(os.path.join(FOLDER, name + ending))
        for ending in (".safetensors", ".json", ".md")
    ]
    assert max(sizes) < 100_000


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name in SLOW else ())
        for name in learned_opt.PRETRAINED
    ],
)
def test_shipped_weights_minimize_what_they_have_not_seen(name):
    """Fresh functions of the family that they were trained on, or the base MLP on other images."""
    family = learned_opt.pretrained_card(name)["info"].get("family", "mlp")
    is_network = family in ("mlp", "tiny")
    if family == "neural_art":  # with features that it has not seen either
        problem = art.family(art.embedded(), "test", size=32, pool=4).family
    else:
        problem = optimizees.mlp("digits") if is_network else getattr(optimizees, family)()
    if family == "tiny":  # it is for networks as they usually begin
        problem = optimizees.mlp("digits", activation="relu", init_scale=None)
    losses = learned_opt.evaluate(learned_opt.pretrained(name), problem, KEY, 100, 4)
    most = 0.4 if family == "normalized_cnn" else 0.25  # its minibatches are small
    assert losses.mean(0)[100] < most * losses.mean(0)[0]


def test_a_pretrained_transformation_is_that_of_its_weights():
    opt, phi = learned_opt.load_pretrained("rnnprop-mnist")
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    gradient = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), params)
    update = {}
    for label, tx in {
        "by name": learned_opt.pretrained("rnnprop-mnist"),
        "by hand": opt.transform(phi),
    }.items():
        update[label] = tx.update(gradient, tx.init(params), params)[0]
    chex.assert_trees_all_equal(*update.values())
    assert all(np.all(u != 0) for u in jax.tree.leaves(update["by name"]))


def test_state_dtype():
    params = jnp.ones(4)
    whole, half = (
        learned_opt.pretrained("lstm-mnist", state_dtype=dtype).init(params)
        for dtype in (None, "bfloat16")
    )
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(whole)} == {jnp.dtype(jnp.float32)}


def test_an_unknown_name():
    with pytest.raises(
        ValueError, match=r"unknown weights 'lstm-mnits'\. Did you mean 'lstm-mnist'"
    ):
        learned_opt.pretrained("lstm-mnits")


def test_settings_of_an_architecture():
    tx = learned_opt.pretrained("general", num_steps=2, schedule="linear", weight_decay=0.1)
    theta = {"w": jnp.ones((3, 2))}
    state = tx.init(theta)
    update = jax.jit(tx.update)
    for _ in range(3):
        u, state = update(theta, state, theta)
    assert np.all(np.asarray(u["w"]) == 0)  # after its last step
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 1, got 0"):
        learned_opt.pretrained("general", num_steps=0)
    with pytest.raises(ValueError, match=r"'lstm' takes no argument 'num_steps'"):
        learned_opt.pretrained("lstm-mnist", num_steps=100)
    with pytest.raises(ValueError, match=r"the weights of general"):
        learned_opt.pretrained("general", num_steps=2, hidden_sizes=(3,))
