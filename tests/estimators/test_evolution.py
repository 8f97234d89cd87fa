"""PES and NRES against theory: a noisy quadratic whose best step size is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import estimators
from learned_opt.estimators import antithetic
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(3)

# f(theta) = sum_i h_i / 2 (theta_i - c_i)^2 with c_i ~ N(0, 1) fresh at every step (Wu et al. 2018,
# arXiv 1803.02021, section 2): along the flat direction theta has far to go, along the steep one it
# soon sits in the noise.
CURVATURE = np.array([1.0, 0.02])
START = np.array([1.0, 20.0])
NUM_STEPS, WINDOW = 100, 10


def noisy_quadratic():
    def loss(theta, instance, key):
        del instance
        noise = jax.random.normal(key, (2,))
        return jnp.sum(jnp.asarray(CURVATURE) / 2 * jnp.square(theta - noise))

    return learned_opt.Optimizee(lambda key: (), lambda key, i: jnp.asarray(START), loss)


def learned_step_size(rate=0.2):
    """SGD whose one weight is the logarithm of its rate."""
    return learned_opt.LearnedOptimizer(
        lambda key: {"log_rate": jnp.log(jnp.float32(rate))},
        lambda phi: optax.sgd(jnp.exp(phi["log_rate"])),
        coordinatewise=True,
        spec=None,
        reads=frozenset(),
    )


def moments_after(rate, moments, num_steps):
    """E f(theta_t) for t = 1 .. num_steps, and E theta^2 after them, in closed form."""
    losses = []
    for _ in range(num_steps):
        moments = (1 - rate * CURVATURE) ** 2 * moments + (rate * CURVATURE) ** 2
        losses.append(np.sum(CURVATURE / 2 * (moments + 1)))
    return np.array(losses), moments


RATES = np.exp(np.linspace(np.log(0.05), np.log(1.6), 800))


def best_rate(num_steps=NUM_STEPS):
    """The rate with the least mean loss over a whole life."""
    means = [moments_after(rate, START**2, num_steps)[0].mean() for rate in RATES]
    return RATES[int(np.argmin(means))]


def truncated_rate():
    """The rate at which the expected gradient of truncated windows vanishes."""

    def slope(rate):
        moments, total, step = START**2, 0.0, 1e-5
        for _ in range(NUM_STEPS // WINDOW):
            above, _ = moments_after(rate * np.exp(step), moments, WINDOW)
            below, _ = moments_after(rate * np.exp(-step), moments, WINDOW)
            total += (above.sum() - below.sum()) / (2 * step)
            _, moments = moments_after(rate, moments, WINDOW)
        return total

    signs = np.sign([slope(rate) for rate in RATES])
    return RATES[int(np.flatnonzero(np.diff(signs))[0])]


def learned_rate(estimator, num_epochs=30):
    """The step size that meta-training ends with, the mean over the last third of its epochs."""
    seen = []

    def note(progress):
        seen.append(float(progress.phi["log_rate"]))

    learned_opt.meta_train(
        learned_step_size(),
        noisy_quadratic(),
        KEY,
        num_steps=NUM_STEPS,
        num_problems=256,
        num_epochs=num_epochs,
        episodes_per_epoch=1,
        estimator=estimator,
        optimizer=optax.adam(0.03),
        validation=learned_opt.Validation(num_problems=1, selection="last"),
        callback=note,
        progress_bar=False,
    )
    return float(np.exp(np.mean(seen[-num_epochs // 3 :])))


def test_the_closed_form_is_that_of_the_problem():
    tx = learned_step_size(0.3).transform(learned_step_size(0.3).init(KEY))
    losses = learned_opt.evaluate(tx, noisy_quadratic(), KEY, 20, 4_000)[:, 1:]
    expected, _ = moments_after(0.3, START**2, 20)
    error = losses.std(axis=0) / np.sqrt(4_000)
    assert np.all(np.abs(losses.mean(axis=0) - expected) < 5 * error)


@pytest.mark.thorough
def test_truncated_gradients_are_drawn_to_a_step_that_is_too_short():
    assert truncated_rate() < 0.6 * best_rate()
    found = learned_rate(estimators.Autodiff(window=WINDOW, stop_gradient=False))
    np.testing.assert_allclose(found, truncated_rate(), rtol=0.08)


@pytest.mark.parametrize("estimator", [estimators.PES, estimators.NRES])
def test_evolution_strategies_reach_the_best_step_size(estimator):
    found = learned_rate(estimator(window=WINDOW, sigma=0.1, shortest=None, clip=None))
    np.testing.assert_allclose(found, best_rate(), rtol=0.08)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def whole_life(opt, estimator, num_problems, num_steps, phi, family, key):
    """The sum over a life of each problem's estimates, `[problems, weights]`, and the lives'
    ends.
    """

    def one(key):
        lives = estimator.begin(opt, phi, family, key[None], num_steps)
        total = 0.0
        for number in range(num_steps // estimator.window):
            window_key = jax.random.fold_in(key, number)
            weights = jnp.ones(estimator.window)
            estimate = estimator.run(opt, phi, family, lives, window_key, weights)
            lives = estimate.lives
            total += jax.flatten_util.ravel_pytree(estimate.gradient)[0]
        return total

    return jax.vmap(one)(jax.random.split(key, num_problems))


@pytest.mark.parametrize("make", [estimators.PES, estimators.NRES])
@pytest.mark.parametrize(
    "architecture", ["step-size", pytest.param("small_fc_lopt", marks=pytest.mark.thorough)]
)
def test_the_mean_over_many_draws_is_the_gradient_of_the_whole_life(make, architecture):
    """Within its standard error, against autodiff through everything, weight by weight."""
    opt = learned_step_size() if architecture == "step-size" else learned_opt.small_fc_lopt()
    family = optimizee_base.as_family(noisy_quadratic())
    phi = opt.init(jax.random.key(1))
    num_steps, num_pairs = 20, 4_000
    estimator = make(window=5, sigma=0.003, shortest=None, clip=None, staggered=False)
    draws = whole_life(opt, estimator, num_pairs, num_steps, phi, family, KEY)
    exact = estimators.Autodiff(window=num_steps, stop_gradient=False)
    want = np.mean(whole_life(opt, exact, 2_000, num_steps, phi, family, jax.random.key(8)), axis=0)
    error = np.std(draws, axis=0) / np.sqrt(num_pairs)
    z = (np.mean(draws, axis=0) - want) / np.maximum(error, 1e-12)
    assert np.all(np.abs(z) < 5)
    assert np.abs(z).mean() < 1.5
    assert np.linalg.norm(want) > 0


def test_pes_credits_late_losses_to_early_perturbations():
    """The second window alone, with a loss that only what the first window did can change."""
    opt, family = learned_step_size(), optimizee_base.as_family(noisy_quadratic())
    phi = opt.init(KEY)
    for make, accumulates in ((estimators.PES, True), (estimators.NRES, False)):
        estimator = make(window=5, sigma=0.1, shortest=None, staggered=False, clip=None)
        lives = estimator.begin(opt, phi, family, jax.random.split(KEY, 3), 10)
        first = estimator.run(opt, phi, family, lives, jax.random.key(1), jnp.ones(5)).lives
        second = estimator.run(opt, phi, family, first, jax.random.key(2), jnp.ones(5)).lives
        same = np.allclose(first.noise["log_rate"], second.noise["log_rate"])
        assert same != accumulates
        third = estimator.run(opt, phi, family, second, jax.random.key(3), jnp.ones(5)).lives
        np.testing.assert_array_equal(third.t, 5)  # the lives of ten steps have begun anew
        assert np.all(np.abs(third.noise["log_rate"]) < 0.1 * 5)


def test_only_some_weights_are_perturbed():
    """The estimate is that of these weights, and the others stay as they are."""
    opt = learned_opt.rnnprop("long", hidden_sizes=(2,), input_size=2)
    phi = opt.init(KEY)
    family = optimizee_base.as_family(learned_opt.optimizees.quadratic(2))
    estimator = estimators.NRES(window=5, shortest=None, only=("decay", "output"))
    keys = jax.random.split(KEY, 2)
    lives = estimator.begin(opt, phi, family, keys, 10)
    estimate = estimator.run(opt, phi, family, lives, KEY, jnp.ones(5))
    for name, entry in estimate.gradient.items():
        moved = [bool(jnp.any(x != 0)) for x in jax.tree.leaves(entry)]
        assert all(moved) if name in estimator.only else not any(moved), name
    with pytest.raises(ValueError, match=r"unknown entry of phi in only 'decoy'\. Did"):
        estimators.NRES(window=5, only=("decoy",), shortest=None).check(opt, family, KEY, 10)


def test_a_pair_shares_problem_data_and_keys():
    """With no perturbation at all the two sides of a pair are one and the same life."""
    opt, family = learned_step_size(), optimizee_base.as_family(noisy_quadratic())
    estimator = estimators.NRES(window=5, sigma=1e-30, shortest=None, staggered=False)
    lives = estimator.begin(opt, opt.init(KEY), family, jax.random.split(KEY, 4), 10)
    estimate = estimator.run(opt, opt.init(KEY), family, lives, KEY, jnp.ones(5))
    np.testing.assert_array_equal(estimate.lives.plus.theta, estimate.lives.minus.theta)
    assert np.std(estimate.losses[0]) > 0  # and other pairs have others


def test_horizons_are_log_uniform_and_staggered():
    estimator = estimators.PES(window=10, shortest=100)
    keys = jax.random.split(KEY, 4_000)
    longest = jnp.int32(10_000)
    drawn = jax.vmap(lambda key: estimator._draw_horizon(key, longest, False))(keys)
    assert np.all(drawn % 10 == 0)
    assert drawn.min() == 100
    assert 9_900 <= drawn.max() <= 10_000
    quartiles = np.quantile(np.log(drawn), [0.25, 0.5, 0.75])
    want = np.log(100) + np.log(100) * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, want, atol=0.15)
    cut = jax.vmap(lambda key: estimator._draw_horizon(key, longest, True))(keys)
    assert np.all((cut >= 10) & (cut <= drawn))
    np.testing.assert_allclose(np.mean(cut / drawn), 0.5, atol=0.05)


@pytest.mark.parametrize("objective", antithetic.OBJECTIVES)
def test_the_objective(objective):
    """The sum of all losses of a life, late ones counting more, or the last one alone."""
    opt, family = learned_step_size(), optimizee_base.as_family(noisy_quadratic())
    phi, num_steps = opt.init(KEY), 20
    estimator = estimators.NRES(
        window=5, sigma=0.01, shortest=None, clip=None, staggered=False, objective=objective
    )
    draws = whole_life(opt, estimator, 4_000, num_steps, phi, family, KEY)

    def expected(log_rate):
        losses, _ = moments_after(np.exp(log_rate), START**2, num_steps)
        times = np.arange(1, num_steps + 1)
        return {
            "mean": losses.sum(),
            "late": np.sum(2 * times / num_steps * losses),
            # It counts as often as a life has windows.
            "final": losses[-1] * num_steps / 5,
        }[objective]

    at = float(phi["log_rate"])
    slope = (expected(at + 1e-4) - expected(at - 1e-4)) / 2e-4
    error = np.std(draws) / np.sqrt(4_000)
    assert abs(np.mean(draws) - slope) < 5 * error


def test_losses_are_clipped_and_nan_is_the_limit():
    estimator = estimators.PES(clip=1.5)
    losses = jnp.array([[1.0, 2.0, 5.0, jnp.inf, jnp.nan]])
    np.testing.assert_allclose(
        estimator._clipped(losses, jnp.array([[2.0]])), [[1.0, 2.0, 3.0, 3.0, 3.0]]
    )
    assert np.isnan(estimators.PES(clip=None)._clipped(losses, jnp.array([[2.0]]))[0, -1])


def test_what_diverges_gives_a_finite_gradient():
    opt, family = learned_step_size(1e6), optimizee_base.as_family(noisy_quadratic())
    phi = opt.init(KEY)
    estimator = estimators.NRES(window=50, shortest=None, staggered=False)
    lives = estimator.begin(opt, phi, family, jax.random.split(KEY, 4), 50)
    estimate = estimator.run(opt, phi, family, lives, KEY, jnp.ones(50))
    assert np.all(np.isfinite(estimate.gradient["log_rate"]))
    assert np.all(np.isfinite(estimate.losses))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window .* got 0"),
        ({"sigma": 0.0}, "sigma must be a finite number above 0, got 0.0"),
        ({"shortest": 75}, "window must divide shortest=75, got 50"),
        ({"objective": "last"}, "unknown objective 'last'"),
        ({"clip": 0.5}, "clip must be at least 1, got 0.5"),
        ({"staggered": "yes"}, "staggered must be True or False"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        estimators.PES(**settings)


def test_lives_shorter_than_the_shortest():
    with pytest.raises(ValueError, match="shortest must be at most num_steps=50, got 100"):
        learned_opt.meta_train(
            learned_step_size(), noisy_quadratic(), KEY, num_steps=50, estimator=estimators.PES()
        )
