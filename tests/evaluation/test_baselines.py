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
    np.testing.assert_allclose(tuned.rates, rates)
    np.testing.assert_allclose(tuned.grid[:-1], single[:-1], rtol=1e-4)
    assert tuned.learning_rate == rates[int(np.argmin(single))]
    assert tuned.final_loss == tuned.grid.min()
    assert tuned.learning_rate in tuned.tied
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


def test_finer_rates_on_all_runs_around_the_best_of_the_papers_grid():
    """Steps of the square root of two; the best rate and its neighbours have all runs."""
    tuned = baselines.tune("SGD", PROBLEM, KEY, 20, 20)
    best = int(np.argmin(np.abs(tuned.rates - tuned.learning_rate)))
    around = tuned.rates[best - 1 : best + 2]
    np.testing.assert_allclose(around / tuned.learning_rate, [2**-0.5, 1, 2**0.5], rtol=1e-6)
    assert np.all(tuned.runs[best - 1 : best + 2] == 20)
    for rate, mean in zip(around, tuned.grid[best - 1 : best + 2], strict=True):
        tx = baselines.baseline("SGD", float(rate), 20)
        single = learned_opt.evaluate(tx, PROBLEM, KEY, 20, 20)[:, -1].mean()
        np.testing.assert_allclose(mean, single, rtol=1e-4)
    assert set(baselines.LEARNING_RATES) <= set(tuned.rates)


def test_the_mean_of_the_last_steps():
    rates = (0.003, 0.01)
    tuned = baselines.tune("SGD", PROBLEM, KEY, 10, 4, rates, last=3)
    for rate, mean in zip(rates, tuned.grid, strict=True):
        losses = learned_opt.evaluate(baselines.baseline("SGD", rate, 10), PROBLEM, KEY, 10, 4)
        np.testing.assert_allclose(mean, losses[:, -3:].mean(), rtol=1e-4)


def test_finer_rates_are_tried_where_they_are_asked_for():
    """Half-octaves around the best rate of a grid of one's own, and none beyond its ends."""
    rates = (0.002, 0.004, 0.008, 0.016)
    plain = baselines.tune("SGD", PROBLEM, KEY, 10, 4, rates)
    refined = baselines.tune("SGD", PROBLEM, KEY, 10, 4, rates, refine=True)
    np.testing.assert_allclose(plain.rates, rates)
    added = [rate for rate in refined.rates if not np.isclose(rate, rates).any()]
    assert added
    np.testing.assert_allclose(np.log2(np.array(added) / rates[0]) % 1, 0.5, rtol=1e-6)
    assert all(rates[0] < rate < rates[-1] for rate in added)
    assert refined.final_loss <= plain.final_loss


def test_a_run_that_diverges_on_its_way_is_infinite():
    """Also where what is measured at its end is finite."""

    def measure(theta):
        return jax.numpy.zeros(())

    tuned = baselines.tune("SGD", PROBLEM, KEY, 200, 3, (0.01, 1e3), measure=measure)
    assert list(tuned.grid) == [0, np.inf]


def test_momentum_muon_and_the_frozen_ones_are_optax():
    params = {"w": jax.numpy.ones((3, 2)), "b": jax.numpy.ones(2)}
    gradient = jax.tree.map(lambda x: 0.1 * x, params)
    pairs = [
        (baselines.baseline("Momentum", 0.01, 9), optax.sgd(0.01, momentum=0.9)),
        (baselines.baseline("Muon", 0.01, 9), optax.contrib.muon(0.01)),
        (
            baselines.FROZEN["Adam, frozen on digits"](9),
            optax.adam(lambda t: 0.128 / (1 + t / 2_000)),
        ),
        (
            baselines.FROZEN["Adam, frozen on CIFAR-10"](9),
            optax.adam(lambda t: 0.004 / (1 + t / 4_000)),
        ),
    ]
    for ours, theirs in pairs:
        our_state, their_state = ours.init(params), theirs.init(params)
        for _ in range(2):
            got, our_state = ours.update(gradient, our_state, params)
            want, their_state = theirs.update(gradient, their_state, params)
            jax.tree.map(np.testing.assert_array_equal, got, want)
