"""What tells one optimizer, one family or one function from another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
from learned_opt import _fingerprint
from learned_opt.optimizees import base


def test_arrays_are_known_by_contents_dtype_and_shape():
    digest = _fingerprint.of_arrays
    x = np.arange(6.0)
    assert digest({"a": x}) == digest([x.copy()])
    assert (
        len({digest(x), digest(x.reshape(2, 3)), digest(x.astype(np.float32)), digest(x + 1)}) == 4
    )
    assert digest(x, "text") != digest(x)


def test_functions_are_known_by_what_they_compute_and_hold():
    def scaled(c):
        return lambda x: c * x

    held = [jax.tree_util.Partial(jnp.multiply, jnp.float32(c)) for c in (1, 1, 2)]
    first, same, other = (_fingerprint.of_function(f, jnp.ones(3)) for f in held)
    assert first == same != other
    plain = [scaled(c) for c in (1, 1, 2)]  # kept, so that no two have one address
    first, same, other = (_fingerprint.of_function(f, jnp.ones(3)) for f in plain)
    assert first == same != other


def test_families_and_their_statistics_and_held_out_losses():
    plain = learned_opt.Optimizee(
        lambda k: (), lambda k, i: jnp.ones(2), lambda t, i, k: jnp.sum(t)
    )
    held_out = plain._replace(held_out=lambda t, i, k: jnp.sum(t**2))
    other = plain._replace(held_out=lambda t, i, k: jnp.sum(t**3))
    found = [_fingerprint.of_family(base.as_family(f)) for f in (plain, held_out, other)]
    assert found[0]["loss"] == found[1]["loss"] == found[2]["loss"]
    assert "held_out" not in found[0]
    assert found[1]["held_out"] != found[2]["held_out"]


def test_transformations_and_optimizers_without_a_spec():
    theta = jnp.ones(3)
    adam, same, slow = (
        _fingerprint.of_transformation(optax.adam(r), theta) for r in (0.1, 0.1, 0.01)
    )
    assert adam == same != slow
    opt = learned_opt.lstm(hidden_sizes=(2,))
    assert _fingerprint.of_optimizer(opt, theta) == opt.spec
    unnamed = _fingerprint.of_optimizer(opt._replace(spec=None), theta)
    assert isinstance(unnamed, str)


def test_keys():
    assert _fingerprint.of_key(jax.random.key(3)) == _fingerprint.of_key(jax.random.PRNGKey(3))
