"""Families together with their networks."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from learned_opt import data, optimizees

ONE = data.Dataset(np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1]), 3)


class Linear(nn.Module):
    """A network of one's own."""

    num_classes: int
    bias: bool = True

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes, self.bias)(images.reshape(images.shape[0], -1))


@pytest.mark.parametrize(
    ("name", "build", "build_network", "settings"),
    [
        ("mlp", optimizees.mlp, optimizees.mlp_network, {"width": 5, "activation": "tanh"}),
        ("cnn", optimizees.cnn, optimizees.cnn_network, {"structure": "c-f", "channels": 2}),
    ],
)
def test_a_family_by_name_is_that_of_its_function(name, build, build_network, settings):
    family, network = optimizees.network_family(name, ONE, batch_size=7, held_out=ONE, **settings)
    same = build(ONE, batch_size=7, held_out=ONE, **settings)
    assert jax.tree.structure(family) == jax.tree.structure(same)
    assert network == build_network(3, **settings)


def test_the_default_is_the_embedded_data_set():
    family, network = optimizees.network_family("mlp")
    assert family.loss.args[0].shape == (1437, 8, 8, 1)
    assert network.num_classes == 10


def test_networks_of_ones_own():
    by_function = optimizees.network_family(Linear, ONE, init_scale=None, bias=False)
    by_module = optimizees.network_family(Linear(3, bias=False), ONE, init_scale=None)
    assert by_function.network == by_module.network == Linear(3, bias=False)
    assert jax.tree.structure(by_function.family) == jax.tree.structure(by_module.family)


@pytest.mark.parametrize(
    ("args", "settings", "message"),
    [
        (("mpl", ONE), {}, "unknown network 'mpl'. Did you mean 'mlp'"),
        ((Linear(3), ONE), {"bias": True}, "network has its settings already, got bias beside"),
        ((3, ONE), {}, "network must be a flax.linen.Module, got int"),
        (("mlp", "digts"), {}, "unknown data set 'digts'. Did you mean 'digits'"),
    ],
)
def test_bad_arguments(args, settings, message):
    with pytest.raises(ValueError, match=message):
        optimizees.network_family(*args, **settings)
