"""A family solved many times: against `unroll`, exact solutions, and what users get wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import optimizees

KEY = jax.random.key(0)
FAMILY = optimizees.quadratic(dim=3)


def drawn(family, count, key=KEY):
    return jax.vmap(family.sample)(jax.random.split(key, count))


def values(family, theta, instances):
    return jax.vmap(lambda theta, instance: family.loss(theta, instance, KEY))(theta, instances)


@pytest.mark.parametrize("batch_size", [None, 2, 3])
def test_a_solver_is_the_life_of_each_instance(batch_size):
    """The trajectory is `unroll`'s, also where batches do not come out even."""
    opt = learned_opt.lstm("quadratic", hidden_sizes=(4,))
    phi = opt.init(KEY)
    instances = drawn(FAMILY, 5)
    theta_0 = jax.random.normal(jax.random.key(1), (5, 3))
    solve = learned_opt.solver(
        opt, phi, FAMILY, num_steps=6, keep_best=False, batch_size=batch_size
    )
    solution = solve(instances, theta_0=theta_0)
    for i in range(5):
        instance = jax.tree.map(lambda x, i=i: x[i], instances)
        alone = FAMILY._replace(
            sample=lambda key, instance=instance: instance,
            init=lambda key, instance, i=i: theta_0[i],
        )
        run = learned_opt.unroll((opt, phi), alone, KEY, 6)
        np.testing.assert_allclose(solution.theta[i], run.theta, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(solution.value[i], run.losses[-1], rtol=2e-5)
    assert solution.steps.tolist() == [6] * 5


def test_the_best_point_is_kept():
    """A step that is too long ends far away; the answer is the best of all points."""
    instances = drawn(FAMILY, 4)
    tx = optax.sgd(optax.piecewise_constant_schedule(0.01, {5: 1000.0}))
    best = learned_opt.solver(tx, None, FAMILY, num_steps=8)(instances)
    last = learned_opt.solver(tx, None, FAMILY, num_steps=8, keep_best=False)(instances)
    before = learned_opt.solver(tx, None, FAMILY, num_steps=5, keep_best=False)(instances)
    assert np.all(best.value < last.value)
    np.testing.assert_allclose(best.theta, before.theta, rtol=1e-5)
    np.testing.assert_allclose(best.value, values(FAMILY, best.theta, instances), rtol=1e-5)


def test_a_tolerance_ends_each_instance_and_then_the_program():
    """On |theta - y|^2 / 2 gradient descent by halves has a gradient of |y| / 2^t."""
    family = learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (2,)),
        lambda key, y: jnp.zeros(2),
        lambda theta, y, key: jnp.sum((theta - y) ** 2) / 2,
    )
    instances = np.array([[1.0, 0.0], [8.0, 0.5], [0.0, 0.0]])
    solve = learned_opt.solver(optax.sgd(0.5), None, family, num_steps=50, tolerance=0.25)
    solution = solve(instances)
    assert solution.steps.tolist() == [2, 5, 0]
    np.testing.assert_allclose(solution.theta, instances * np.array([[0.75], [31 / 32], [1.0]]))
    never = learned_opt.solver(optax.sgd(0.5), None, family, num_steps=3, tolerance=0.25)
    assert never(instances).steps.tolist() == [2, 3, 0]


def test_instances_without_an_answer_are_marked_and_the_others_solved():
    instances = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]])
    family = learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (3,)),
        lambda key, y: jnp.zeros(3),
        lambda theta, y, key: jnp.sum((theta - y) ** 2) / 2,
    )
    for tolerance in (None, 1e-6):
        for fallback in (None, optax.sgd(0.5)):
            solve = learned_opt.solver(
                optax.sgd(1.0), None, family, num_steps=4, tolerance=tolerance, fallback=fallback
            )
            solution = solve(instances)
            assert solution.found.tolist() == [True, False, False]
            np.testing.assert_allclose(solution.theta[0], instances[0], atol=1e-6)
            assert np.all(np.isfinite(solution.theta[1:]))


def test_instances_may_be_the_users_own_arrays():
    """A tuple in the place of the family's NamedTuple, in float64."""
    instances = drawn(FAMILY, 3)
    plain = tuple(np.asarray(x, np.float64) for x in instances)
    solve = learned_opt.solver(optax.sgd(0.01), None, FAMILY, num_steps=3)
    np.testing.assert_array_equal(solve(plain).theta, solve(instances).theta)


def test_counts_are_not_cut_off():
    """A family of whole numbers takes floats that are whole, and no others."""
    counts = learned_opt.Optimizee(
        lambda key: jax.random.poisson(key, 2.0, (3,)),
        lambda key, c: jnp.zeros(()),
        lambda theta, c, key: jnp.sum(jnp.exp(theta) - c * theta),
    )
    solve = learned_opt.solver(optax.adam(0.3), None, counts, num_steps=80)
    whole = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(jnp.exp(solve(whole).theta), [2.0, 4.0], rtol=1e-2)
    for lost in (whole / 2, np.where(whole == 1, np.nan, whole)):
        with pytest.raises(ValueError, match=r"the only leaf must be int32, got float64"):
            solve(lost)


def test_no_steps_give_the_start():
    solution = learned_opt.solver(optax.sgd(1.0), None, FAMILY, num_steps=0)(drawn(FAMILY, 2))
    assert solution.steps.tolist() == [0, 0]
    np.testing.assert_allclose(
        solution.value, values(FAMILY, solution.theta, drawn(FAMILY, 2)), rtol=1e-5
    )


def test_going_on_from_a_solution():
    """What was moved is handed over, not the answer: they differ where there are bounds."""
    box = optimizees.bounded(FAMILY, -0.5, 0.5)
    instances = drawn(box, 3)
    solve = learned_opt.solver(optax.sgd(0.02), None, box, num_steps=10, keep_best=False)
    twice = solve(instances, theta_0=solve(instances).moved)
    once = learned_opt.solver(optax.sgd(0.02), None, box, num_steps=20, keep_best=False)
    np.testing.assert_allclose(twice.theta, once(instances).theta, rtol=1e-4)


def test_a_proposal_that_is_taken_back_ends_nothing():
    """Steps that are far too long end where the gradient of bounded parameters vanishes."""
    steep = learned_opt.Optimizee(
        lambda key: jnp.ones(()),
        lambda key, c: jnp.asarray(0.5),
        lambda x, c, key: 100 * (x - c) ** 2,
    )
    box = optimizees.bounded(steep, 0.0, 1.0)
    solve = learned_opt.solver(
        optax.sgd(100.0), None, box, num_steps=300, tolerance=1e-4, fallback=optax.sgd(0.05)
    )
    solution = solve(np.array([0.2, 0.6, 0.7]))
    np.testing.assert_allclose(solution.theta, [0.2, 0.6, 0.7], atol=1e-4)
    assert np.all(solution.steps > 1)


def test_a_fallback_guards_a_destructive_optimizer():
    """The answer is at least as good as half as many steps of gradient descent."""
    bad = optax.GradientTransformation(lambda params: (), lambda g, state, params=None: (g, state))
    instances = drawn(FAMILY, 6)
    for keep_best in (True, False):
        solve = learned_opt.solver(
            bad, None, FAMILY, num_steps=20, fallback=optax.sgd(0.01), keep_best=keep_best
        )
        classical = learned_opt.solver(optax.sgd(0.01), None, FAMILY, num_steps=10)
        assert np.all(solve(instances).value <= classical(instances).value * (1 + 1e-6))


def test_nothing_is_compiled_twice():
    traces = []

    def loss(theta, y, key):
        traces.append(1)
        return jnp.sum((theta - y) ** 2)

    family = learned_opt.Optimizee(lambda key: jnp.zeros(2), lambda key, y: jnp.zeros(2), loss)
    opt = learned_opt.preconditioned(2)
    for seed in range(3):
        phi = opt.init(jax.random.key(seed))
        learned_opt.solver(opt, phi, family, num_steps=2)(np.ones((4, 2)) * seed)
        if seed == 0:
            count = len(traces)
    assert len(traces) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps must be a whole number of at least 0, got -1"),
        ({"tolerance": -1.0}, "tolerance must be a finite number above 0, got -1.0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"fallback": "sgd"}, "fallback must be an optax transformation"),
        ({"fallback": optax.sgd(0.1), "share": 2.0}, "share must be"),
        ({"keep_best": 1}, "keep_best must be True or False"),
    ],
)
def test_settings_that_are_not_possible(settings, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.solver(optax.sgd(0.1), None, FAMILY, **{"num_steps": 3, **settings})


def test_weights_and_optimizers_that_do_not_belong_together():
    with pytest.raises(ValueError, match="phi must be None for an optax transformation"):
        learned_opt.solver(optax.sgd(0.1), {}, FAMILY, num_steps=1)
    with pytest.raises(ValueError, match="phi lack the leaf"):
        learned_opt.solver(learned_opt.lstm(), {}, FAMILY, num_steps=1)


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (np.ones((4, 3)), r"like the family's, Quadratic with w \[3, 3\], y \[3\], got ndarray"),
        ({"w": np.ones((4, 3, 3)), "y": np.ones((4, 3))}, "like the family's, Quadratic"),
        ((np.full((4, 3, 3), "a"), np.ones((4, 3))), "at w must be numbers"),
        ((np.ones((4, 3, 3)) * 1j, np.ones((4, 3))), "which loses something"),
        ((np.ma.masked_equal(np.ones((4, 3, 3)), 1), np.ones((4, 3))), "are masked"),
        ((np.ones((4, 3, 3)), np.ones((5, 3))), "stacked on a first axis of one length"),
        ((np.ones((4, 2, 3)), np.ones((4, 3))), r"have shape \(2, 3\)"),
        ((np.ones((0, 3, 3)), np.ones((0, 3))), "at least one instance"),
        (([np.ones((3, 3)), np.ones((2, 3))], np.ones((2, 3))), "must all have the shape"),
    ],
)
def test_instances_of_other_shapes(instances, message):
    solve = learned_opt.solver(optax.sgd(0.1), None, FAMILY, num_steps=1)
    with pytest.raises(ValueError, match=message):
        solve(instances)


def test_starting_points_of_another_shape():
    solve = learned_opt.solver(optax.sgd(0.1), None, FAMILY, num_steps=1)
    with pytest.raises(ValueError, match="the starting points"):
        solve(drawn(FAMILY, 2), theta_0=np.zeros((2, 4)))


def test_the_answer_is_the_familys_solution():
    box = optimizees.bounded(FAMILY, -0.5, 0.5)
    solution = learned_opt.solver(optax.adam(0.3), None, box, num_steps=60)(drawn(box, 4))
    assert np.all(np.abs(solution.theta) <= 0.5)


def test_a_solver_inside_other_programs():
    """It can be jitted and differentiated as a function of what instances hold."""
    solve = learned_opt.solver(optax.sgd(0.05), None, FAMILY, num_steps=4, keep_best=False)
    instances = drawn(FAMILY, 3)
    jitted = jax.jit(functools.partial(solve))(instances)
    np.testing.assert_allclose(jitted.theta, solve(instances).theta, rtol=1e-6)
