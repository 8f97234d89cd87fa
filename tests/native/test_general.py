"""The C++ loops of `general` against plain JAX, with every instruction set of this machine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import native
from learned_opt.optimizers import general_rule

built = pytest.mark.skipif(
    not native.available(), reason="the C++ loops were not built: there was no compiler"
)


def make_arguments(*shape, num_tensors=1, sizes=(8, 8), lead=(), seed=0):
    """`(common, tensors)` in which nothing is zero, with axes `lead` before everything."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)

    layers = []
    num_inputs = general_rule.NUM_FEATURES + general_rule.NUM_CONTEXT
    for units in (*sizes, 1) if sizes else ():
        layers.append({"w": 0.4 * normal(units, num_inputs), "b": 0.4 * normal(units)})
        num_inputs = units
    kept = jnp.abs(0.1 * normal(4)) + 0.01
    common = general_rule.Common(layers, kept, 1 - (1 - kept) ** 3, normal(6))
    tensors = []
    for _ in range(num_tensors):
        momentum, second_moment = normal(3, *shape), jnp.abs(normal(*shape))
        tensors.append(
            general_rule.Tensor(
                normal(*shape),
                normal(*shape),
                jnp.abs(normal()),
                momentum,
                second_moment,
                from_zero=jnp.zeros(lead),
            )
        )
    return common, tensors


def fast(adaptive, common, tensors):
    """The C++ loops, without the choice of a platform."""
    shape = tensors[0].gradient.shape[common.kept.ndim - 1 :]
    matrix = general_rule._matrix_of(shape)
    call = functools.partial(native.general_proposals, matrix, adaptive)
    for _ in range(common.kept.ndim - 1):
        call = jax.vmap(call)
    return call(common, tensors)


@functools.partial(jax.jit, static_argnums=0)
def plain(adaptive, common, tensors):
    call = functools.partial(general_rule.plain_proposals, adaptive)
    for _ in range(common.kept.ndim - 1):
        call = jax.vmap(call)
    return call(common, tensors)


def assert_near(got, want, tolerance=2e-6):
    """Each leaf is equal up to the rounding of float32, in norm, and not finite where it is not.

    Numbers that are much less than one are sums of larger ones.
    """
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        finite = np.isfinite(w)
        np.testing.assert_array_equal(np.where(finite, 0.0, g), np.where(finite, 0.0, w))
        size = max(np.linalg.norm(w[finite]), 0.1)
        assert np.linalg.norm(g[finite] - w[finite]) <= tolerance * size


def calls_native(f, *args):
    return native._GENERAL in jax.jit(lambda *args: f(*args)).lower(*args).as_text()


# The numbers


@built
@pytest.mark.parametrize(
    ("shape", "adaptive", "num_tensors", "sizes"),
    [
        ((), True, 2, (8, 8)),
        ((70,), True, 3, (5,)),
        ((40_000,), True, 1, (8, 8)),
        ((1, 5), False, 1, (1,)),
        ((24, 10), False, 40, (8, 8)),
        ((300, 130), False, 1, (33, 3, 7)),
        ((3, 3, 4, 8), False, 2, ()),
        ((4, 3, 6), True, 1, (8, 8)),
        ((5, 3_000), True, 1, (4,)),
    ],
)
def test_proposals(lanes, shape, adaptive, num_tensors, sizes):
    arguments = make_arguments(*shape, num_tensors=num_tensors, sizes=sizes)
    assert_near(fast(adaptive, *arguments), plain(adaptive, *arguments))


@built
def test_a_batch_of_weights_and_tensors(lanes):
    arguments = make_arguments(24, 10, num_tensors=2, lead=(2, 3))
    assert_near(fast(False, *arguments), plain(False, *arguments))


@built
def test_zeros_and_what_is_not_finite(lanes):
    common, (tensor,) = make_arguments(6, 20)
    zeros = jax.tree.map(jnp.zeros_like, tensor)
    # Gradients that were of size one and are zero since long.
    still = zeros._replace(momentum=tensor.momentum * jnp.array([1e-9, 1e-30, 1])[:, None, None])
    others = [zeros, still]
    for bad in (np.nan, np.inf):
        others.append(tensor._replace(gradient=tensor.gradient.at[2, 17].set(bad)))
        others.append(tensor._replace(theta=tensor.theta.at[2, 17].set(-bad)))
    for other in others:
        assert_near(fast(False, common, [other]), plain(False, common, [other]))


@built
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_other_units_change_nothing(lanes, scale):
    """The features are relative, so nothing comes near the limits of float32."""
    common, (tensor,) = make_arguments(30, 40)
    scaled = tensor._replace(
        gradient=scale * tensor.gradient,
        momentum=scale * tensor.momentum,
        second_moment=scale * scale * tensor.second_moment,
    )
    want = fast(False, common, [tensor])
    assert_near(fast(False, common, [scaled])[:2], want[:2], 1e-5)


@built
def test_the_same_bits_for_a_tensor_alone_and_among_others(lanes):
    """One large tensor is shared by all threads; of many, each is the work of one."""
    common, (tensor,) = make_arguments(200, 300)
    us, signals, averages = fast(False, common, [tensor] * 80)
    want = fast(False, common, [tensor])
    got = us[79:], signals[79:], averages[79:]
    jax.tree.map(np.testing.assert_array_equal, got, want)


@built
def test_no_argument_changes():
    """Though the averages are updated in place where the caller no longer needs them."""
    arguments = make_arguments(24, 10)
    before = jax.tree.map(np.array, arguments)
    fast(False, *arguments)
    jax.tree.map(np.testing.assert_array_equal, arguments, before)


@built
def test_a_call_with_other_arguments_is_an_error_of_jax():
    x = jnp.ones(8)
    result = jax.ShapeDtypeStruct((8,), jnp.float32)
    zero = np.int64(0)
    sizes = {"rows": zero, "columns": zero, "adaptive": zero}
    for number, num_arguments in [(0, 3), (1, 3), (1, 8), (1, 9), (1, 10)]:
        call = jax.ffi.ffi_call(native._GENERAL, [result] * (2 + 2 * number))
        given = [x] * num_arguments
        with pytest.raises(jax.errors.JaxRuntimeError, match="other arguments than the library's"):
            jax.block_until_ready(call(*given, tensors=np.int64(number), **sizes))


# Who gets them


@pytest.mark.usefixtures("native_loops")
def test_who_gets_the_loops():
    proposals = functools.partial(general_rule.proposals, True)
    common, tensors = make_arguments(7)
    assert calls_native(proposals, common, tensors)
    with native.xla_loops():
        assert not calls_native(proposals, common, tensors)
    assert not calls_native(proposals, *make_arguments(0))
    assert not calls_native(proposals, *make_arguments(7, sizes=(65,)))
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tensors)
    assert not calls_native(proposals, common, halves)


@pytest.mark.usefixtures("native_loops")
def test_vmap_is_one_call_whatever_is_batched():
    common, tensors = make_arguments(6, 5, num_tensors=2, lead=(3,))
    one = jax.tree.map(lambda x: x[0], (common, tensors))
    proposals = functools.partial(general_rule.proposals, False)
    for axes in [(0, 0), (None, 0)]:
        arguments = [
            whole if axis == 0 else single
            for axis, whole, single in zip(axes, (common, tensors), one, strict=True)
        ]
        batched = jax.vmap(proposals, axes)
        assert calls_native(batched, *arguments)
        plain_proposals = functools.partial(general_rule.plain_proposals, False)
        want = jax.jit(jax.vmap(plain_proposals, axes))(*arguments)
        assert_near(jax.jit(batched)(*arguments), want)


# Derivatives


@pytest.mark.usefixtures("native_loops")
@pytest.mark.thorough
def test_derivatives_of_any_order_are_those_of_plain_jax():
    arguments = make_arguments(3, 4, sizes=(4,))
    tangents = make_arguments(3, 4, sizes=(4,), seed=1)

    def derivatives(proposals):
        def loss(*arguments):
            us, signals, averages = proposals(False, *arguments)
            leaves = jax.tree.leaves((us, signals, averages))
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

        gradient = jax.grad(loss, argnums=(0, 1))
        return jax.jit(lambda *args: jax.jvp(gradient, args, tangents))(*arguments)

    want = derivatives(general_rule.plain_proposals)
    assert_near(derivatives(general_rule.proposals), want, 2e-5)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(want[0][0].layers))


@pytest.mark.usefixtures("native_loops")
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_derivatives_are_numbers_where_there_are_zeros(shape):
    """A vector has no factored second moment, and a tensor may have no gradient yet."""
    common, tensors = make_arguments(*shape, num_tensors=2, sizes=(4,))
    tensors[1] = jax.tree.map(jnp.zeros_like, tensors[1])

    def loss(*arguments):
        us, signals, _ = general_rule.proposals(True, *arguments)
        return jnp.sum(jnp.sin(us)) + jnp.sum(jnp.sin(signals))

    found = jax.jit(jax.grad(loss, argnums=(0, 1)))(common, tensors)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("native_loops")
def test_a_step_of_the_optimizer_and_its_derivative():
    """Of vectors and matrices, alike ones among them; not orthogonalised, which no loop does."""
    opt = learned_opt.general(
        num_steps=10, hidden_sizes=(4,), controller_sizes=(3,), embedding=lambda path: True
    )
    theta = {
        "a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4),
        "b": jnp.cos(jnp.arange(12.0)).reshape(3, 4),
        "c": jnp.ones(3),
    }
    phi = jax.tree.map(lambda x: x + 0.1, opt.init(jax.random.key(0)))

    def loss(phi):
        tx = opt.transform(phi)
        updates, _ = tx.update(jax.tree.map(jnp.sin, theta), tx.init(theta), theta)
        moved = jax.tree.map(jnp.add, theta, updates)
        return sum(jnp.sum(jnp.square(x)) for x in moved.values())

    def value_and_grad():
        return jax.jit(jax.value_and_grad(loss))(phi)

    got = value_and_grad()
    with native.xla_loops():
        want = value_and_grad()
    assert_near(got, want, 1e-5)
    assert np.any(want[1]["network"][0]["w"] != 0)
