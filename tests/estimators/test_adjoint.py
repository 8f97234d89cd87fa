import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import estimators, native
from learned_opt.estimators import second_pass
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import CoordinateRule, from_rule

KEY = jax.random.key(11)


def tree_problem():
    """Parameters of many shapes, coupled: a matrix, a scalar, an empty leaf, None, a rank-3
    array.
    """

    def init(key, instance):
        del instance
        a, b, c = jax.random.split(key, 3)
        return {
            "m": jax.random.normal(a, (3, 5)),
            "s": jax.random.normal(b, ()),
            "empty": jnp.zeros((0, 2)),
            "none": None,
            "t": [jax.random.normal(c, (2, 1, 4))],
        }

    def loss(theta, instance, key):
        noise = 0.1 * jax.random.normal(key, (3, 5))
        total = jnp.sum(jnp.square(theta["m"] + noise)) * (1 + theta["s"] ** 2)
        return (
            total
            + jnp.sum(jnp.square(theta["t"][0] - instance))
            + jnp.sum(jnp.cos(theta["m"])) * theta["s"]
        )

    return learned_opt.Optimizee(lambda key: jax.random.normal(key, ()), init, loss)


def partitioned():
    return learned_opt.partition(
        {
            "a": learned_opt.lstm("mnist", hidden_sizes=(5,)),
            "b": learned_opt.lstm(hidden_sizes=(3, 4)),
        },
        {"m": "a", "*": "b"},
    )


def normed():
    """An optimizer whose update depends on all coordinates: it is not coordinatewise."""

    def transform(phi):
        def update(updates, state, params=None, **extra):
            del params, extra
            norm = optax.tree.norm(updates)
            state = 0.9 * state + jnp.tanh(phi["w"] * norm)
            return jax.tree.map(lambda g: -phi["r"] * state * g, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)

    return learned_opt.LearnedOptimizer(
        lambda key: {"w": jnp.float32(0.3), "r": jnp.float32(0.01)},
        transform,
        False,
        {"name": "normed", "args": {}},
    )


def counting():
    """Coordinatewise, with state that all coordinates share: a step count."""

    def transform(phi):
        def init(params):
            return {"count": jnp.zeros((), jnp.int32), "m": jax.tree.map(jnp.zeros_like, params)}

        def update(updates, state, params=None, **extra):
            del params, extra
            m = jax.tree.map(lambda m, g: phi["b"] * m + g, state["m"], updates)
            rate = phi["r"] / (1 + state["count"])
            return jax.tree.map(lambda m: -rate * m, m), {"count": state["count"] + 1, "m": m}

        return optax.GradientTransformationExtraArgs(init, update)

    return learned_opt.LearnedOptimizer(
        lambda key: {"b": jnp.float32(0.5), "r": jnp.float32(0.02)},
        transform,
        True,
        {"name": "momentum", "args": {}},
    )


def difference(got, want):
    """Largest difference of two meta-gradients, relative to the norm of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, got, want)) / optax.tree.norm(want))


def both(opt, problem, num_steps, num_problems, weights, block_size):
    phi = opt.init(jax.random.key(0))
    arguments = opt, phi, problem, KEY, num_steps, num_problems, weights
    adjoint = learned_opt.meta_gradient(*arguments, method="adjoint", block_size=block_size)
    return adjoint, learned_opt.meta_gradient(*arguments, method="autodiff")


CASES = [
    (learned_opt.lstm, tree_problem, 7, 1, None, None),
    (learned_opt.lstm, tree_problem, 7, 3, "last", 4),
    (lambda: learned_opt.lstm("mnist"), tree_problem, 5, 2, "random", 1),
    (lambda: learned_opt.lstm("mnist"), learned_opt.optimizees.quadratic, 20, 4, "random", 7),
    (partitioned, tree_problem, 6, 2, "random", 5),
    (partitioned, tree_problem, 1, 1, None, 100),
]


def make_weights(kind, num_steps):
    return {
        None: None,
        "last": np.eye(num_steps)[-1],
        "random": np.random.default_rng(0).uniform(0, 2, num_steps),
    }[kind]


@pytest.mark.parametrize(
    "case", [*CASES[:1], *(pytest.param(c, marks=pytest.mark.thorough) for c in CASES[1:])]
)
def test_adjoint_agrees_with_autodiff_in_float32(case):
    make_opt, make_problem, num_steps, num_problems, weights, block_size = case
    got, want = both(
        make_opt(),
        make_problem(),
        num_steps,
        num_problems,
        make_weights(weights, num_steps),
        block_size,
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    assert difference(got[1], want[1]) < 1e-5


QUICK = 1, 3
IN_FLOAT64 = [
    pytest.param(case, marks=() if i in QUICK else pytest.mark.thorough, id=f"case{i}")
    for i, case in enumerate(CASES)
]


@pytest.mark.parametrize("case", IN_FLOAT64)
def test_adjoint_agrees_with_autodiff_in_float64(case):
    make_opt, make_problem, num_steps, num_problems, weights, block_size = case
    with jax.enable_x64(True):
        got, want = both(
            make_opt(),
            make_problem(),
            num_steps,
            num_problems,
            make_weights(weights, num_steps),
            block_size,
        )
        assert got[0].dtype == jnp.float64
        np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
        assert difference(got[1], want[1]) < 1e-10


def test_large_blocks_are_computed_again_and_give_the_same(monkeypatch):
    monkeypatch.setattr(second_pass, "STORED_BLOCK_SIZE", 3)
    got, want = both(learned_opt.lstm(), tree_problem(), 4, 2, None, 7)
    assert difference(got[1], want[1]) < 1e-5


def test_mixed_dtypes_of_parameters():
    def init(key, instance):
        del instance
        a, b = jax.random.split(key)
        return {
            "a": jax.random.normal(a, (4,)),
            "b": jax.random.normal(b, (3,)).astype(jnp.bfloat16),
        }

    problem = learned_opt.Optimizee(
        lambda key: (),
        init,
        lambda t, i, k: jnp.sum(t["a"] ** 2) + jnp.sum(jnp.square(t["b"].astype(jnp.float32))),
    )
    got, want = both(learned_opt.lstm(), problem, 4, 2, None, 2)
    assert difference(got[1], want[1]) < 1e-2  # what bfloat16 leaves


def test_an_optimizer_that_is_not_coordinatewise():
    """Its update depends on all coordinates: it has no blocks, and the adjoint is still that of
    the network alone.
    """
    opt = normed()
    got, want = both(opt, tree_problem(), 6, 3, make_weights("random", 6), 2)
    assert difference(got[1], want[1]) < 1e-5
    opt = learned_opt.partition({"x": opt, "y": learned_opt.lstm()}, {"m": "x", "s": "x", "*": "y"})
    got, want = both(opt, tree_problem(), 6, 3, None, 2)
    assert difference(got[1], want[1]) < 1e-5


def test_a_coordinatewise_optimizer_with_state_that_all_coordinates_share():
    """State that does not follow the coordinates, such as a step count, is left whole by the
    blocks.
    """
    got, want = both(counting(), tree_problem(), 6, 2, None, 4)
    assert difference(got[1], want[1]) < 1e-5


def test_gradient_is_the_slope_of_the_loss_when_the_optimizee_is_linear():
    """A linear optimizee has constant gradients: the papers' meta-gradient is then the whole
    one.
    """
    problem = learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (4,)),
        lambda key, c: jnp.ones(4),
        lambda theta, c, key: c @ theta,
    )
    with jax.enable_x64(True):
        opt = learned_opt.lstm(hidden_sizes=(4,))
        phi = opt.init(jax.random.key(0))
        _, gradient = learned_opt.meta_gradient(opt, phi, problem, KEY, 5)
        direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), phi)

        def loss(step):
            moved = jax.tree.map(lambda p, d: p + step * d, phi, direction)
            return learned_opt.meta_gradient(opt, moved, problem, KEY, 5)[0]

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(optax.tree.vdot(gradient, direction), slope, rtol=1e-7)


def test_the_full_gradient_is_the_slope_of_the_loss():
    with jax.enable_x64(True):
        opt, problem = learned_opt.lstm(hidden_sizes=(4,)), learned_opt.optimizees.quadratic(3)
        phi = opt.init(jax.random.key(0))
        _, full = learned_opt.meta_gradient(opt, phi, problem, KEY, 8, 2, stop_gradient=False)
        _, dropped = learned_opt.meta_gradient(opt, phi, problem, KEY, 8, 2)
        assert difference(dropped, full) > 1e-3  # the papers' gradient is another one

        def loss(step):
            moved = {**phi, "output": {**phi["output"], "b": phi["output"]["b"] + step}}
            return learned_opt.meta_gradient(opt, moved, problem, KEY, 8, 2)[0]

        np.testing.assert_allclose(
            full["output"]["b"], (loss(1e-6) - loss(-1e-6)) / 2e-6, rtol=1e-6
        )


def test_loss_is_that_of_the_unroll():
    opt, problem = learned_opt.lstm(), tree_problem()
    phi = opt.init(jax.random.key(0))
    weights = jnp.arange(6.0)
    losses = learned_opt.unroll(opt.transform(phi), problem, KEY, 5).losses
    for w in (weights, weights[1:]):
        got, _ = learned_opt.meta_gradient(opt, phi, problem, KEY, 5, weights=w)
        np.testing.assert_allclose(got, losses[-len(w) :] @ w, rtol=1e-5)
    curves = learned_opt.evaluate(opt.transform(phi), problem, KEY, 5, 3)
    got, _ = learned_opt.meta_gradient(opt, phi, problem, KEY, 5, 3)
    np.testing.assert_allclose(got, curves[:, 1:].sum(1).mean(), rtol=1e-5)


def test_every_weight_gets_a_gradient():
    opt = learned_opt.lstm("mnist")
    _, gradient = learned_opt.meta_gradient(
        opt, opt.init(KEY), learned_opt.optimizees.mlp(), KEY, 3
    )
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


def test_gradients_of_zero_give_no_nan():
    """Pixels that are always black have gradients of exactly zero."""
    problem = learned_opt.Optimizee(
        lambda key: (), lambda key, i: jnp.ones(4), lambda t, i, k: jnp.sum(t[:2] ** 2)
    )
    opt = learned_opt.lstm("mnist")
    for method in ("adjoint", "autodiff"):
        _, gradient = learned_opt.meta_gradient(opt, opt.init(KEY), problem, KEY, 4, method=method)
        chex.assert_tree_all_finite(gradient)


def test_a_rule_of_ones_own():
    """The derivative of a hand-made rule u = -phi * g, against its closed form: sum_s lambda_s
    . (-g_s).
    """
    rule = CoordinateRule(
        lambda dtype: {"unused": jnp.zeros(1, dtype)}, lambda phi, g, h: (-phi["rate"] * g, h)
    )
    opt = from_rule(rule, lambda key: {"rate": jnp.asarray(0.1)}, {"name": "sgd", "args": {}})
    c = jnp.asarray([1.0, -2.0, 3.0])
    problem = learned_opt.Optimizee(
        lambda key: (), lambda key, i: jnp.zeros(3), lambda t, i, k: c @ t
    )
    loss, gradient = learned_opt.meta_gradient(opt, opt.init(KEY), problem, KEY, 3)
    np.testing.assert_allclose(loss, -0.1 * 14 * (1 + 2 + 3), rtol=1e-6)
    np.testing.assert_allclose(gradient["rate"], -14 * (3 + 2 + 1), rtol=1e-6)


def test_it_can_be_jitted_over_phi_and_key():
    opt, problem = learned_opt.lstm(hidden_sizes=(3,)), learned_opt.optimizees.quadratic(3)
    phi = opt.init(KEY)
    traced = jax.jit(lambda phi, key: learned_opt.meta_gradient(opt, phi, problem, key, 4))(
        phi, KEY
    )
    chex.assert_trees_all_close(
        traced, learned_opt.meta_gradient(opt, phi, problem, KEY, 4), rtol=1e-5
    )


def coupled(m, s):
    """`m` and `s` parameters, coupled; no key draws anything but theta_0."""

    def init(key, instance):
        del instance
        return {
            "m": jax.random.normal(key, (m,)),
            "s": jax.random.normal(jax.random.fold_in(key, 1), (s,)),
        }

    def loss(theta, instance, key):
        del instance, key
        return jnp.sum(jnp.square(theta["m"])) * (1 + jnp.sum(jnp.cos(theta["s"])))

    return optimizee_base.as_family(learned_opt.Optimizee(lambda key: (), init, loss))


def two(m, s):
    return learned_opt.partition({"a": m(), "b": s()}, {"m": "a", "*": "b"})


def small_lstm():
    return learned_opt.lstm(hidden_sizes=(3,))


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def estimates_and_whole(opt, family, num_problems, coordinates, keys):
    """Meta-gradients of the second window of some lives.

    With each of `keys` for the draw, and from all coordinates.
    """
    phi = jax.tree.map(lambda x: x.astype(jnp.float64), opt.init(jax.random.key(0)))
    first = estimators.Adjoint(window=3, block_size=2)
    problem_keys = jax.random.split(KEY, num_problems)
    lives = first.begin(opt, phi, family, problem_keys, 6)
    lives = first.run(opt, phi, family, lives, KEY, jnp.ones(3)).lives

    def gradient(key, coordinates):
        estimator = estimators.Adjoint(3, coordinates, block_size=2)
        problems = lives.problems._replace(key=jax.random.split(key, num_problems))
        mine = lives._replace(problems=problems)
        weights = jnp.asarray([0.5, 2.0, 1.0])
        estimate = estimator.run(opt, phi, family, mine, KEY, weights)
        return jax.flatten_util.ravel_pytree(estimate.gradient)[0]

    return jax.vmap(lambda key: gradient(key, coordinates))(keys), gradient(KEY, None)


@pytest.mark.parametrize(
    ("make_opt", "m", "s", "num_problems", "coordinates", "num_possible"),
    [
        (small_lstm, 4, 2, 1, 3, 2 * 2 * 2),
        (small_lstm, 4, 3, 1, 3, 2 * 2 * 3),
        pytest.param(small_lstm, 2, 1, 3, 4, 2 * 2 * 2 * 3, marks=pytest.mark.thorough),
        pytest.param(small_lstm, 4, 3, 1, 1, 7, marks=pytest.mark.thorough),
        (counting, 4, 3, 1, 3, 2 * 2 * 3),
        pytest.param(
            lambda: two(small_lstm, counting), 4, 3, 1, 3, 4 * 1 * 2, marks=pytest.mark.thorough
        ),
        (
            lambda: two(small_lstm, small_lstm),
            5,
            1,
            1,
            1,
            5 * 1,
        ),  # one of each part, though one is asked for in all
        (
            lambda: two(small_lstm, normed),
            5,
            3,
            1,
            2,
            2 * 3,
        ),  # a part that is not coordinatewise stays whole
    ],
)
def test_the_mean_over_all_draws_is_the_whole_gradient(
    make_opt, m, s, num_problems, coordinates, num_possible
):
    """Not over a sample: each possible draw is there, known by its gradient, and their mean is
    exact.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(7), 60 * num_possible)
        estimates, whole = estimates_and_whole(
            make_opt(), coupled(m, s), num_problems, coordinates, keys
        )
        rounded = np.round(np.asarray(estimates / jnp.linalg.norm(whole)), 6)
        _, each, counts = np.unique(rounded, axis=0, return_index=True, return_counts=True)
        assert len(each) == num_possible
        np.testing.assert_allclose(counts, 60, atol=5 * np.sqrt(60))  # and all are as likely
        error = jnp.linalg.norm(estimates[each].mean(0) - whole) / jnp.linalg.norm(whole)
        assert error < 1e-12


@pytest.mark.parametrize(("make_opt", "enough"), [(small_lstm, 10**12), (partitioned, 2 * 24)])
def test_as_many_coordinates_as_there_are_give_the_whole_gradient(make_opt, enough):
    opt, problem = make_opt(), tree_problem()
    phi = opt.init(jax.random.key(0))
    whole = learned_opt.meta_gradient(opt, phi, problem, KEY, 4, 2)
    chex.assert_trees_all_equal(
        learned_opt.meta_gradient(opt, phi, problem, KEY, 4, 2, coordinates=enough), whole
    )


def test_the_key_draws_the_coordinates_and_the_loss_is_whole():
    opt, problem = small_lstm(), tree_problem()
    phi = opt.init(jax.random.key(0))
    loss, whole = learned_opt.meta_gradient(opt, phi, problem, KEY, 4)
    first = learned_opt.meta_gradient(opt, phi, problem, KEY, 4, coordinates=5)
    np.testing.assert_allclose(first[0], loss, rtol=1e-6)
    assert difference(first[1], whole) > 1e-2
    chex.assert_trees_all_equal(
        learned_opt.meta_gradient(opt, phi, problem, KEY, 4, coordinates=5), first
    )


def test_fewer_coordinates_take_less_memory():
    """Of the others neither gradients nor anything else is kept for the second pass."""
    opt, num_coordinates, num_steps = small_lstm(), 20_000, 30
    problem = learned_opt.Optimizee(
        lambda key: (),
        lambda key, i: jnp.ones(num_coordinates),
        lambda t, i, k: jnp.sum(jnp.sin(t)),
    )
    phi = opt.init(KEY)

    def temporaries(coordinates):
        compiled = (
            jax.jit(
                lambda phi, key: learned_opt.meta_gradient(
                    opt, phi, problem, key, num_steps, coordinates=coordinates
                )
            )
            .lower(phi, KEY)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    recorded = 4 * num_coordinates * num_steps
    assert temporaries(None) - temporaries(2000) > 0.9 * recorded
    assert temporaries(2000) - temporaries(20) < 0.3 * recorded


# The C++ loops


def native_and_plain(opt, run, plain_run=None):
    """`run(opt, phi)` with the C++ loops, and `plain_run` (the same, by default) without."""
    phi = opt.init(jax.random.key(0))

    def compiled(run):
        lowered = jax.jit(functools.partial(run, opt)).lower(phi)
        return lowered.compile()(phi), "learned_opt_lstm_pull_back" in lowered.as_text()

    got, is_native = compiled(run)
    assert is_native
    with native.xla_loops():
        want, is_native = compiled(plain_run or run)
    assert not is_native
    return got, want


@pytest.mark.usefixtures("native_loops")
def test_the_native_adjoint_agrees_with_plain_autodiff():
    """In several blocks, of which the last one overlaps the one before it."""
    arguments = coupled(7, 3), KEY, 6, 2, make_weights("random", 6)
    got, want = native_and_plain(
        two(lambda: learned_opt.lstm("mnist", hidden_sizes=(4, 3)), small_lstm),
        lambda opt, phi: learned_opt.meta_gradient(opt, phi, *arguments, block_size=4),
        lambda opt, phi: learned_opt.meta_gradient(opt, phi, *arguments, method="autodiff"),
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    assert difference(got[1], want[1]) < 2e-6


@pytest.mark.usefixtures("native_loops")
def test_native_estimates_are_those_of_the_same_coordinates():
    problem = learned_opt.optimizees.quadratic(5)
    got, want = native_and_plain(
        small_lstm(),
        lambda opt, phi: learned_opt.meta_gradient(
            opt, phi, problem, KEY, 4, 3, coordinates=7, block_size=4
        ),
    )
    assert difference(got[1], want[1]) < 2e-6


@pytest.mark.usefixtures("native_loops")
def test_native_meta_gradients_vmapped_over_keys():
    problem, keys = learned_opt.optimizees.quadratic(3), jax.random.split(KEY, 3)

    def run(opt, phi):
        return jax.vmap(lambda key: learned_opt.meta_gradient(opt, phi, problem, key, 20, 2))(keys)

    got, want = native_and_plain(small_lstm(), run)
    assert difference(got[1], want[1]) < 2e-6


@pytest.mark.usefixtures("native_loops")
def test_second_derivatives_of_the_native_meta_gradient():
    problem, phi = learned_opt.optimizees.quadratic(3), small_lstm().init(KEY)

    @functools.partial(jax.jit, static_argnums=0)
    def second_derivative(opt, phi):
        gradient = functools.partial(
            learned_opt.meta_gradient, opt, problem=problem, key=KEY, num_steps=3
        )
        return jax.jvp(gradient, (phi,), (jax.tree.map(jnp.cos, phi),))[1][1]

    got = second_derivative(small_lstm(), phi)
    with native.xla_loops():
        plain = second_derivative(small_lstm(), phi)
    assert difference(got, plain) < 2e-6


@pytest.mark.usefixtures("native_loops")
def test_native_memory_is_the_recorded_gradients_and_the_state():
    """Two states, of the window's start and of the step, which is in place; one block besides."""
    opt, num_steps = small_lstm(), 20
    phi = opt.init(KEY)

    def temporaries(num_coordinates):
        problem = learned_opt.Optimizee(
            lambda key: (),
            lambda key, i: jnp.ones(num_coordinates),
            lambda t, i, k: jnp.sum(jnp.sin(t)),
        )
        run = jax.jit(lambda phi, key: learned_opt.meta_gradient(opt, phi, problem, key, num_steps))
        return run.lower(phi, KEY).compile().memory_analysis().temp_size_in_bytes

    of_a_coordinate = (temporaries(2_000_000) - temporaries(1_000_000)) / 1_000_000
    assert of_a_coordinate < 4 * num_steps + 2 * 4 * 6 + 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinates": 0}, "coordinates must be a whole number of at least 1, got 0"),
        ({"coordinates": 2.0}, "coordinates .* got 2.0"),
        ({"coordinates": True}, "coordinates .* got True"),
        (
            {"coordinates": 3, "method": "autodiff"},
            "coordinates=3 has no meaning for method='autodiff'",
        ),
        (
            {"coordinates": 3, "opt": normed(), "phi": normed().init(KEY)},
            "coordinates=3 needs an optimizer that is coord",
        ),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_problems": -1}, "num_problems .* got -1"),
        ({"block_size": 0}, "block_size .* got 0"),
        ({"weights": [1.0, 2.0]}, r"weights must be a vector of 4 or 5 numbers, got shape \(2,\)"),
        ({"weights": [1.0, 2.0, np.nan, 1.0]}, "weights must be finite"),
        ({"method": "adjont"}, "Did you mean 'adjoint'"),
        ({"method": "adjoint", "stop_gradient": False}, "needs method='autodiff'"),
        ({"method": "autodiff", "block_size": 3}, "block_size=3 has no meaning"),
        ({"opt": optax.adam(1e-3)}, "opt must be a LearnedOptimizer"),
        ({"phi": learned_opt.lstm(hidden_sizes=(7,)).init(KEY)}, "phi"),
    ],
)
def test_bad_input(arguments, message):
    opt = learned_opt.lstm()
    good = {
        "opt": opt,
        "phi": opt.init(KEY),
        "problem": learned_opt.optimizees.quadratic(),
        "key": KEY,
        "num_steps": 4,
    }
    with pytest.raises(ValueError, match=message):
        learned_opt.meta_gradient(**{**good, **arguments})


# Optimizers that read more than gradients


def decaying(reads=None):
    """SGD with a learned rate and a learned pull of theta to zero: its update reads theta."""

    def transform(phi):
        def update(updates, state, params=None, **extra):
            del extra
            pull = jax.tree.map(jnp.zeros_like, updates) if params is None else params
            new = jax.tree.map(
                lambda g, p, m: -phi["rate"] * (g + 0.5 * m) - phi["pull"] * jnp.tanh(p),
                updates,
                pull,
                state,
            )
            return new, updates

        return optax.GradientTransformationExtraArgs(
            lambda params: jax.tree.map(jnp.zeros_like, params), update
        )

    return learned_opt.LearnedOptimizer(
        lambda key: {"rate": jnp.float32(0.02), "pull": jnp.float32(0.1)},
        transform,
        coordinatewise=True,
        spec=None,
        reads=reads,
    )


@pytest.mark.parametrize("coordinatewise", [True, False])
@pytest.mark.parametrize("declared", [None, frozenset({"params"})])
def test_an_optimizer_that_reads_theta_has_the_gradient_of_its_own_trajectory(
    coordinatewise, declared
):
    """With theta in the chain of derivatives, and on the trajectory that `unroll` has."""
    opt, problem = decaying(declared)._replace(coordinatewise=coordinatewise), tree_problem()
    weights = make_weights("random", 6)
    got, want = both(opt, problem, 6, 2, weights, 4)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    assert difference(got[1], want[1]) < 1e-5
    curves = learned_opt.evaluate((opt, opt.init(KEY)), problem, KEY, 6, 2)
    np.testing.assert_allclose(got[0], (curves[:, 1:] @ weights).mean(), rtol=1e-5)


def test_estimates_from_coordinates_of_an_optimizer_that_reads_theta():
    """Their mean over all draws is the whole gradient: every draw of one of seven coordinates."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(7), 400)
        estimates, whole = estimates_and_whole(decaying(), coupled(4, 3), 1, 1, keys)
        each = np.unique(np.round(np.asarray(estimates), 9), axis=0)
        assert len(each) == 7
        np.testing.assert_allclose(each.mean(0), whole, rtol=1e-6)


def reading_the_loss():
    def transform(phi):
        def update(updates, state, params=None, *, value, **extra):
            del params, extra
            return jax.tree.map(lambda g: -phi["rate"] * jnp.tanh(value) * g, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return learned_opt.LearnedOptimizer(
        lambda key: {"rate": jnp.float32(0.02)}, transform, coordinatewise=False, spec=None
    )


def test_an_optimizer_that_reads_the_loss_is_refused_by_name_and_served_by_autodiff():
    opt, problem = reading_the_loss(), tree_problem()
    phi = opt.init(KEY)
    with pytest.raises(
        ValueError, match=r"Adjoint cannot differentiate .* reads value: .*Autodiff"
    ):
        learned_opt.meta_gradient(opt, phi, problem, KEY, 4)
    loss, gradient = learned_opt.meta_gradient(opt, phi, problem, KEY, 4, method="autodiff")
    curve = learned_opt.unroll((opt, phi), problem, KEY, 4).losses
    np.testing.assert_allclose(loss, curve[1:].sum(), rtol=1e-5)
    assert np.isfinite(gradient["rate"])
    with pytest.raises(ValueError, match=r"Imitate cannot differentiate .* reads params: "):
        estimators.Imitate(optax.sgd(0.1)).check(
            decaying(), optimizee_base.as_family(problem), KEY, 20
        )


def test_blocks_are_those_of_the_place_where_the_program_runs(monkeypatch):
    """On a machine with a GPU the C++ loops may be callable, and are not what runs."""
    monkeypatch.setattr(native, "runs_on_cpu", lambda: False)
    assert second_pass._block_size(is_fast=True) == second_pass.ACCELERATOR_BLOCK_SIZE
    monkeypatch.setattr(native, "runs_on_cpu", lambda: True)
    assert second_pass._block_size(is_fast=True) == second_pass.NATIVE_BLOCK_SIZE
    assert second_pass._block_size(is_fast=False) == second_pass.CPU_BLOCK_SIZE


def test_equal_estimators_are_equal_values():
    assert estimators.Adjoint(window=5) == estimators.Adjoint(window=5)
    assert hash(estimators.PES(sigma=0.1)) == hash(estimators.PES(sigma=0.1))
    assert estimators.PES() != estimators.NRES()
    assert estimators.Mixture(estimators.Adjoint(), (20, 40)) == estimators.Mixture(
        estimators.Adjoint(), [20, 40]
    )
