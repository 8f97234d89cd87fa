"""Features against SciPy's correlations."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.signal

from learned_opt.optimizees import feature_networks
from learned_opt.optimizees.feature_networks import Conv, FeatureNetwork, Fire, Pool

LAYERS = (
    Conv("first", 3, 3, 4, stride=2, padded=False),
    Pool(3, 2),
    Fire("fire", 4, 2, 6),
    Pool(2, 2),
    Conv("wide", 3, 6, 3),
)
NETWORK = FeatureNetwork("a test", LAYERS, (10.0, 20.0, 30.0), (2.0, 3.0, 4.0), is_bgr=True)


def _weights(network, seed=0):
    draws = np.random.default_rng(seed)
    found = {}
    for conv in network.convolutions():
        shape = (conv.size, conv.size, conv.inputs, conv.outputs)
        found[f"{conv.name}/kernel"] = draws.normal(size=shape).astype(np.float32)
        found[f"{conv.name}/bias"] = draws.normal(size=conv.outputs).astype(np.float32)
    return found


def _scipy_conv(conv, weights, x):
    kernel, bias = weights[f"{conv.name}/kernel"], weights[f"{conv.name}/bias"]
    channels = []
    for j in range(conv.outputs):
        each = [
            scipy.signal.correlate2d(
                x[..., i], kernel[..., i, j], "same" if conv.padded else "valid"
            )
            for i in range(conv.inputs)
        ]
        channels.append(sum(each)[:: conv.stride, :: conv.stride] + bias[j])
    return np.maximum(np.stack(channels, -1), 0)


def _scipy_pool(pool, x):
    box = np.ones((pool.size, pool.size)) / pool.size**2
    means = [scipy.signal.correlate2d(x[..., i], box, "valid") for i in range(x.shape[-1])]
    return np.stack(means, -1)[:: pool.stride, :: pool.stride]


def test_features_are_what_scipy_computes():
    weights = _weights(NETWORK)
    picture = np.random.default_rng(1).uniform(0, 255, (19, 23, 3)).astype(np.float32)
    found = jax.jit(feature_networks.features, static_argnums=0)(NETWORK, weights, picture)
    first, pool, fire, second_pool, wide = LAYERS
    x = ((picture - NETWORK.mean) / NETWORK.scale)[..., ::-1]
    x = _scipy_conv(first, weights, x)
    np.testing.assert_allclose(found["first"], x, rtol=1e-4, atol=1e-3)
    squeeze, *expand = fire.parts()
    squeezed = _scipy_conv(squeeze, weights, _scipy_pool(pool, x))
    x = np.concatenate([_scipy_conv(conv, weights, squeezed) for conv in expand], -1)
    np.testing.assert_allclose(found["fire"], x, rtol=1e-4, atol=1e-2)
    x = _scipy_conv(wide, weights, _scipy_pool(second_pool, x))
    np.testing.assert_allclose(found["wide"], x, rtol=1e-4, atol=1e-2)


def test_both_ways_to_convolve_are_one(monkeypatch):
    """Many channels take another way than few."""
    conv = Conv("conv", 3, 3, 2)
    network = dataclasses.replace(NETWORK, layers=(conv,))
    weights = _weights(network)
    picture = np.random.default_rng(2).uniform(0, 255, (6, 5, 3)).astype(np.float32)
    few = feature_networks.features(network, weights, picture)["conv"]
    monkeypatch.setattr(feature_networks, "_FEW_CHANNELS", 1)
    many = feature_networks.features(network, weights, picture)["conv"]
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-4)


def test_a_network_ends_behind_what_is_needed():
    assert NETWORK.up_to(["first"]).names() == ["first"]
    assert NETWORK.up_to(["fire", "first"]).names() == ["first", "fire"]
    with pytest.raises(ValueError, match=r"unknown layer 'fir'\. Did you mean"):
        NETWORK.up_to(["fir"])
    with pytest.raises(ValueError, match="at least one layer"):
        NETWORK.up_to([])


def test_random_filters_keep_the_size_of_what_comes_in():
    net = feature_networks.random_features(64)
    picture = 127.5 + 64 * np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
    found = feature_networks.features(net.network, net.weights, picture)
    assert 0.5 < float((found["random1"] ** 2).mean()) < 2
    with pytest.raises(ValueError, match="num_filters"):
        feature_networks.random_features(0)
