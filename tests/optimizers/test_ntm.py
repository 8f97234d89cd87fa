"""What a shared memory can do: the paper's theorem, with the library's own memory and averages."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.optimizers import communicating, memory, ntm
from learned_opt.optimizers.communicating import Coordinates, Leaves

NUM_STEPS = 20
MEMORIES = {
    "dense": memory.dense,
    # Each step writes three pairs, most of them zeros.
    "limited": functools.partial(memory.limited, num_pairs=3 * 4 * NUM_STEPS),
}


# A controller that carries out BFGS with a fixed step. One iteration takes four of its steps:
# 0. The gradient g of a new theta is there: ask for M y.
# 1. M y is there: average s y and y (M y), and write the three pairs that update the inverse
#    Hessian.
# 2. Ask for M g.
# 3. M g is there: move by s = -alpha M g.


class BFGSState(NamedTuple):
    phase: jax.Array
    g: Leaves  # that of the iteration before
    s: Leaves  # the move that has led here


def bfgs_start(zeros, dtype):
    return BFGSState(
        jnp.full((), 2, dtype), zeros(), zeros()
    )  # the first iteration has no pair to write yet


def bfgs_step(alpha, num_coordinates, phi, gs, read, state, average):
    del phi
    products = gs.map(
        lambda g, g_old, s, i: jnp.stack([(g - g_old) * s, (g - g_old) * i[0]]),
        state.g,
        state.s,
        read,
    )
    sy, yMy = num_coordinates * average(products)  # the two global averages
    phase = state.phase

    def of_coordinate(g, g_old, s, i):
        Mx = i[0]
        # Nocedal and Wright 2006, equation 6.17, multiplied out.
        left = jnp.stack([(1 + yMy / sy) * s / sy, -Mx / sy, -s / sy])
        right = jnp.stack([s, s, Mx])
        r = jnp.where(phase == 0, g - g_old, jnp.where(phase == 2, g, 0))
        u = jnp.where(phase == 3, -alpha * Mx, 0)
        moves = phase == 3
        return (
            u,
            r[None],
            jnp.where(phase == 1, left, 0),
            jnp.where(phase == 1, right, 0),
            jnp.where(moves, g, g_old),
            jnp.where(moves, u, s),
        )

    answers = [of_coordinate(*arrays) for arrays in zip(gs, state.g, state.s, read, strict=True)]
    u, r, left, right, g_old, s = (Leaves(arrays) for arrays in zip(*answers, strict=True))
    return ntm.Heads(u, r, left, right), BFGSState((phase + 1) % 4, g_old, s)


def simulated_bfgs(kind, scale, alpha, num_coordinates):
    """BFGS, as an optax transformation made of the library's memory and averages."""
    controller = ntm.Controller(bfgs_start, functools.partial(bfgs_step, alpha, num_coordinates))
    rule = ntm.rule(controller, MEMORIES[kind](scale), num_reads=1)
    return communicating.from_rule(rule, lambda key: {}, {"name": "bfgs", "args": {}}).transform({})


def bfgs(gradient, theta, scale, alpha, num_steps):
    """The oracle: BFGS in NumPy, as SciPy writes the update of the inverse Hessian."""
    identity = np.eye(theta.size)
    H, g, thetas = scale * identity, gradient(theta), []
    for _ in range(num_steps):
        s = -alpha * H @ g
        theta, g_old = theta + s, g
        g = gradient(theta)
        y = g - g_old
        rho = 1 / (y @ s)
        left = identity - rho * np.outer(s, y)
        H = left @ H @ left.T + rho * np.outer(s, s)
        thetas.append(theta)
    return np.array(thetas)


class Objective(NamedTuple):
    loss: Any
    theta_0: Any
    scale: float  # of the first estimate of the inverse Hessian


def quadratic(seed):
    rng = np.random.default_rng(seed)
    w, y = rng.normal(size=(6, 6)), rng.normal(size=6)
    return Objective(lambda x: jnp.sum(jnp.square(w @ x - y)), rng.normal(size=6), 0.02)


def rosenbrock():
    def loss(x):
        return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))

    return Objective(loss, np.array([1.2, 1.3, 1.5, 2.0]), 0.001)


OBJECTIVES = {
    "quadratic-0": functools.partial(quadratic, 0),
    "quadratic-1": functools.partial(quadratic, 1),
    "quadratic-2": functools.partial(quadratic, 2),
    "rosenbrock": rosenbrock,
}


def join(theta):
    return jnp.concatenate([jnp.atleast_1d(x) for x in theta])


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize(
    ("name", "alpha"),
    [("quadratic-0", 1.0), ("quadratic-1", 1.0), ("quadratic-2", 0.5), ("rosenbrock", 1.0)],
)
def test_one_read_three_writes_and_two_averages_carry_out_bfgs(x64, name, alpha, kind):
    loss, theta_0, scale = OBJECTIVES[name]()
    gradient = jax.jit(jax.grad(loss))
    want = bfgs(lambda x: np.asarray(gradient(jnp.asarray(x))), theta_0, scale, alpha, NUM_STEPS)
    tx = simulated_bfgs(kind, scale, alpha, theta_0.size)
    # Parameters in several arrays: the memory is one.
    first, second, rest = jnp.split(jnp.asarray(theta_0), [2, 3])
    theta = [first, second[0], rest]

    @jax.jit
    def run(theta):
        def step(carry, _):
            theta, state = carry
            u, state = tx.update(jax.grad(lambda t: loss(join(t)))(theta), state, theta)
            theta = optax.apply_updates(theta, u)
            return (theta, state), join(theta)

        return jax.lax.scan(step, (theta, tx.init(theta)), length=2 + 4 * (NUM_STEPS - 1))[1]

    thetas = np.asarray(run(theta))
    np.testing.assert_array_equal(thetas[2:5], np.broadcast_to(thetas[1], (3, theta_0.size)))
    np.testing.assert_allclose(thetas[1::4], want, rtol=1e-10, atol=1e-10 * np.abs(want).max())
    assert loss(want[-1]) < 0.2 * loss(theta_0)


# The memories themselves


def vectors(rng, heads):
    return Leaves([jnp.asarray(rng.normal(size=(heads, 2))), jnp.asarray(rng.normal(size=heads))])


def zeros(*features):
    return Leaves([jnp.zeros((*features, 2)), jnp.zeros(features)])


def flat(leaves):
    return np.concatenate([np.asarray(x).reshape(x.shape[0], -1) for x in leaves], axis=1)


def test_memories_read_what_was_written(x64):
    rng = np.random.default_rng(0)
    dense, limited = memory.dense(0.5), memory.limited(0.5, 5)
    whole, last = dense.init(zeros), limited.init(zeros)
    pairs = []
    for _ in range(4):
        a, b, r = vectors(rng, 2), vectors(rng, 2), vectors(rng, 3)
        whole, last = dense.write(whole, a, b), limited.write(last, a, b)
        pairs += zip(flat(a), flat(b), strict=True)
        read_whole = dense.read(whole, r, Coordinates())
        read_last = limited.read(last, r, Coordinates())
        for kept, got in ((pairs, read_whole), (pairs[-5:], read_last)):
            matrix = 0.5 * np.eye(3) + sum(np.outer(*pair) for pair in kept)
            np.testing.assert_allclose(flat(got), flat(r) @ matrix.T, rtol=1e-12)
    assert sum(x.size for x in jax.tree.leaves(last)) == 2 * 5 * 3


def steps_of(opt, phi, theta, gradients):
    tx = opt.transform(phi)

    def step(state, g):
        u, state = tx.update(g, state)
        return state, u

    return jax.lax.scan(step, tx.init(theta), gradients)[1]


def test_limited_memory_is_the_whole_one_until_it_forgets(x64):
    whole, last = (
        learned_opt.ntm_bfgs(hidden_sizes=(6,)),
        learned_opt.ntm_lbfgs(hidden_sizes=(6,), history=15),
    )
    phi = jax.tree.map(lambda w: 3 * w.astype(jnp.float64), whole.init(jax.random.key(0)))
    theta = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), (9, *x.shape)), theta)
    want, got = (
        jax.jit(functools.partial(steps_of, opt))(phi, theta, gradients) for opt in (whole, last)
    )
    # The read of step 6 is the last one with all pairs of steps 1 .. 5. Step 7 is the first to see
    # it.
    differences = np.max(np.abs(want["a"] - got["a"]), axis=(1, 2))
    np.testing.assert_allclose(differences[:7], 0, atol=1e-13)
    assert np.all(differences[7:] > 1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: learned_opt.ntm_lbfgs(history=2),
            "history must be a whole number of at least 3, got 2",
        ),
        (
            lambda: learned_opt.ntm_bfgs(num_reads=0),
            "num_reads must be a whole number of at least 1, got 0",
        ),
        (
            lambda: learned_opt.ntm_bfgs(memory_scale=0),
            "memory_scale must be a finite number above 0, got 0",
        ),
        (lambda: learned_opt.ntm_bfgs("quadratics"), "Did you mean 'quadratic'"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
