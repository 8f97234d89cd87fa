import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import native


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def updates_in_numpy(phi, gradients, betas, epsilon, scale, clock):
    """The paper's equations 5 to 9 for pairs of betas, and an LSTM; gradients `[steps, n]`."""
    phi = jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    pairs = np.reshape(betas, (-1, 2))
    m, v = np.zeros((2, len(pairs), gradients.shape[1]))
    hidden = [np.zeros((layer["b"].size // 4, gradients.shape[1])) for layer in phi["layers"]]
    cells = [np.zeros_like(h) for h in hidden]
    for t, g in enumerate(gradients, 1):
        read = []
        for k, (beta_1, beta_2) in enumerate(pairs):
            m[k], v[k] = beta_1 * m[k] + (1 - beta_1) * g, beta_2 * v[k] + (1 - beta_2) * g**2
            root = np.sqrt(v[k] / (1 - beta_2**t)) + epsilon
            read.append((m[k] / (1 - beta_1**t) / root, g / root))
        a = phi["input"]["w"] @ np.stack(list(zip(*read, strict=True))).reshape(-1, g.size)
        a = (
            a
            + (phi["input"]["b"] + (phi["input"]["clock"] * np.log(1 + t) / 10 if clock else 0))[
                :, None
            ]
        )
        x = np.where(a > 0, a, np.expm1(a))
        for layer, weights in enumerate(phi["layers"]):
            i, f, z, o = np.split(
                weights["w"] @ np.concatenate([x, hidden[layer]]) + weights["b"][:, None], 4
            )
            cells[layer] = sigmoid(f) * cells[layer] + sigmoid(i) * np.tanh(z)
            x = hidden[layer] = sigmoid(o) * np.tanh(cells[layer])
        decay = (1 + t / np.exp(phi["decay"]["log_tau"])) ** -phi["decay"]["p"] if clock else 1
        yield decay * scale * np.tanh(phi["output"]["w"] @ x + phi["output"]["b"])


@pytest.mark.parametrize(
    ("args", "num_devices"),
    [  # one: with the C++ loops, where they were built
        ({}, 1),
        ({"betas": (0.9, 0.999), "output_scale": 0.3, "hidden_sizes": (5,), "input_size": 4}, 4),
        ({"preset": "long"}, 1),
        ({"preset": "long"}, 4),
    ],
)
def test_against_numpy(monkeypatch, args, num_devices):
    monkeypatch.setattr(native, "_num_devices", lambda: num_devices)
    opt = learned_opt.rnnprop(**args)
    phi = jax.tree.map(lambda x: x + 0.1, opt.init(jax.random.key(0)))
    tx = opt.transform(phi)
    gradients = np.random.default_rng(1).normal(size=(12, 6)) * np.logspace(-6, 3, 6)
    state = tx.init(jnp.zeros(6))
    update = jax.jit(tx.update)
    spec = opt.spec["args"]
    expected = updates_in_numpy(
        phi, gradients, spec["betas"], 1e-8, spec["output_scale"], spec.get("clock")
    )
    for g, u in zip(gradients, expected, strict=True):
        got, state = update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(got, u, rtol=1e-4, atol=1e-6)
    assert state.count == len(gradients)


def test_it_does_not_see_the_size_of_the_gradient():
    opt = learned_opt.rnnprop()
    tx = opt.transform(opt.init(jax.random.key(0)))
    g = jnp.asarray([0.3, -2.0, 1.0])
    u, _ = tx.update(g, tx.init(g))
    scaled, _ = tx.update(1e4 * g, tx.init(g))
    np.testing.assert_allclose(u, scaled, rtol=1e-5)


def test_steps_are_bounded_and_zero_gradients_are_harmless():
    opt = learned_opt.rnnprop()
    phi = jax.tree.map(lambda x: 50 * x, opt.init(jax.random.key(0)))
    tx = opt.transform(phi)
    for g in (jnp.zeros(3), jnp.full(3, 1e-30), jnp.full(3, 1e15)):
        u, _ = tx.update(g, tx.init(g))
        assert jnp.all(jnp.abs(u) <= 0.1)
        gradient = jax.grad(lambda phi, g=g: jnp.sum(opt.transform(phi).update(g, tx.init(g))[0]))(
            phi
        )
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"preset": "mnits"}, "Did you mean 'mnist'"),
        ({"betas": (0.9, 1.0)}, "several such pairs, got (0.9, 1.0)"),
        ({"betas": 0.9}, "got 0.9"),
        ({"epsilon": 0}, "epsilon must be"),
        ({"output_scale": -1}, "output_scale must be"),
        ({"input_size": 0}, "input_size must be"),
        ({"hidden_sizes": ()}, "at least one layer"),
        ({"state_dtype": "int8"}, "state_dtype"),
        ({"clock": "no"}, "clock must be True or False, got 'no'"),
        (
            {"preset": "long", "state_dtype": "bfloat16"},
            "at most 0.99 with state_dtype='bfloat16', got 0.999",
        ),
    ],
)
def test_bad_arguments_are_named(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        learned_opt.rnnprop(**args)


def test_saved_and_loaded(tmp_path):
    opt = learned_opt.rnnprop("long", hidden_sizes=(4,), betas=((0.9, 0.99), (0.5, 0.5)))
    phi = opt.init(jax.random.key(0))
    learned_opt.save(tmp_path / "r.safetensors", opt, phi)
    again, loaded = learned_opt.load(tmp_path / "r.safetensors")
    assert again.spec == opt.spec
    jax.tree.map(np.testing.assert_array_equal, loaded, phi)


@pytest.mark.parametrize(
    ("dtype", "state_dtype"), [(jnp.float32, None), (jnp.bfloat16, None), (jnp.float32, "bfloat16")]
)
def test_the_meta_gradient_is_that_of_autodiff_in_blocks_and_other_dtypes(
    native_loops, dtype, state_dtype
):
    """Parameters and blocks share the count; what the C++ loops do not take goes another way."""
    opt = learned_opt.rnnprop(
        "mnist" if state_dtype else "long", hidden_sizes=(3,), input_size=2, state_dtype=state_dtype
    )
    phi = opt.init(jax.random.key(0))
    problem = learned_opt.optimizees.quadratic()
    if dtype != jnp.float32:
        problem = problem._replace(init=lambda key, instance: jax.random.normal(key, (10,), dtype))
    args = opt, phi, problem, jax.random.key(1), 6, 3
    loss, gradient = learned_opt.meta_gradient(*args, block_size=4)
    oracle_loss, oracle = learned_opt.meta_gradient(*args, method="autodiff")
    np.testing.assert_allclose(loss, oracle_loss, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (gradient, oracle)), strict=True):
        # bfloat16: its gradients are rounded, one way or the other.
        assert jnp.linalg.norm(a - b) <= (1e-5 if dtype == jnp.float32 else 1e-2) * jnp.linalg.norm(
            b
        )


@pytest.mark.skipif(not native.available(), reason="the C++ loops were not built")
@pytest.mark.parametrize(("num_coordinates", "preset"), [(40, "long"), (5_000, "mnist")])
def test_the_fast_derivative_of_a_window_is_that_of_autodiff(monkeypatch, num_coordinates, preset):
    monkeypatch.setattr(native, "_num_devices", lambda: 1)
    opt = learned_opt.rnnprop(preset, hidden_sizes=(6, 5), input_size=4)
    phi = jax.tree.map(lambda x: x + 0.05, opt.init(jax.random.key(0)))
    g, du = jax.random.normal(jax.random.key(1), (2, 7, num_coordinates))
    state = opt.transform(phi).init(g[0])
    got = opt.pull_back(phi, g, du, state)

    def updates(phi):
        tx = opt.transform(phi)
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], state, g)[1]

    want = jax.vjp(updates, phi)[1](du)[0]
    error = jnp.sqrt(
        sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True))
    )
    assert error < 3e-6 * jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(want)))
    assert jax.tree.structure(got) == jax.tree.structure(phi)
