"""What the library finds out about a Flax module."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from learned_opt import optimizees
from learned_opt.optimizees import linen


class Told(nn.Module):
    """Asks in every way whether it trains, and answers with what it was told."""

    @nn.compact
    def __call__(self, x, train, training, deterministic, use_running_average):
        told = jnp.array([train, training, deterministic, use_running_average], jnp.float32)
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(x) + told[None]


class Counted(nn.Module):
    """A collection of its own name, which counts the steps."""

    @nn.compact
    def __call__(self, x):
        count = self.variable("counts", "steps", jnp.zeros, ())
        if self.is_mutable_collection("counts") and not self.is_initializing():
            count.value += 1
        self.sow("intermediates", "input", x)
        return nn.Dense(2)(x)


def test_every_usual_argument_is_given():
    network = linen.network(Told(), (4,))
    assert network.modes == ("train", "training", "deterministic", "use_running_average")
    theta = {"Dense_0": {"kernel": jnp.zeros((4, 1))}}
    trained, _ = network.train(theta, (), jnp.ones((1, 4)), jax.random.key(0))
    assert trained.tolist() == [[1, 1, 0, 0]]
    assert network.evaluate(theta, (), jnp.ones((1, 4))).tolist() == [[0, 0, 1, 1]]


def test_any_collection_becomes_statistics():
    network = linen.network(Counted(), (3,))
    assert network == linen.Network(Counted(), collections=("counts",))
    variables = network.init(jax.random.key(0), jnp.ones((1, 3)))
    statistics = {"counts": variables["counts"]}
    for step in range(3):
        assert float(statistics["counts"]["steps"]) == step
        _, statistics = network.train(
            variables["params"], statistics, jnp.ones((1, 3)), jax.random.key(1)
        )
    network.evaluate(variables["params"], statistics, jnp.ones((1, 3)))
    assert float(statistics["counts"]["steps"]) == 3


def test_what_the_constructor_has_set_is_left_alone():
    assert linen.network(nn.BatchNorm(), (3,)).modes == ("use_running_average",)
    assert linen.network(nn.BatchNorm(use_running_average=False), (3,)).modes == ()


def test_a_plain_network_has_nothing():
    module = optimizees.mlp_network(3)
    assert linen.network(module, (2, 2)) == linen.Network(module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "network must be a flax.linen.Module, got Linear"),
        (lambda images: images, "network must be a flax.linen.Module, got function"),
        (nn.Dropout(0.5, deterministic=True), "network must have parameters, Dropout has none"),
    ],
)
def test_what_is_no_network(module, message):
    with pytest.raises(ValueError, match=message):
        linen.network(module, (4,))


def test_networks_with_orthogonal_initializers_are_drawn_one_after_the_other():
    """Several factorizations of batches at once wait for each other on a CPU, for ever."""
    shape = (5, 2)
    init = linen.Init(linen.network(nn.RNN(nn.GRUCell(3)), shape), shape, None)
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.vmap(lambda key: init(key, None))
    program = str(jax.make_jaxpr(draw)(keys))
    factorized = re.findall(r":f32\[([\d,]+)\] = qr\[", program)
    assert set(factorized) == {"3,3"}
    drawn = draw(keys)
    for i, key in enumerate(keys):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], drawn), init.drawn(key))
