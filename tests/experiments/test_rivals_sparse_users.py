"""The methods for sparse codes and for the users' classifiers reach the exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals import admm, sparse, users
from learned_opt.optimizees.sparse import dictionary

SPARSE = sparse.task(num_rows=20, num_columns=40)
USERS = users.task()


@pytest.fixture(autouse=True)
def _few_to_tune_on(monkeypatch):
    for module in (sparse, users):
        monkeypatch.setattr(module, "NUM_TUNING", 32)


def _instances(task, number):
    return jax.jit(jax.vmap(task.family.sample))(jax.random.split(jax.random.key(0), number))


def _distances(task, rival, instances, effort):
    answers = rival.solve(effort)(instances)
    reference = task.reference(instances)
    return (task.objective(answers, instances) - reference) / task.scale(reference)


@pytest.mark.parametrize("rival", SPARSE.rivals, ids=lambda rival: rival.name)
def test_sparse_rival_reaches_the_reference(rival):
    distances = _distances(SPARSE, rival, _instances(SPARSE, 9), rival.efforts[-1])
    assert np.all(distances >= -1e-9)
    assert np.all(distances < 1e-5)


@pytest.mark.parametrize("rival", USERS.rivals, ids=lambda rival: rival.name)
def test_users_rival_reaches_the_reference(rival):
    distances = _distances(USERS, rival, _instances(USERS, 9), rival.efforts[-1])
    assert np.all(distances >= -1e-9)
    # Adam's last steps are as long as its schedule makes them.
    assert np.all(distances < (1e-3 if "Adam" in rival.name else 1e-5))


@pytest.mark.parametrize("task", [SPARSE, USERS], ids=["sparse", "users"])
def test_objective_is_the_family_s_loss(task):
    instances = _instances(task, 3)
    sizes = jax.eval_shape(task.family.init, jax.random.key(0), instances)
    theta = 0.1 * jax.random.normal(jax.random.key(1), (3, *sizes.shape))
    loss = jax.vmap(task.family.loss, in_axes=(0, 0, None))(theta, instances, jax.random.key(2))
    answers = theta
    if task.family.solution is not None:
        answers = jax.vmap(task.family.solution)(theta, instances)
    np.testing.assert_allclose(loss, task.objective(answers, instances), rtol=1e-5)


def test_sparse_reference_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    signals = np.asarray(_instances(SPARSE, 4), np.float64)
    columns = dictionary(20, 40)
    model = linear_model.Lasso(alpha=0.1 / 20, fit_intercept=False, tol=1e-12, max_iter=100_000)
    codes = np.stack([model.fit(columns, y).coef_ for y in signals])
    objective = SPARSE.objective(codes, signals)
    np.testing.assert_allclose(SPARSE.reference(signals), objective, rtol=1e-9)


def test_gap_bounds_the_distance():
    signals = np.asarray(_instances(SPARSE, 4), np.float64)
    columns = dictionary(20, 40)
    codes = sparse.solutions(columns, 0.1, signals) + 0.01
    gap = sparse.relative_gap(columns, 0.1, codes, signals)
    objective = SPARSE.objective(codes, signals)
    assert np.all(objective - SPARSE.reference(signals) <= gap * objective + 1e-9)


def test_users_reference_is_that_of_scikit_learn():
    pytest.importorskip("sklearn.linear_model")
    rival = next(r for r in USERS.rivals if r.name == "scikit-learn, newton-cholesky")
    distances = _distances(USERS, rival, _instances(USERS, 6), 1e-10)
    np.testing.assert_allclose(distances, 0.0, atol=1e-10)


@pytest.mark.parametrize("task", [SPARSE, USERS], ids=["sparse", "users"])
def test_blocks_do_not_change_answers(task, monkeypatch):
    """Also: the number of instances need not be a multiple of a block."""
    rival = next(r for r in task.rivals if r.name in ("FISTA", "truncated Newton"))
    effort = next(e for e in rival.efforts if e in (5, (5, 5, 5, 5)))
    instances = _instances(task, 7)
    whole = rival.solve(effort)(instances)
    for module in (admm, users):
        monkeypatch.setattr(module, "BLOCK", 3)
    np.testing.assert_allclose(rival.solve(effort)(instances), whole, atol=1e-3)


def test_unrolled_with_the_same_numbers_everywhere_it_is_plain_admm():
    columns, signals = dictionary(20, 40), _instances(SPARSE, 9)
    unrolled = admm.unrolled(columns, 0.1, 5)
    numbers = unrolled.numbers(jax.random.key(0))
    plain = admm.plain(5, columns, 0.1, 0.4, 1.7)(signals)
    of_each = jax.vmap(unrolled.method, in_axes=(None, 0))(numbers, signals)
    np.testing.assert_allclose(unrolled.solve(numbers)(signals), plain, atol=1e-5)
    np.testing.assert_allclose(of_each, plain, atol=1e-5)


def test_unrolled_with_the_plain_numbers_it_is_truncated_newton(x64):
    """In double precision: conjugate gradients magnify the rounding of single precision."""
    inner, drawn = (2, 4, 5), _instances(USERS, 9)
    instances = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), drawn)
    unrolled = users.unrolled_newton(1 / 40, inner)
    numbers = unrolled.numbers(jax.random.key(0))
    plain = users._solve_truncated(inner, l2=1 / 40, start=users._no_start)(instances)
    of_each = jax.vmap(unrolled.method, in_axes=(None, 0))(numbers, instances)
    np.testing.assert_allclose(unrolled.solve(numbers)(instances), plain, atol=1e-11)
    np.testing.assert_allclose(of_each, plain, atol=1e-11)


def test_one_class_alone_has_a_solution():
    users_drawn = _instances(USERS, 2)
    alone = users_drawn._replace(y=np.ones((2, 40), np.float32))
    for rival in USERS.rivals:
        if rival.name in ("Newton", "scikit-learn, lbfgs"):
            assert np.all(_distances(USERS, rival, alone, rival.efforts[-1]) < 1e-4), rival.name
