"""The general optimizer against a NumPy version of its formulas, and what it promises."""

import contextlib
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizers
from learned_opt.optimizers import orthogonal, schedules

KEPT = {  # of momenta, then of the second moment
    "matrix": np.array([0.1, 0.2, 0.005, 0.05]),
    "vector": np.array([0.1, 0.05, 0.005, 0.05]),
    "embedding": np.array([0.1, 0.2, 0.005, 0.05]),
}
SCALES = {"matrix": 0.05, "vector": 0.006, "embedding": 0.1}
SCALE_ALONE = 0.02  # of vectors in a tree of nothing else
NUM_STEPS = 20


def random_phi(opt, seed=0):
    """Weights that are zero nowhere, around the first ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(opt.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense": {
            "bias": jnp.zeros(3),
            "kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        },
        "embedding": jnp.asarray(0.1 * rng.normal(size=(4, 3)), jnp.float32),
        "kernel_4d": jnp.asarray(0.2 * rng.normal(size=(3, 3, 2, 4)), jnp.float32),
    }


def gradients_of(theta, num_steps, seed=1):
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), theta)
        for _ in range(num_steps)
    ]


def rms(x):
    return np.sqrt(np.mean(x**2))


def unit(x):
    return x / rms(x)


def numpy_orthogonalised(x):
    """The iteration on singular values alone: it leaves singular vectors as they are."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


def mlp(layers, inputs, context):
    x = np.concatenate([inputs, np.broadcast_to(context[:, None], (6, inputs.shape[1]))])
    for i, layer in enumerate(layers):
        x = layer["w"] @ (np.maximum(x, 0) if i else x) + layer["b"][:, None]
    return x[0]


def left(t, num_steps):
    return np.clip((1 - t / num_steps + 1 / num_steps) / 0.95, 0, 1)


def linear_length(t, num_steps):
    x = left(t, num_steps)
    return min(t / num_steps / 0.05, 1.03 * x * x / (x + 0.03))


def cosine_length(t, num_steps):
    return min(t / num_steps / 0.05, 0.5 - 0.5 * np.cos(np.pi * left(t, num_steps)))


def numpy_steps(phi, kind, reference, theta, gradients, num_steps, is_alone=False):
    """The updates of one tensor in float64; theta stays where it is."""
    phi = jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    kinds = list(SCALES)
    all_kept = np.minimum(KEPT[kind] * np.exp(phi["log_kept"][kinds.index(kind)]), 0.5)
    kept, kept_v = all_kept[:3], all_kept[3]
    shape = theta.shape
    m, v = np.zeros((3, *shape)), np.zeros(shape)
    found = []
    for t, g in enumerate(gradients, 1):
        m = np.stack([(1 - k) * x + k * g for k, x in zip(kept, m, strict=True)])
        v = (1 - kept_v) * v + kept_v * g**2
        mh = np.stack([x / (1 - (1 - k) ** t) for k, x in zip(kept, m, strict=True)])
        vh = v / (1 - (1 - kept_v) ** t)
        nesterov = (1 - kept[1]) * mh[1] + kept[1] * g
        times = [t / num_steps, np.log(t) / np.log(1e3), np.log(num_steps) / np.log(1e3)]
        context = np.array([*times, *(float(kind == other) for other in kinds)])
        root = np.sqrt(vh)
        features = [g, theta, *mh, g / root, *(mh / root)]
        if kind != "vector":
            matrix = vh.reshape(shape[0], -1) if kind == "out-first" else vh.reshape(-1, shape[-1])
            rows, columns = matrix.mean(1, keepdims=True), matrix.mean(0, keepdims=True)
            factor = (np.sqrt(matrix.mean()) / np.sqrt(rows * columns)).reshape(shape)
        else:
            factor = np.zeros(shape)
        features += [g * factor, mh[1] * factor, mh[2] * factor]
        sizes = [max(rms(x), 1e-30) for x in features]
        features = [x / size for x, size in zip(features, sizes, strict=True)]
        features.append(np.log(vh / vh.mean()) / 4)
        stacked = np.stack([x.ravel() for x in features])
        u = unit(nesterov if kind == "matrix" else nesterov / root)
        u = u + mlp(phi["network"], stacked, context).reshape(shape)
        if kind == "matrix":
            u = numpy_orthogonalised(u.reshape(-1, shape[-1])).reshape(shape)
        signals = np.array(
            [
                np.mean(unit(g) * unit(mh[1])),
                np.mean(unit(mh[0]) * unit(mh[2])),
                np.clip(np.log(rms(mh[2]) / rms(mh[0])), -4, 4) / 2,
                np.clip(np.log(max(rms(theta), 1e-30) / reference), -4, 4),
            ]
        )
        answer = mlp(phi["controller"], signals[:, None], context)[0]
        log_c = np.log(SCALE_ALONE if is_alone else SCALES[kind])
        log_c = log_c + phi["log_scales"][kinds.index(kind)]
        is_controlled = kind != "vector"
        c = np.exp(log_c + is_controlled * 2 * np.tanh(answer / 2))
        found.append(-linear_length(t, num_steps) * c * reference * unit(u))
    return found


def of_zeros(theta, gradients):
    """The reference of the bias, which is zero: as steep as the others, at most their largest."""
    others = [
        (np.asarray(theta["dense"]["kernel"]), gradients["dense"]["kernel"]),
        (np.asarray(theta["embedding"]), gradients["embedding"]),
        (np.asarray(theta["kernel_4d"]), gradients["kernel_4d"]),
    ]
    steepness = np.exp(np.mean([np.log(rms(p) * rms(np.asarray(g))) for p, g in others]))
    return min(
        steepness / rms(np.asarray(gradients["dense"]["bias"])), max(rms(p) for p, _ in others)
    )


@functools.cache
def an_optimizer():
    opt = learned_opt.general(num_steps=NUM_STEPS)
    phi = random_phi(opt)
    return opt, phi, opt.transform(phi)


def updates_of(tx, theta, gradients, **extra):
    """The updates of steps at the same parameters."""
    update = jax.jit(functools.partial(tx.update, **extra))
    state, found = tx.init(theta), []
    for gradient in gradients:
        u, state = update(gradient, state, theta)
        found.append(u)
    return found, state


def test_it_computes_its_formulas():
    _, phi, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 3)
    got, _ = updates_of(tx, theta, gradients)
    cases = {
        ("dense", "kernel"): ("matrix", None),
        ("dense", "bias"): ("vector", of_zeros(theta, gradients[0])),
        ("embedding",): ("embedding", None),
        ("kernel_4d",): ("matrix", None),
    }

    def leaf(tree, path):
        return np.asarray(functools.reduce(lambda node, key: node[key], path, tree), np.float64)

    for path, (kind, reference) in cases.items():
        own = leaf(theta, path)
        reference = reference or rms(own)
        own_gradients = [leaf(gradient, path) for gradient in gradients]
        want = numpy_steps(phi, kind, reference, own, own_gradients, NUM_STEPS)
        for u, w in zip(got, want, strict=True):
            np.testing.assert_allclose(leaf(u, path), w, rtol=2e-3, atol=2e-4 * rms(w))


def test_vectors_that_are_alone_have_a_length_of_their_own():
    _, phi, tx = an_optimizer()
    rng = np.random.default_rng(4)
    theta = {"w": jnp.asarray(rng.normal(size=(7, 1)), jnp.float32), "b": jnp.float32(0.3)}
    gradients = gradients_of(theta, 3)
    got, _ = updates_of(tx, theta, gradients)
    for name in theta:
        own = np.asarray(theta[name], np.float64)
        of_name = [np.asarray(gradient[name], np.float64) for gradient in gradients]
        want = numpy_steps(phi, "vector", rms(own), own, of_name, NUM_STEPS, is_alone=True)
        for u, w in zip(got, want, strict=True):
            np.testing.assert_allclose(u[name], w, rtol=2e-3, atol=2e-4 * rms(w))


@pytest.mark.parametrize("began_at", [0.0, 1.0])
@pytest.mark.parametrize("is_alone", [False, True])
def test_vectors_from_zero_take_longer_steps_as_they_drift(began_at, is_alone):
    """But neither gains nor functions of a vector do."""
    opt = learned_opt.general(num_steps=100)
    tx = opt.transform(opt.init(jax.random.key(0)))
    rng = np.random.default_rng(5)
    other = {} if is_alone else {"w": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)}
    theta = {"b": jnp.full(6, began_at), "other": other}
    gradient = gradients_of(theta, 1)[0]
    update = jax.jit(tx.update)
    _, state = update(gradient, tx.init(theta), theta)
    reference = float(state.reference["b"])
    for ratio, longer in ((0.3, 1), (0.5, 1), (0.75, 2.25), (1.5, 9), (40, 9)):
        moved = theta | {"b": jnp.full(6, ratio * reference)}
        u, _ = update(gradient, state, moved)
        want = linear_length(2, 100) * (SCALE_ALONE if is_alone else SCALES["vector"]) * reference
        drifts = began_at == 0 and not is_alone
        np.testing.assert_allclose(rms(np.asarray(u["b"])), want * (longer if drifts else 1), 2e-3)


@pytest.mark.parametrize("factor", [128.0, pytest.param(2.0**-7, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("what", ["parameters", "loss"])
def test_another_unit_changes_nothing_but_rounding(what, factor):
    _, _, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 3)
    plain, _ = updates_of(tx, theta, gradients)
    if what == "parameters":  # theta' = factor * theta has gradients that are smaller by it
        scaled = jax.tree.map(lambda x: factor * x, theta)
        others = jax.tree.map(lambda g: g / factor, gradients)
        got, _ = updates_of(tx, scaled, others)
        got = jax.tree.map(lambda u: u / factor, got)
    else:
        got, _ = updates_of(tx, theta, jax.tree.map(lambda g: factor * g, gradients))
    for u, w in zip(jax.tree.leaves(got), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(u, w, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(w))))


def test_each_tensor_may_have_its_own_unit():
    _, _, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 2)
    factors = {"dense": {"bias": 1.0, "kernel": 64.0}, "embedding": 0.25, "kernel_4d": 1.0}
    plain, _ = updates_of(tx, theta, gradients)
    scaled = jax.tree.map(lambda c, x: c * x, factors, theta)
    others = [jax.tree.map(lambda c, g: g / c, factors, gradient) for gradient in gradients]
    got, _ = updates_of(tx, scaled, others)
    for name in ("embedding", "kernel_4d"):
        want = factors[name] * plain[1][name]
        np.testing.assert_allclose(got[1][name], want, rtol=1e-3, atol=1e-4 * float(want.max()))


def test_with_nothing_learned_a_matrix_moves_along_the_orthogonalised_momentum():
    opt = learned_opt.general(num_steps=NUM_STEPS)
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = {"w": parameters()["dense"]["kernel"]}
    gradient = gradients_of(theta, 1)[0]
    (u,), _ = updates_of(tx, theta, [gradient])
    want = -linear_length(1, NUM_STEPS) * 0.05 * rms(np.asarray(theta["w"], np.float64))
    want = want * unit(numpy_orthogonalised(np.asarray(gradient["w"], np.float64)))
    np.testing.assert_allclose(u["w"], want, rtol=2e-3, atol=1e-6)
    for learn_constants in (True, False):
        plain = learned_opt.general(
            num_steps=NUM_STEPS,
            hidden_sizes=(),
            controller_sizes=(),
            learn_constants=learn_constants,
        )
        phi = plain.init(jax.random.key(0))
        assert len(jax.tree.leaves(phi)) == 2 * learn_constants
        (without,), _ = updates_of(plain.transform(phi), theta, [gradient])
        np.testing.assert_allclose(without["w"], u["w"], rtol=1e-3)


def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values():
    rng = np.random.default_rng(0)
    for shape, split in (((6, 4), 1), ((4, 6), 1), ((3, 2, 4), 2)):
        x = rng.normal(size=shape)
        got = np.asarray(orthogonal.orthogonalised(jnp.asarray(x, jnp.float32), split))
        matrix = x.reshape(int(np.prod(shape[:split])), -1)
        np.testing.assert_allclose(
            got.reshape(matrix.shape), numpy_orthogonalised(matrix), atol=2e-3
        )
        values = np.linalg.svd(got.reshape(matrix.shape), compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.3
    np.testing.assert_array_equal(orthogonal.orthogonalised(jnp.zeros((3, 2))), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("shape", "split"),
    [
        ((), None),
        ((7,), None),
        ((7, 1), None),
        ((5, 3), 1),
        ((3, 3, 16, 32), 3),  # a convolution of Flax
        ((32, 16, 3, 3), 1),  # and one of Equinox
        ((64, 4, 16), 1),  # attention: inputs x (heads, units)
        ((4, 16, 64), 2),  # and (heads, units) x outputs
        ((0, 3), None),
    ],
)
def test_how_an_array_is_a_matrix(shape, split):
    assert orthogonal.split_of(shape) == split


def test_the_lengths_of_steps():
    steps = jnp.arange(1, 101)
    cosine, linear, constant = (
        np.asarray(jax.vmap(lambda t, name=name: schedules.length(name, t, 100))(steps))
        for name in ("cosine", "linear", "constant")
    )
    np.testing.assert_allclose(cosine, [cosine_length(t, 100) for t in range(1, 101)], atol=1e-6)
    np.testing.assert_allclose(linear, [linear_length(t, 100) for t in range(1, 101)], rtol=1e-4)
    # Near the line at first, half as high by its end.
    lines = np.array([left(t, 100) for t in (53, 98)])
    np.testing.assert_allclose(linear[[52, 97]] / lines, [0.97, 0.53], atol=0.01)
    np.testing.assert_allclose(constant[[0, 4, 99]], [0.2, 1, 1], rtol=1e-6)
    assert cosine[-1] > 0
    endless = jax.vmap(lambda t: schedules.length("endless", t, None))(jnp.array([25, 500, 2000]))
    np.testing.assert_allclose(endless, [0.5, 0.5**0.5, 0.2**0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "num_steps", "factor"),
    [
        ("linear", 100, 1),
        ("cosine", 1_000, 1),
        ("linear", 2_000, 2**-0.4),
        ("constant", 100_000, 100**-0.4),
        ("endless", None, 1),
    ],
)
def test_the_steps_of_long_runs_are_shorter(schedule, num_steps, factor):
    opt = learned_opt.general(num_steps=num_steps, schedule=schedule)
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = parameters()
    (update,), _ = updates_of(tx, theta, gradients_of(theta, 1))
    kernel = np.asarray(theta["dense"]["kernel"])
    length = 1 / 50 if schedule == "endless" else 1 / num_steps / 0.05
    length = min(length, 1) * factor
    got = rms(np.asarray(update["dense"]["kernel"]))
    np.testing.assert_allclose(got, length * SCALES["matrix"] * rms(kernel), rtol=2e-3)


def test_after_its_last_step_it_does_not_move():
    opt = learned_opt.general(num_steps=2)
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = parameters()
    got, _ = updates_of(tx, theta, gradients_of(theta, 5))
    assert all(np.any(np.asarray(u) != 0) for u in jax.tree.leaves(got[1]))
    assert all(np.all(np.asarray(u) == 0) for u in jax.tree.leaves(got[3:]))


def test_the_end_of_the_run():
    """It is a setting, or handed over, as the library's own loops do."""
    opt, phi, tx = an_optimizer()
    handed_over = learned_opt.general()
    theta = parameters()
    gradients = gradients_of(theta, 2)
    want, _ = updates_of(tx, theta, gradients, horizon=7)  # the setting counts
    got, _ = updates_of(handed_over.transform(phi), theta, gradients, horizon=NUM_STEPS)
    for u, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(u, w, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r"num_steps must be given.*schedule='endless'"):
        updates_of(handed_over.transform(phi), theta, gradients)
    endless = learned_opt.general(schedule="endless").transform(phi)
    (u, _), _ = updates_of(endless, theta, gradients)
    assert all(np.all(np.isfinite(x)) and np.any(x != 0) for x in jax.tree.leaves(u))
    problem = learned_opt.optimizees.quadratic(3)
    key = jax.random.key(0)
    of_loops = learned_opt.unroll((handed_over, phi), problem, key, 20)
    of_setting = learned_opt.unroll((opt, phi), problem, key, 20)
    np.testing.assert_allclose(of_loops.losses, of_setting.losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learn_constants": 1}, "learn_constants must be True or False, got 1"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": -3}, "num_steps must be a whole number of at least 1, got -3"),
        ({"schedule": "cosin"}, "cosin"),
        ({"scale": 0}, "scale must be a finite number above 0, got 0"),
        ({"weight_decay": -1}, "weight_decay must be 0 or a finite number above it, got -1"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes"),
        ({"state_dtype": "bfloat16"}, "decays must be at most 0.99"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.general(**settings)


def test_scale_and_weight_decay():
    _, phi, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 1)
    (plain,), _ = updates_of(tx, theta, gradients)
    (twice,), _ = updates_of(
        learned_opt.general(num_steps=NUM_STEPS, scale=2.0).transform(phi), theta, gradients
    )
    (decayed,), _ = updates_of(
        learned_opt.general(num_steps=NUM_STEPS, weight_decay=0.5).transform(phi), theta, gradients
    )
    w, w2, wd = (np.asarray(u["dense"]["kernel"]) for u in (plain, twice, decayed))
    np.testing.assert_allclose(w2, 2 * w, rtol=1e-3, atol=1e-6)
    pull = linear_length(1, NUM_STEPS) * 0.02 * 0.5 * np.asarray(theta["dense"]["kernel"])
    np.testing.assert_allclose(w - wd, pull, rtol=1e-2, atol=1e-6)

    def injected(scale):
        return learned_opt.general(num_steps=NUM_STEPS, scale=scale).transform(phi)

    tx = optax.inject_hyperparams(injected)(scale=2.0)
    u, _ = jax.jit(tx.update)(gradients[0], tx.init(theta), theta)
    np.testing.assert_allclose(u["dense"]["kernel"], w2, rtol=1e-3, atol=1e-6)


def test_which_tensors_are_embeddings():
    _, phi, _ = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 1)
    chosen = learned_opt.general(num_steps=NUM_STEPS, embedding=lambda path: "kernel_4d" in path)
    (got,), _ = updates_of(chosen.transform(phi), theta, gradients)
    (plain,), _ = updates_of(
        learned_opt.general(num_steps=NUM_STEPS).transform(phi), theta, gradients
    )
    assert np.any(np.abs(np.asarray(got["embedding"] - plain["embedding"])) > 1e-4)
    assert np.any(np.abs(np.asarray(got["kernel_4d"] - plain["kernel_4d"])) > 1e-4)
    np.testing.assert_allclose(
        got["dense"]["kernel"], plain["dense"]["kernel"], rtol=1e-3, atol=1e-6
    )
    assert chosen.spec is None  # no file can hold a function


def test_references():
    _, _, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 2)
    _, state = updates_of(tx, theta, gradients)
    np.testing.assert_allclose(
        state.reference["dense"]["bias"], of_zeros(theta, gradients[0]), rtol=1e-5
    )
    np.testing.assert_allclose(
        state.reference["kernel_4d"], rms(np.asarray(theta["kernel_4d"])), rtol=1e-5
    )
    # What is tiny is as good as zero, and what is flat behind it does not count.
    tiny = {
        "embedding": theta["embedding"],
        "gain": 1e-6 * jnp.ones(3),
        "behind": theta["kernel_4d"],
    }
    gradient = gradients_of(tiny, 1)[0]
    gradient = gradient | {"behind": 1e-6 * gradient["behind"]}
    _, state = updates_of(tx, tiny, [gradient])
    want = rms(np.asarray(tiny["embedding"]))
    want = min(
        want * rms(np.asarray(gradient["embedding"])) / rms(np.asarray(gradient["gain"])),
        rms(np.asarray(theta["kernel_4d"])),
    )
    np.testing.assert_allclose(state.reference["gain"], want, rtol=1e-5)
    # Without any scale there is a stated one; a dead tensor moves as far as the largest.
    zeros = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    _, state = updates_of(tx, zeros, gradients_of(zeros, 1))
    assert float(state.reference["a"]) == pytest.approx(1)
    dead = {"w": jnp.full((3, 2), 0.5), "b": jnp.zeros(2)}
    none = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    (u,), state = updates_of(tx, dead, [none])
    assert float(state.reference["b"]) == pytest.approx(0.5)
    assert np.all(np.asarray(u["b"]) == 0)


def test_a_linear_model_that_begins_at_zero_is_fitted():
    """Against NumPy's least squares: from zero there is all the way to go."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 10))
    targets = inputs @ rng.normal(size=(10, 3)) + rng.normal(size=(200, 3))
    solution = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    least = np.mean(np.square(inputs @ solution - targets))
    tx = learned_opt.pretrained("general", num_steps=300)

    def loss(theta):
        return jnp.mean(jnp.square(inputs @ theta - targets))

    @jax.jit
    def step(theta, state):
        updates, state = tx.update(jax.grad(loss)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    theta = jnp.zeros((10, 3))
    state = tx.init(theta)
    for _ in range(300):
        theta, state = step(theta, state)
    assert loss(theta) < 1.01 * least


def test_tiny_and_huge_gradients_are_finite():
    _, _, tx = an_optimizer()
    theta = parameters()
    update = jax.jit(tx.update)
    for size in (0.0, 1e-30, 1e-20, 1e15):
        state = tx.init(theta)
        for gradient in gradients_of(theta, 2):
            gradient = jax.tree.map(lambda g, size=size: size * g, gradient)
            u, state = update(gradient, state, theta)
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((u, state))), size


@pytest.mark.parametrize("shape", [(8,), (8, 6)])
@pytest.mark.parametrize("loops", ["fast", "plain"])
def test_what_has_no_gradient_any_more_stays_where_it_is(shape, loops):
    """As where all units of a layer died: it would go on until its momentum underflows."""
    opt = learned_opt.general(num_steps=3_000)
    tx = opt.transform(random_phi(opt))
    theta = {"dead": jnp.ones(shape), "alive": jnp.ones((5, 4))}

    def step(carry, t):
        theta, state = carry
        noise = jax.tree.map(lambda x: jax.random.normal(jax.random.key(t), x.shape), theta)
        dies = noise | {"dead": jnp.where(t < 10, noise["dead"], 0)}
        u, state = tx.update(dies, state, theta)
        return (optax.apply_updates(theta, u), state), u["dead"]

    def run():
        return jax.lax.scan(step, (theta, tx.init(theta)), jnp.arange(1_000))

    with contextlib.nullcontext() if loops == "fast" else learned_opt.xla_loops():
        (theta, state), updates = jax.jit(run)()
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((theta, state)))
    moves = np.any(np.asarray(updates).reshape(len(updates), -1) != 0, axis=1)
    assert moves[:40].all()
    assert not moves[500:].any()


def test_going_on_from_a_saved_state_gives_the_same_bits(tmp_path):
    _, _, tx = an_optimizer()
    theta = parameters()
    gradients = gradients_of(theta, 4)
    whole, _ = updates_of(tx, theta, gradients)
    _, state = updates_of(tx, theta, gradients[:2])
    leaves, treedef = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", *leaves)
    kept = np.load(tmp_path / "state.npz")
    state = treedef.unflatten([jnp.asarray(kept[f"arr_{i}"]) for i in range(len(leaves))])
    update = jax.jit(tx.update)
    for gradient, want in zip(gradients[2:], whole[2:], strict=True):
        u, state = update(gradient, state, theta)
        jax.tree.map(np.testing.assert_array_equal, u, want)


def test_spec_and_saving(tmp_path):
    opt, phi, _ = an_optimizer()
    assert optimizers.from_spec(json.loads(json.dumps(opt.spec))) == opt
    learned_opt.save(tmp_path / "it", opt, phi)
    again, weights = learned_opt.load(tmp_path / "it")
    assert again == opt
    jax.tree.map(np.testing.assert_array_equal, weights, phi)


def test_states_of_others_are_refused():
    _, _, tx = an_optimizer()
    theta = parameters()
    gradient = gradients_of(theta, 1)[0]
    for state in (optax.adam(0.1).init(theta), tx.init({"w": jnp.ones(3)})):
        with pytest.raises(ValueError, match=r"make it with tx\.init\(params\)"):
            tx.update(gradient, state, theta)


def test_the_program_grows_with_the_number_of_tensors_and_not_with_its_square():
    """Networks of some hundred tensors would be compiled for minutes."""
    opt = learned_opt.general(num_steps=10)
    tx = opt.transform(opt.init(jax.random.key(0)))

    def num_lines(num_layers):
        theta = {f"{i}": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)} for i in range(num_layers)}
        program = jax.jit(tx.update).lower(theta, tx.init(theta), theta).compile()
        return program.as_text().count("\n")

    few, more, many = map(num_lines, (4, 8, 16))
    assert many - more < 2.5 * (more - few)


def test_bytes_of_state():
    """At most 20 bytes a parameter."""
    _, _, tx = an_optimizer()
    theta = {"w": jnp.ones((100, 100))}
    size = sum(x.nbytes for x in jax.tree.leaves(tx.init(theta)))
    assert size / 10_000 < 16.01
