"""The methods to beat on curves and in control: given enough time, they reach the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from experiments.rivals import control, curves


def suboptimality(task, rival, instances):
    answers = rival.solve(rival.efforts[-1])(instances)
    reference = task.reference(instances)
    return (task.objective(answers, instances) - reference) / task.scale(reference)


@pytest.fixture(scope="module")
def fits():
    task = curves.task()
    keys = jax.random.split(jax.random.key(0), 8)
    return task, jax.vmap(task.family.sample)(keys)


@pytest.fixture(scope="module")
def plans():
    task = control.task(num_episodes=8, num_fresh=8, num_steps=40)
    keys = jax.random.split(jax.random.key(0), 8)
    return task, jax.vmap(task.family.sample)(keys)


def test_the_objectives_are_the_losses(fits, plans):
    for task, instances in (fits, plans):
        keys = jax.random.split(jax.random.key(1), 8)
        theta = jax.vmap(task.family.init)(keys, instances)
        losses = jax.vmap(task.family.loss)(theta, instances, keys)
        answers = jax.vmap(task.family.solution)(theta, instances)
        np.testing.assert_allclose(task.objective(answers, instances), losses, rtol=1e-4)


def test_levenberg_marquardt_finds_what_scipy_finds(fits):
    _, instances = fits
    with jax.enable_x64(True):
        measured = curves.Measured(jnp.asarray(np.asarray(instances.signal, np.float64)))
        found = jax.jit(lambda m: curves.levenberg_marquardt(m, 100))(measured)
    best = curves._scipy(1e-14)(instances)
    for ours, theirs in zip(found, best, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_blocks_do_not_change_a_fit(fits, monkeypatch):
    _, instances = fits
    whole = jax.jit(lambda m: curves.levenberg_marquardt(m, 5))(instances)
    monkeypatch.setattr(curves, "_BLOCK", 3)
    blocks = jax.jit(lambda m: curves.levenberg_marquardt(m, 5))(instances)
    np.testing.assert_allclose(blocks, whole, rtol=1e-3)


def test_unrolled_with_an_untrained_start_it_is_levenberg_marquardt(fits):
    task, instances = fits
    start = task.unrolled.numbers(jax.random.key(0))
    expected = curves.levenberg_marquardt(instances, 1)
    np.testing.assert_allclose(task.unrolled.solve(start)(instances), expected, rtol=1e-4)
    theta = jax.vmap(task.unrolled.method, in_axes=(None, 0))(start, instances)
    np.testing.assert_allclose(
        jax.vmap(task.family.solution)(theta, instances), expected, rtol=1e-4
    )


def test_methods_that_go_on_from_a_start(fits, plans):
    """From where the family starts, they are the rivals."""
    for task, instances in (fits, plans):
        keys = jax.random.split(jax.random.key(1), 8)
        theta = jax.vmap(task.family.init)(keys, instances)
        rival = task.rivals[0].solve(4)(instances)
        going_on = jax.jit(task.refinement.solve(4))(instances, theta)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), going_on, rival)


def test_the_reference_of_fits_is_scipys(fits):
    task, instances = fits

    def error(x, signal):
        s0, f, fast, slow = x
        b = np.asarray(curves.curves.B_VALUES)
        return (s0 * (f * np.exp(-b * fast) + (1 - f) * np.exp(-b * slow)) - signal) / 0.01

    pairs = zip(np.asarray(instances.signal), task.reference(instances), strict=True)
    for signal, reference in pairs:
        best = scipy.optimize.least_squares(
            error, [1, 0.3, 10, 1], args=(signal.astype(float),), xtol=1e-12, x_scale="jac"
        )
        np.testing.assert_allclose(reference, best.cost, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "Levenberg-Marquardt",
        "Levenberg-Marquardt (SciPy)",
        "Levenberg-Marquardt (Optimistix)",
        "L-BFGS (Optax)",
    ],
)
def test_fits_are_solved(fits, name):
    task, instances = fits
    (rival,) = (rival for rival in task.rivals if rival.name == name)
    distance = suboptimality(task, rival, instances)
    assert np.all(distance <= task.tolerance)
    assert np.all(distance >= -1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "iLQR with limits",
        "L-BFGS (Optax)",
        "BFGS (Optimistix)",
    ],
)
def test_plans_are_solved(plans, name):
    task, instances = plans
    (rival,) = (rival for rival in task.rivals if rival.name == name)
    distance = suboptimality(task, rival, instances)
    assert np.all(distance <= task.tolerance)
    assert np.all(distance >= -1e-6)


def test_blocks_do_not_change_a_plan(plans, monkeypatch):
    task, instances = plans
    whole = task.objective(control._ilqr(4)(instances), instances)
    monkeypatch.setattr(control, "_BLOCK", 3)
    blocks = task.objective(control._ilqr(4)(instances), instances)
    np.testing.assert_allclose(blocks, whole, rtol=1e-3)
