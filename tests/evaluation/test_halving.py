import numpy as np
import pytest

from learned_opt.evaluation import baselines, halving


def parabola(best, noise=0.0, seed=0):
    """A loss that is smallest at one rate, plus what each run adds to it, whatever the rate."""
    shared = np.random.default_rng(seed).normal(size=1_000)

    def evaluate(rates, runs):
        return np.log2(rates / best) ** 2 + noise * shared[runs]

    return evaluate


@pytest.mark.parametrize("num_runs", [1, 20, 100])
def test_the_best_rate_of_the_fine_grid_is_found(num_runs):
    """With large noise that all rates share: pairs are compared."""
    best = 2**10.5 * 1e-6
    found = halving.search(parabola(best, noise=100.0), baselines.LEARNING_RATES, num_runs)
    assert found.rates[found.best] == pytest.approx(best)
    row = found.values[found.best]
    assert not np.isnan(row).any()
    neighbours = found.values[[found.best - 1, found.best + 1]]
    assert not np.isnan(neighbours).any()
    np.testing.assert_allclose(
        found.rates[[found.best - 1, found.best + 1]] / best, [2**-0.5, 2**0.5]
    )


def test_no_rate_is_run_twice_on_a_run_and_few_have_all():
    jobs = []

    def evaluate(rates, runs):
        jobs.extend(zip(rates, runs, strict=True))
        return parabola(0.001)(rates, runs)

    found = halving.search(evaluate, baselines.LEARNING_RATES, 20)
    assert len(jobs) == len(set(jobs)) == np.sum(~np.isnan(found.values))
    assert len(jobs) < 0.4 * 30 * 20
    assert abs(len(jobs) - halving.planned(30, 20)) <= 40
    assert np.all(np.diff(found.rates) > 0)


def test_rates_that_cannot_be_told_apart_are_marked():
    """Single runs of two neighbouring rates differ by noise of their own."""
    rng = np.random.default_rng(5)
    flat = halving.search(
        lambda rates, runs: 0.01 * np.log2(rates) ** 2 + rng.normal(size=len(runs)),
        (0.25, 0.5, 1.0, 2.0),
        20,
    )
    assert len(flat.tied) > 1
    assert flat.best in flat.tied
    sharp = halving.search(parabola(1.0), (0.25, 0.5, 1.0, 2.0), 20)
    assert sharp.tied == (sharp.best,)


def test_a_grid_alone_is_not_refined_and_not_left():
    found = halving.search(parabola(0.7), (0.25, 0.5, 1.0), 4, refine=False)
    assert list(found.rates) == [0.25, 0.5, 1.0]
    beyond = halving.search(parabola(8.0), (0.25, 0.5, 1.0), 4)
    assert beyond.rates[beyond.best] == 1.0
    assert beyond.rates.max() == 1.0


def test_what_diverges_is_last():
    """Of two rates at which runs diverge, the one with fewer such runs."""
    table = {0.25: [np.inf, 1.0, np.nan], 0.5: [4.0, np.inf, 4.0], 1.0: [np.inf] * 3}

    def evaluate(rates, runs):
        return np.array([table[rate][run] for rate, run in zip(rates, runs, strict=True)])

    found = halving.search(evaluate, list(table), 3, refine=False)
    assert found.rates[found.best] == 0.5
    table[1.0] = [100.0] * 3
    found = halving.search(evaluate, list(table), 3, refine=False)
    assert found.rates[found.best] == 1.0
