"""The statistics of estimates against closed forms; the program itself is in test_benchmarks.py."""

import jax
import numpy as np
import pytest

import learned_opt
from benchmarks import estimating
from learned_opt.estimators import Adjoint

DIM, NUM_SETS, LENGTH = 3, 4_000, 5
NOISE = 2.0
MEAN = np.array([1.0, -2.0, 2.0])  # of norm 3


def draws_of(mean, seed=0):
    """As `Lab.draw` gives them: estimates of variance NOISE^2 in each of DIM directions."""
    rng = np.random.default_rng(seed)
    estimates = mean + NOISE * rng.normal(size=(NUM_SETS, LENGTH, DIM))
    squares = np.sum(estimates**2, axis=-1).mean(axis=1)
    return estimating.Draws(estimates.mean(axis=1), squares)


def test_noise_is_the_relative_standard_deviation():
    expected = NOISE * np.sqrt(DIM) / 3
    assert estimating.noise_of(draws_of(MEAN)) == pytest.approx(expected, rel=0.02)


def test_the_square_of_a_mean_has_no_bias():
    """Over many pairs of draws; the square of their average has one of half the variance."""
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(4_000):
        vectors = MEAN + NOISE * rng.normal(size=(2, DIM))
        squares.append(estimating.square_of_mean(vectors))
    error = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - 9) < 4 * error
    assert 4 * error < NOISE**2 * DIM / 2


def test_noise_that_hides_the_mean_is_not_resolved():
    opposite = estimating.Draws(np.array([[1.0], [-1.0]]), np.ones(2))
    assert estimating.noise_of(opposite) is None
    assert estimating.bias_of(draws_of(MEAN), opposite) is None


def test_bias_is_the_relative_distance_of_the_means():
    moved = estimating.bias_of(draws_of(1.5 * MEAN, seed=1), draws_of(MEAN))
    assert moved["bias"] == pytest.approx(0.5, abs=0.03)
    error = np.sqrt(2 * DIM * NOISE**2 / LENGTH / NUM_SETS) / 3
    assert moved["error"] == pytest.approx(error, rel=0.1)
    same = estimating.bias_of(draws_of(MEAN, seed=2), draws_of(MEAN))
    assert same["bias"] < 3 * same["error"]


GROUND = estimating.Ground(
    opt=learned_opt.lstm(hidden_sizes=(3,)),
    problem=learned_opt.optimizees.quadratic(2),
    short=2,
    long=4,
    horizons=(4, 8),
    num_problems=3,
    num_pairs=2,
    num_validation=2,
    learning_rate=0.01,
    seconds=0.01,
    num_points=1,
    noise_steps=4,
)


def test_there_is_a_mixture_above_the_shortest_horizon():
    teacher = estimating.decaying_adam(0.1, 8)
    of_shortest = estimating.entrants(GROUND, 4, teacher)
    of_longest = estimating.entrants(GROUND, 8, teacher)
    assert set(of_longest) - set(of_shortest) == {"mixture"}
    assert of_longest["mixture"].steps == 2 * of_longest["adjoint"].steps == 2 * 3 * 2
    assert of_longest["pes"].steps == 2 * 2 * 2  # two sides of two pairs


def test_the_mean_over_a_life_is_the_gradient_of_its_mean_loss():
    """A window of the whole life, beside `meta_gradient` on the same problems."""
    lab = estimating.Lab(GROUND)
    phi = lab.phi(0)
    draws = lab.draw(estimating.Entrant("whole", Adjoint(4), 3, 12), phi, 4)
    for key, mean in zip(estimating.keys_of_sets(len(draws.means)), draws.means, strict=True):
        begin_key, _ = jax.random.split(key)
        _, gradient = learned_opt.meta_gradient(
            GROUND.opt, phi, GROUND.problem, begin_key, 4, num_problems=3
        )
        flat, _ = jax.flatten_util.ravel_pytree(gradient)
        np.testing.assert_allclose(mean, flat / 4, rtol=1e-4, atol=1e-6)
