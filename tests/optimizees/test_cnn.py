"""The convolutional networks against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import data, optimizees
from learned_opt.optimizees import base

ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "tanh": np.tanh,
}


def dataset(shape=(4, 4, 2), n=1, num_classes=3):
    rng = np.random.default_rng(0)
    return data.Dataset(
        rng.normal(size=(n, *shape)).astype(np.float32),
        rng.integers(0, num_classes, n),
        num_classes,
    )


def numpy_conv(x, w, b):
    bordered = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    result = np.empty((*x.shape[:2], w.shape[-1]))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            result[i, j] = np.einsum("ijc,ijcf->f", bordered[i : i + 3, j : j + 3], w)
    return result + b


def numpy_logits(theta, image, structure, activation):
    """Logits of one image, in float64."""
    theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    layers = {
        letter: iter(
            [(theta[k]["kernel"], theta[k]["bias"]) for k in sorted(theta) if k.startswith(name)]
        )
        for letter, name in (("c", "Conv"), ("f", "Dense"))
    }
    x, letters = np.asarray(image, np.float64), structure.split("-")
    for i, letter in enumerate(letters):
        if letter == "p":
            x = np.max([x[i::2, j::2] for i in (0, 1) for j in (0, 1)], 0)
            continue
        w, b = next(layers[letter])
        x = numpy_conv(x, w, b) if letter == "c" else x.ravel() @ w + b
        x = x if i == len(letters) - 1 else ACTIVATIONS[activation](x)
    return x


@pytest.mark.parametrize(
    ("structure", "activation"),
    [
        ("c-p-c-p-f-f-f", "tanh"),
        ("p-c-f", "relu"),
        pytest.param("c-c-p-f", "relu", marks=pytest.mark.thorough),
        pytest.param("c-f", "sigmoid", marks=pytest.mark.thorough),
        pytest.param("p-f", "relu", marks=pytest.mark.thorough),
        pytest.param("p-c-f-f", "elu", marks=pytest.mark.thorough),
    ],
)
def test_loss_is_the_cross_entropy(structure, activation):
    one = dataset()
    problem = optimizees.cnn(
        one,
        structure=structure,
        channels=2,
        growth=3,
        activation=activation,
        batch_size=2,
        pixel_offset=0.5,
        init_scale=1.0,
    )
    theta = problem.init(jax.random.key(1), problem.sample(jax.random.key(0)))
    loss, gradient = jax.jit(jax.value_and_grad(problem.loss))(theta, (), jax.random.key(2))
    logits = numpy_logits(theta, one.images[0] - 0.5, structure, activation)
    np.testing.assert_allclose(
        loss, np.log(np.exp(logits).sum()) - logits[one.labels[0]], rtol=1e-4, atol=1e-5
    )
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
    assert any(np.any(x != 0) for x in jax.tree.leaves(gradient))


def test_a_gradient_is_the_slope_of_the_loss(x64):
    one = dataset()
    problem = optimizees.cnn(
        one, structure="c-p-f-f", channels=2, activation="tanh", batch_size=1, init_scale=1.0
    )
    theta = jax.tree.map(lambda x: x.astype(jnp.float64), problem.init(jax.random.key(1), ()))
    direction = jax.tree.map(jnp.cos, theta)
    gradient = jax.jit(jax.grad(problem.loss))(theta, (), jax.random.key(2))
    slope = sum(
        jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
    )

    @jax.jit
    def along(e):
        return problem.loss(
            jax.tree.map(lambda x, d: x + e * d, theta, direction), (), jax.random.key(2)
        )

    np.testing.assert_allclose(slope, (along(1e-5) - along(-1e-5)) / 2e-5, rtol=1e-6)


def conv_size(channels, features):
    return 9 * channels * features + features


def dense_size(inputs, outputs):
    return inputs * outputs + outputs


@pytest.mark.parametrize(
    ("structure", "shape", "size"),
    [
        (
            "c-c-p-f",
            (28, 28, 1),
            conv_size(1, 16) + conv_size(16, 16) + dense_size(14 * 14 * 16, 10),
        ),
        (
            "c-c-p-f",
            (32, 32, 3),
            conv_size(3, 16) + conv_size(16, 16) + dense_size(16 * 16 * 16, 10),
        ),
        (
            "c-c-p-c-c-p-f-f",
            (28, 28, 1),
            conv_size(1, 16)
            + conv_size(16, 16)
            + conv_size(16, 32)
            + conv_size(32, 32)
            + dense_size(7 * 7 * 32, 64)
            + dense_size(64, 10),
        ),
    ],
)
def test_sizes_of_the_papers_networks(structure, shape, size):
    problem = optimizees.cnn(dataset(shape, num_classes=10), structure=structure)
    theta = jax.eval_shape(problem.init, jax.random.key(0), ())
    assert sum(x.size for x in jax.tree.leaves(theta)) == size


def test_shapes():
    problem = optimizees.cnn(
        dataset((7, 5, 1)), structure="c-p-c-p-f-f", channels=2, growth=3, hidden_size=4
    )
    theta = problem.init(jax.random.key(0), ())
    assert jax.tree.map(jnp.shape, theta) == {
        "Conv_0": {"kernel": (3, 3, 1, 2), "bias": (2,)},
        "Conv_1": {"kernel": (3, 3, 2, 6), "bias": (6,)},
        "Dense_0": {"kernel": (1 * 1 * 6, 4), "bias": (4,)},
        "Dense_1": {"kernel": (4, 3), "bias": (3,)},
    }


def test_scale_of_theta_0():
    problem = optimizees.cnn(dataset(), channels=60)
    leaves = jax.tree.leaves(problem.init(jax.random.key(0), ()))
    for leaf in (x for x in leaves if x.size >= 300):
        np.testing.assert_allclose(np.std(leaf), 0.1, rtol=0.15)
    own = optimizees.cnn(dataset(), channels=60, init_scale=None).init(jax.random.key(0), ())
    np.testing.assert_array_equal(own["Conv_1"]["bias"], np.zeros(60))
    np.testing.assert_allclose(np.std(own["Conv_1"]["kernel"]), 1 / np.sqrt(9 * 60), rtol=0.05)


def test_several_networks_are_what_each_is_alone():
    problem = optimizees.cnn(dataset(n=9), structure="c-p-f", channels=2, batch_size=4)
    keys = jax.random.split(jax.random.key(3), 3)
    thetas = jax.vmap(problem.init, (0, None))(keys, ())
    step = jax.value_and_grad(problem.loss)
    together = jax.jit(jax.vmap(step, (0, None, 0)))(thetas, (), keys)
    one_by_one = jax.jit(
        lambda thetas, keys: jax.lax.map(lambda x: step(x[0], (), x[1]), (thetas, keys))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        together,
        one_by_one(thetas, keys),
    )
    assert np.unique(together[0]).size == 3


@pytest.mark.thorough
def test_differentiation_through_steps_of_training(x64):
    """A meta-gradient: that of the last loss by the rate of gradient descent."""
    problem = optimizees.cnn(
        dataset(), structure="c-p-f", channels=2, activation="tanh", batch_size=1, init_scale=1.0
    )
    theta_0 = jax.tree.map(lambda x: x.astype(jnp.float64), problem.init(jax.random.key(1), ()))

    def last_loss(rate):
        def step(theta, key):
            gradient = jax.grad(problem.loss)(theta, (), key)
            return jax.tree.map(lambda x, g: x - rate * g, theta, gradient), None

        theta, _ = jax.lax.scan(step, theta_0, jax.random.split(jax.random.key(2), 2))
        return problem.loss(theta, (), jax.random.key(3))

    losses, slopes = jax.jit(jax.vmap(jax.value_and_grad(last_loss)))(
        0.1 + jnp.array([1e-5, 0.0, -1e-5])
    )
    assert abs(slopes[1]) > 1e-3
    np.testing.assert_allclose(slopes[1], (losses[0] - losses[2]) / 2e-5, rtol=1e-5)


def test_accuracy():
    train, test = data.shrink(data.load(), 2)
    problem, network = optimizees.network_family(
        "cnn", train, structure="c-f", channels=4, batch_size=64
    )
    measure = optimizees.accuracy(network, test)
    theta = learned_opt.unroll(optax.adam(0.03), problem, jax.random.key(0), 60).theta
    assert float(measure(theta)) > 0.75


def test_equal_problems_share_their_programs():
    one, other, another = (
        optimizees.cnn(dataset(), structure=s) for s in ("c-p-f", "c-p-f", "c-f")
    )
    assert jax.tree.structure(one) == jax.tree.structure(other) != jax.tree.structure(another)


def test_bytes_are_read_as_zero_to_one():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1)).astype(np.uint8)
    as_bytes, as_floats = (
        optimizees.cnn((images, np.array([1])), structure="c-f", channels=2, pixel_offset=0.5)
        for images in (pixels, (pixels / 255).astype(np.float32))
    )
    theta = as_floats.init(jax.random.key(0), ())
    losses = [jax.jit(p.loss)(theta, (), jax.random.key(1)) for p in (as_bytes, as_floats)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    "structure", ["", "c", "c-p", "f-c", "c-f-p", "c-f-", "ccpf", "C-f", "c-x-f", 3, None]
)
def test_structures_that_are_none(structure):
    with pytest.raises(ValueError, match=f"as in 'c-c-p-f', got {structure!r}"):
        optimizees.cnn(dataset(), structure=structure)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"structure": "p-p-p-f"}, r"at most 2 poolings for images of 4 x 4 pixels, got 'p-p-p-f'"),
        (
            {"dataset": (np.zeros((3, 16), np.float32), np.arange(3))},
            r"images must be \[n, .*got shape \(n, 16\)",
        ),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"growth": 1.5}, "growth must be a whole number of at least 1, got 1.5"),
        ({"hidden_size": -1}, "hidden_size must be a whole number of at least 1, got -1"),
        ({"activation": "rely"}, "unknown activation 'rely'. Did you mean 'relu'"),
        ({"pixel_offset": np.inf}, "pixel_offset must be 0 or a finite number above it, got inf"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"init_scale": -0.1}, "init_scale must be a finite number above 0, got -0.1"),
        ({"dataset": "mnits"}, "unknown data set 'mnits'. Did you mean 'mnist'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimizees.cnn(**{"dataset": dataset(), **kwargs})


def test_a_problem_begins_under_jit():
    problem = optimizees.cnn(dataset())
    begun = jax.jit(base.begin)(base.as_family(problem), jax.random.key(0))
    assert jax.tree.structure(begun.theta_0) == jax.tree.structure(
        problem.init(jax.random.key(0), ())
    )
