import numpy as np
import pytest
import scipy.stats

from learned_opt.evaluation import statistics


def test_the_mean_and_its_middle_half():
    values = np.random.default_rng(0).exponential(size=80)
    got = statistics.summarize(values)
    np.testing.assert_allclose(got.mean, values.mean())
    np.testing.assert_allclose(got.interquartile_mean, scipy.stats.trim_mean(values, 0.25))
    assert got.diverged == 0


def test_a_large_sample_has_students_interval():
    values = np.random.default_rng(0).normal(5, 2, size=2_000)
    got = statistics.summarize(values)
    expected = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose([got.low, got.high], expected, atol=0.01)


def coverage(draw, mean, trials=1_000):
    """How often the interval of a sample that `draw` draws holds the true mean."""
    held = 0
    for _ in range(trials):
        low, high = statistics.interval(draw())[1:]
        held += low <= mean <= high
    return held / trials


def test_intervals_cover():
    """At twenty runs of a lognormal variable the percentile bootstrap covers 0.86."""
    rng = np.random.default_rng(1)
    assert coverage(lambda: rng.lognormal(size=20), np.exp(0.5)) >= 0.92
    assert 0.93 <= coverage(lambda: rng.normal(size=20), 0.0) <= 0.99
    assert coverage(lambda: rng.normal(size=5), 0.0) >= 0.93  # percentile: 0.83


@pytest.mark.thorough
@pytest.mark.parametrize("num_runs", [5, 10, 20, 50, 100])
def test_intervals_cover_at_every_number_of_runs(num_runs):
    rng = np.random.default_rng(num_runs)
    assert coverage(lambda: rng.lognormal(size=num_runs), np.exp(0.5), 3_000) >= 0.91
    assert coverage(lambda: rng.exponential(size=num_runs), 1.0, 3_000) >= 0.93
    assert coverage(lambda: rng.normal(size=num_runs), 0.0, 3_000) >= 0.94


def test_one_run_far_from_all_others_does_not_stretch_the_interval_without_end():
    """Nineteen runs that guess and one that learns: a loss is not below zero by the interval."""
    rng = np.random.default_rng(0)
    guessing = 2.3 + 0.01 * rng.normal(size=19)
    mean, low, high = statistics.interval(np.append(guessing, 0.2))
    assert 1.4 < low < mean < high < 2.5


def seeds_and_runs(rng, of_seeds, of_runs, num_seeds=3, num_runs=20):
    """Zero, and an effect of each seed, of each run, and of both."""
    seeds = of_seeds * rng.normal(size=(num_seeds, 1))
    runs = of_runs * rng.normal(size=(1, num_runs))
    return seeds + runs + 0.3 * rng.normal(size=(num_seeds, num_runs))


@pytest.mark.parametrize(("of_seeds", "of_runs"), [(1.0, 0.3), (0.3, 1.0), (0.0, 1.0)])
def test_seeds_are_the_outer_level(of_seeds, of_runs):
    """Three seeds of meta-training on the same twenty runs: the interval is about the method."""
    rng = np.random.default_rng(2)
    held = coverage(lambda: seeds_and_runs(rng, of_seeds, of_runs), 0.0, 400)
    assert held >= 0.9
    alone = coverage(lambda: seeds_and_runs(rng, of_seeds, of_runs).mean(axis=0), 0.0, 400)
    if of_seeds == 1.0:  # over runs alone it is about these three seeds
        assert alone < 0.6


def test_the_standard_error_of_seeds_and_runs():
    """Against a simulation of the mean's standard deviation."""
    rng = np.random.default_rng(3)
    draws = [seeds_and_runs(rng, 1.0, 0.5, num_seeds=4) for _ in range(4_000)]
    true = np.std([draw.mean() for draw in draws])
    squares = [statistics._standard_error(draw) ** 2 for draw in draws]
    np.testing.assert_allclose(np.sqrt(np.mean(squares)), true, rtol=0.05)


def test_divergence_counts():
    got = statistics.summarize([1.0, 2.0, np.nan, np.inf, 3.0, 4.0, 2.0, 2.0])
    assert got[:3] == (np.inf, np.inf, np.inf)
    assert got.diverged == 0.25
    np.testing.assert_allclose(got.interquartile_mean, (2 + 2 + 3 + 4) / 4)


def test_it_is_seeded():
    values = np.arange(10.0)
    assert statistics.summarize(values) == statistics.summarize(values)


def test_what_has_no_interval():
    assert statistics.interval(np.array([2.0])) == (2.0, -np.inf, np.inf)
    assert statistics.interval(np.full(5, 0.1)) == pytest.approx((0.1, 0.1, 0.1))
    mean, low, high = statistics.interval(np.array([np.inf, -np.inf, 1.0]))
    assert np.isnan(mean)
    assert (low, high) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match=r"must be \[runs\] or \[seeds, runs\], got the shape"):
        statistics.interval(np.zeros((2, 2, 2)))


def test_pairs_tell_apart_what_unpaired_intervals_do_not():
    """Two optimizers on the same problems, one of them better by a hundredth on every one."""
    rng = np.random.default_rng(4)
    theirs = rng.lognormal(size=20)
    ours = theirs - 0.01 + 0.003 * rng.normal(size=20)
    difference = statistics.paired(ours, theirs)
    assert difference.verdict == "below"
    assert difference.low < -0.01 < difference.high
    assert difference.lower == np.mean(ours < theirs)
    assert difference.num_runs == 20
    assert statistics.summarize(ours).high > statistics.summarize(theirs).low
    assert statistics.paired(theirs, ours).verdict == "above"
    assert statistics.paired(ours, rng.permutation(theirs)).verdict == "no difference"


def test_verdicts_of_runs_that_diverge():
    ones = np.ones(5)
    diverged = np.array([1.0, 1.0, np.nan, 1.0, 1.0])
    other = np.array([np.inf, 1.0, 1.0, 1.0, 1.0])
    assert statistics.paired(diverged, ones).verdict == "above"
    assert statistics.paired(ones, diverged).verdict == "below"
    assert statistics.paired(diverged, other).verdict == "no difference"
    assert statistics.paired(diverged, diverged).mean == 0


def test_runs_that_cannot_be_paired():
    with pytest.raises(ValueError, match="of the same runs, got"):
        statistics.paired(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(2, 4\)"):
        statistics.paired(np.ones((3, 4)), np.ones((2, 4)))


def test_ratio_is_the_geometric_mean_over_the_same_problems():
    theirs = np.array([1.0, 10.0, 1e-3, 5.0])
    assert statistics.ratio(3 * theirs, theirs) == pytest.approx((3, 3, 3))
    mean, low, high = statistics.ratio(np.stack([2 * theirs, 8 * theirs]), theirs)
    assert mean == pytest.approx(4)
    assert low < 2
    assert high > 8
    assert statistics.ratio(np.array([np.inf, 1.0]), np.array([1.0, 1.0]))[0] == np.inf
    assert statistics.ratio(np.array([0.0, 1.0]), np.array([0.0, 1.0]))[0] == 1.0
