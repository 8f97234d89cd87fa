"""One small comparison, which the tests of this folder look at from all sides."""

import jax
import optax
import pytest

import learned_opt
from learned_opt.evaluation import baselines, comparison


@pytest.fixture(scope="session")
def compared():
    """A learned optimizer, one that was given, and two tuned baselines on five problems."""
    problem = learned_opt.optimizees.quadratic(3)
    key = jax.random.key(6)
    tuned = {
        name: baselines.tune(name, problem, key, 6, 4, (0.01, 0.1)) for name in ("SGD", "Adam")
    }
    opt = learned_opt.lstm(hidden_sizes=(3,))
    return comparison.compare(
        {"ours": (opt, opt.init(key)), "theirs": optax.sgd(1e-3)},
        problem,
        key,
        6,
        5,
        tuned=tuned,
        measure=lambda theta: theta[0],
        progress_bar=False,
    )
