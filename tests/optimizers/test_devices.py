"""Updates inside `jax.shard_map`, where every device sees its own piece of the parameters."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import learned_opt

CASES = {
    "gac": learned_opt.lstm_gac("mnist", hidden_sizes=(4, 3), num_averaged=2),
    "ntm-lbfgs": learned_opt.ntm_lbfgs(hidden_sizes=(4,), num_averaged=2, history=6),
    "ntm-bfgs": learned_opt.ntm_bfgs(hidden_sizes=(4,), num_averaged=2),
    "small-fc": learned_opt.small_fc_lopt(),
    "lstm": learned_opt.lstm("mnist", hidden_sizes=(4,)),
}
THETA = {"w": jnp.ones((8, 3)), "b": jnp.ones(3)}
# The kernel is cut into pieces, the bias is on every device.
SPECS = {"w": P("x"), "b": P()}


@functools.cache
def transform(name):
    opt = CASES[name]
    phi = jax.tree.map(lambda x: 2 * x, opt.init(jax.random.key(0)))
    return opt.transform(phi)


def gradients():
    rng = np.random.default_rng(0)
    return [
        {name: jnp.asarray(rng.normal(size=x.shape), x.dtype) for name, x in THETA.items()}
        for _ in range(3)
    ]


def steps(tx, theta, gradients, **extra):
    """The updates of a few steps."""
    state, updates = tx.init(theta), []
    for g_t in gradients:
        u_t, state = tx.update(g_t, state, theta, **extra)
        updates.append(u_t)
    return updates


def make_mesh():
    return jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))


def mapped(run, specs, check_vma=True):
    """`run(theta, gradients)` on four devices; leaves are cut as `specs` say."""
    in_specs = specs, [specs] * 3
    return jax.jit(
        jax.shard_map(
            run, mesh=make_mesh(), in_specs=in_specs, out_specs=[specs] * 3, check_vma=check_vma
        )
    )


@pytest.mark.parametrize(("name", "axis_name"), [("gac", "x"), ("gac", ("x",)), ("ntm-lbfgs", "x")])
def test_sharded_coordinates_have_the_updates_of_whole_ones(name, axis_name):
    want = jax.jit(functools.partial(steps, transform(name)))(THETA, gradients())
    run = functools.partial(steps, transform(name), axis_name=axis_name)
    got = mapped(run, SPECS)(THETA, gradients())
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=2e-5, atol=1e-7)


def test_without_checks_of_types_all_leaves_are_cut():
    theta = {"w": THETA["w"], "b": jnp.ones((4, 2))}
    cut = {"w": P("x"), "b": P("x")}
    rng = np.random.default_rng(1)
    gs = [{k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in theta.items()}] * 3
    want = jax.jit(functools.partial(steps, transform("gac")))(theta, gs)
    run = functools.partial(steps, transform("gac"), axis_name="x")
    got = mapped(run, cut, check_vma=False)(theta, gs)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if name != "lstm"])
def test_problems_on_several_devices_are_each_on_one(name):
    """Eight problems, two on a device, scanned as an estimator would."""

    tx = transform(name)

    def run(theta, gradients, **extra):
        def step(state, g_t):
            u_t, state = tx.update(g_t, state, theta, **extra)
            return state, u_t

        return jax.lax.scan(step, tx.init(theta), gradients)[1]

    theta = jax.random.normal(jax.random.key(1), (8, 3))
    gs = jax.random.normal(jax.random.key(2), (8, 2, 3))
    want = jax.jit(jax.vmap(run))(theta, gs)
    on_devices = jax.shard_map(
        jax.vmap(functools.partial(run, axis_name=())),
        mesh=make_mesh(),
        in_specs=(P("x"), P("x")),
        out_specs=P("x"),
    )
    got = jax.jit(on_devices)(theta, gs)
    np.testing.assert_allclose(jax.device_get(got), jax.device_get(want), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if name != "lstm"])
def test_an_axis_must_be_named_inside_a_shard_map(name):
    with pytest.raises(ValueError, match=r"axis_name must be given inside a shard_map over 'x'"):
        mapped(functools.partial(steps, transform(name)), SPECS)(THETA, gradients())


@pytest.mark.parametrize("name", ["ntm-bfgs", "small-fc"])
def test_some_cannot_read_what_other_devices_hold(name):
    with pytest.raises(ValueError, match=r"axis_name must be \(\) for .*, got 'x'"):
        mapped(functools.partial(steps, transform(name), axis_name="x"), SPECS)(THETA, gradients())


def test_a_coordinatewise_optimizer_needs_no_axis():
    want = jax.jit(functools.partial(steps, transform("lstm")))(THETA, gradients())
    got = mapped(functools.partial(steps, transform("lstm")), SPECS)(THETA, gradients())
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=2e-5, atol=1e-7)


def test_an_axis_name_goes_through_a_chain_and_a_partition():
    opt = learned_opt.partition({"a": CASES["gac"], "b": CASES["lstm"]}, {"w": "a", "*": "b"})
    tx = optax.chain(optax.scale(2.0), opt.transform(opt.init(jax.random.key(0))))

    def first(theta, gradient, **extra):
        return tx.update(gradient, tx.init(theta), theta, **extra)[0]

    want = jax.jit(first)(THETA, gradients()[0])
    on_devices = jax.shard_map(
        functools.partial(first, axis_name="x"),
        mesh=make_mesh(),
        in_specs=(SPECS, SPECS),
        out_specs=SPECS,
    )
    got = jax.jit(on_devices)(THETA, gradients()[0])
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=2e-5, atol=1e-7)
