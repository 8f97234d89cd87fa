"""The network of a coordinate: its C++ loops wherever JAX takes them, against plain JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import learned_opt
from learned_opt import native
from learned_opt.optimizers import network

SIZES = (5, 3)


@functools.cache
def make_weights(inputs=1, sizes=SIZES):
    """Weights in which nothing is zero."""
    rng, shapes = (
        np.random.default_rng(1),
        jax.eval_shape(lambda: network.init(jax.random.key(0), inputs, sizes)),
    )
    return jax.tree.map(lambda w: jnp.asarray(0.5 * rng.normal(size=w.shape), jnp.float32), shapes)


def make_arguments(*shape, lead=(), inputs=1, sizes=SIZES):
    """`(x_t, hidden, cells)` for coordinates of `shape`, with axes `lead` before everything."""
    rng = np.random.default_rng(0)

    def normal(features):
        return jnp.asarray(rng.normal(size=(*lead, features, *shape)), jnp.float32)

    return normal(inputs), tuple(map(normal, sizes)), tuple(map(normal, sizes))


def fresh(f=network.step):
    """A function of its own: JAX keeps what it has traced of one that it knows."""
    return lambda *args: f(*args)


plain_step = jax.jit(network.plain_step)


def assert_near(got, want, tolerance=1e-6):
    """Equal up to the rounding of float32, in norm."""
    jax.tree.map(
        lambda g, w: np.testing.assert_equal((g.shape, g.dtype), (w.shape, w.dtype)), got, want
    )
    got, want = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)])
        for t in (got, want)
    )
    assert np.linalg.norm(want) > 0
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)


def calls_native(f, *args):
    """Whether a program of `f` calls the C++ loops on a CPU."""
    return "learned_opt_lstm" in jax.jit(fresh(f)).lower(*args).as_text()


# Who gets the C++ loops


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize(
    ("shape", "inputs", "sizes"),
    [
        ((), 2, (4,)),
        ((65,), 1, (5, 3)),
        ((3, 11), 2, (5, 3)),
        ((2, 3, 7), 1, (4,)),
        ((2, 1, 3, 5), 1, (2, 4, 3)),
    ],
)
def test_a_step_of_parameters_of_any_rank(shape, inputs, sizes):
    args = make_weights(inputs, sizes), *make_arguments(*shape, inputs=inputs, sizes=sizes)
    assert calls_native(network.step, *args)
    assert_near(network.step(*args), plain_step(*args))


def test_several_devices_have_plain_steps():
    assert jax.device_count("cpu") > 1
    assert not calls_native(network.step, make_weights(), *make_arguments(7))


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize(
    "dtypes",
    [
        ("bfloat16", "float32"),
        ("float16", "float16"),
        ("float64", "float64"),
        ("float32", "float64"),
    ],
)
def test_other_dtypes_have_plain_steps(x64, dtypes):
    of_state, of_weights = dtypes
    weights = jax.tree.map(lambda w: w.astype(of_weights), make_weights())
    arguments = jax.tree.map(lambda x: x.astype(of_state), make_arguments(7))
    assert not calls_native(network.step, weights, *arguments)
    assert_near(jax.jit(fresh())(weights, *arguments), plain_step(weights, *arguments), 0)


@pytest.mark.usefixtures("native_loops")
def test_float32_has_the_loops_under_x64_too(x64):
    args = jax.tree.map(lambda x: x.astype("float32"), (make_weights(), *make_arguments(7)))
    assert calls_native(network.step, *args)
    assert_near(jax.jit(fresh())(*args), plain_step(*args))


@pytest.mark.usefixtures("native_loops")
def test_no_coordinates():
    args = make_weights(), *make_arguments(0, 3)
    assert jax.tree.map(jnp.shape, network.step(*args)) == (
        (0, 3),
        ((5, 0, 3), (3, 0, 3)),
        ((5, 0, 3), (3, 0, 3)),
    )
    assert (
        network.pull_back(args[0], jnp.ones((4, 1, 0)), jnp.ones((4, 0)), *make_arguments(0)[1:])
        is None
    )


@pytest.mark.usefixtures("native_loops")
def test_one_program_for_several_platforms():
    traced = jax.jit(fresh()).trace(make_weights(), *make_arguments(7))
    assert "learned_opt_lstm" not in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "learned_opt_lstm" in traced.lower(lowering_platforms=("cpu", "cuda")).as_text()


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
def test_sharded_coordinates(axis_type):
    """The types of explicitly sharded arrays tell of the mesh; results of a foreign call do not."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(axis_type,))
    args = make_weights(), *make_arguments(8)
    want = plain_step(*args)
    with jax.set_mesh(mesh):
        sharded = [
            jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, P(None, "x"))), a)
            for a in args[1:]
        ]
        got = jax.jit(fresh())(args[0], *sharded)
    assert_near(jax.device_get(got), jax.device_get(want))


@pytest.mark.usefixtures("native_loops")
def test_inside_a_shard_map():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    x_t, hidden, cells = make_arguments(8)
    specs = P(), P(None, "x"), P(None, "x"), P(None, "x")
    step = jax.shard_map(
        fresh(), mesh=mesh, in_specs=specs, out_specs=(P("x"), P(None, "x"), P(None, "x"))
    )
    args = make_weights(), x_t, hidden, cells
    assert_near(jax.device_get(jax.jit(step)(*args)), jax.device_get(plain_step(*args)))


# Transformations of a step


def batched(f, in_axes, depth=1):
    for _ in range(depth):
        f = jax.vmap(f, in_axes)
    return f


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize(
    ("lead", "shape"), [((1,), (5,)), ((3,), ()), ((3,), (33,)), ((4,), (2, 3)), ((2, 1, 3), (5,))]
)
def test_vmapped_over_problems(lead, shape):
    """However many problems on however many axes: one call."""
    args = make_weights(), *make_arguments(*shape, lead=lead)
    step, plain = (
        batched(fresh(f), (None, 0, 0, 0), len(lead)) for f in (network.step, network.plain_step)
    )
    assert jax.jit(step).lower(*args).as_text().count("@learned_opt_lstm") == 1
    assert_near(jax.jit(step)(*args), jax.jit(plain)(*args))


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize(
    "in_axes",
    [
        (None, 0, None, None),
        (None, None, 0, None),
        (None, 0, (None, 0), (0, None)),
        (None, 2, 2, 1),
        (0, 0, 0, 0),
        (0, None, None, None),
        ({"layers": [0, None], "output": None}, None, None, None),
    ],
)
def test_vmapped_over_some_arguments(in_axes):
    """What has no axis is broadcast; networks that differ take the plain way."""
    args = make_weights(), *make_arguments(7)
    scales = jnp.asarray([1.0, 0.5, 2.0])

    def stack(axis, tree):
        if axis is None or tree is None:
            return tree
        return jax.tree.map(
            lambda x: jnp.moveaxis(
                jnp.expand_dims(x, 0) * scales.reshape(-1, *[1] * x.ndim), 0, axis
            ),
            tree,
        )

    args = jax.tree.map(stack, tuple(in_axes), args, is_leaf=lambda axis: axis is None)
    got, want = (
        jax.jit(jax.vmap(fresh(f), in_axes))(*args) for f in (network.step, network.plain_step)
    )
    assert_near(got, want)


@pytest.mark.usefixtures("native_loops")
def test_vmapped_over_no_problems():
    step = batched(fresh(), (None, 0, 0, 0), 2)
    y_t, (hidden, _), _ = step(make_weights(), *make_arguments(7, lead=(4, 0)))
    assert (y_t.shape, hidden.shape) == ((4, 0, 7), (4, 0, 5, 7))


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize("order", ["jvp", "hessian-vector", "vmap of grad", "grad of vmap"])
def test_derivatives_are_those_of_the_plain_step(order):
    lead = (3,) if "vmap" in order else ()
    weights, arguments = make_weights(), make_arguments(7, lead=lead)
    tangents = jax.tree.map(jnp.cos, (weights, *arguments))

    def derivative(f):
        def loss(weights, *arguments):
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(f(weights, *arguments)))

        gradient = jax.grad(loss, argnums=(0, 1, 2, 3))
        return {
            "jvp": lambda *args: jax.jvp(fresh(f), args, tangents),
            "hessian-vector": lambda *args: jax.jvp(gradient, args, tangents),
            "vmap of grad": jax.vmap(gradient, (None, 0, 0, 0)),
            "grad of vmap": jax.grad(lambda *args: jnp.sum(jax.vmap(loss, (None, 0, 0, 0))(*args))),
        }[order]

    got, want = (
        jax.jit(derivative(f))(weights, *arguments) for f in (network.step, network.plain_step)
    )
    assert_near(got, want)


@pytest.mark.usefixtures("native_loops")
def test_fifty_steps_scanned():
    weights, (x, *_), state = make_weights(), make_arguments(33, lead=(50,)), make_arguments(33)[1:]

    def run(f, weights, x, state):
        def step(state, x_t):
            y_t, *state = f(weights, x_t, *state)
            return tuple(state), y_t

        return jax.lax.scan(step, state, x)

    got, want = (
        jax.jit(functools.partial(run, f))(weights, x, state)
        for f in (network.step, network.plain_step)
    )
    assert_near(got, want, 5e-6)  # fifty steps of rounding


@pytest.mark.usefixtures("native_loops")
def test_a_state_is_stepped_in_place_where_it_is_donated_and_else_kept():
    weights, arguments = make_weights(), make_arguments(1000)
    want = plain_step(weights, *arguments)
    before = jax.tree.map(np.array, arguments)
    for _ in range(2):
        assert_near(jax.jit(fresh())(weights, *arguments), want)
        jax.tree.map(np.testing.assert_array_equal, arguments, before)
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(arguments[1:])}
    got = jax.jit(fresh(), donate_argnums=(2, 3))(weights, *arguments)
    assert_near(got, want)
    assert {x.unsafe_buffer_pointer() for x in jax.tree.leaves(got[1:])} == pointers


# The derivative of a window


def make_window(steps, n, inputs=1, sizes=SIZES):
    """`(x, dy, hidden, cells)`."""
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(steps, *s)), jnp.float32) for s in ((inputs, n), (n,)))
    return x, dy, *make_arguments(n, sizes=sizes)[1:]


def plain_pull_back(weights, x, dy, hidden, cells, tanh=False, with_input=False):
    def outputs(weights, x):
        ys, state = [], (hidden, cells)
        for x_t in x:
            y_t, *state = network.plain_step(weights, x_t, *state)
            ys.append(jnp.tanh(y_t) if tanh else y_t)
        return jnp.stack(ys)

    pulled, dx = jax.vjp(outputs, weights, x)[1](dy)
    return (pulled, dx) if with_input else pulled


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize("options", [{}, {"tanh": True, "with_input": True}])
def test_pull_back_is_the_derivative_of_the_steps(options):
    args = make_weights(2), *make_window(3, 33, inputs=2)
    got, want = (functools.partial(f, **options) for f in (network.pull_back, plain_pull_back))
    assert calls_native(got, *args)
    assert_near(got(*args), jax.jit(want)(*args))


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize("in_axes", [(None, 0, 0, 0, 0), (0, None, 0, None, None)])
def test_pull_back_vmapped(in_axes):
    arrays = make_weights(1, (3,)), *make_window(2, 7, sizes=(3,))
    args = [
        a if axis is None else jax.tree.map(lambda x: jnp.stack([x, 2 * x]), a)
        for axis, a in zip(in_axes, arrays, strict=True)
    ]
    got, want = (
        jax.jit(jax.vmap(fresh(f), in_axes))(*args) for f in (network.pull_back, plain_pull_back)
    )
    assert_near(got, want)


@pytest.mark.usefixtures("native_loops")
def test_derivatives_of_pull_back():
    """As a second derivative of a meta-gradient has them, through weights, gradients and states."""
    args = make_weights(1, (3,)), *make_window(2, 7, sizes=(3,))

    def gradient(f):
        def total(*args):
            return sum(
                jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(f(*args, tanh=True, with_input=True))
            )

        return jax.grad(total, argnums=range(5))

    got, want = (jax.jit(gradient(f))(*args) for f in (network.pull_back, plain_pull_back))
    assert_near(got, want, 2e-6)


# The optimizer


@pytest.mark.usefixtures("native_loops")
def test_a_tree_of_mixed_leaves(monkeypatch):
    """Leaves of any shape, empty ones and other dtypes among them, each in its own way."""
    theta = {
        "m": np.ones((3, 5)),
        "s": np.ones(()),
        "empty": np.zeros((0, 2)),
        "none": None,
        "half": np.ones(4, np.float16),
        "t": (np.ones((2, 1, 4)), jnp.ones(70, jnp.bfloat16)),
    }
    theta = jax.tree.map(
        lambda x: jnp.asarray(x, np.float32 if x.dtype == np.float64 else x.dtype), theta
    )

    def two_steps():
        opt = learned_opt.lstm(hidden_sizes=(4, 3), preprocess_p=10.0)
        tx = opt.transform(make_weights(2, (4, 3)))
        return jax.jit(lambda theta: tx.update(theta, tx.update(theta, tx.init(theta))[1], theta))(
            theta
        )

    got = two_steps()
    monkeypatch.setattr(native, "_num_devices", lambda: 2)
    assert_near(got, two_steps(), 1e-4)  # what half precision leaves


def test_large_layers_are_left_to_xla(native_loops):
    def calls(units):
        weights = network.init(jax.random.key(0), 1, (units,))
        state = (jnp.zeros((units, 5)),)
        program = jax.jit(lambda *args: network.step(*args)).lower(
            weights, jnp.zeros((1, 5)), state, state
        )
        return "learned_opt_lstm_step" in program.as_text()

    assert calls(network.MAX_FAST_UNITS)
    assert not calls(network.MAX_FAST_UNITS + 1)
