"""What every optimizer must do wherever optax transformations go. The next architecture joins the list `CASES`."""

import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import learned_opt


class Case(NamedTuple):
    """An optimizer, and how it is tested.

    Attributes:
      opt: the optimizer.
      state_dtype: the dtype in which it keeps float32 parameters' state (None: not this library's choice).
      native: whether with the C++ loops, as on one device.
    """

    opt: Any
    state_dtype: Any = jnp.float32
    native: bool = False


CASES = {
    "lstm-native": Case(learned_opt.lstm("mnist", hidden_sizes=(4,)), native=True),
    "lstm-bfloat16": Case(
        learned_opt.lstm("mnist", hidden_sizes=(4,), state_dtype="bfloat16"), jnp.bfloat16
    ),
    "rnnprop": Case(learned_opt.rnnprop("long", hidden_sizes=(4,), input_size=3)),
    "lstm-gac": Case(learned_opt.lstm_gac("mnist", hidden_sizes=(4,), num_averaged=2)),
    "ntm-bfgs": Case(learned_opt.ntm_bfgs(hidden_sizes=(4,), num_averaged=2, num_writes=2)),
    "ntm-lbfgs": Case(learned_opt.ntm_lbfgs("mnist", hidden_sizes=(4,), num_averaged=1, history=5)),
    "partition": Case(
        learned_opt.partition(
            {
                "a": learned_opt.lstm("mnist", hidden_sizes=(4,)),
                "b": learned_opt.lstm("quadratic", hidden_sizes=(4,)),
            },
            {"*bias*": "b", "*": "a"},
        )
    ),
    "from_optax": Case(learned_opt.from_optax(optax.adam(1e-2), coordinatewise=True), None),
}
LEARNED = [name for name, case in CASES.items() if case.state_dtype is not None]
COORDINATEWISE = [name for name, case in CASES.items() if case.opt.coordinatewise]

every_case = pytest.mark.parametrize("name", CASES)
learned_cases = pytest.mark.parametrize("name", LEARNED)
several_devices_cases = pytest.mark.parametrize(
    ("name", "jitted"),
    [
        pytest.param(name, jitted, id=f"{name}-{'jitted' if jitted else 'eager'}")
        for name, case in CASES.items()
        for jitted in (True, False)
        # Outside of jit every operation is a program of its own: slow, and not the rule's business but its lift's.
        if not case.native and (jitted or name in ("lstm-bfloat16", "ntm-bfgs", "from_optax"))
    ],
)
coordinatewise_cases = pytest.mark.parametrize("name", COORDINATEWISE)


@pytest.fixture(autouse=True)
def loops(request):
    """The C++ loops for the cases that ask for them."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name and CASES[name].native:
        request.getfixturevalue("native_loops")


@functools.cache
def phi_of(name):
    return CASES[name].opt.init(jax.random.key(0))


@functools.cache
def transform(name):
    return CASES[name].opt.transform(phi_of(name))


def dtypes_of(state):
    """The dtypes of a state's leaves, but for counts."""
    return {leaf.dtype for leaf in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}


def random_like(tree, seed):
    """Gaussian arrays in the shapes and dtypes of `tree`."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return treedef.unflatten(
        [jnp.asarray(rng.normal(size=jnp.shape(x)), jnp.result_type(x)) for x in leaves]
    )


def make_theta(dtype=jnp.float32):
    zeros = {"dense": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "scale": (np.zeros(()),)}
    return random_like(jax.tree.map(lambda x: jnp.asarray(x, dtype), zeros), 0)


def make_gradients(theta, steps=2):
    return [random_like(theta, 1 + t) for t in range(steps)]


def steps_of(tx, theta, gradients, **extra_args):
    """The parameters after each of a few steps, as a list, and the last state."""
    stacked = jax.tree.map(lambda *gs: jnp.stack(gs), *gradients)
    thetas, state = _scanned(tx, theta, stacked, len(gradients), tuple(extra_args.items()))
    return [jax.tree.map(lambda x, t=t: x[t], thetas) for t in range(len(gradients))], state


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _scanned(tx, theta, gradients, num_steps, extra_args):
    def step(carry, g_t):
        theta, state = carry
        u_t, state = tx.update(g_t, state, theta, **dict(extra_args))
        theta = optax.apply_updates(theta, u_t)
        return (theta, state), theta

    (_, state), thetas = jax.lax.scan(step, (theta, tx.init(theta)), gradients, num_steps)
    return thetas, state


def assert_close(got, want):
    """Equal up to the rounding of float32, and not trivially."""
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)


# Transformations of JAX


@every_case
def test_steps_are_finite_and_move(name):
    theta = make_theta()
    (_, theta_2), _ = steps_of(transform(name), theta, make_gradients(theta))
    chex.assert_tree_all_finite(theta_2)
    chex.assert_trees_all_equal_shapes_and_dtypes(theta_2, theta)
    assert all(
        np.all(a != b)
        for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(theta_2), strict=True)
    )


@every_case
def test_eager_jitted_and_scanned_steps_are_equal(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    (theta_1, theta_2), _ = steps_of(tx, theta, gradients)
    u_1, state = tx.update(gradients[0], tx.init(theta), theta)
    assert_close(optax.apply_updates(theta, u_1), theta_1)
    u_2, _ = jax.jit(tx.update)(gradients[1], state, theta_1)
    assert_close(optax.apply_updates(theta_1, u_2), theta_2)


@every_case
def test_vmapped_over_problems_and_over_weights(name):
    opt, theta = CASES[name].opt, make_theta()["dense"]
    gradient = make_gradients(theta, 1)[0]
    phis = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), phi_of(name))
    scales = jnp.array([0.5, 2.0])

    def update(phi, scale):
        tx = opt.transform(phi)
        return tx.update(jax.tree.map(lambda g: scale * g, gradient), tx.init(theta), theta)

    batched, single = jax.jit(jax.vmap(update))(phis, scales), jax.jit(update)
    for k in range(2):
        pick = functools.partial(jax.tree.map, lambda x, k=k: x[k])
        assert_close(pick(batched), single(pick(phis), scales[k]))


@every_case
def test_second_call_does_not_compile(name):
    opt, theta = CASES[name].opt, make_theta()
    gradient = make_gradients(theta, 1)[0]
    traces = []

    @jax.jit
    def step(phi, theta, state, gradient):
        traces.append(1)
        u_t, state = opt.transform(phi).update(gradient, state, theta)
        return optax.apply_updates(theta, u_t), state

    phi = phi_of(name)
    state = opt.transform(phi).init(theta)
    for _ in range(3):
        theta, state = step(phi, theta, state, gradient)
    assert len(traces) == 1
    assert step._cache_size() == 1


@every_case
@pytest.mark.parametrize("jitted", [False, True])
def test_fresh_state_shares_no_buffer_and_can_be_donated(name, jitted):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(theta, 1)[0]
    (want,), _ = steps_of(tx, theta, [gradient])
    state = (jax.jit(tx.init) if jitted else tx.init)(theta)
    leaves = jax.tree.leaves((theta, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(theta, state, gradient):
        u, state = tx.update(gradient, state, theta)
        return optax.apply_updates(theta, u), state

    got, _ = step(theta, state, gradient)
    assert all(leaf.is_deleted() for leaf in leaves)
    assert_close(got, want)


# Inside optax


@every_case
def test_in_a_chain(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    chain = optax.chain(optax.clip(0.1), tx, optax.scale(2.0))
    got, _ = steps_of(chain, theta, gradients)
    clipped = [jax.tree.map(lambda g: np.clip(g, -0.1, 0.1), g_t) for g_t in gradients]
    plain, _ = steps_of(tx, theta, clipped)
    assert_close(got[0], jax.tree.map(lambda a, b: b + 2 * (a - b), plain[0], theta))
    assert_close(got[1], jax.tree.map(lambda a, b, c: c + 2 * (a - c), plain[1], plain[0], theta))


@every_case
def test_in_optax_partition(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    mixed = optax.partition(
        {"learned": tx, "sgd": optax.sgd(0.1)}, {"dense": "learned", "scale": "sgd"}
    )
    got, _ = steps_of(mixed, theta, gradients)
    alone, _ = steps_of(
        tx, {"dense": theta["dense"]}, [{"dense": g_t["dense"]} for g_t in gradients]
    )
    assert_close(got[-1]["dense"], alone[-1]["dense"])
    assert_close(
        got[0]["scale"],
        jax.tree.map(lambda p, g: p - 0.1 * g, theta["scale"], gradients[0]["scale"]),
    )


@every_case
def test_masked(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(theta, 1)[0]
    masked = optax.masked(tx, {"dense": {"kernel": True, "bias": False}, "scale": False})
    state = masked.init(theta)
    u, _ = jax.jit(masked.update)(gradient, state, theta)
    alone, _ = jax.jit(tx.update)(
        {"dense": {"kernel": gradient["dense"]["kernel"]}},
        tx.init({"dense": {"kernel": theta["dense"]["kernel"]}}),
    )
    assert_close(u["dense"]["kernel"], alone["dense"]["kernel"])
    assert_close([u["dense"]["bias"], u["scale"]], [gradient["dense"]["bias"], gradient["scale"]])
    assert all(
        leaf.shape[-2:] == (3, 2) for leaf in jax.tree.leaves(state) if leaf.ndim > 1
    )  # vectors are averages


@every_case
def test_apply_if_finite(name):
    tx, theta = transform(name), make_theta()
    g_1, g_3 = make_gradients(theta)
    g_2 = {**g_1, "scale": jax.tree.map(lambda g: g * jnp.nan, g_1["scale"])}
    got, _ = steps_of(optax.apply_if_finite(tx, max_consecutive_errors=3), theta, [g_1, g_2, g_3])
    plain, _ = steps_of(tx, theta, [g_1, g_3])
    assert_close(got, [plain[0], plain[0], plain[1]])


@every_case
def test_multi_steps(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta, 4)
    got, _ = steps_of(optax.MultiSteps(tx, every_k_schedule=2), theta, gradients)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *gradients[k : k + 2]) for k in (0, 2)]
    plain, _ = steps_of(tx, theta, means)
    assert_close(got, [theta, plain[0], plain[0], plain[1]])


def test_inject_hyperparams_changes_the_output_scale():
    phi = learned_opt.lstm(hidden_sizes=(4,)).init(jax.random.key(0))

    @optax.inject_hyperparams
    def make(output_scale):
        return learned_opt.lstm(hidden_sizes=(4,), output_scale=output_scale).transform(phi)

    theta = make_theta()
    gradient = make_gradients(theta, 1)[0]
    tx = make(output_scale=0.5)
    state = tx.init(theta)
    assert float(state.hyperparams["output_scale"]) == 0.5
    update = jax.jit(tx.update)
    half, _ = update(gradient, state, theta)
    state.hyperparams["output_scale"] = jnp.float32(2.0)
    double, _ = update(gradient, state, theta)
    plain = learned_opt.lstm(hidden_sizes=(4,), output_scale=1.0).transform(phi)
    u, _ = jax.jit(plain.update)(gradient, plain.init(theta), theta)
    assert_close(half, jax.tree.map(lambda x: 0.5 * x, u))
    assert_close(double, jax.tree.map(lambda x: 2.0 * x, u))


def test_inject_hyperparams_follows_a_schedule():
    phi = learned_opt.lstm(hidden_sizes=(4,)).init(jax.random.key(0))
    make = optax.inject_hyperparams(
        lambda output_scale: learned_opt.lstm(
            hidden_sizes=(4,), output_scale=output_scale
        ).transform(phi)
    )
    tx = make(output_scale=optax.piecewise_constant_schedule(1.0, {1: 0.25}))
    gradients = jnp.ones((2, 3))
    (theta_1, theta_2), _ = steps_of(tx, jnp.zeros(3), gradients)
    (plain_1, plain_2), _ = steps_of(
        learned_opt.lstm(hidden_sizes=(4,)).transform(phi), jnp.zeros(3), gradients
    )
    assert_close(theta_1, plain_1)
    assert_close(theta_2 - theta_1, 0.25 * (plain_2 - plain_1))


@every_case
def test_unknown_extra_arguments_are_ignored(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    got = steps_of(tx, theta, gradients, value=1.0, value_fn=abs, anything="else")
    chex.assert_trees_all_equal(got, steps_of(tx, theta, gradients))


@every_case
def test_parameters_may_be_left_out(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(theta, 1)[0]
    state = tx.init(theta)
    chex.assert_trees_all_equal(
        jax.jit(tx.update)(gradient, state), jax.jit(tx.update)(gradient, state, theta)
    )


# Inside Flax


@every_case
def test_flax_linen_train_state(name):
    model, x = nn.Dense(2), jnp.arange(12.0).reshape(4, 3) / 10
    theta = model.init(jax.random.key(1), x)["params"]
    tx = transform(name)

    def loss_fn(theta):
        return jnp.sum(jnp.square(model.apply({"params": theta}, x) - 1))

    @jax.jit
    def step(state):
        return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))

    state = train_state.TrainState.create(apply_fn=model.apply, params=theta, tx=tx)
    g_1 = jax.grad(loss_fn)(theta)
    (theta_1,), _ = steps_of(tx, theta, [g_1])
    g_2 = jax.grad(loss_fn)(theta_1)
    want, _ = steps_of(tx, theta, [g_1, g_2])
    state = step(state)
    assert_close(state.params, want[0])
    assert_close(step(state).params, want[1])


@every_case
def test_flax_nnx_optimizer(name):
    model, x = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.arange(12.0).reshape(4, 3) / 10
    tx = transform(name)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    theta = nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def loss_of(kernel, bias):
        return jnp.sum(jnp.square(x @ kernel + bias[None] - 1))

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda m: loss_of(m.kernel[...], m.bias[...]))(model)
        optimizer.update(model, gradient)

    gradients = []
    for _ in range(2):
        pure = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        gradients.append(jax.grad(lambda theta: loss_of(**theta))(pure))
        step(model, optimizer)
    want, _ = steps_of(tx, theta, gradients)
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), want[-1])


# Trees and dtypes

TREES = {
    "array": jnp.ones((2, 3)),
    "scalar": jnp.float32(2),
    "nested": {"a": [jnp.ones(2), (jnp.float32(1), {"bias": jnp.ones((1, 2))})]},
    "empty-leaf": {"a": jnp.ones((0,)), "b": jnp.ones((2, 0)), "c": jnp.ones(2)},
    "none": {"a": None, "b": jnp.ones(2), "c": (None, None)},
    "no-leaves": {},
    "only-none": (None, {}),
    "only-empty-leaves": [jnp.ones((0,))],
}


@every_case
@pytest.mark.parametrize("tree", TREES)
def test_any_tree(name, tree):
    tx, theta = transform(name), TREES[tree]
    gradients = make_gradients(theta)
    thetas, state = steps_of(tx, theta, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(thetas[-1], theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, theta))
    chex.assert_tree_all_finite(thetas[-1])
    assert all(
        np.all(a != b)
        for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(thetas[-1]), strict=True)
    )


@learned_cases
def test_python_numbers_and_numpy_arrays_are_parameters(name):
    tx = transform(name)
    theta, gradient = (
        {"a": 1.0, "bias": np.ones(2, np.float32)},
        {"a": 0.5, "bias": np.ones(2, np.float32)},
    )
    u, _ = tx.update(gradient, tx.init(theta), theta)
    want, _ = tx.update(
        jax.tree.map(jnp.float32, gradient), tx.init(jax.tree.map(jnp.float32, theta))
    )
    assert_close(u, want)


@every_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes(name, dtype):
    tx, theta = transform(name), make_theta(dtype)
    gradients = make_gradients(theta)
    state = tx.init(theta)
    u, new_state = jax.jit(tx.update)(gradients[0], state, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(u, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)
    chex.assert_tree_all_finite(u)
    if CASES[name].state_dtype is not None:
        assert dtypes_of(state) == {jnp.dtype(CASES[name].state_dtype)}


@learned_cases
def test_low_precision_gradients_of_full_precision_parameters(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(make_theta(jnp.bfloat16), 1)[0]
    u, _ = jax.jit(tx.update)(gradient, tx.init(theta), theta)
    wide, _ = jax.jit(tx.update)(
        jax.tree.map(lambda g: g.astype(jnp.float32), gradient), tx.init(theta), theta
    )
    chex.assert_trees_all_equal_dtypes(u, theta)
    assert_close(u, wide)


@every_case
def test_float64(x64, name):
    tx, theta = transform(name), make_theta(jnp.float64)
    state = tx.init(theta)
    u, new_state = jax.jit(tx.update)(make_gradients(theta, 1)[0], state, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(u, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)
    want = {jnp.float32: jnp.float64}.get(CASES[name].state_dtype, CASES[name].state_dtype)
    if want is not None:
        assert dtypes_of(state) == {jnp.dtype(want)}


def test_float64_parameters_keep_a_state_of_the_dtype_asked(x64):
    theta = make_theta(jnp.float64)
    opt = learned_opt.lstm(hidden_sizes=(3,), state_dtype="float32")
    tx = opt.transform(opt.init(jax.random.key(0)))
    state = tx.init(theta)
    u, _ = jax.jit(tx.update)(theta, state, theta)
    assert dtypes_of(state) == {jnp.dtype("float32")}
    chex.assert_trees_all_equal_dtypes(u, theta)


# Coordinatewise


@coordinatewise_cases
def test_permuted_coordinates_have_permuted_updates(name):
    tx, order = transform(name), np.array([3, 0, 5, 1, 4, 2])
    gradients = [3 * random_like(jnp.zeros(6), t) for t in range(3)]
    want, _ = steps_of(tx, jnp.zeros(6), gradients)
    got, _ = steps_of(tx, jnp.zeros(6), [g_t[order] for g_t in gradients])
    assert_close(got[-1], want[-1][order])
    assert np.unique(want[-1]).size == 6


@coordinatewise_cases
def test_reshaped_and_split_parameters_have_the_same_updates(name):
    tx = transform(name)
    gradients = [3 * random_like(jnp.zeros(6), t) for t in range(3)]
    want, _ = steps_of(tx, jnp.zeros(6), gradients)
    got, _ = steps_of(tx, jnp.zeros((1, 3, 2)), [g_t.reshape(1, 3, 2) for g_t in gradients])
    assert_close(got[-1].reshape(6), want[-1])
    split, _ = steps_of(
        tx,
        (jnp.zeros(2), jnp.zeros((2, 2))),
        [(g_t[:2], g_t[2:].reshape(2, 2)) for g_t in gradients],
    )
    assert_close(jnp.concatenate([x.reshape(-1) for x in split[-1]]), want[-1])


# Sharding

SHARDED = {"kernel": P("x", "y"), "bias": P("y")}


def sharded_pair(mesh):
    """Parameters and gradients, as they are and sharded on both axes of a mesh."""
    theta = random_like({"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}, 0)
    gradient = make_gradients(theta, 1)[0]
    sharded = [
        {k: jax.device_put(x, NamedSharding(mesh, SHARDED[k])) for k, x in tree.items()}
        for tree in (theta, gradient)
    ]
    return (theta, gradient), sharded


def assert_sharded_like_parameters(tree, mesh):
    """Every leaf under a parameter's name is sharded as `P(None, ..., *spec)`."""
    leaves = [
        (path[-1].key, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if getattr(path[-1], "key", None) in SHARDED
    ]
    assert leaves
    for name, leaf in leaves:
        spec = SHARDED[name]
        want = NamedSharding(mesh, P(*(None,) * (leaf.ndim - len(spec)), *spec))
        assert leaf.sharding.is_equivalent_to(want, leaf.ndim), (name, leaf.sharding)


@several_devices_cases
def test_update_of_sharded_parameters(name, jitted):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    (theta, gradient), (sharded_theta, sharded_gradient) = sharded_pair(mesh)
    tx = transform(name)
    update = jax.jit(tx.update) if jitted else tx.update
    want = jax.jit(tx.update)(gradient, tx.init(theta), theta)
    got = update(sharded_gradient, tx.init(sharded_theta), sharded_theta)
    assert_close(jax.device_get(got), jax.device_get(want))
    assert_sharded_like_parameters(tx.init(sharded_theta), mesh)
    assert_sharded_like_parameters(got, mesh)


@learned_cases
def test_jitted_init_of_sharded_parameters(name):
    """The same, where zeros that do not depend on the parameters would come out unsharded."""
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    _, (sharded_theta, _) = sharded_pair(mesh)
    assert_sharded_like_parameters(jax.jit(transform(name).init)(sharded_theta), mesh)


@several_devices_cases
def test_explicitly_sharded_parameters(name, jitted):
    tx = transform(name)
    mesh = jax.make_mesh((2, 2), ("x", "y"))
    assert mesh.axis_types == (AxisType.Explicit,) * 2
    with jax.set_mesh(mesh):
        (theta, gradient), (sharded_theta, sharded_gradient) = sharded_pair(mesh)
        init, update = (jax.jit(f) if jitted else f for f in tx)
        state = init(sharded_theta)
        got = update(sharded_gradient, state, sharded_theta)
        assert_sharded_like_parameters(state, mesh)
        assert_sharded_like_parameters(got, mesh)
        want = jax.jit(tx.update)(gradient, tx.init(theta), theta)
    assert_close(jax.device_get(got), jax.device_get(want))
