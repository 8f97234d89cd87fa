"""Looking at an optimizer: against `unroll`, optax step by step, and formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizees
from learned_opt.evaluation import plots
from learned_opt.meta.watching import OWN

KEY = jax.random.key(0)
QUADRATIC = optimizees.quadratic(4)


def test_the_trajectory_is_that_of_unroll():
    opt = learned_opt.lstm("quadratic", hidden_sizes=(4,))
    phi = opt.init(KEY)
    seen = learned_opt.watch((opt, phi), QUADRATIC, KEY, 7, coordinates=range(4))
    run = learned_opt.unroll((opt, phi), QUADRATIC, KEY, 7)
    np.testing.assert_allclose(seen.losses, run.losses[:-1], rtol=1e-5)
    np.testing.assert_allclose(seen.theta[-1] + seen.updates[OWN][-1], run.theta, rtol=1e-4)
    assert seen.names == ("[0]", "[1]", "[2]", "[3]")
    assert seen.at.tolist() == [1, 4, 7]


def test_others_follow_the_same_gradients_with_states_of_their_own():
    """Against optax, step by step, with the parameters of the watched trajectory."""
    others = {"Adam": optax.adamw(0.1), "heavy": optax.sgd(0.1, momentum=0.9)}
    seen = learned_opt.watch(
        optax.sgd(0.01), QUADRATIC, KEY, 6, coordinates=range(4), others=others
    )
    np.testing.assert_allclose(seen.updates[OWN], -0.01 * seen.gradients, rtol=1e-5)
    for name, tx in others.items():
        state = tx.init(jnp.zeros(4))
        for t in range(6):
            u, state = tx.update(jnp.asarray(seen.gradients[t]), state, jnp.asarray(seen.theta[t]))
            np.testing.assert_allclose(seen.updates[name][t], u, rtol=1e-5, atol=1e-7)


def test_proposals_are_updates_for_another_gradient():
    """Momentum's is linear, with the momentum so far as its value at zero."""
    tx = optax.sgd(0.01, momentum=0.5)
    seen = learned_opt.watch(
        tx, QUADRATIC, KEY, 5, coordinates=[1, 3], others={}, at=[2, 5], num_points=5
    )
    for i, step in enumerate(seen.at):
        before = np.zeros(2)
        for t in range(step - 1):
            before = 0.5 * before + seen.gradients[t]
        expected = -0.01 * (seen.grid[i] + 0.5 * before[:, None])
        np.testing.assert_allclose(seen.proposed[OWN][i], expected, rtol=1e-4, atol=1e-6)
    largest = np.abs(seen.gradients).max(0)
    np.testing.assert_allclose(seen.grid[0, :, -1], 2 * largest, rtol=1e-6)
    np.testing.assert_allclose(seen.grid[0, :, 2], 0, atol=1e-6)


def test_a_proposal_for_the_gradient_that_was_is_the_update_that_was():
    opt = learned_opt.rnnprop(hidden_sizes=(4,), input_size=3)
    phi = opt.init(KEY)
    seen = learned_opt.watch((opt, phi), QUADRATIC, KEY, 4, coordinates=[2], num_points=401)
    for i, step in enumerate(seen.at):
        at_gradient = np.interp(
            seen.gradients[step - 1, 0], seen.grid[i, 0], seen.proposed[OWN][i, 0]
        )
        np.testing.assert_allclose(at_gradient, seen.updates[OWN][step - 1, 0], atol=1e-3)


def test_ones_own_loss_and_parameters_and_pictures(tmp_path):
    params = {"b": jnp.zeros(()), "w": jnp.ones((2, 3))}
    x = jax.random.normal(KEY, (8, 2))

    def loss(params, _, key):
        del key
        return jnp.mean((x @ params["w"] + params["b"] - 1.0) ** 2)

    mine = learned_opt.Optimizee(lambda key: (), lambda key, _: params, loss)
    tx = learned_opt.pretrained("rnnprop-mnist")
    seen = learned_opt.watch(tx, mine, KEY, 6, coordinates=[0, 5])
    assert seen.names == ("b", "w[1, 1]")
    assert set(seen.updates) == {OWN, "SGD", "Adam"}
    # The others' rates are such that all steps are of one size, about.
    sizes = {name: np.abs(u).mean() for name, u in seen.updates.items()}
    assert max(sizes.values()) < 20 * min(sizes.values())
    plots.histories(tmp_path / "histories.png", seen, "mine")
    plots.proposals(tmp_path / "proposals.png", seen, "mine")
    for picture in ("histories.png", "proposals.png"):
        assert (tmp_path / picture).stat().st_size > 5_000


def test_a_coordinate_without_a_gradient_is_asked_about_those_of_others():
    flat = learned_opt.Optimizee(
        lambda key: (), lambda key, _: jnp.ones(3), lambda theta, _, key: jnp.sum(theta[1:] ** 2)
    )
    seen = learned_opt.watch(optax.sgd(0.1), flat, KEY, 3, coordinates=[0], others={})
    assert np.all(seen.gradients == 0)
    np.testing.assert_allclose(seen.proposed[OWN], -0.1 * seen.grid, rtol=1e-6)
    assert seen.grid[0, 0, -1] > 0.1


def test_coordinates_are_drawn():
    tx = optax.sgd(0.01)
    seen = learned_opt.watch(tx, QUADRATIC, KEY, 2, coordinates=3)
    assert len(set(seen.coordinates.tolist())) == 3
    again = learned_opt.watch(tx, QUADRATIC, KEY, 2, coordinates=3)
    np.testing.assert_array_equal(again.coordinates, seen.coordinates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinates": 5}, "coordinates must be at most 4, got 5"),
        ({"coordinates": [4]}, "coordinates must be below 4"),
        ({"coordinates": []}, "at least one"),
        ({"at": [0]}, "at must be steps from 1 to num_steps=3, got 0"),
        ({"at": [4]}, "at must be steps from 1 to num_steps=3, got 4"),
        ({"num_points": 1}, "num_points must be a whole number of at least 2"),
        ({"reach": 0.0}, "reach must be a finite number above 0"),
        ({"others": {"itself": optax.sgd(0.1)}}, "must not have the name 'itself'"),
        ({"others": {"mine": 3}}, r"others\['mine'\] must be an optax transformation"),
    ],
)
def test_messages(settings, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.watch(optax.sgd(0.1), QUADRATIC, KEY, 3, **settings)
