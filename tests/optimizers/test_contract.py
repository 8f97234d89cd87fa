"""What every optimizer must do wherever optax transformations go.

The next architecture joins the list `CASES`. What is the business of a rule is tested for all of
them; what is the business of a lift, for one optimizer of each. The rest of the cross product,
every optimizer in every place, is the second tier.
"""

import contextlib
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
      state_dtype: the dtype in which it keeps the state of float32 parameters (None: not this
        library's choice).
      native: whether with the C++ loops, as on one device.
    """

    opt: Any
    state_dtype: Any = jnp.float32
    native: bool = False


CASES = {
    "lstm": Case(learned_opt.lstm("mnist", hidden_sizes=(4,))),
    "lstm-native": Case(learned_opt.lstm("mnist", hidden_sizes=(4,)), native=True),
    "lstm-bfloat16": Case(
        learned_opt.lstm("mnist", hidden_sizes=(4,), state_dtype="bfloat16"), jnp.bfloat16
    ),
    "rnnprop": Case(learned_opt.rnnprop("long", hidden_sizes=(4,), input_size=3)),
    "lstm-gac": Case(learned_opt.lstm_gac("mnist", hidden_sizes=(4,), num_averaged=2)),
    "ntm-bfgs": Case(learned_opt.ntm_bfgs(hidden_sizes=(4,), num_averaged=2, num_writes=2)),
    "ntm-lbfgs": Case(learned_opt.ntm_lbfgs("mnist", hidden_sizes=(4,), num_averaged=1, history=5)),
    # Larger updates than are good, so that they are seen beside parameters.
    "small-fc": Case(learned_opt.small_fc_lopt(output_scale=0.1)),
    "general": Case(learned_opt.general(num_steps=10, hidden_sizes=(4,), controller_sizes=(2,))),
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
SECOND_TIER = ("lstm", "lstm-bfloat16", "ntm-bfgs")  # much like others
# One of each lift: a coordinatewise one with a count, one whose coordinates meet, one of whole
# tensors, and a partition.
OF_EACH_LIFT = ("rnnprop", "ntm-lbfgs", "small-fc", "partition")


def cases(names=tuple(CASES), first=None):
    """A parametrization by case; all but those of `first` are of the second tier."""
    if first is None:
        first = [name for name in names if name not in SECOND_TIER]
    second_tier = pytest.mark.thorough
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=() if name in first else second_tier) for name in names],
    )


every_case = cases()
cases_of_lifts = cases(first=OF_EACH_LIFT)
learned_cases = cases(LEARNED)
learned_cases_of_lifts = cases(LEARNED, OF_EACH_LIFT)
coordinatewise_cases = cases(COORDINATEWISE)
# Under jit Adam's state comes out unsharded.
several_devices_cases = cases([name for name in LEARNED if not CASES[name].native])


@pytest.fixture(autouse=True)
def loops(request):
    """The C++ loops for the cases that ask for them."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name and CASES[name].native:
        request.getfixturevalue("native_loops")


@functools.cache
def phi_of(name):
    """Weights in which no bias is zero: ReLU units that rest do not hide a coordinate."""
    phi = jax.jit(CASES[name].opt.init)(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1, phi)


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


# Optimized a little: the steps that make a matrix orthogonal multiply rounding, of which there is
# more in programs that XLA does not optimize at all, as those of other tests.
@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 1}
)
def first_step(tx, theta, gradient):
    """`(state, update, next state)`, one program."""
    state = tx.init(theta)
    return state, *tx.update(gradient, state, theta)


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


def assert_moved(theta, new_theta):
    """Every coordinate has another, finite value."""
    chex.assert_tree_all_finite(new_theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_theta, theta)
    for old, new in zip(jax.tree.leaves(theta), jax.tree.leaves(new_theta), strict=True):
        assert np.all(old != new)


@every_case
def test_scanned_steps_move_and_a_program_serves_for_many_steps(name):
    """Weights are arguments: the second call does not compile, and steps are those of a scan."""
    opt, theta = CASES[name].opt, make_theta()
    gradients = make_gradients(theta)
    want, _ = steps_of(transform(name), theta, gradients)
    assert_moved(theta, want[-1])
    traces = []

    @jax.jit
    def step(phi, theta, state, gradient):
        traces.append(1)
        u_t, state = opt.transform(phi).update(gradient, state, theta)
        return optax.apply_updates(theta, u_t), state

    phi = phi_of(name)
    state = jax.jit(transform(name).init)(theta)
    for g_t, theta_t in zip(gradients, want, strict=True):
        theta, state = step(phi, theta, state, g_t)
        assert_close(theta, theta_t)
    assert len(traces) == 1
    assert step._cache_size() == 1


@cases(first=("rnnprop", "partition"))
def test_eager_steps_are_those_of_a_scan(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    (theta_1, _), _ = steps_of(tx, theta, gradients)
    u_1, _ = tx.update(gradients[0], tx.init(theta), theta)
    assert_close(optax.apply_updates(theta, u_1), theta_1)


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
def test_fresh_state_shares_no_buffer_and_can_be_donated(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    (want, _), _ = steps_of(tx, theta, gradients)
    state = jax.jit(tx.init)(theta)
    leaves = assert_no_buffer_is_shared(theta, state)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(theta, state, gradient):
        u, state = tx.update(gradient, state, theta)
        return optax.apply_updates(theta, u), state

    got, _ = step(theta, state, gradients[0])
    assert all(leaf.is_deleted() for leaf in leaves)
    assert_close(got, want)


@cases_of_lifts
def test_fresh_state_of_an_eager_init_shares_no_buffer(name):
    theta = make_theta()
    assert_no_buffer_is_shared(theta, transform(name).init(theta))


def assert_no_buffer_is_shared(theta, state):
    leaves = [leaf for leaf in jax.tree.leaves((theta, state)) if leaf.size]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    return leaves


# Inside optax


@cases_of_lifts
def test_in_a_chain(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    chain = optax.chain(optax.clip(0.1), tx, optax.scale(2.0))
    got, _ = steps_of(chain, theta, gradients)
    clipped = [jax.tree.map(lambda g: np.clip(g, -0.1, 0.1), g_t) for g_t in gradients]
    plain, _ = steps_of(tx, theta, clipped)
    assert_close(got[0], jax.tree.map(lambda a, b: b + 2 * (a - b), plain[0], theta))
    if "params" not in (CASES[name].opt.reads or ()):  # they are others now
        want = jax.tree.map(lambda a, b: b + 2 * (a - b), plain[1], theta)
        assert_close(got[1], want)


@cases_of_lifts
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


@cases_of_lifts
def test_masked(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(theta, 1)[0]
    masked = optax.masked(tx, {"dense": {"kernel": True, "bias": False}, "scale": False})
    state = masked.init(theta)
    u, _ = jax.jit(masked.update)(gradient, state, theta)
    own_theta = {"dense": {"kernel": theta["dense"]["kernel"]}}
    own_gradient = {"dense": {"kernel": gradient["dense"]["kernel"]}}
    alone, _ = jax.jit(tx.update)(own_gradient, tx.init(own_theta), own_theta)
    assert_close(u["dense"]["kernel"], alone["dense"]["kernel"])
    assert_close([u["dense"]["bias"], u["scale"]], [gradient["dense"]["bias"], gradient["scale"]])
    if name == "small-fc":
        return  # rows and columns have shapes of their own
    for leaf in jax.tree.leaves(state):
        assert leaf.ndim < 2 or leaf.shape[-2:] == (3, 2)  # vectors are averages


@cases_of_lifts
def test_apply_if_finite(name):
    tx, theta = transform(name), make_theta()
    g_1, g_3 = make_gradients(theta)
    g_2 = {**g_1, "scale": jax.tree.map(lambda g: g * jnp.nan, g_1["scale"])}
    got, _ = steps_of(optax.apply_if_finite(tx, max_consecutive_errors=3), theta, [g_1, g_2, g_3])
    plain, _ = steps_of(tx, theta, [g_1, g_3])
    assert_close(got, [plain[0], plain[0], plain[1]])


@cases_of_lifts
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


@cases_of_lifts
def test_unknown_extra_arguments_are_ignored(name):
    tx, theta = transform(name), make_theta()
    gradients = make_gradients(theta)
    got = steps_of(tx, theta, gradients, value=1.0, value_fn=abs, anything="else")
    chex.assert_trees_all_equal(got, steps_of(tx, theta, gradients))


@cases_of_lifts
def test_parameters_may_be_left_out_unless_they_are_read(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(theta, 1)[0]
    state = tx.init(theta)
    if "params" in (CASES[name].opt.reads or ()):
        with pytest.raises(ValueError, match="this optimizer reads the parameters"):
            tx.update(gradient, state)
        return
    chex.assert_trees_all_equal(
        jax.jit(tx.update)(gradient, state), jax.jit(tx.update)(gradient, state, theta)
    )


# Inside Flax


@cases_of_lifts
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


@cases_of_lifts
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

SMALL_TREES = {
    "array": jnp.ones((2, 3)),
    "nested": {"a": [jnp.ones(2), (jnp.float32(1), {"bias": jnp.ones((1, 2))})]},
    "empty-leaf": {"a": jnp.ones((0,)), "b": jnp.ones((2, 0)), "c": jnp.ones(2)},
    "none": {"a": None, "b": jnp.ones(2), "c": (None, None)},
    "no-leaves": {},
}
TREES = {
    "scalar": jnp.float32(2),
    "all-in-one": SMALL_TREES,
    "only-none": (None, {}),
    "only-empty-leaves": [jnp.ones((0,))],
}
every_tree = pytest.mark.parametrize(
    "tree",
    [*TREES, *(pytest.param(tree, marks=pytest.mark.thorough) for tree in SMALL_TREES)],
)


@every_case
@every_tree
def test_any_tree(name, tree):
    tx, theta = transform(name), {**TREES, **SMALL_TREES}[tree]
    gradients = make_gradients(theta)
    thetas, state = steps_of(tx, theta, gradients)
    assert_moved(theta, thetas[-1])
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, theta))


@learned_cases_of_lifts
def test_python_numbers_and_numpy_arrays_are_parameters(name):
    tx = transform(name)
    theta, gradient = (
        {"a": 1.0, "bias": np.ones(2, np.float32)},
        {"a": 0.5, "bias": np.ones(2, np.float32)},
    )

    @jax.jit
    def update():  # arguments of a jitted function would be JAX arrays
        return tx.update(gradient, tx.init(theta), theta)[0]

    arrays, own_gradient = jax.tree.map(jnp.float32, (theta, gradient))
    want, _ = jax.jit(tx.update)(own_gradient, tx.init(arrays), arrays)
    assert_close(update(), want)


@learned_cases
@pytest.mark.parametrize(
    "dtype",
    [jnp.float32, jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.thorough)],
)
def test_dtypes_where_jax_promotes_none_by_itself(name, dtype):
    """What runs under strict promotion runs under the usual one, with the same dtypes."""
    theta = make_theta(dtype)
    gradient = make_gradients(theta, 1)[0]
    with jax.numpy_dtype_promotion("strict"):
        tx = CASES[name].opt.transform(phi_of(name))  # nothing is traced before
        state, u, new_state = first_step(tx, theta, gradient)
    chex.assert_trees_all_equal_shapes_and_dtypes(u, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)
    chex.assert_tree_all_finite(u)
    assert dtypes_of(state) == {jnp.dtype(CASES[name].state_dtype)}


@learned_cases_of_lifts
def test_low_precision_gradients_of_full_precision_parameters(name):
    tx, theta = transform(name), make_theta()
    gradient = make_gradients(make_theta(jnp.bfloat16), 1)[0]
    _, u, _ = first_step(tx, theta, gradient)
    wide_gradient = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
    _, wide, _ = first_step(tx, theta, wide_gradient)
    chex.assert_trees_all_equal_dtypes(u, theta)
    assert_close(u, wide)


@every_case
def test_float64(x64, name):
    tx, theta = transform(name), make_theta(jnp.float64)
    state, u, new_state = first_step(tx, theta, make_gradients(theta, 1)[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(u, theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)
    want = {jnp.float32: jnp.float64}.get(CASES[name].state_dtype, CASES[name].state_dtype)
    if want is not None:
        assert dtypes_of(state) == {jnp.dtype(want)}


def test_float64_parameters_keep_a_state_of_the_dtype_asked(x64):
    theta = make_theta(jnp.float64)
    opt = learned_opt.lstm(hidden_sizes=(3,), state_dtype="float32")
    tx = opt.transform(opt.init(jax.random.key(0)))
    state, u, _ = first_step(tx, theta, theta)
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


def whole_pair():
    """Parameters and gradients."""
    theta = random_like({"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}, 0)
    return theta, make_gradients(theta, 1)[0]


def sharded_pair(mesh):
    """The same, sharded on both axes of a mesh."""

    def put(tree):
        return {
            name: jax.device_put(x, NamedSharding(mesh, SHARDED[name])) for name, x in tree.items()
        }

    theta, gradient = whole_pair()
    return put(theta), put(gradient)


def assert_sharded_like_parameters(tree, mesh):
    """Every leaf under a parameter's name is sharded as `P(None, ..., *spec)`.

    An axis over which a leaf is an average is whole.
    """
    num_found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [key.key for key in path if getattr(key, "key", None) in SHARDED]
        if not names or not leaf.size:
            continue
        if not leaf.ndim:  # a number of a whole tensor
            assert leaf.sharding.is_fully_replicated
            continue
        spec = SHARDED[names[-1]]
        num_features = leaf.ndim - len(spec)
        sizes = leaf.shape[num_features:]
        own = [None if size == 1 else axis for size, axis in zip(sizes, spec, strict=True)]
        want = NamedSharding(mesh, P(*(None,) * num_features, *own))
        assert leaf.sharding.is_equivalent_to(want, leaf.ndim), (path, leaf.sharding)
        num_found += 1
    assert num_found


@functools.cache
def update_of_whole_parameters(name):
    """What the same parameters have for an update on one device."""
    tx = transform(name)
    theta, gradient = whole_pair()
    return jax.device_get(list(first_step(tx, theta, gradient)[1:]))


@several_devices_cases
def test_sharded_parameters(name):
    """Under jit zeros that do not depend on the parameters would come out unsharded."""
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    theta, gradient = sharded_pair(mesh)
    tx = transform(name)
    state, *got = first_step(tx, theta, gradient)
    assert_close(jax.device_get(got), update_of_whole_parameters(name))
    assert_sharded_like_parameters(state, mesh)
    assert_sharded_like_parameters(got, mesh)


@several_devices_cases
def test_explicitly_sharded_parameters(name):
    mesh = jax.make_mesh((2, 2), ("x", "y"))
    assert mesh.axis_types == (AxisType.Explicit,) * 2
    want = update_of_whole_parameters(name)
    tx = transform(name)
    with jax.set_mesh(mesh):
        theta, gradient = sharded_pair(mesh)
        state, *got = first_step(tx, theta, gradient)
        assert_sharded_like_parameters(state, mesh)
        assert_sharded_like_parameters(got, mesh)
    assert_close(jax.device_get(got), want)


@pytest.mark.thorough
@several_devices_cases
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_parameters_outside_of_jit(name, axis_type):
    """Here every operation is a program of its own, which takes long."""
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    want = update_of_whole_parameters(name)
    tx = transform(name)
    with jax.set_mesh(mesh) if axis_type == AxisType.Explicit else contextlib.nullcontext():
        theta, gradient = sharded_pair(mesh)
        state = tx.init(theta)
        got = list(tx.update(gradient, state, theta))
        assert_sharded_like_parameters(state, mesh)
        assert_sharded_like_parameters(got, mesh)
    assert_close(jax.device_get(got), want)
