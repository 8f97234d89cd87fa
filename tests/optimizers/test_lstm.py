"""The LSTM optimizer against a NumPy implementation of the stacked LSTM."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizers


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def appendix_a(g, p):
    large = np.abs(g) >= np.exp(-p)
    log = np.log(np.where(large, np.abs(g), 1.0)) / p
    return np.stack([np.where(large, log, -1), np.where(large, np.sign(g), np.exp(p) * g)], -1)


def numpy_updates(phi, gradients, p, scale):
    """The updates of `gradients` `[steps, n]` in float64: one row a coordinate, features last."""
    phi = jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    steps, n = gradients.shape
    units = [len(layer["b"]) // 4 for layer in phi["layers"]]
    h, c = ([np.zeros((n, m)) for m in units] for _ in range(2))
    updates = np.zeros((steps, n))
    for t in range(steps):
        g = gradients[t].astype(np.float64)
        x = g[:, None] if p is None else appendix_a(g, p)
        for k, layer in enumerate(phi["layers"]):
            z = np.concatenate([x, h[k]], 1) @ layer["w"].T + layer["b"]
            i, f, g, o = np.split(z, 4, axis=1)
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
            x = h[k] = sigmoid(o) * np.tanh(c[k])
        updates[t] = scale * (x @ phi["output"]["w"] + phi["output"]["b"])
    return updates


def noisy_phi(opt, key):
    """Weights in which nothing is zero or one by accident."""
    leaves, treedef = jax.tree.flatten(opt.init(key))
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    return treedef.unflatten(
        [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize(
    ("kwargs", "p", "scale"),
    [
        ({"preset": "quadratic"}, None, 1.0),
        ({"preset": "mnist"}, 10.0, 0.1),
        ({"preset": "mnist-code", "hidden_sizes": (7,)}, 5.0, 0.01),
        ({"preset": "neural-art", "hidden_sizes": (3, 4, 2)}, 10.0, 1.0),
        (
            {"preset": "mnist", "preprocess_p": None, "output_scale": 0.5, "hidden_sizes": [6, 5]},
            None,
            0.5,
        ),
        ({"input_scale": 0.25}, None, 1.0),
    ],
    ids=["quadratic", "mnist", "mnist-code", "neural-art", "overridden", "rescaled"],
)
def test_against_numpy(kwargs, p, scale):
    opt = learned_opt.lstm(**kwargs)
    phi = noisy_phi(opt, jax.random.key(3))
    tx = opt.transform(phi)
    theta = {"w": jnp.ones((2, 3)), "b": jnp.ones(4)}
    magnitudes = np.random.default_rng(0).choice([1e-6, 1e-3, 1.0, 30.0], (5, 10))
    gradients = (magnitudes * np.random.default_rng(1).normal(size=(5, 10))).astype(np.float32)
    gradients[0, 0] = 0.0
    expected = numpy_updates(phi, kwargs.get("input_scale", 1.0) * gradients, p, scale)

    @jax.jit
    def run(gradients):
        def step(state, g_t):
            u_t, state = tx.update({"w": g_t[:6].reshape(2, 3), "b": g_t[6:]}, state, theta)
            return state, jnp.concatenate([u_t["w"].reshape(-1), u_t["b"]])

        return jax.lax.scan(step, tx.init(theta), gradients)[1]

    assert np.abs(expected).max() > 0.03 * scale
    np.testing.assert_allclose(run(jnp.asarray(gradients)), expected, atol=5e-6 * scale, rtol=1e-5)


@pytest.mark.parametrize(
    ("preset", "p", "scale"),
    [
        ("quadratic", None, 1.0),
        ("mnist", 10.0, 0.1),
        ("neural-art", 10.0, 1.0),
        ("mnist-code", 5.0, 0.01),
    ],
)
def test_presets(preset, p, scale):
    opt = learned_opt.lstm(preset)
    assert opt.spec == {
        "name": "lstm",
        "args": {
            "hidden_sizes": [20, 20],
            "preprocess_p": p,
            "output_scale": scale,
            "state_dtype": None,
        },
    }
    assert opt.coordinatewise


def test_initial_phi():
    phi = learned_opt.lstm("mnist").init(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, phi)
    assert shapes == {
        "layers": [{"w": (80, 22), "b": (80,)}, {"w": (80, 40), "b": (80,)}],
        "output": {"w": (20,), "b": ()},
    }
    for layer in phi["layers"]:
        np.testing.assert_array_equal(layer["b"], np.repeat([0.0, 1.0, 0.0, 0.0], 20))
    np.testing.assert_allclose(np.std(phi["output"]["w"]), 0.1, rtol=0.5)
    assert not np.array_equal(phi["layers"][0]["w"][:, :2], phi["layers"][1]["w"][:, :2])
    assert learned_opt.lstm("quadratic").init(jax.random.key(0))["layers"][0]["w"].shape == (80, 21)


def test_initial_phi_depends_on_the_key():
    opt = learned_opt.lstm()
    first, again, other = (opt.init(jax.random.key(k))["layers"][0]["w"] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize("preset", ["quadratic", "mnist"])
def test_every_weight_gets_a_gradient(preset):
    opt = learned_opt.lstm(preset)
    gradients = jax.random.normal(jax.random.key(1), (3, 5))

    @jax.grad
    def total(phi):
        tx = opt.transform(phi)
        state, loss = tx.init(gradients[0]), 0.0
        for g_t in gradients:
            u_t, state = tx.update(g_t, state)
            loss += jnp.sum(jnp.square(u_t - 1))
        return loss

    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.jit(total)(opt.init(jax.random.key(0)))
    ):
        assert np.all(np.isfinite(leaf) & (leaf != 0)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: learned_opt.lstm("mnist"),
        lambda: learned_opt.lstm(hidden_sizes=(4,), state_dtype=jnp.bfloat16),
        lambda: learned_opt.lstm(
            hidden_sizes=[np.int64(4)], output_scale=np.float32(0.5), preprocess_p=np.float64(7)
        ),
        lambda: learned_opt.lstm(output_scale=jnp.float32(0.5)),
    ],
    ids=["preset", "dtype", "numpy", "jax"],
)
def test_spec_is_plain_and_rebuilds_the_optimizer(make):
    opt = make()
    spec = json.loads(json.dumps(opt.spec))
    assert spec == opt.spec
    rebuilt = optimizers.from_spec(spec)
    assert rebuilt.spec == opt.spec
    phi = opt.init(jax.random.key(0))
    theta = jnp.ones(3)

    def first_step(opt):
        tx = opt.transform(phi)
        return jax.jit(lambda g: tx.update(g, tx.init(theta), theta))(theta)

    jax.tree.map(np.testing.assert_array_equal, first_step(opt), first_step(rebuilt))


@pytest.mark.parametrize(
    ("state_dtype", "bytes_each"),
    [(None, 320), ("float32", 320), ("bfloat16", 160), ("float16", 160)],
)
def test_bytes_of_state(state_dtype, bytes_each):
    opt = learned_opt.lstm(state_dtype=state_dtype)
    tx = opt.transform(opt.init(jax.random.key(0)))
    state = tx.init({"a": jnp.ones((3, 4)), "b": jnp.ones(5)})
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 17 * bytes_each


def test_half_precision_state_stays_near_the_full_one():
    phi = learned_opt.lstm().init(jax.random.key(0))
    gradients = jax.random.normal(jax.random.key(1), (5, 20))

    def run(state_dtype):
        tx = learned_opt.lstm(state_dtype=state_dtype).transform(phi)
        return jax.lax.scan(
            lambda state, g_t: tx.update(g_t, state)[::-1], tx.init(gradients[0]), gradients
        )[1]

    full, half = (
        jax.jit(run, static_argnums=0)("float32"),
        jax.jit(run, static_argnums=0)("bfloat16"),
    )
    assert 0 < np.abs(full - half).max() < 0.02 * np.abs(full).max()


def test_state_has_its_features_first():
    opt = learned_opt.lstm(hidden_sizes=(4, 3))
    state = opt.transform(opt.init(jax.random.key(0))).init(
        {"w": jnp.ones((5, 6)), "s": jnp.float32(1)}
    )
    shapes = jax.tree.map(jnp.shape, state)
    assert (
        shapes.hidden == shapes.cell == ({"w": (4, 5, 6), "s": (4,)}, {"w": (3, 5, 6), "s": (3,)})
    )


def test_updates_add_to_the_parameters():
    opt = learned_opt.lstm("mnist", hidden_sizes=(4,))
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = jnp.array([1.0, 2.0])
    u, _ = tx.update(jnp.array([0.5, -0.5]), tx.init(theta), theta)
    np.testing.assert_array_equal(optax.apply_updates(theta, u), theta + u)
    assert np.all(u != 0)


def test_taking_the_optimizer_for_a_transformation():
    with pytest.raises(ValueError, match=r"hand over opt.transform\(phi\)"):
        learned_opt.lstm().init({"w": jnp.zeros(3)})


def test_a_state_of_another_optimizer():
    gradient = jnp.ones(3)
    opts = learned_opt.lstm(), learned_opt.lstm(hidden_sizes=(7, 7))
    tx, other = (opt.transform(opt.init(jax.random.key(0))) for opt in opts)
    state = other.init(gradient)
    for wrong in (state, None, optax.adam(0.1).init(gradient)):
        with pytest.raises(ValueError, match=r"make it with tx.init\(params\)"):
            tx.update(gradient, wrong)
