"""The networks' losses and gradients against NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import data
from learned_opt.optimizees import base

ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "tanh": np.tanh,
}


def dataset(n=7, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return data.Dataset(
        rng.normal(size=(n, 2, 2, 1)).astype(np.float32),
        rng.integers(0, num_classes, n),
        num_classes,
    )


def numpy_layers(theta):
    """Kernels and biases in their order, in float64."""
    return [
        (np.asarray(theta[k]["kernel"], np.float64), np.asarray(theta[k]["bias"], np.float64))
        for k in sorted(theta)
    ]


def numpy_logits(theta, images, activation):
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    *hidden, (kernel, bias) = numpy_layers(theta)
    for w, b in hidden:
        x = ACTIVATIONS[activation](x @ w + b)
    return x @ kernel + bias


def numpy_losses(theta, images, labels, activation):
    """The cross-entropy of every example."""
    logits = numpy_logits(theta, images, activation)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_is_the_cross_entropy(activation):
    one = dataset(n=1)
    problem = learned_opt.optimizees.mlp(
        one, width=5, depth=2, activation=activation, batch_size=3, init_scale=1.0
    )
    theta = problem.init(jax.random.key(1), problem.sample(jax.random.key(0)))
    assert [w.shape for w, _ in numpy_layers(theta)] == [(4, 5), (5, 5), (5, 3)]
    loss = problem.loss(theta, (), jax.random.key(2))
    np.testing.assert_allclose(
        loss, numpy_losses(theta, one.images, one.labels, activation)[0], rtol=1e-5
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ten_hidden_layers(activation):
    examples = dataset(n=1)
    problem = learned_opt.optimizees.mlp(examples, depth=10, activation=activation, batch_size=2)
    theta = problem.init(jax.random.key(1), ())
    assert sum(x.size for x in jax.tree.leaves(theta)) == (4 * 20 + 20) + 9 * (20 * 20 + 20) + (
        20 * 3 + 3
    )
    loss, gradient = jax.jit(jax.value_and_grad(problem.loss))(theta, (), jax.random.key(2))
    layers = [f"Dense_{i}" for i in range(11)]  # by number: sorted by name the eleventh comes third
    in_order = {f"{i:02}": theta[name] for i, name in enumerate(layers)}
    np.testing.assert_allclose(
        loss, numpy_losses(in_order, examples.images, examples.labels, activation)[0], rtol=1e-5
    )
    assert all(np.all(np.isfinite(gradient[name]["kernel"])) for name in layers)
    assert all(np.any(gradient[name]["kernel"] != 0) for name in layers)


def test_gradient_of_the_papers_network():
    one = dataset(n=1)
    problem = learned_opt.optimizees.mlp(one, width=5, batch_size=2, init_scale=1.0)
    theta = problem.init(jax.random.key(1), ())
    gradient = jax.jit(jax.grad(problem.loss))(theta, (), jax.random.key(2))
    (w_1, b_1), (w_2, b_2) = numpy_layers(theta)
    x = one.images.reshape(4).astype(np.float64)
    h = ACTIVATIONS["sigmoid"](x @ w_1 + b_1)
    logits = h @ w_2 + b_2
    error = np.exp(logits) / np.exp(logits).sum() - np.eye(3)[one.labels[0]]
    hidden_error = (w_2 @ error) * h * (1 - h)
    want = [(np.outer(x, hidden_error), hidden_error), (np.outer(h, error), error)]
    for got, expected in zip(numpy_layers(gradient), want, strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_minibatches_are_drawn_by_the_key_alone():
    examples = dataset()
    problem = learned_opt.optimizees.mlp(examples, batch_size=1, init_scale=1.0)
    theta = problem.init(jax.random.key(1), ())
    each = numpy_losses(theta, examples.images, examples.labels, "sigmoid")
    keys = jax.random.split(jax.random.key(2), 300)
    loss = jax.jit(jax.vmap(problem.loss, (None, None, 0)))
    losses = loss(theta, (), keys)
    drawn = np.argmin(np.abs(np.asarray(losses)[:, None] - each), 1)
    np.testing.assert_allclose(losses, each[drawn], rtol=1e-4)
    assert np.bincount(drawn, minlength=7).min() > 300 / 7 / 2
    moved = jax.tree.map(lambda x: x + 1, theta)
    each_moved = numpy_losses(moved, examples.images, examples.labels, "sigmoid")
    np.testing.assert_allclose(loss(moved, (), keys), each_moved[drawn], rtol=1e-4)


def test_loss_is_the_mean_over_the_minibatch():
    """A network of zeros, but for biases of the last layer: a loss is that of the label."""
    examples = data.Dataset(np.zeros((2, 2, 2, 1), np.float32), np.array([0, 1]), 2)
    problem = learned_opt.optimizees.mlp(examples, batch_size=4)
    theta = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0), ()))
    theta["Dense_1"]["bias"] = jnp.array([0.0, 2.0])
    of_label = np.log(1 + np.exp(2.0)) - np.array([0.0, 2.0])
    possible = of_label[0] + np.arange(5) / 4 * (of_label[1] - of_label[0])
    losses = jax.jit(jax.vmap(lambda k: problem.loss(theta, (), k)))(
        jax.random.split(jax.random.key(1), 100)
    )
    assert {int(np.argmin(np.abs(possible - x))) for x in np.asarray(losses)} == {0, 1, 2, 3, 4}
    np.testing.assert_allclose(
        np.abs(np.asarray(losses)[:, None] - possible).min(1), 0.0, atol=1e-6
    )


def test_bytes_are_read_as_zero_to_one():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 1)).astype(np.uint8)
    labels = np.array([1])
    as_bytes, as_floats = (
        learned_opt.optimizees.mlp(data.Dataset(images, labels, 3), batch_size=1)
        for images in (pixels, (pixels / 255).astype(np.float32))
    )
    theta = as_floats.init(jax.random.key(0), ())
    key = jax.random.key(1)
    np.testing.assert_allclose(
        as_bytes.loss(theta, (), key), as_floats.loss(theta, (), key), rtol=1e-6
    )


def test_scale_of_theta_0():
    problem = learned_opt.optimizees.mlp(dataset(), width=300)
    for leaf in jax.tree.leaves(problem.init(jax.random.key(0), ())):
        if leaf.size >= 300:
            np.testing.assert_allclose(np.std(leaf), 0.1, rtol=0.15)
            np.testing.assert_allclose(np.mean(leaf), 0.0, atol=0.02)
    own = learned_opt.optimizees.mlp(dataset(), width=300, init_scale=None).init(
        jax.random.key(0), ()
    )
    np.testing.assert_array_equal(own["Dense_0"]["bias"], np.zeros(300))
    np.testing.assert_allclose(
        np.std(own["Dense_0"]["kernel"]), 0.5, rtol=0.1
    )  # LeCun: 1 / sqrt(4)


def test_the_papers_network_by_default():
    theta = learned_opt.optimizees.mlp().init(jax.random.key(0), ())
    assert jax.tree.map(jnp.shape, theta) == {
        "Dense_0": {"kernel": (64, 20), "bias": (20,)},
        "Dense_1": {"kernel": (20, 10), "bias": (10,)},
    }


def test_any_flax_network():
    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(3)(nn.relu(nn.Conv(2, (2, 2))(images)).mean((1, 2)))

    problem = learned_opt.optimizees.classifier(Convolutional(), dataset(), batch_size=4)
    theta = jax.jit(problem.init)(jax.random.key(0), ())
    loss, gradient = jax.jit(jax.value_and_grad(problem.loss))(theta, (), jax.random.key(1))
    assert 0.2 < float(loss) < 5
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def start(problem, key):
    """A loss at theta_0, as a program that takes the problem as an argument."""
    begun = base.begin(base.as_family(problem), key)
    return problem.loss(begun.theta_0, begun.instance, begun.key)


def test_data_are_arguments_of_a_jitted_program():
    problem = learned_opt.optimizees.mlp(dataset(n=1000))
    lowered = jax.jit(start).lower(problem, jax.random.key(0))
    assert max(x.size for x in jax.tree.leaves(lowered.in_avals)) == 4000
    constants = jax.make_jaxpr(start)(problem, jax.random.key(0)).consts
    assert sum(np.size(x) for x in constants) < 100
    text, closed_over = (
        jax.jit(f).lower(*args).as_text()
        for f, args in (
            (start, (problem, jax.random.key(0))),
            (functools.partial(start, problem), (jax.random.key(0),)),
        )
    )
    assert len(closed_over) > len(text) + 4 * 8 * 1000  # eight hexadecimal digits a pixel


def test_vmapped_without_copies_of_the_data():
    problem = learned_opt.optimizees.mlp(dataset())
    keys = jax.random.split(jax.random.key(0), 3)
    losses = jax.jit(jax.vmap(start, in_axes=(None, 0)))(problem, keys)
    np.testing.assert_allclose(losses, [jax.jit(start)(problem, k) for k in keys], rtol=1e-5)
    assert np.unique(losses).size == 3


def test_equal_problems_do_not_compile_twice():
    traces = []

    @jax.jit
    def traced(problem, key):
        traces.append(1)
        return start(problem, key)

    for seed in range(3):
        traced(learned_opt.optimizees.mlp(dataset(seed=seed)), jax.random.key(seed))
    assert len(traces) == 1
    assert traced._cache_size() == 1
    traced(learned_opt.optimizees.mlp(dataset(), activation="relu"), jax.random.key(0))
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"activation": "sigmoyd"}, "unknown activation 'sigmoyd'. Did you mean 'sigmoid'"),
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"depth": -1}, "depth must be a whole number of at least 1, got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, got True"),
        ({"init_scale": 0.0}, "init_scale must be a finite number above 0, got 0.0"),
        ({"dataset": "mnits"}, "unknown data set 'mnits'. Did you mean 'mnist'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.optimizees.mlp(**{"dataset": dataset(), **kwargs})


def test_network_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"logits of shape \(batch, 3\).*got \(batch, 4\)"):
        learned_opt.optimizees.classifier(learned_opt.optimizees.mlp_network(4), dataset())
