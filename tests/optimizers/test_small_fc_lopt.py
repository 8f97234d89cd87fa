"""The small MLP optimizer against a NumPy version of its formulas."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import optimizers

TIME_SCALES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
DECAYS = 0.9, 0.99, 0.999


def over_axis(square, axis):
    """The mean over one axis, repeated along it."""
    return np.repeat(square.mean(axis, keepdims=True), square.shape[axis], axis)


def numpy_updates(phi, theta, gradients, output_scale=1e-3, magnitude_scale=1e-3):
    """The updates of one tensor in float64, coordinate by coordinate where that is possible."""
    phi = jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    shape = theta.shape
    delta = phi["decays"]
    m_decays, r_decays = (
        [1 - (1 - d) * np.exp(10 * x) for d, x in zip(DECAYS, delta[name], strict=True)]
        for name in ("momenta", "factored")
    )
    v_decay = 1 - 0.001 * np.exp(10 * delta["second_moment"][0])
    m, r, c = ([np.zeros(shape) for _ in DECAYS] for _ in range(3))
    v = np.zeros(shape)
    is_factored = len(shape) >= 2
    if is_factored:
        second, largest = np.argsort(shape, kind="stable")[-2:]
    updates = []
    for t, g in enumerate(gradients):
        square = g**2
        v = v_decay * v + (1 - v_decay) * square
        factor, of_mean = [], []
        for k in range(3):
            m[k] = m_decays[k] * m[k] + (1 - m_decays[k]) * g
            rows = over_axis(square + 1e-30, largest) if is_factored else square + 1e-30
            columns = over_axis(square + 1e-30, second) if is_factored else rows
            r[k] = r_decays[k] * r[k] + (1 - r_decays[k]) * rows
            c[k] = r_decays[k] * c[k] + (1 - r_decays[k]) * columns
            if is_factored:
                of_mean = over_axis(r[k], second) + 1e-9
                relative = np.maximum(r[k] / of_mean, 1e-9) * np.maximum(c[k], 1e-9)
                factor.append(relative**-0.5)
            else:
                factor.append(np.maximum(r[k], 1e-9) ** -0.5)
        root = (v + 1e-6) ** -0.5
        features = [g, theta, *m, v, *(x * root for x in m), root]
        features += [g * f for f in factor] + [x * f for x, f in zip(m, factor, strict=True)]
        features += [*r, *c, *((x + 1e-8) ** -0.5 for x in r), *((x + 1e-8) ** -0.5 for x in c)]
        features = [x / np.sqrt(1e-5 + np.mean(x**2)) for x in features]
        features += [np.full(shape, value) for value in np.tanh(t / TIME_SCALES - 1)]
        assert len(features) == 39
        u = np.zeros(shape)
        for place in np.ndindex(shape):
            x = np.array([feature[place] for feature in features])
            for k, layer in enumerate(phi["layers"]):
                x = layer["w"] @ (x if k == 0 else np.maximum(x, 0)) + layer["b"]
            u[place] = -output_scale * x[0] * np.exp(magnitude_scale * x[1])
        updates.append(u)
    return updates


def noisy_phi(opt, seed):
    """Weights and decays in which nothing is zero."""
    rng = np.random.default_rng(seed)
    phi = jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape)), opt.init(jax.random.key(seed))
    )
    decays = jax.tree.map(lambda x: jnp.asarray(0.02 * rng.normal(size=x.shape)), phi["decays"])
    return {**phi, "decays": decays}


@pytest.mark.parametrize(
    "shape",
    [(), (4,), (1,), (3, 5), (4, 4), (5, 3), (2, 4, 3), (3, 2, 4, 4)],
    ids=lambda shape: "x".join(map(str, shape)) or "scalar",
)
def test_against_numpy(x64, shape):
    opt = learned_opt.small_fc_lopt(output_scale=0.01, magnitude_scale=0.5)
    phi = noisy_phi(opt, 1)
    tx = opt.transform(phi)
    rng = np.random.default_rng(2)
    theta = rng.normal(size=shape)
    gradients = rng.normal(size=(4, *shape)) * np.array([1, 100, 1e-4, 1]).reshape(
        -1, *[1] * len(shape)
    )
    state, update = tx.init(jnp.asarray(theta)), jax.jit(tx.update)
    expected = numpy_updates(phi, theta, gradients, 0.01, 0.5)
    for g, want in zip(gradients, expected, strict=True):
        u, state = update(jnp.asarray(g), state, jnp.asarray(theta))
        np.testing.assert_allclose(u, want, rtol=1e-8)
    assert int(state.step) == 4


def test_zero_gradients_are_finite():
    opt = learned_opt.small_fc_lopt()
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2), "s": jnp.zeros(())}
    u, state = jax.jit(tx.update)(theta, tx.init(theta), theta)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((u, state)))


def test_initial_phi_and_spec():
    opt = learned_opt.small_fc_lopt()
    phi = opt.init(jax.random.key(0))
    shapes = [layer["w"].shape for layer in phi["layers"]]
    assert shapes == [(4, 39), (4, 4), (2, 4)]
    assert sum(x.size for x in jax.tree.leaves(phi)) == 39 * 4 + 4 + 16 + 4 + 8 + 2 + 7
    rebuilt = optimizers.from_spec(json.loads(json.dumps(opt.spec)))
    assert rebuilt == opt
    assert rebuilt.spec == opt.spec
    assert opt.reads == {"params"}
    assert not opt.coordinatewise


def test_state_has_four_numbers_a_parameter_and_rows_and_columns():
    opt = learned_opt.small_fc_lopt()
    state = opt.transform(opt.init(jax.random.key(0))).init(jnp.ones((30, 20)))
    assert sum(x.size for x in jax.tree.leaves(state)) == 4 * 600 + 3 * (30 + 20) + 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"momenta": (0.9, 1.0)}, r"momenta must be numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"factored": ()}, r"factored must be numbers in \[0, 1\)"),
        ({"second_moment": -0.1}, r"second_moment must be numbers in \[0, 1\)"),
        ({"output_scale": 0}, "output_scale must be a finite number above 0, got 0"),
        ({"state_dtype": "bfloat16"}, "decays must be at most 0.99 .*got 0.999"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.small_fc_lopt(**kwargs)


def test_parameters_are_asked_for():
    opt = learned_opt.small_fc_lopt()
    tx = opt.transform(opt.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"reads the parameters: call tx.update\(gradients, state"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
