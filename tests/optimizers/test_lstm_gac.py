"""Global averaging cells."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.optimizers import communicating
from learned_opt.optimizers.communicating import Leaves


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_updates(phi, gradients, num_averaged, scale):
    """The oracle: all coordinates of all parameters as rows, with averages written into each."""
    phi = jax.tree.map(lambda w: np.asarray(w, np.float64), phi)
    n = gradients.shape[1]
    hidden = [np.zeros((n, len(layer["b"]) // 4)) for layer in phi["layers"]]
    cells = [h.copy() for h in hidden]
    for g in gradients:
        x = g[:, None]
        for k, layer in enumerate(phi["layers"]):
            i, f, z, o = np.split(
                np.concatenate([x, hidden[k]], axis=1) @ layer["w"].T + layer["b"], 4, axis=1
            )
            cells[k] = sigmoid(f) * cells[k] + sigmoid(i) * np.tanh(z)
            x = sigmoid(o) * np.tanh(cells[k])
            if num_averaged:
                x[:, -num_averaged:] = x[:, -num_averaged:].mean(axis=0)
            hidden[k] = x
        yield scale * (x @ phi["output"]["w"] + phi["output"]["b"])


@pytest.mark.parametrize("num_averaged", [0, 1, 4])
def test_updates_are_those_of_an_independent_implementation(x64, num_averaged):
    opt = learned_opt.lstm_gac(hidden_sizes=(4, 5), num_averaged=num_averaged, output_scale=0.3)
    phi = jax.tree.map(lambda w: 2 * w.astype(jnp.float64), opt.init(jax.random.key(0)))
    tx = opt.transform(phi)
    theta = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(()), "c": jnp.zeros((0, 2))}
    gradients = np.random.default_rng(0).normal(size=(4, 7))
    state, update = tx.init(theta), jax.jit(tx.update)
    for g, want in zip(gradients, numpy_updates(phi, gradients, num_averaged, 0.3), strict=True):
        u, state = update({"a": g[:6].reshape(2, 3), "b": g[6], "c": jnp.zeros((0, 2))}, state)
        np.testing.assert_allclose(np.append(u["a"], u["b"]), want, rtol=1e-10)


def test_without_averages_it_is_the_lstm():
    plain, opt = learned_opt.lstm("mnist"), learned_opt.lstm_gac("mnist", num_averaged=0)
    phi = plain.init(jax.random.key(0))
    chex.assert_trees_all_equal(phi, opt.init(jax.random.key(0)))
    theta, g = jnp.zeros(3), jnp.array([0.1, -2.0, 0.0])
    want, got = (
        jax.jit(o.transform(phi).update)(g, o.transform(phi).init(theta))[0] for o in (plain, opt)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_averages_and_squares_clip_a_gradient_by_its_norm(x64):
    """Andrychowicz et al. 2016, appendix D: what global averages are sufficient for."""
    theta = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    max_norm, num_coordinates = 1.5, 7

    def update(phi, gs, state, coordinates):
        del phi
        mean_square = coordinates.average(gs.map(lambda g: jnp.square(g)[None]))[0]
        norm = jnp.sqrt(num_coordinates * mean_square)
        return gs.map(lambda g: g * jnp.minimum(1, max_norm / norm)), state

    rule = communicating.TreeRule(lambda zeros, dtype: zeros(1), update)
    tx = communicating.from_rule(rule, lambda key: {}, {"name": "clip", "args": {}}).transform({})
    oracle = optax.clip_by_global_norm(max_norm)
    for seed, scale in ((0, 0.1), (1, 10.0)):
        g = jax.tree.map(lambda x: scale * jax.random.normal(jax.random.key(seed), x.shape), theta)  # noqa: B023
        want, _ = oracle.update(g, oracle.init(theta))
        got, _ = tx.update(g, tx.init(theta))
        chex.assert_trees_all_close(got, want, rtol=1e-12)


def test_the_average_weighs_every_coordinate_alike():
    leaves = Leaves([jnp.arange(6.0).reshape(1, 2, 3), jnp.full((1,), 8.0), jnp.zeros((1, 0))])
    average = communicating.Coordinates().average
    np.testing.assert_allclose(average(leaves), [23 / 7])
    np.testing.assert_array_equal(average(Leaves([jnp.zeros((2, 0))])), [0, 0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: learned_opt.lstm_gac("mnist", hidden_sizes=(4, 3), num_averaged=2),
        lambda: learned_opt.ntm_bfgs(hidden_sizes=(4,), num_averaged=2),
        lambda: learned_opt.ntm_lbfgs(hidden_sizes=(4,), num_averaged=0, history=4),
    ],
    ids=["gac", "ntm-bfgs", "ntm-lbfgs"],
)
def test_the_meta_gradient_is_that_of_autodiff(x64, build):
    opt = build()
    phi = jax.tree.map(lambda w: 2 * w.astype(jnp.float64), opt.init(jax.random.key(0)))
    problem, key = learned_opt.optimizees.quadratic(3), jax.random.key(1)
    loss, got = learned_opt.meta_gradient(opt, phi, problem, key, 6, num_problems=2)
    want_loss, want = learned_opt.meta_gradient(
        opt, phi, problem, key, 6, num_problems=2, method="autodiff"
    )
    np.testing.assert_allclose(loss, want_loss, rtol=1e-12)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
    chex.assert_trees_all_close(got, want, rtol=1e-8, atol=1e-8 * largest)


def test_bad_arguments():
    with pytest.raises(
        ValueError, match="num_averaged must be at most 3, the cells of the smallest layer, got 4"
    ):
        learned_opt.lstm_gac(hidden_sizes=(5, 3), num_averaged=4)
    with pytest.raises(
        ValueError, match="num_averaged must be a whole number of at least 0, got -1"
    ):
        learned_opt.lstm_gac(num_averaged=-1)
    tx = learned_opt.lstm_gac(hidden_sizes=(3,), num_averaged=1).transform(
        learned_opt.lstm_gac(hidden_sizes=(3,), num_averaged=1).init(jax.random.key(0))
    )
    state = tx.init({"a": jnp.zeros(2)})
    with pytest.raises(ValueError, match="gradients at a have shape"):
        tx.update({"a": jnp.zeros(3)}, state)
    with pytest.raises(ValueError, match="state is not a state of this optimizer"):
        tx.update({"a": jnp.zeros(2)}, optax.adam(0.1).init({"a": jnp.zeros(2)}))
