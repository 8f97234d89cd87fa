"""A safeguard keeps the fallback's guarantee whatever the guarded optimizer does."""

import functools
import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.optimizers import SafeguardState

NUM_STEPS = 60


# Optimizers to be guarded


def rule(update):
    """A transformation of `update(count, gradient, leaf number)`, whose state is the count."""

    def update_fn(gradients, state, params=None):
        del params
        leaves, treedef = jax.tree.flatten(gradients)
        updates = [update(state, g, i) for i, g in enumerate(leaves)]
        return treedef.unflatten(updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update_fn)


def noise(count, g, i):
    key = jax.random.fold_in(jax.random.key(i), count)
    return jax.random.normal(key, g.shape, g.dtype)


DESTRUCTIVE = {
    "ascent": rule(lambda count, g, i: 10 * g),
    "explosion": rule(lambda count, g, i: 1e12 * jnp.sign(g)),
    "late-nan": rule(lambda count, g, i: jnp.where(count < 3, -0.1 * g, jnp.nan)),
    "infinite": rule(lambda count, g, i: jnp.full_like(g, jnp.inf)),
    "noise": rule(noise),
}


def newton(hessian):
    return rule(lambda count, g, i: -jnp.linalg.solve(hessian, g))


# Problems


class Quadratic(NamedTuple):
    """f(x) = (x - c)' H (x - c) / 2, whose minimum is 0."""

    hessian: jax.Array
    center: jax.Array

    def __call__(self, x):
        return 0.5 * (x - self.center) @ self.hessian @ (x - self.center)


MU, L = 0.5, 10.0


def quadratic(seed, size=6):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    hessian = q @ np.diag(np.linspace(MU, L, size)) @ q.T
    return Quadratic(*(jnp.asarray(x, jnp.float32) for x in (hessian, rng.normal(size=size))))


# Runs


class History(NamedTuple):
    """`[steps + 1]` of all, from the beginning on.

    Attributes:
      points: the parameters.
      losses: theirs.
      states: the states of the safeguard.
      safe_points: the settled parameters.
      settled: the losses of these.
    """

    points: jax.Array
    losses: jax.Array
    states: SafeguardState
    safe_points: jax.Array
    settled: jax.Array


def history(tx, loss, start, num_steps=NUM_STEPS):
    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, after = tx.update(gradient, state, params, value=value)
        safe = state.settled(params)
        seen = History(params, value, state, safe, loss(safe))
        return (optax.apply_updates(params, updates), after), seen

    begun = start, tx.init(start)
    return jax.lax.scan(step, begun, None, num_steps + 1)[1]


def guarded(tx, **settings):
    return learned_opt.safeguard(tx, optax.sgd(1 / L), **settings)


@functools.partial(jax.jit, static_argnums=0)
def run(tx, loss, start):
    return history(tx, loss, start)


def steps_that_count(states):
    return np.asarray(states.steps - states.rejected)


def check_linear_rate(ran):
    n = steps_that_count(ran.states)
    bound = (1 - MU / L) ** n * ran.losses[..., :1]
    assert np.all(ran.settled <= bound * (1 + 1e-4))


# The guarantee


@pytest.mark.parametrize("name", ["lstm", "rnnprop"])
def test_random_weights_converge_like_gradient_descent(name):
    opt = {"lstm": learned_opt.lstm(), "rnnprop": learned_opt.rnnprop()}[name]

    def of_seed(key, loss):
        # Of the second half of the seeds the weights are far too large.
        phi = opt.init(jax.random.fold_in(key, 0))
        phi = jax.tree.map(lambda x: x * jnp.where(jax.random.bernoulli(key), 1.0, 30.0), phi)
        return history(guarded(opt.transform(phi)), loss, jnp.zeros(6))

    keys = jax.random.split(jax.random.key(0), 8)
    losses = jax.tree.map(lambda *xs: jnp.stack(xs), *map(quadratic, range(8)))
    ran = jax.jit(jax.vmap(of_seed))(keys, losses)
    assert np.all(np.isfinite(ran.points))
    check_linear_rate(ran)
    assert np.all(ran.states.proposed[:, -1] > 0)
    assert np.mean(ran.states.rejected[:, -1]) < 0.3 * NUM_STEPS


@pytest.mark.parametrize("name", DESTRUCTIVE)
def test_a_destructive_optimizer_costs_a_few_gradients(name):
    ran = run(guarded(DESTRUCTIVE[name]), quadratic(0), jnp.zeros(6))
    assert np.all(np.isfinite(ran.points))
    assert np.all(np.isfinite(ran.losses))
    check_linear_rate(ran)
    rejected = int(ran.states.rejected[-1])
    assert rejected <= 1 + np.log2(NUM_STEPS)
    if name in ("ascent", "noise"):
        assert rejected >= 4


def test_a_convex_loss_falls_as_gradient_descent_makes_it():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    labels = np.sign(features @ rng.normal(size=3) + 2 * rng.normal(size=40))
    margins = labels[:, None] * features
    x_star, f_star, smoothness = logistic_minimum(margins)

    def loss(x):
        return jnp.mean(jax.nn.softplus(-jnp.asarray(margins, x.dtype) @ x))

    for tx in (DESTRUCTIVE["noise"], DESTRUCTIVE["late-nan"]):
        tx = learned_opt.safeguard(tx, optax.sgd(1 / smoothness))
        ran = jax.jit(functools.partial(history, tx, loss))(jnp.full(3, 4.0))
        radius = np.max(np.linalg.norm(np.asarray(ran.safe_points) - x_star, axis=-1))
        n = steps_that_count(ran.states)[1:]
        assert np.all(ran.settled[1:] - f_star <= 2 * smoothness * radius**2 / n)
        # The loss of accepted points never rises.
        assert np.all(np.diff(ran.settled) <= 1e-6)


def logistic_minimum(margins):
    """Newton's method: `(x*, f*, L)`."""
    x = np.zeros(margins.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(margins @ x))
        hessian = (margins * (p * (1 - p))[:, None]).T @ margins
        x = x + np.linalg.solve(hessian, margins.T @ p)
    f_star = np.mean(np.log1p(np.exp(-margins @ x)))
    return x, f_star, np.linalg.eigvalsh(margins.T @ margins)[-1] / (4 * len(margins))


def unstack(states):
    num = states.steps.shape[0]
    return [jax.tree.map(lambda x, t=t: x[t], states) for t in range(num)]


def test_the_fallback_itself_is_never_rejected():
    loss = quadratic(0)
    ran = run(guarded(optax.sgd(1 / L)), loss, jnp.zeros(6))
    assert int(ran.states.rejected[-1]) == 0
    assert int(ran.states.proposed[-1]) == NUM_STEPS
    alone = [jnp.zeros(6)]
    for _ in range(NUM_STEPS):
        alone.append(alone[-1] - jax.grad(loss)(alone[-1]) / L)
    np.testing.assert_allclose(ran.points, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_losses_that_differ_in_rounding_are_the_same():
    tx, x, gradient = guarded(optax.sgd(0.01)), jnp.ones(2), jnp.full(2, 1e-6)
    updates, state = tx.update(gradient, tx.init(x), x, value=1.0)
    for value, rejected in ((1.0 + 1.2e-7, 0), (1.0 + 1e-5, 1)):
        _, after = tx.update(gradient, state, x + updates, value=value)
        assert int(after.rejected) == rejected


def test_a_fallback_that_promises_nothing_lets_no_loss_rise():
    tx = learned_opt.safeguard(optax.sgd(-0.1), optax.sgd(-0.01))
    x = gradient = jnp.ones(2)
    updates, state = tx.update(gradient, tx.init(x), x, value=1.0)
    assert int(tx.update(gradient, state, x + updates, value=1.001)[1].rejected) == 1
    assert int(tx.update(gradient, state, x + updates, value=1.0)[1].rejected) == 0


def test_a_good_optimizer_is_taken():
    loss = quadratic(0)
    ran = run(guarded(newton(loss.hessian)), loss, jnp.zeros(6))
    np.testing.assert_allclose(ran.points[1], loss.center, atol=1e-4)
    assert int(ran.states.proposed[1]) == 1
    assert bool(np.all(ran.losses[1:] < 1e-8))


def test_a_rejected_proposal_leads_to_the_fallbacks_step():
    loss, x = quadratic(0), jnp.zeros(6)
    ran = run(guarded(DESTRUCTIVE["ascent"]), loss, x)
    np.testing.assert_allclose(ran.points[2], x - jax.grad(loss)(x) / L, rtol=1e-5, atol=1e-6)
    assert ran.states.is_proposal[:4].tolist() == [False, True, False, True]


def test_what_no_sum_leads_back_from_is_not_proposed():
    # From 1e12 float32 leads to 0 alone, though the loss there may be low.
    ran = run(guarded(DESTRUCTIVE["explosion"]), quadratic(0), jnp.zeros(6))
    assert int(ran.states.proposed[-1]) == 0


def test_rests_become_longer_and_end_with_an_accepted_proposal():
    # Fails until it has seen 25 accepted points.
    tx = rule(lambda count, g, i: jnp.where(count < 25, 10, -0.1) * g)
    states = run(guarded(tx), quadratic(0), jnp.zeros(6)).states
    rejected_at = np.flatnonzero(np.diff(states.rejected))
    rests = np.diff(rejected_at) - 2  # but for the proposal and its judgement
    np.testing.assert_array_equal(rests, [0, 1, 3, 7])
    assert int(states.failures[-1]) == 0
    patient = run(guarded(tx, patience=3), quadratic(0), jnp.zeros(6)).states
    np.testing.assert_array_equal(
        np.diff(np.flatnonzero(np.diff(patient.rejected)))[:5] - 2, [0, 0, 0, 1, 3]
    )


# What is not finite


def test_states_that_are_not_finite_never_get_in():
    def update_fn(gradients, state, params=None):
        count = state["count"] + 1
        bad = jnp.where(count % 2 == 0, jnp.nan, 1.0)
        updates = jax.tree.map(lambda g: -g / L, gradients)
        return updates, {"count": count, "sum": state["sum"] + bad, "best": state["best"]}

    def init_fn(params):
        # An infinite entry that was there from the beginning keeps no state back.
        zero = jnp.zeros(())
        return {"count": zero, "sum": jnp.zeros(()), "best": jnp.full((), jnp.inf)}

    tx = guarded(optax.GradientTransformation(init_fn, update_fn))
    states = run(tx, quadratic(0), jnp.zeros(6)).states
    assert np.all(np.isfinite(states.tx_state["sum"]))
    # The second state is refused each time, and the first stays.
    assert states.tx_state["count"].tolist()[:4] == [0, 1, 1, 1]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_loss_that_is_not_finite_is_rejected(value):
    state, first, point = one_proposal()
    updates, after = guarded(optax.sgd(0.01)).update(first, state, point, value=value)
    np.testing.assert_allclose(point + updates, state.target, rtol=1e-6)
    assert int(after.rejected) == 1


def test_a_gradient_that_is_not_finite_is_rejected():
    state, first, point = one_proposal()
    bad = first.at[0].set(jnp.nan)
    tx = guarded(optax.sgd(0.01))
    updates, after = tx.update(bad, state, point, value=-1.0)
    np.testing.assert_allclose(point + updates, state.target, rtol=1e-6)
    assert int(after.rejected) == 1
    assert int(tx.update(first, state, point, value=-1.0)[1].rejected) == 0


def one_proposal():
    tx, x, gradient = guarded(optax.sgd(0.01)), jnp.ones(2), jnp.array([1.0, 2.0])
    updates, state = tx.update(gradient, tx.init(x), x, value=5.0)
    assert bool(state.is_proposal)
    return state, gradient, x + updates


def test_the_rejected_points_gradients_are_not_seen():
    """The states after a rejection are those before it, as if there had been no gradient."""
    tx = learned_opt.safeguard(
        optax.chain(optax.trace(0.9), optax.scale(5.0)), optax.sgd(1 / L, momentum=0.5)
    )
    states = unstack(run(tx, quadratic(0), jnp.zeros(6)).states)
    rejections = 0
    for before, after in itertools.pairwise(states):
        if int(after.rejected) > int(before.rejected):
            rejections += 1
            chex.assert_trees_all_equal(before.tx_state, after.tx_state)
            chex.assert_trees_all_equal(before.fallback_state, after.fallback_state)
    assert rejections > 2


# Another implementation


def test_equals_an_implementation_in_numpy(x64):
    rng = np.random.default_rng(3)
    hessian = np.asarray(quadratic(1).hessian, np.float64)
    directions = rng.normal(size=(200, 6)) * 10.0 ** rng.uniform(-4, -0.5, size=(200, 1))
    directions[rng.random(200) < 0.1] *= 1e20
    directions[rng.random(200) < 0.1, 2] = np.nan

    # Most steps are good: the mean of the gradients, and a direction that the last one picks.
    def tx_update(gradient, mean, params=None):
        mean = 0.5 * mean + 0.5 * gradient
        place = jnp.int32(1e4 * jnp.abs(gradient[0])) % 200
        size = jnp.max(jnp.abs(gradient))
        return -0.12 * mean + size * jnp.asarray(directions)[place], mean

    tx = learned_opt.safeguard(
        optax.GradientTransformation(jnp.zeros_like, tx_update),
        optax.sgd(1 / L, momentum=0.3),
        share=0.4,
        patience=2,
    )

    def loss(x):
        return 1.0 + 0.5 * x @ jnp.asarray(hessian) @ x

    ran = jax.jit(lambda x: history(tx, loss, x, 100))(jnp.full(6, 5.0))
    points, counts = in_numpy(hessian, directions, np.full(6, 5.0), 100)
    np.testing.assert_allclose(ran.points, points, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(
        counts, np.stack([ran.states.proposed, ran.states.rejected], axis=1)
    )
    assert counts[-1][0] > 40
    assert counts[-1][1] > 8


def in_numpy(hessian, directions, x, num_steps):
    """The points before each update and `(proposed, rejected)`, with `if` in place of `where`."""
    mean, momentum = np.zeros(6), np.zeros(6)
    waiting, row, rest, proposed, rejected = None, 0, 0, 0, 0
    points, counts = [], []
    for _ in range(num_steps + 1):
        points.append(x)
        counts.append((proposed, rejected))
        f, g = 1.0 + 0.5 * x @ hessian @ x, hessian @ x
        if waiting is not None:
            (goal, limit), waiting = waiting, None
            if f > limit:
                rejected, row = rejected + 1, row + 1
                rest = 2 ** max(row - 2, 0) - 1
                x = goal
                continue
            row = 0
        momentum = g + 0.3 * momentum
        goal = x - momentum / L
        new_mean, size = 0.5 * mean + 0.5 * g, np.max(np.abs(g))
        proposal = x - 0.12 * new_mean + size * directions[int(1e4 * abs(g[0])) % 200]
        finite = np.all(np.isfinite(proposal))
        if finite:
            mean = new_mean
        near = finite and np.max(np.abs(proposal)) < 1e12 * size
        resting, rest = rest > 0, max(rest - 1, 0)
        if near and not resting:
            limit = f - 0.4 * max(g @ momentum / L, 0) + 4 * np.finfo(float).eps * abs(f)
            waiting, x, proposed = (goal, limit), proposal, proposed + 1
        else:
            x = goal
    return np.stack(points), np.array(counts)


# Wherever optax transformations go


def test_instances_under_vmap_are_judged_one_by_one():
    opt = learned_opt.rnnprop(hidden_sizes=(4,))
    tx = guarded(opt.transform(opt.init(jax.random.key(1))))
    losses = [quadratic(seed) for seed in range(4)]
    starts = 3.0 * jax.random.normal(jax.random.key(2), (4, 6))
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *losses)
    together = jax.jit(jax.vmap(lambda f, x: history(tx, f, x, 20)))(stacked, starts)
    alone = jax.jit(lambda f, x: history(tx, f, x, 20))
    for i, loss in enumerate(losses):
        own = alone(loss, starts[i])
        of_i = jax.tree.map(lambda x, i=i: x[i], together)
        np.testing.assert_allclose(own.points, of_i.points, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(own.states.rejected, of_i.states.rejected)


def test_eager_equals_jit():
    tx, loss, x = guarded(DESTRUCTIVE["noise"]), quadratic(2), jnp.zeros(6)
    ran = run(tx, loss, x)
    state = tx.init(x)
    for t in range(6):
        np.testing.assert_allclose(x, ran.points[t], rtol=1e-5, atol=1e-5)
        value, gradient = jax.value_and_grad(loss)(x)
        updates, state = tx.update(gradient, state, x, value=value)
        x = optax.apply_updates(x, updates)


TREES = {
    "nested": {"a": jnp.ones((2, 3)), "b": (jnp.ones(()), [jnp.ones(1)])},
    "none": {"a": jnp.ones(3), "b": None},
    "scalar": jnp.ones(()),
    "without coordinates": {"a": jnp.ones((0, 2)), "b": jnp.ones(2)},
    "empty": {},
}


def sum_of_squares(tree):
    return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)), jnp.zeros(()))


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("destructive", [False, True])
def test_trees(name, destructive):
    tx = learned_opt.safeguard(
        DESTRUCTIVE["ascent"] if destructive else optax.sgd(0.4), optax.sgd(0.25)
    )
    ran = jax.jit(lambda x: history(tx, sum_of_squares, x, 8))(TREES[name])
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.tree.map(lambda x: x[0], ran.points), TREES[name]
    )
    if jax.tree.leaves(TREES[name]):
        assert float(ran.settled[-1]) < 0.1 * float(ran.losses[0])
        assert (int(ran.states.rejected[-1]) > 0) == destructive


@pytest.mark.parametrize(
    ("dtype", "x64_is_on"),
    [("bfloat16", False), ("float16", False), ("float32", True), ("float64", True)],
)
def test_dtypes(dtype, x64_is_on):
    with jax.enable_x64(x64_is_on):
        params = {"a": jnp.ones(3, dtype), "b": jnp.ones((), jnp.float32)}
        wide = rule(lambda count, g, i: -0.4 * g.astype(jnp.float32))
        for tx in (wide, DESTRUCTIVE["ascent"]):
            tx = learned_opt.safeguard(tx, optax.sgd(0.25))
            gradients = jax.grad(lambda p: sum_of_squares(p).astype(jnp.float32))(params)
            state, x = tx.init(params), params
            for _ in range(3):
                updates, after = jax.jit(tx.update)(gradients, state, x, value=1.0)
                chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
                chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
                state, x = after, optax.apply_updates(x, updates)


def test_a_proposal_beyond_the_largest_number_is_not_made():
    """In float16, 6e4 + 1e4 is infinite. XLA may compute the sum in float32, where it is not."""
    tx = learned_opt.safeguard(rule(lambda count, g, i: jnp.full_like(g, 1e4)), optax.sgd(1e3))
    x = jnp.full(2, 6e4, jnp.float16)
    updates, state = jax.jit(tx.update)(jnp.ones_like(x), tx.init(x), x, value=1.0)
    np.testing.assert_array_equal(updates, jnp.full(2, -1e3, jnp.float16))
    assert not bool(state.is_proposal)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_way_back_ends_at_the_target(dtype):
    """However far the proposal is; those that are too far are not made."""
    x = jnp.array([0.3, -2.0, 0.0], dtype)
    gradient = jnp.array([1.0, -3.0, 2.0], dtype)

    # Jitted one by one, as XLA keeps more digits than bfloat16 has within one program.
    @jax.jit
    def first(scale):
        tx = guarded(rule(lambda count, g, i: scale * jnp.ones_like(g)))
        return tx.update(gradient, tx.init(x), x, value=1.0)

    second = jax.jit(guarded(rule(lambda count, g, i: g)).update)
    is_made = []
    for scale in 10.0 ** np.arange(-3, 20):
        updates, state = first(jnp.asarray(scale, dtype))
        proposal = optax.apply_updates(x, updates)
        is_made.append(bool(state.is_proposal))
        if is_made[-1]:
            updates, after = second(gradient, state, proposal, value=1e6)
            assert int(after.rejected) == 1
            proposal = optax.apply_updates(proposal, updates)
        reached, target = (np.asarray(x, np.float64) for x in (proposal, state.target))
        length = np.linalg.norm(np.asarray(target - np.asarray(x, np.float64)))
        allowed = float(jnp.finfo(dtype).eps) * np.linalg.norm(target) + 2e-3 * length
        assert np.linalg.norm(reached - target) <= allowed
    assert is_made[0]
    assert not is_made[-1]


def test_a_donated_state_has_no_array_twice():
    tx, x = guarded(optax.adam(0.1)), jnp.ones(3)
    state = tx.init(x)
    step = jax.jit(lambda g, s, x: tx.update(g, s, x, value=1.0), donate_argnums=(1, 2))
    for _ in range(3):
        updates, state = step(jnp.ones(3), state, x)
        x = updates + 1.0
    assert int(state.steps) == 3


def test_random_keys_in_a_state():
    tx = guarded(optax.chain(optax.sgd(0.05), optax.add_noise(0.01, 0.55, jax.random.key(0))))
    ran = run(tx, quadratic(0), jnp.zeros(6))
    check_linear_rate(ran)


def test_in_a_chain():
    tx = optax.chain(optax.clip_by_global_norm(1e3), guarded(DESTRUCTIVE["ascent"]))
    loss, x = quadratic(0), jnp.zeros(6)
    state = tx.init(x)
    for _ in range(10):
        value, gradient = jax.value_and_grad(loss)(x)
        updates, state = jax.jit(tx.update)(gradient, state, x, value=value)
        x = optax.apply_updates(x, updates)
    assert int(optax.tree_utils.tree_get(state, "rejected")) >= 3
    assert loss(state[1].settled(x)) < 0.3 * loss(jnp.zeros(6))


def test_in_multi_steps():
    tx = optax.MultiSteps(guarded(DESTRUCTIVE["ascent"]), 2).gradient_transformation()
    single = run(guarded(DESTRUCTIVE["ascent"]), quadratic(0), jnp.zeros(6))
    loss, x = quadratic(0), jnp.zeros(6)
    state, step = tx.init(x), jax.jit(tx.update)
    for t in range(12):
        value, gradient = jax.value_and_grad(loss)(x)
        updates, state = step(gradient, state, x, value=value)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(x, single.points[(t + 1) // 2], rtol=1e-4, atol=1e-5)


def test_in_inject_hyperparams():
    def build(rate, share, patience):
        return learned_opt.safeguard(
            DESTRUCTIVE["noise"], optax.sgd(rate), share=share, patience=patience
        )

    tx = optax.inject_hyperparams(build)(rate=1 / L, share=0.5, patience=1)
    loss, x = quadratic(0), jnp.zeros(6)
    want = run(guarded(DESTRUCTIVE["noise"]), loss, x)
    state, step = tx.init(x), jax.jit(tx.update)
    for t in range(6):
        np.testing.assert_allclose(x, want.points[t], rtol=1e-4, atol=1e-5)
        value, gradient = jax.value_and_grad(loss)(x)
        updates, state = step(gradient, state, x, value=value)
        x = optax.apply_updates(x, updates)


def test_with_unroll_and_evaluate():
    problem = learned_opt.optimizees.quadratic(4)
    opt = learned_opt.lstm(hidden_sizes=(4,))
    tx = guarded(opt.transform(opt.init(jax.random.key(0))))
    assert isinstance(tx, learned_opt.optimizers.LearnedTransformation)
    alone = learned_opt.unroll(tx, problem, jax.random.key(1), 8)
    wrapped = learned_opt.from_optax(tx)
    as_pair = learned_opt.unroll((wrapped, {}), problem, jax.random.key(1), 8)
    np.testing.assert_allclose(alone.losses, as_pair.losses, rtol=1e-5)
    losses = learned_opt.evaluate(tx, problem, jax.random.key(1), num_steps=8, num_runs=2)
    assert np.all(np.isfinite(losses))


def test_equal_safeguards_are_equal():
    tx, fallback = optax.sgd(0.1), optax.sgd(0.2)
    assert learned_opt.safeguard(tx, fallback) == learned_opt.safeguard(tx, fallback)
    assert learned_opt.safeguard(tx, fallback) != learned_opt.safeguard(tx, fallback, share=0.1)


# Messages


@pytest.mark.parametrize("name", ["tx", "fallback"])
def test_what_is_no_transformation(name):
    arguments = {"tx": optax.sgd(0.1), "fallback": optax.sgd(0.1), name: learned_opt.lstm()}
    with pytest.raises(ValueError, match=f"{name} must be an optax transformation"):
        learned_opt.safeguard(**arguments)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "half"])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match="share must be"):
        guarded(optax.sgd(0.1), share=share)


@pytest.mark.parametrize("patience", [-1, 1.5, True])
def test_patience_out_of_range(patience):
    with pytest.raises(ValueError, match="patience must be a whole number"):
        guarded(optax.sgd(0.1), patience=patience)


def test_what_an_update_lacks():
    tx, x = guarded(optax.sgd(0.1)), jnp.ones(2)
    with pytest.raises(ValueError, match="reads the loss"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match="reads the parameters"):
        tx.update(x, tx.init(x), value=1.0)
    with pytest.raises(ValueError, match="value must be a scalar"):
        tx.update(x, tx.init(x), x, value=x)
    with pytest.raises(ValueError, match="gradients at the only leaf have shape"):
        tx.update(jnp.ones(3), tx.init(x), x, value=1.0)
    with pytest.raises(ValueError, match=r"axis_name must be \(\) for safeguard"):
        tx.update(x, tx.init(x), x, value=1.0, axis_name="devices")
    with pytest.raises(ValueError, match="params must be real floating-point"):
        tx.init(jnp.ones(2, jnp.int32))


def test_a_point_stays_unless_it_is_a_proposal_that_is_not_good_enough():
    tx = learned_opt.safeguard(optax.sgd(0.1), optax.sgd(0.1))
    accepted = tx.init(jnp.ones(2))
    proposal = accepted._replace(is_proposal=jnp.array(True), threshold=jnp.float32(1.0))
    low, high, nan = jnp.float32(0.5), jnp.float32(2.0), jnp.float32(jnp.nan)
    assert [bool(accepted.accepts(value)) for value in (low, high, nan)] == [True, True, True]
    assert [bool(proposal.accepts(value)) for value in (low, high, nan)] == [True, False, False]
    assert proposal.accepts(low, jnp.ones(2))
    assert not proposal.accepts(low, jnp.array([1.0, jnp.nan]))
