"""Checkpoints: what comes back is what was saved, to the bit."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import pytest

from learned_opt.meta import checkpoints


class State(NamedTuple):
    key: Any
    nested: Any


def make_state(seed):
    """Random keys of both kinds, nothing, empty arrays, None, several dtypes."""
    key = jax.random.key(seed)
    return State(
        jax.random.split(key, 3),
        {
            "legacy": jax.random.key_data(key),
            "empty": jnp.zeros((0, 2)),
            "none": None,
            "half": jax.random.normal(key, (2, 3)).astype(jnp.bfloat16),
            "scalar": jnp.int32(seed),
            "nothing": (),
        },
    )


def test_a_state_with_keys_and_empty_arrays_comes_back(tmp_path):
    store = checkpoints.Checkpoints(str(tmp_path))
    assert store.restore(make_state(0))[1] is None
    store.save(7, make_state(1), {"history": [1.5]})
    store.save(7, make_state(2), {"history": []})  # it is there already
    store.close()
    again = checkpoints.Checkpoints(str(tmp_path))
    state, log = again.restore(make_state(0))
    again.close()
    assert log == {"history": [1.5]}
    want = make_state(1)
    chex.assert_trees_all_equal(state.nested, want.nested)
    chex.assert_trees_all_equal(jax.random.key_data(state.key), jax.random.key_data(want.key))
    assert jax.random.normal(state.key[1]) == jax.random.normal(want.key[1])


def test_without_a_directory_nothing_is_kept():
    store = checkpoints.Checkpoints(None)
    store.save(1, make_state(1), {})
    state, log = store.restore(make_state(0))
    assert log is None
    chex.assert_trees_all_equal(state.nested, make_state(0).nested)
    store.close()


def test_the_first_difference_of_two_configurations_is_named():
    there = {"a": 1, "estimator": {"name": "Adjoint", "window": 20}}
    checkpoints.check_same(there, {**there}, "here")
    with pytest.raises(ValueError, match="here belongs to a run with window=20, not 30"):
        checkpoints.check_same(
            there, {"a": 1, "estimator": {"name": "Adjoint", "window": 30}}, "here"
        )
    with pytest.raises(ValueError, match="with estimator='Adjoint', not 'PES'"):
        checkpoints.check_same(there, {"a": 1, "estimator": {"name": "PES", "sigma": 1}}, "here")
    with pytest.raises(ValueError, match="with a=1, not None"):
        checkpoints.check_same(there, {"estimator": there["estimator"]}, "here")
