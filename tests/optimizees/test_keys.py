"""What the random keys decide, for every family."""

import jax
import numpy as np
import pytest

from learned_opt import data, optimizees
from learned_opt.optimizees import base

SMALL = data.shrink(data.load("digits").train, 2)
FAMILIES = {
    "quadratic": optimizees.quadratic,
    "rotated_quadratic": optimizees.rotated_quadratic,
    "rosenbrock": optimizees.rosenbrock,
    "mlp": lambda: optimizees.mlp(SMALL, width=3, batch_size=4),
    "cnn": lambda: optimizees.cnn(SMALL, structure="c-f", channels=2, batch_size=4),
    "sine_lstm": lambda: optimizees.sine_lstm(hidden_size=3, batch_size=4),
}
WITHOUT_MINIBATCHES = {"quadratic", "rotated_quadratic", "rosenbrock"}
begin = jax.jit(base.begin)
loss_at = jax.jit(base.loss_at)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_keys_decide(name):
    family = base.as_family(FAMILIES[name]())
    first, again, other = (begin(family, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, _arrays(first), _arrays(again))
    drawn = zip(jax.tree.leaves(_arrays(first)), jax.tree.leaves(_arrays(other)), strict=True)
    assert all(np.all(a != b) for a, b in drawn)
    losses = [float(loss_at(family, first, first.theta_0, t, ())[0]) for t in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert (losses[0] == losses[2]) == (name in WITHOUT_MINIBATCHES)


def _arrays(problem):
    instance = problem.instance
    if hasattr(instance, "minimum"):
        instance = instance.minimum  # its Hessian is symmetric, with equal eigenvalues
    return instance, problem.theta_0
