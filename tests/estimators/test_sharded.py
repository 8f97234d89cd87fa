"""Optimizees whose parameters lie on a mesh, as users of large models lay them."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import learned_opt
from learned_opt import estimators
from learned_opt.estimators import MetaLoss
from learned_opt.evaluation import counting
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(3)
WEIGHTS = jnp.asarray([0.5, 2.0, 1.0])
OPTIMIZERS = {
    "lstm": learned_opt.lstm("mnist", hidden_sizes=(3,)),
    "rnnprop": learned_opt.rnnprop(hidden_sizes=(3,)),
    "partition": learned_opt.partition(
        {"a": learned_opt.lstm(hidden_sizes=(3,)), "b": learned_opt.rnnprop(hidden_sizes=(2,))},
        {"*bias*": "b", "*": "a"},
    ),
}


def make_mesh():
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def layout(name, shape):
    """As FSDP with tensor parallelism has it: a bias is whole along one axis."""
    del name
    return (P(), P("model"), P("data", "model"))[len(shape)]


def family():
    """A small layer; its loss and gradient need products over both axes."""

    def init(key, instance):
        del instance
        return {
            "kernel": jax.random.normal(key, (4, 6)),
            "bias": jnp.zeros(6),
            "scale": jnp.ones(()),
        }

    def loss(theta, instance, key):
        x = jax.random.normal(key, (5, 4))
        y = theta["scale"] * jnp.tanh(x @ theta["kernel"] + theta["bias"][None])
        return jnp.mean(jnp.square(y - instance))

    return learned_opt.Optimizee(lambda key: jax.random.normal(key, (1, 6)), init, loss)


def windows(estimator, opt, phi, problem, num=2):
    """The estimates of some windows of two problems."""

    @jax.jit
    def run(phi):
        keys = jax.random.split(KEY, 2)
        lives = estimator.begin(opt, phi, problem, keys, 6)
        estimates = []
        for _ in range(num):
            estimate = estimator.run(opt, phi, problem, lives, KEY, WEIGHTS)
            lives = estimate.lives
            estimates.append((estimate.losses, estimate.gradient))
        return estimates, lives

    return run(phi)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("partition", "loss", marks=pytest.mark.thorough),
        pytest.param("partition", "log", marks=pytest.mark.thorough),
        pytest.param("lstm", "loss", marks=pytest.mark.thorough),
        pytest.param("rnnprop", "loss", marks=pytest.mark.thorough),
    ],
)
def test_it_is_the_meta_gradient_of_whole_parameters(name, shape):
    opt = OPTIMIZERS[name]
    phi = jax.tree.map(lambda x: x + 0.1, opt.init(jax.random.key(0)))
    problem = MetaLoss(shape=shape).bound(optimizee_base.as_family(family()))
    sharded = estimators.Sharded(make_mesh(), layout, window=3)
    got, lives = windows(sharded, opt, phi, problem)
    want, _ = windows(estimators.Adjoint(window=3), opt, phi, problem)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-4, atol=1e-6)
    kernel = NamedSharding(make_mesh(), P(None, "data", "model"))
    assert lives.theta["kernel"].sharding.is_equivalent_to(kernel, 3)


def separable():
    """A loss whose gradient needs no other coordinate: what communicates is not the optimizee."""
    return learned_opt.Optimizee(
        lambda key: (),
        lambda key, i: {"kernel": jax.random.normal(key, (4, 6)), "bias": jnp.ones(6)},
        lambda theta, i, key: jnp.sum(theta["kernel"] ** 2) + jnp.sum(theta["bias"] ** 2),
    )


def test_a_window_adds_over_devices_once_and_a_step_only_its_loss():
    opt = OPTIMIZERS["lstm"]
    phi = opt.init(jax.random.key(0))
    problem = optimizee_base.as_family(separable())
    estimator = estimators.Sharded(make_mesh(), layout, window=3)

    def begin(phi):
        return estimator.begin(opt, phi, problem, jax.random.split(KEY, 2), 6)

    def window(phi, lives):
        return estimator.run(opt, phi, problem, lives, KEY, WEIGHTS)

    lives = jax.jit(begin)(phi)
    program = jax.jit(window).lower(phi, lives).compile()
    counted = counting.count(program.as_text())
    num_weights = sum(x.size for x in jax.tree.leaves(phi))
    assert counted.collectives["all-gather"] == 1
    # Whatever else there is adds losses, one number a problem, or draws problems anew.
    everything_else = counted.bytes - 4 * 4 * num_weights
    assert everything_else < 200


@pytest.mark.parametrize("name", ["lstm", "rnnprop"])
def test_an_update_of_sharded_parameters_communicates_nothing(name):
    opt = OPTIMIZERS[name]
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = {}
    for leaf, x in family().init(KEY, ()).items():
        sharding = NamedSharding(make_mesh(), layout(leaf, x.shape))
        theta[leaf] = jax.device_put(x, sharding)
    state = jax.jit(tx.init)(theta)

    def update(gradient, state, theta):
        updates, state = tx.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state

    program = jax.jit(update).lower(theta, state, theta).compile()
    assert counting.count(program.as_text()).num_collectives == 0


@pytest.mark.thorough
def test_it_learns_in_meta_train(tmp_path):
    estimator = estimators.Sharded(make_mesh(), layout, window=2)
    settings = {
        "num_steps": 4,
        "num_problems": 2,
        "episodes_per_epoch": 2,
        "validation": learned_opt.Validation(num_problems=2),
        "progress_bar": False,
    }

    def train(estimator, **more):
        return learned_opt.meta_train(
            OPTIMIZERS["lstm"], family(), KEY, estimator=estimator, **settings, **more
        )

    want = train(estimators.Adjoint(window=2), num_epochs=2)
    got = train(estimator, num_epochs=2, workdir=tmp_path)
    chex.assert_trees_all_close(jax.device_get(got.phi), want.phi, rtol=1e-3, atol=1e-5)
    again = train(estimator, num_epochs=2, workdir=tmp_path)
    chex.assert_trees_all_equal(jax.device_get(again.phi), jax.device_get(got.phi))


def bad_layout(name, shape):
    return {"kernel": P(None, "experts"), "bias": P(), "scale": P()}[name]


def uneven_layout(name, shape):
    return P(("data", "model")) if name == "bias" else P()


@pytest.mark.parametrize(
    ("wrong", "opt", "words"),
    [
        (bad_layout, "lstm", "the mesh must have an axis 'experts', got one with data=2, model=2"),
        (uneven_layout, "lstm", "the layout of bias cuts an axis of 6 into 4 parts"),
        (lambda name, shape: P(*"abc"), "lstm", "the layout of bias must have at most 1 axes"),
        (lambda name, shape: None, "lstm", "layout of bias must be a P"),
        (layout, "gac", "Sharded needs an optimizer that is coordinatewise"),
    ],
)
def test_what_is_not_possible_is_told(wrong, opt, words):
    known = {**OPTIMIZERS, "gac": learned_opt.lstm_gac(hidden_sizes=(3,), num_averaged=2)}
    estimator = estimators.Sharded(make_mesh(), wrong, window=2)
    with pytest.raises(ValueError, match=words):
        learned_opt.meta_train(known[opt], family(), KEY, num_steps=4, estimator=estimator)


def test_a_mesh_of_explicit_axes_is_refused():
    with pytest.raises(ValueError, match="mesh must have Auto axes"):
        estimators.Sharded(jax.make_mesh((4,), ("data",)), layout)


def test_what_identifies_it():
    plain = estimators.Sharded(make_mesh(), layout).plain(
        optimizee_base.as_family(family()), jax.random.key(0)
    )
    assert plain["mesh"] == {"data": 2, "model": 2}
    assert plain["layout"] == {"bias": [["model"]], "kernel": [["data"], ["model"]], "scale": []}
