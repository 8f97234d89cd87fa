import numpy as np
import pytest
import scipy.stats

from learned_opt.evaluation import statistics


def test_against_scipy():
    values = np.random.default_rng(0).exponential(size=80)
    got = statistics.summarize(values)
    np.testing.assert_allclose(got.mean, values.mean())
    np.testing.assert_allclose(got.interquartile_mean, scipy.stats.trim_mean(values, 0.25))
    interval = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose([got.low, got.high], interval, rtol=0.03)
    assert got.diverged == 0


def test_divergence_counts():
    got = statistics.summarize([1.0, 2.0, np.nan, np.inf, 3.0, 4.0, 2.0, 2.0])
    assert np.isinf(got.mean)
    assert got.diverged == 0.25
    np.testing.assert_allclose(got.interquartile_mean, (2 + 2 + 3 + 4) / 4)


def test_it_is_seeded():
    values = np.arange(10.0)
    assert statistics.summarize(values) == statistics.summarize(values)


def test_a_difference_inside_the_intervals_is_none():
    low, middle, high = ({"low": x, "high": x + 1.5} for x in (0.0, 1.0, 2.0))
    assert statistics.verdict(low, high) == "below"
    assert statistics.verdict(high, low) == "above"
    assert statistics.verdict(low, middle) == "no difference"
    diverged = {"low": "inf", "high": "inf"}  # as a JSON file holds it
    assert statistics.verdict(diverged, high) == "above"
    assert statistics.verdict(diverged, diverged) == "no difference"


def test_ratio_is_the_geometric_mean_over_the_same_problems():
    theirs = np.array([1.0, 10.0, 1e-3, 5.0])
    assert statistics.ratio(3 * theirs, theirs) == pytest.approx((3, 3, 3))
    mean, low, high = statistics.ratio(np.stack([2 * theirs, 8 * theirs]), theirs)
    assert (mean, low, high) == pytest.approx((4, 4, 4))
    mean, low, high = statistics.ratio(np.array([4.0, 10.0]), np.array([1.0, 10.0]))
    assert (mean, low, high) == pytest.approx((2, 1, 4))
    assert statistics.ratio(np.array([np.inf, 1.0]), np.array([1.0, 1.0]))[0] == np.inf
