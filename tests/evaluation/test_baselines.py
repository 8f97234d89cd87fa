import jax
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.evaluation import baselines

PROBLEM = learned_opt.optimizees.quadratic(2)
KEY = jax.random.key(4)


def test_the_grid_is_that_of_the_paper():
    assert len(baselines.LEARNING_RATES) == 30
    assert baselines.LEARNING_RATES[0] == 1e-6
    assert baselines.LEARNING_RATES[-1] == 2**29 * 1e-6


@pytest.mark.parametrize("name", ["SGD", "AdamW-cosine"])
def test_the_best_rate_is_the_best_of_single_runs(name):
    """The grid as one program against one evaluation for each rate."""
    rates = (1e-6, 0.01, 0.03, 1000.0)
    tuned = baselines.tune(name, PROBLEM, KEY, 10, 5, rates)
    single = []
    for rate in rates:
        tx = baselines.baseline(name, rate, 10)
        single.append(learned_opt.evaluate(tx, PROBLEM, KEY, 10, 5)[:, -1].mean())
    np.testing.assert_allclose(tuned.grid, single, rtol=1e-4)
    assert tuned.learning_rate == rates[int(np.argmin(single))]
    assert tuned.final_loss == tuned.grid.min()
    again = learned_opt.evaluate(tuned.tx, PROBLEM, KEY, 10, 5)[:, -1].mean()
    np.testing.assert_allclose(again, tuned.final_loss, rtol=1e-4)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_takes_its_rate_and_descends(name):
    tuned = baselines.tune(name, PROBLEM, KEY, 20, 8, (1e-3, 1e-2, 1e-1))
    losses = np.asarray(learned_opt.evaluate(tuned.tx, PROBLEM, KEY, 20, 8)).mean(0)
    assert losses[-1] < losses[0]
    assert len(np.unique(tuned.grid)) == 3


def test_a_rate_that_diverges_is_infinite_and_not_chosen():
    tuned = baselines.tune("SGD", PROBLEM, KEY, 60, 4, (1e-4, 1e3))
    assert np.isinf(tuned.grid[1])
    assert tuned.learning_rate == 1e-4


def test_a_rate_is_chosen_by_what_is_measured():
    """Far from the origin is best here, whatever the loss prefers; divergence is still infinite."""
    rates = (1e-4, 0.01, 1e3)
    tuned = baselines.tune(
        "SGD", PROBLEM, KEY, 60, 4, rates, measure=lambda theta: -jax.numpy.sum(theta**2)
    )
    loss = baselines.tune("SGD", PROBLEM, KEY, 60, 4, rates)
    assert loss.learning_rate == 0.01
    assert np.isinf(tuned.grid[2])
    assert tuned.final_loss == tuned.grid[:2].min() < 0


def test_nag_is_optax_with_momentum():
    """The papers' NAG: Nesterov's momentum of 0.9."""
    ours = learned_opt.unroll(baselines.baseline("NAG", 0.01, 5), PROBLEM, KEY, 5).losses
    theirs = learned_opt.unroll(
        optax.sgd(0.01, momentum=0.9, nesterov=True), PROBLEM, KEY, 5
    ).losses
    np.testing.assert_array_equal(ours, theirs)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown baseline 'Adm'. Did you mean 'Adam'"):
        baselines.tune("Adm", PROBLEM, KEY, 2, 2)


def test_second_order_references_reach_the_minimum():
    problem = learned_opt.optimizees.rotated_quadratic(dim=4, condition=100.0)
    for name, build in baselines.REFERENCES.items():
        losses = np.asarray(learned_opt.evaluate(build(30), problem, KEY, 30, 4))
        assert np.all(losses[:, 0] > 1e-2), name
        assert np.all(losses[:, -1] < 1e-10), name


def constant_then_decayed(learning_rate, num_steps):
    """A baseline of one's own whose schedule reads the horizon."""
    schedule = optax.piecewise_constant_schedule(learning_rate, {num_steps // 2: 0.1})
    return optax.sgd(schedule)


def test_a_baseline_of_ones_own_is_tuned():
    rates = (1e-6, 0.01)
    tuned = baselines.tune(constant_then_decayed, PROBLEM, KEY, 10, 4, rates)
    assert tuned.name == "constant_then_decayed"
    single = [
        learned_opt.evaluate(constant_then_decayed(rate, 10), PROBLEM, KEY, 10, 4)[:, -1].mean()
        for rate in rates
    ]
    np.testing.assert_allclose(tuned.grid, single, rtol=1e-4)
    assert tuned.learning_rate == rates[int(np.argmin(single))]
    assert "constant_then_decayed" not in baselines.BASELINES


def test_builders():
    assert baselines.builders(None) == baselines.BASELINES
    assert baselines.builders(["Adam"]) == {"Adam": baselines.BASELINES["Adam"]}
    own = {"mine": constant_then_decayed, "slow Adam": "Adam"}
    expected = {"mine": constant_then_decayed, "slow Adam": baselines.BASELINES["Adam"]}
    assert baselines.builders(own) == expected
    with pytest.raises(ValueError, match=r"the baseline 'mine' must be a function .* got 0.1"):
        baselines.builders({"mine": 0.1})


def test_if_all_diverge_the_survivors_decide():
    """Of two rates at which runs diverge: the smaller mean over those runs that are left."""
    losses = np.array([[np.inf, 4.0, 4.0], [np.inf, np.inf, 3.0], [np.inf] * 3])
    assert baselines._best(losses) == (1, np.inf)
    assert baselines._best(np.full((2, 3), np.inf)) == (0, np.inf)
    assert baselines._best(np.array([[2.0, 2.0], [1.0, np.inf]])) == (0, 2.0)
