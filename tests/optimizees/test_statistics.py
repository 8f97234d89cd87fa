"""Networks with running statistics and random streams of their own, against NumPy and Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import data, optimizees
from learned_opt.meta import evaluating
from learned_opt.optimizees import base

MOMENTUM = 0.8
BATCH_SIZE = 6
NUM_STEPS = 4
begin = jax.jit(base.begin)


class Normalized(nn.Module):
    """Dense, batch normalization, dense: as small as a network with running averages can be."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(5)(images.reshape(images.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(x)
        return nn.Dense(3)(nn.tanh(x))


class Dropped(nn.Module):
    """Dropout alone, told by the argument that Flax itself uses."""

    @nn.compact
    def __call__(self, images, deterministic=True):
        x = nn.Dense(16)(images.reshape(images.shape[0], -1))
        return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=deterministic))


class Both(nn.Module):
    """Batch normalization, dropout and a random stream of another name."""

    @nn.compact
    def __call__(self, images, training=False):
        x = nn.Dense(12)(images.reshape(images.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not training)(x))
        if training:
            x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
        x = nn.Dropout(0.2, deterministic=not training)(x)
        return nn.Dense(10)(x)


class AlwaysDropped(nn.Module):
    """A network that nobody can tell that it does not train."""

    @nn.compact
    def __call__(self, images):
        x = nn.Dropout(0.5, deterministic=False)(images.reshape(images.shape[0], -1))
        return nn.Dense(3)(x)


def dataset(n=11, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, 2, 2, 1)).astype(np.float32)
    return data.Dataset(images, rng.integers(0, 3, n), 3)


def steps(problem, seed=0, rate=0.1):
    """Steps of gradient descent: `(thetas, keys, losses, statistics after each)`."""
    family = base.as_family(problem)
    begun = begin(family, jax.random.key(seed))
    step = jax.jit(base.value_and_grad_at)
    theta, statistics = begun.theta_0, begun.statistics
    thetas, losses, after = [], [], [statistics]
    for t in range(NUM_STEPS):
        thetas.append(theta)
        loss, gradient, statistics = step(family, begun, theta, t, statistics)
        theta = jax.tree.map(lambda x, g: x - rate * g, theta, gradient)
        losses.append(loss)
        after.append(statistics)
    keys = [base.minibatch_key(begun.key, t) for t in range(NUM_STEPS)]
    return thetas, keys, losses, after


@pytest.fixture(scope="module")
def normalized():
    return steps(optimizees.classifier(Normalized(), dataset(), BATCH_SIZE))


def test_running_averages_are_numpys(normalized):
    examples = dataset()
    thetas, keys, losses, after = normalized
    mean, var = np.zeros(5), np.ones(5)
    for t, key in enumerate(keys):
        theta = jax.tree.map(lambda x: np.asarray(x, np.float64), thetas[t])
        index = np.asarray(jax.random.randint(key, (BATCH_SIZE,), 0, 11))
        flat = examples.images[index].reshape(BATCH_SIZE, -1)
        x = flat @ theta["Dense_0"]["kernel"] + theta["Dense_0"]["bias"]
        mean = MOMENTUM * mean + (1 - MOMENTUM) * x.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * x.var(0)
        got = after[t + 1]["batch_stats"]["BatchNorm_0"]
        np.testing.assert_allclose(got["mean"], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got["var"], var, rtol=1e-4)
        # The loss is that of the normalization by the minibatch itself.
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        x = x * theta["BatchNorm_0"]["scale"] + theta["BatchNorm_0"]["bias"]
        logits = np.tanh(x) @ theta["Dense_1"]["kernel"] + theta["Dense_1"]["bias"]
        chosen = logits[np.arange(BATCH_SIZE), examples.labels[index]]
        want = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
        np.testing.assert_allclose(losses[t], want, rtol=1e-4)


def test_theta_is_the_params_collection_alone(normalized):
    thetas, _, _, after = normalized
    assert set(thetas[0]) == {"Dense_0", "BatchNorm_0", "Dense_1"}
    assert jax.tree.map(jnp.shape, after[0]) == {
        "batch_stats": {"BatchNorm_0": {"mean": (5,), "var": (5,)}}
    }
    np.testing.assert_array_equal(thetas[0]["BatchNorm_0"]["scale"], np.ones(5))


def test_init_scale_goes_for_all_parameters():
    problem = optimizees.classifier(Normalized(), dataset(), BATCH_SIZE, init_scale=0.1)
    begun = begin(base.as_family(problem), jax.random.key(0))
    assert np.all(np.abs(begun.theta_0["BatchNorm_0"]["scale"]) < 0.6)
    np.testing.assert_array_equal(begun.statistics["batch_stats"]["BatchNorm_0"]["var"], np.ones(5))


def test_held_out_uses_running_averages(normalized):
    thetas, keys, _, after = normalized
    one = dataset(n=1, seed=3)
    problem = optimizees.classifier(Normalized(), dataset(), BATCH_SIZE, held_out=one)
    statistics = after[-1]
    got = jax.jit(problem.held_out)(thetas[-1], (), keys[0], statistics)
    variables = {"params": thetas[-1], **statistics}
    logits = Normalized().apply(variables, one.images, train=False)
    want = optax.softmax_cross_entropy_with_integer_labels(logits, one.labels)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_held_out_minibatches_are_of_the_held_out_data():
    """The optimizer does not see them, so the held-out losses are those of other examples."""
    held_out = dataset(n=2, seed=4)
    problem = optimizees.mlp(dataset(), batch_size=1, held_out=held_out, init_scale=1.0)
    theta = jax.jit(problem.init)(jax.random.key(0), ())
    keys = jax.random.split(jax.random.key(1), 40)
    losses = jax.jit(jax.vmap(lambda key: problem.held_out(theta, (), key)))(keys)
    network = optimizees.mlp_network(3)
    logits = network.apply({"params": theta}, held_out.images)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, held_out.labels)
    nearest = jnp.argmin(jnp.abs(losses[:, None] - each[None]), 1)
    np.testing.assert_allclose(losses, each[nearest], rtol=1e-5)
    assert set(np.asarray(nearest)) == {0, 1}


def test_dropout_is_flax_own_with_a_key_of_the_minibatch():
    one = dataset(n=1)
    problem = optimizees.classifier(Dropped(), one, batch_size=2)
    assert problem.statistics is None
    theta = jax.jit(problem.init)(jax.random.key(0), ())
    keys = jax.random.split(jax.random.key(1), 20)
    loss = jax.jit(jax.vmap(problem.loss, (None, None, 0)))
    losses = loss(theta, (), keys)
    np.testing.assert_array_equal(losses, loss(theta, (), keys))
    assert np.unique(losses).size == 20
    images = np.repeat(one.images, 2, 0)
    rngs = {"dropout": jax.random.fold_in(keys[0], 2**30)}
    logits = Dropped().apply({"params": theta}, images, deterministic=False, rngs=rngs)
    want = optax.softmax_cross_entropy_with_integer_labels(logits, np.repeat(one.labels, 2))
    np.testing.assert_allclose(losses[0], want.mean(), rtol=1e-5)


def test_a_network_with_both_learns_under_evaluate():
    train, test = data.load("digits")
    problem = optimizees.classifier(Both(), train, batch_size=64, held_out=test)
    measures = {
        "accuracy": optimizees.accuracy(Both(), test),
        "loss": optimizees.mean_loss(Both(), test),
    }
    losses, measured = evaluating.evaluate_with(
        measures, optax.adam(0.02), problem, jax.random.key(0), 60, 2
    )
    assert losses.shape == (2, 61)
    assert np.all(losses[:, -1] < 0.7)
    assert np.all(measured["accuracy"] > 0.85)


def test_wrappers_pass_statistics_and_held_out_through():
    plain = optimizees.classifier(Normalized(), dataset(), BATCH_SIZE, held_out=dataset(seed=1))
    problem = optimizees.with_convex(optimizees.random_scaling(plain, 1.0), dim=4)
    family = base.as_family(problem)
    begun = begin(family, jax.random.key(0))
    c = begun.instance.f.c
    theta = jax.tree.map(jnp.multiply, c, begun.theta_0.f)
    convex = jnp.square(begun.instance.g.c * begun.theta_0.g - begun.instance.g.instance).mean()
    key = jax.random.key(7)
    loss, after = jax.jit(family.loss)(begun.theta_0, begun.instance, key, begun.statistics)
    want, want_after = jax.jit(plain.loss)(theta, (), key, begun.statistics)
    np.testing.assert_allclose(loss, want + convex, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after, want_after)
    held_out = jax.jit(family.held_out)(begun.theta_0, begun.instance, key, after)
    want = jax.jit(plain.held_out)(theta, (), key, after) + convex
    np.testing.assert_allclose(held_out, want, rtol=1e-5)


def test_scaled_held_out_of_a_family_without_statistics():
    plain = optimizees.mlp(dataset(), held_out=dataset(seed=1))
    scaled = optimizees.random_scaling(plain)
    assert scaled.statistics is None
    begun = begin(base.as_family(scaled), jax.random.key(0))
    theta = jax.tree.map(jnp.multiply, begun.instance.c, begun.theta_0)
    got = jax.jit(scaled.held_out)(begun.theta_0, begun.instance, begun.key)
    np.testing.assert_allclose(got, jax.jit(plain.held_out)(theta, (), begun.key), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optimizees.accuracy(AlwaysDropped(), dataset()),
            "AlwaysDropped one of the arguments train, training",
        ),
        (
            lambda: optimizees.classifier(AlwaysDropped(), dataset(), held_out=dataset()),
            "must not draw random numbers when it does not train",
        ),
        (
            lambda: optimizees.mlp(dataset(), held_out=(np.zeros((2, 5)), [0, 1])),
            r"held_out must have images of shape \(2, 2, 1\) each, got \(5,\)",
        ),
        (
            lambda: optimizees.mlp(dataset(), held_out=(np.zeros((2, 2, 2, 1)), [0, 3])),
            "held_out must have the 3 classes of dataset, got 4",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_dropout_that_is_always_on_can_be_trained():
    problem = optimizees.classifier(AlwaysDropped(), dataset(), batch_size=2)
    theta = jax.jit(problem.init)(jax.random.key(0), ())
    assert jnp.isfinite(problem.loss(theta, (), jax.random.key(1)))
