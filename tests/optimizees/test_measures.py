"""Accuracy and mean loss over whole data sets, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import data, optimizees
from learned_opt.meta import unrolling
from learned_opt.optimizees import measures


class Normalized(nn.Module):
    """Logits are the images, normalized."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=not train, use_bias=False, epsilon=0.0)(images)
        return x


def examples(n):
    rng = np.random.default_rng(n)
    return data.Dataset(rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 3, n), 3)


def numpy_measures(logits, labels):
    logits = np.asarray(logits, np.float64)
    chosen = logits[np.arange(len(labels)), labels]
    right = np.mean(logits.argmax(1) == labels)
    return right, np.mean(np.log(np.exp(logits).sum(1)) - chosen)


# Whole batches, a last one that is filled up, and one batch.
@pytest.mark.parametrize("n", [30, 33, 10])
def test_they_are_means_over_all_examples(n, monkeypatch):
    monkeypatch.setattr(measures, "EXAMPLES_AT_ONCE", 10)
    dataset = examples(n)
    network = optimizees.mlp_network(3, width=4)
    theta = optimizees.mlp(dataset, width=4, init_scale=1.0).init(jax.random.key(0), ())
    logits = network.apply({"params": theta}, dataset.images)
    right, loss = numpy_measures(logits, dataset.labels)
    accuracy = optimizees.accuracy(network, dataset)
    mean_loss = optimizees.mean_loss(network, dataset)
    np.testing.assert_allclose(accuracy(theta), right, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mean_loss)(theta), loss, rtol=1e-5)


def test_a_network_reads_few_examples_at_once(monkeypatch):
    monkeypatch.setattr(measures, "EXAMPLES_AT_ONCE", 10)
    measure = optimizees.accuracy(optimizees.mlp_network(3, width=64), examples(40))
    theta = optimizees.mlp(examples(40), width=64).init(jax.random.key(0), ())
    jaxpr = jax.make_jaxpr(measure)(theta)
    assert "40,64]" not in str(jaxpr)
    assert "10,64]" in str(jaxpr)


def test_literal_values():
    network = optimizees.mlp_network(2, width=1)
    theta = {
        "Dense_0": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)},
        "Dense_1": {"kernel": jnp.array([[0.0, 1.0]]), "bias": jnp.array([0.5, 0.0])},
    }
    # The second logit, sigmoid(x), is above the first, 0.5, where x > 0.
    images = np.array([-2.0, -1.0, 1.0, 2.0, 3.0], np.float32)[:, None]
    dataset = data.Dataset(images, np.array([0, 1, 1, 1, 0]), 2)
    np.testing.assert_allclose(optimizees.accuracy(network, dataset)(theta), 0.6, rtol=1e-6)


def test_networks_with_statistics_are_measured_by_their_running_averages():
    dataset = examples(9)
    theta = {"BatchNorm_0": {"scale": jnp.array([1.0, -2.0, 0.5])}}
    averages = {"mean": jnp.array([0.1, 0.2, -0.3]), "var": jnp.array([1.0, 4.0, 0.25])}
    statistics = {"batch_stats": {"BatchNorm_0": averages}}
    run = unrolling.Run(jnp.zeros(2), theta, statistics)
    logits = (dataset.images - [0.1, 0.2, -0.3]) / [1.0, 2.0, 0.5] * [1.0, -2.0, 0.5]
    right, loss = numpy_measures(logits, dataset.labels)
    accuracy = optimizees.accuracy(Normalized(), dataset)
    mean_loss = optimizees.mean_loss(Normalized(), dataset)
    assert accuracy.func.of_run
    np.testing.assert_allclose(accuracy(run), right, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mean_loss)(run, None), loss, rtol=1e-5)


def test_equal_measures_share_their_programs():
    first, second = (optimizees.accuracy(optimizees.mlp_network(3), examples(5)) for _ in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_a_network_with_too_few_logits():
    with pytest.raises(ValueError, match=r"logits of shape \(batch, 3\).*got \(batch, 2\)"):
        optimizees.mean_loss(optimizees.mlp_network(2), examples(5))
