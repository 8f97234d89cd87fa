"""How parameters are laid out for the adjoint method, against layouts written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.estimators import groups

THETA = {
    "a": jnp.arange(12.0).reshape(2, 2, 3),  # two problems, each with a matrix [2, 3]
    "b": jnp.arange(2.0, dtype=jnp.bfloat16).reshape(2, 1),
    "empty": jnp.zeros((2, 0)),
    "c": 100 + jnp.arange(2.0),
}


def of_one_problem(theta):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), theta)


def pack(group):
    return group.pack(jax.tree.leaves(THETA))


def test_a_coordinatewise_optimizer_has_one_vector_for_each_dtype():
    opt = learned_opt.lstm(hidden_sizes=(2,))
    short, long = groups.groups_of(opt, of_one_problem(THETA))
    assert [short.labels, long.labels] == [(), ()]
    np.testing.assert_array_equal(pack(short).astype(jnp.float32), [0, 1])
    np.testing.assert_array_equal(pack(long), [*range(12), 100, 101])
    assert groups.sizes([short, long], THETA) == [2, 14]
    like = jax.tree.leaves(THETA)
    back = dict(long.unpack(2 * pack(long), like))
    np.testing.assert_array_equal(back[0], 2 * THETA["a"])
    np.testing.assert_array_equal(back[2], 2 * THETA["c"])


def test_an_optimizer_that_sees_shapes_keeps_them_and_is_mapped_over_problems():
    opt = learned_opt.from_optax(optax.scale_by_trust_ratio())  # it reads theta, tensor by tensor
    (group,) = groups.groups_of(opt, of_one_problem(THETA))
    assert group.reads_theta
    assert groups.sizes([group], THETA) == [0]
    theta = pack(group)
    assert jax.tree.structure(theta) == jax.tree.structure(THETA)
    gradient = jax.tree.map(jnp.ones_like, theta)
    tx = group.transform({})
    updates, _ = tx.update(gradient, tx.init(theta), theta)
    for problem in range(2):
        want = np.linalg.norm(THETA["a"][problem]) / np.sqrt(6)
        np.testing.assert_allclose(updates["a"][problem], want, rtol=1e-5)


def test_each_part_of_a_partition_has_its_own_groups_and_weights():
    parts = {"x": learned_opt.lstm(hidden_sizes=(2,)), "y": learned_opt.lstm(hidden_sizes=(3,))}
    opt = learned_opt.partition(parts, {"a": "x", "*": "y"})
    found = groups.groups_of(opt, of_one_problem(THETA))
    assert [(g.labels, g.leaves) for g in found] == [(("x",), (0,)), (("y",), (1,)), (("y",), (2,))]
    phi = opt.init(jax.random.key(0))
    assert found[0].phi(phi)["output"]["w"].shape == (2,)
    assert found[1].phi(phi)["output"]["w"].shape == (3,)


@pytest.mark.parametrize("reads", [None, frozenset()])
def test_parameters_are_handed_on_only_where_they_are_read(reads):
    opt = learned_opt.from_optax(optax.sgd(0.1), coordinatewise=True)._replace(reads=reads)
    assert not any(g.reads_theta for g in groups.groups_of(opt, of_one_problem(THETA)))
    decayed = learned_opt.from_optax(optax.adamw(0.1), coordinatewise=True)
    assert all(g.reads_theta for g in groups.groups_of(decayed, of_one_problem(THETA)))
