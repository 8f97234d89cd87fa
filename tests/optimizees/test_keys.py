"""What the random keys decide, for every network."""

import jax
import numpy as np
import pytest

from learned_opt import optimizees


@pytest.mark.parametrize(
    "build",
    [
        lambda: optimizees.cnn("digits", batch_size=4),
        lambda: optimizees.sine_lstm(hidden_size=3, batch_size=4),
    ],
    ids=["cnn", "sine_lstm"],
)
def test_the_keys_decide(build):
    problem = build()
    theta, again, other = (problem.init(jax.random.key(k), ()) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, theta, again)
    assert all(
        np.all(a != b) for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(other), strict=True)
    )
    loss = jax.jit(problem.loss)
    first, second, third = (float(loss(theta, (), jax.random.key(k))) for k in (0, 0, 1))
    assert first == second != third
