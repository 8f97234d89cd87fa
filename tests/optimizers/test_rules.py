"""Rules of one's own, what a rule reads, and which optimizers are equal."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import learned_opt
from learned_opt.optimizers import CoordinateRule, TensorRule, base, from_rule, tensorwise

COORDINATEWISE = {
    "lstm": learned_opt.lstm("mnist", hidden_sizes=(4, 3)),
    "rnnprop": learned_opt.rnnprop(hidden_sizes=(4,), input_size=3),
    "rnnprop-long": learned_opt.rnnprop("long", hidden_sizes=(4,), input_size=3),
}
THETA = {"w": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.ones(4), "s": jnp.float32(2)}


def normal_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


def updates_of(tx, theta, gradients, jitted=True, **extra):
    """The updates of a few steps, theta held."""

    def run(theta, gradients):
        state, updates = tx.init(theta), []
        for g_t in gradients:
            u_t, state = tx.update(g_t, state, theta, **extra)
            updates.append(u_t)
        return updates, state

    return (jax.jit(run) if jitted else run)(theta, gradients)


# Rules of one coordinate


@pytest.mark.parametrize("name", COORDINATEWISE)
def test_a_built_in_optimizer_is_the_vmap_of_itself_on_one_coordinate(name):
    opt = COORDINATEWISE[name]
    assert opt.coordinatewise
    tx = opt.transform(opt.init(jax.random.key(0)))
    gradients = 3 * jax.random.normal(jax.random.key(1), (4, 7))
    together, _ = updates_of(tx, jnp.zeros(7), list(gradients))

    def of_one_coordinate(gradients):
        return updates_of(tx, jnp.zeros(()), list(gradients), jitted=False)[0]

    alone = jax.jit(jax.vmap(of_one_coordinate, in_axes=1))(gradients)
    chex.assert_trees_all_close(together, alone, rtol=2e-5, atol=1e-7)
    assert np.unique(together[-1]).size == 7


@pytest.mark.parametrize("name", COORDINATEWISE)
def test_a_built_in_rule_is_the_same_where_the_lift_vmaps_it(name):
    opt = COORDINATEWISE[name]
    rule = opt.transform.rule
    assert rule.broadcasts
    lifted = from_rule(rule._replace(broadcasts=False), opt.init)
    phi = opt.init(jax.random.key(0))
    gradients = [normal_like(THETA, seed) for seed in range(3)]
    want = updates_of(opt.transform(phi), THETA, gradients)
    got = updates_of(lifted.transform(phi), THETA, gradients)
    chex.assert_trees_all_close(got, want, rtol=2e-5, atol=1e-6)


def sorted_update(phi, g, h):
    """A rule with operations that mix axes, if there were any but features."""
    assert g.shape == ()
    matrix, vector, count = h
    assert (matrix.shape, vector.shape, count.shape) == ((2, 3), (3,), ())
    # JAX 0.9 has no `.at[].set` where shardings are explicit.
    vector = jnp.concatenate([jnp.expand_dims(g, 0), vector[:-1]])
    matrix = 0.5 * matrix + jnp.outer(jnp.array([1.0, 2.0]), jnp.sort(vector))
    u = -phi["rate"] * jnp.linalg.norm(matrix @ vector) * jnp.sign(g) / (1.0 + count)
    return u, (matrix, vector, count + 1)


def sorted_init(dtype):
    return jnp.ones((2, 3), dtype), jnp.arange(3.0).astype(dtype), jnp.zeros((), jnp.int32)


def rate(key):
    del key
    return {"rate": jnp.float32(0.1)}


def test_a_rule_with_any_operation_is_lifted_as_it_stands():
    opt = from_rule(CoordinateRule(sorted_init, sorted_update), rate)
    tx = opt.transform(opt.init(jax.random.key(0)))
    gradients = [normal_like(THETA, seed) for seed in range(3)]
    got, state = updates_of(tx, THETA, gradients)
    shapes = jax.tree.map(jnp.shape, state)
    assert shapes == (
        {"w": (2, 3, 2, 3), "b": (2, 3, 4), "s": (2, 3)},
        {"w": (3, 2, 3), "b": (3, 4), "s": (3,)},
        (),
    )
    assert int(state[2]) == 3
    for name, theta in THETA.items():
        for place in np.ndindex(theta.shape):
            h = sorted_init(jnp.float32)
            for t, g_t in enumerate(gradients):
                u, h = sorted_update(rate(None), g_t[name][place], h)
                np.testing.assert_allclose(got[t][name][place], u, rtol=1e-5)


@pytest.mark.parametrize("state", ["nothing", "a count alone"])
def test_a_rule_without_a_state_of_each_coordinate(state):
    start = () if state == "nothing" else jnp.zeros((), jnp.int32)
    opt = from_rule(
        CoordinateRule(lambda dtype: start, lambda phi, g, h: (-phi["rate"] * jnp.sign(g), h)), rate
    )
    tx = opt.transform(opt.init(jax.random.key(0)))
    u, _ = jax.jit(tx.update)(THETA, tx.init(THETA), THETA)
    chex.assert_trees_all_close(u, jax.tree.map(lambda x: jnp.full(x.shape, -0.1), THETA))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_vmapped_rule_of_sharded_parameters(axis_type):
    opt = from_rule(CoordinateRule(sorted_init, sorted_update), rate)
    tx = opt.transform(opt.init(jax.random.key(0)))
    theta = jnp.arange(24.0).reshape(4, 6) - 10
    want, _ = tx.update(theta, tx.init(theta))
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(theta, NamedSharding(mesh, P("x", "y")))
        got, state = jax.jit(tx.update)(sharded, jax.jit(tx.init)(sharded))
        assert got.sharding.is_equivalent_to(sharded.sharding, 2)
        assert state[1].sharding.is_equivalent_to(NamedSharding(mesh, P(None, "x", "y")), 3)
    np.testing.assert_allclose(jax.device_get(got), want, rtol=1e-5)


def decayed(phi, seen, m):
    """A rule of one coordinate that reads all that there is."""
    m = 0.5 * m + jnp.expand_dims(seen.gradient, 0)
    u = -phi["rate"] * (m[0] + 0.1 * seen.theta) * seen.loss / seen.step.astype(m.dtype)
    return u, m


@pytest.mark.parametrize("broadcasts", [False, True])
def test_a_coordinate_rule_that_reads_more(broadcasts):
    rule = CoordinateRule(
        lambda dtype: jnp.zeros(1, dtype),
        decayed,
        broadcasts=broadcasts,
        reads={"params", "value"},
    )
    opt = from_rule(rule, rate)
    assert opt.reads == {"params", "value"}
    assert hash(opt) == hash(from_rule(rule, rate))
    assert opt == from_rule(rule, rate)
    tx = opt.transform(opt.init(jax.random.key(0)))
    gradients = [normal_like(THETA, seed) for seed in range(3)]
    got, state = updates_of(tx, THETA, gradients, value=jnp.float32(3))
    assert int(state.step) == 3
    m = jax.tree.map(np.zeros_like, THETA)
    for t, g_t in enumerate(gradients):
        m = jax.tree.map(lambda m, g: 0.5 * m + np.asarray(g), m, g_t)
        want = jax.tree.map(
            lambda m, theta, t=t: -0.1 * (m + 0.1 * np.asarray(theta)) * 3 / (t + 1), m, THETA
        )
        chex.assert_trees_all_close(got[t], want, rtol=1e-5)


# Rules of one tensor


def orthogonal(phi, seen, h):
    """A rule that knows the shape: a step along the polar factor of averaged gradients."""
    m = 0.9 * h["m"] + seen.gradient
    if m.ndim < 2:
        return -phi["rate"] * jnp.sign(m), {**h, "m": m}
    left, _, right = jnp.linalg.svd(m.reshape(m.shape[0], -1), full_matrices=False)
    return -phi["rate"] * (left @ right).reshape(m.shape), {**h, "m": m}


def twice_theta(theta):
    none = jnp.zeros(0, theta.dtype)
    return {"m": jnp.zeros_like(theta), "copy": theta, "again": theta, "none": none}


def test_a_tensor_rule_knows_its_shape():
    opt = from_rule(TensorRule(twice_theta, orthogonal), rate)
    assert not opt.coordinatewise
    assert opt.reads == frozenset()
    tx = opt.transform(opt.init(jax.random.key(0)))
    (u, _), _ = updates_of(tx, THETA, [normal_like(THETA, 0), normal_like(THETA, 1)])
    np.testing.assert_allclose(u["w"] @ u["w"].T, 0.01 * np.eye(2), atol=1e-6)
    np.testing.assert_allclose(np.abs(u["b"]), 0.1, rtol=1e-6)


@pytest.mark.parametrize("jitted", [False, True])
def test_no_two_leaves_of_a_tensor_rules_state_share_a_buffer(jitted):
    opt = from_rule(TensorRule(twice_theta, orthogonal), rate)
    tx = opt.transform(opt.init(jax.random.key(0)))
    state = (jax.jit(tx.init) if jitted else tx.init)(THETA)
    leaves = [leaf for leaf in jax.tree.leaves((THETA, state)) if leaf.size]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_tensor_rule_sees_theta_step_and_loss_where_it_reads_them():
    def update(phi, seen, h):
        del phi
        parts = seen.gradient, seen.theta, seen.step, seen.loss
        return sum(jnp.sum(x) for x in parts) + jnp.zeros_like(seen.gradient), h

    opt = from_rule(TensorRule(lambda theta: (), update, {"params", "value"}), lambda key: {})
    tx = opt.transform({})
    (_, u), _ = updates_of(tx, jnp.full(2, 7.0), [jnp.ones(2)] * 2, value=100.0)
    np.testing.assert_array_equal(u, np.full(2, 2 + 14 + 2 + 100))
    state = tx.init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"reads the parameters: call tx\.update"):
        tx.update(jnp.ones(2), state)
    with pytest.raises(ValueError, match=r"reads the loss: call .*value=loss"):
        tx.update(jnp.ones(2), state, jnp.ones(2))


def test_what_a_rule_does_not_declare_it_does_not_see():
    def update(phi, seen, h):
        assert seen.theta is None
        assert seen.loss is None
        return seen.gradient, h

    tx = from_rule(TensorRule(lambda theta: (), update), lambda key: {}).transform({})
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=1.0)


def test_a_state_of_another_tensor_rule():
    tx = from_rule(TensorRule(twice_theta, orthogonal), rate).transform(rate(None))
    state = tx.init(jnp.ones(3))
    for wrong in (None, state.rule, optax.adam(0.1).init(jnp.ones(3)), tx.init(jnp.ones(2))):
        with pytest.raises(ValueError, match=r"not a state of this optimizer .*tx.init\(params\)"):
            tx.update(jnp.ones(3), wrong)
    with pytest.raises(ValueError, match="params lack the leaf"):
        tx.update({"a": jnp.ones(3)}, tx.init({"a": jnp.ones(3)}), {})


def test_the_state_of_a_tensor_rule_has_one_structure():
    rule = TensorRule(lambda theta: [theta] * theta.ndim, orthogonal)
    with pytest.raises(ValueError, match=r"one structure for all parameters: for shape \(2,\)"):
        from_rule(rule, rate).transform(rate(None)).init(jnp.ones(2))


KINDS = {
    "coordinate": (lambda u: CoordinateRule(lambda dtype: jnp.zeros(1, dtype), u)),
    "tensor": (lambda u: TensorRule(lambda theta: jnp.zeros((1, *theta.shape)), u)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda phi, x, h: (h, h), "the rule's update must have the gradient's shape"),
        (lambda phi, x, h: (h[0], h[0]), "the rule's next state must have the"),
    ],
)
def test_rules_that_answer_in_other_shapes(kind, update, message):
    tx = from_rule(KINDS[kind](update), lambda key: {}).transform({})
    with pytest.raises(ValueError, match=message):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda phi, g, h: g, rate), "rule must be a CoordinateRule, a TensorRule or a TreeRule"),
        ((TensorRule(twice_theta, orthogonal), {}), "init must be a function of a random key"),
        ((TensorRule(twice_theta, orthogonal, {"theta"}), rate), "unknown entry of reads 'theta'"),
        ((TensorRule(twice_theta, orthogonal, "params"), rate), "reads must be a set such as"),
        (
            (TensorRule(twice_theta, orthogonal), rate, None, "int8"),
            "unknown state_dtype 'int8'",
        ),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_rule(*arguments)


# What an update reads


def reader(update):
    return learned_opt.from_optax(optax.GradientTransformationExtraArgs(lambda p: (), update))


def checks_dtypes(updates, state, params=None, **extra):
    del extra
    same = jax.tree.map(lambda u, p: u.astype(p.dtype).reshape(p.shape), updates, params)
    return same, state


def hides_theta_in_its_state(updates, state, params=None, **extra):
    del extra, state
    return updates, params


@pytest.mark.parametrize(
    ("opt", "reads"),
    [
        (learned_opt.lstm(), ()),
        (learned_opt.lstm_gac(), ()),
        (learned_opt.small_fc_lopt(), ("params",)),
        (learned_opt.from_optax(optax.adam(0.1)), ()),
        (learned_opt.from_optax(optax.adamw(0.1)), ("params",)),
        (learned_opt.from_optax(optax.lamb(0.1)), ("params",)),
        (learned_opt.from_optax(optax.polyak_sgd()), ("value",)),
        (learned_opt.from_optax(optax.apply_if_finite(optax.sgd(0.1), 3)), ()),
        (
            learned_opt.from_optax(optax.masked(optax.adamw(0.1), {"a": True, "b": False})),
            ("params",),
        ),
        (reader(lambda u, s, p=None, **extra: (jax.tree.map(jnp.add, u, p), s)), ("params",)),
        (reader(checks_dtypes), ("params",)),  # fails without params
        (reader(hides_theta_in_its_state), ("params",)),
        (
            learned_opt.partition(
                {"a": learned_opt.lstm(), "b": learned_opt.small_fc_lopt()}, {"a": "a", "b": "b"}
            ),
            ("params",),
        ),
        (
            learned_opt.partition(
                {"a": learned_opt.lstm(), "b": learned_opt.from_optax(optax.adamw(0.1))}, {"*": "a"}
            ),
            (),
        ),
    ],
)
def test_reads_of(opt, reads):
    theta = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": jnp.ones(())}
    if "params" in reads and opt.reads is None and opt.init(jax.random.key(0)) == {}:
        assert base.reads_of(opt, {"a": theta["b"], "b": theta["a"]}) == set(reads)
    assert base.reads_of(opt, theta) == set(reads)


@pytest.mark.parametrize(
    "opt",
    [
        *COORDINATEWISE.values(),
        learned_opt.lstm_gac(hidden_sizes=(3,), num_averaged=1),
        learned_opt.ntm_bfgs(hidden_sizes=(3,), num_averaged=1),
        learned_opt.ntm_lbfgs(hidden_sizes=(3,), num_averaged=1),
        learned_opt.small_fc_lopt(),
    ],
    ids=lambda opt: opt.spec["name"],
)
def test_what_built_in_optimizers_declare_is_what_tracing_finds(opt):
    theta = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "b": jnp.ones(())}
    assert base.reads_of(opt._replace(reads=None), theta) == opt.reads


def test_an_update_that_needs_still_more():
    opt = learned_opt.from_optax(optax.lbfgs())
    with pytest.raises(ValueError, match="takes more than gradients, parameters and the loss"):
        base.reads_of(opt, jnp.ones(3))


# Equality

BUILT_IN = {
    **learned_opt.optimizers.ARCHITECTURES,
    # It has a size to be built for, and its scale has another name.
    "preconditioned": lambda output_scale=1.0, **settings: learned_opt.preconditioned(
        3, rate=output_scale, **settings
    ),
    "general": lambda output_scale=1.0, **settings: learned_opt.general(
        scale=output_scale, **settings
    ),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_optimizers_with_equal_settings_are_equal(name):
    build = BUILT_IN[name]
    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != build(output_scale=0.3)
    assert build() != build(state_dtype="float64")
    assert len({build(), build(), build(output_scale=0.3)}) == 2


def test_partitions_with_equal_patterns_are_equal():
    def make(patterns, scale=1.0):
        parts = {"a": learned_opt.lstm(output_scale=scale), "b": learned_opt.rnnprop()}
        return learned_opt.partition(parts, patterns)

    opt = make({"*bias": "a", "*": "b"})
    assert opt == make({"*bias": "a", "*": "b"})
    assert hash(opt) == hash(make({"*bias": "a", "*": "b"}))
    assert opt != make({"*": "b", "*bias": "a"})  # the first pattern that matches wins
    assert opt != make({"*bias": "a", "*": "b"}, scale=2.0)
    assert make(lambda theta: "a") != make(lambda theta: "a")


def test_equal_optimizers_share_a_program():
    traces = []

    def update(opt, phi, g):
        traces.append(1)
        tx = opt.transform(phi)
        return tx.update(g, tx.init(g))[0]

    jitted = jax.jit(update, static_argnums=0)
    phi = learned_opt.lstm(hidden_sizes=(3,)).init(jax.random.key(0))
    for _ in range(3):
        jitted(learned_opt.lstm(hidden_sizes=(3,)), phi, jnp.ones(2))
    assert len(traces) == 1


def test_wrapped_functions_are_equal_to_themselves_only():
    tx = optax.sgd(0.1)
    assert learned_opt.from_optax(tx) == learned_opt.from_optax(tx)
    assert learned_opt.from_optax(tx) != learned_opt.from_optax(optax.sgd(0.1))
    assert learned_opt.from_optax(tx) != learned_opt.from_optax(tx, coordinatewise=True)
    assert learned_opt.from_optax(tx).spec is None


def test_what_is_learned_has_a_type_of_its_own():
    learned = learned_opt.lstm()
    wrapped = learned_opt.from_optax(optax.sgd(0.1))

    def is_learned(opt):
        tx = opt.transform(opt.init(jax.random.key(0)))
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        return isinstance(tx, learned_opt.optimizers.LearnedTransformation)

    assert is_learned(learned)
    assert is_learned(learned_opt.partition({"a": learned, "b": wrapped}, {"*": "a"}))
    assert not is_learned(wrapped)
    assert not is_learned(learned_opt.partition({"b": wrapped}, {"*": "b"}))


def test_zeros_of_a_tensor_rule_are_sharded_like_theta():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    theta = jax.device_put(jnp.ones((4, 3)), NamedSharding(mesh, P("x")))
    zeros = jax.jit(lambda theta: tensorwise.zeros(theta, 2))(theta)
    assert zeros.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "x")), 3)
