"""phi's optimizer against optax's parts and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.meta.optimizer import Bound, ClippedAdam

PHI = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADIENTS = [jax.tree.map(lambda x, t=t: (t + 1) * jnp.cos(x + t), PHI) for t in range(4)]


def course(tx, **extra):
    phi, state, path = PHI, tx.init(PHI), []
    for t, gradient in enumerate(GRADIENTS):
        done = {name: values[t] for name, values in extra.items()}
        updates, state = tx.update(gradient, state, phi, **done)
        phi = optax.apply_updates(phi, updates)
        path.append(phi)
    return path


@pytest.mark.parametrize("clip_norm", [None, 0.3, 100.0])
def test_a_constant_rate_is_optax_s_adam_behind_its_clipping(clip_norm):
    ours = course(ClippedAdam(clip_norm, "constant")(0.1, 4), done=[0.0] * 4)
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    want = course(optax.chain(clip, optax.adam(0.1)))
    for got, expected in zip(ours, want, strict=True):
        np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-5)
        np.testing.assert_allclose(got["b"], expected["b"], rtol=1e-5)


def test_the_cosine_follows_the_share_that_is_done():
    """Steps of Adam on one and the same gradient all have the length of the rate."""
    tx = ClippedAdam(clip_norm=None)(0.1, 4)
    gradient, state = jax.tree.map(jnp.ones_like, PHI), tx.init(PHI)
    for done in (0.0, 0.25, 0.5, 1.0):
        updates, state = tx.update(gradient, state, PHI, done=done)
        want = -0.1 * 0.5 * (1 + np.cos(np.pi * done))
        np.testing.assert_allclose(updates["b"], want, rtol=1e-4, atol=1e-8)


def test_a_transformation_or_a_function_of_rate_and_updates():
    given = Bound(optax.sgd(0.5), 10)(0.1)
    updates, _ = given.update(PHI, given.init(PHI), PHI, done=0.3)
    np.testing.assert_allclose(updates["w"], -0.5 * PHI["w"])
    made = Bound(lambda rate, num_updates: optax.sgd(rate * num_updates), 10)(0.1)
    updates, _ = made.update(PHI, made.init(PHI), PHI, done=0.3)
    np.testing.assert_allclose(updates["w"], -PHI["w"])
