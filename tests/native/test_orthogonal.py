"""The C++ loops that orthogonalise small matrices, with every instruction set of this machine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import native
from learned_opt.optimizers import orthogonal

built = pytest.mark.skipif(
    not native.available(), reason="the C++ loops were not built: there was no compiler"
)


def make_matrix(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_orthogonalised(x):
    """The iteration on singular values alone, in float64."""
    u, values, v = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    norm = np.linalg.norm(values)
    values = values / max(norm, np.finfo(float).tiny)
    a, b, c = orthogonal.COEFFICIENTS
    for _ in range(orthogonal.NUM_STEPS):
        values = a * values + b * values**3 + c * values**5
    return (u * values) @ v


def fast(x, split=1):
    sides = orthogonal.sides_of(x.shape, split)
    num_whole = orthogonal._num_whole_steps(sides, orthogonal.NUM_STEPS)
    return native.orthogonalised(x, sides, num_whole, orthogonal.NUM_STEPS, orthogonal.COEFFICIENTS)


def calls_native(f, x):
    return native._ORTHOGONAL in jax.jit(lambda x: f(x)).lower(x).as_text()


@built
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (9, 8), (24, 10), (10, 24), (17, 33), (64, 64), (130, 40), (3, 300)]
)
def test_equals_the_iteration_on_singular_values(lanes, shape):
    x = make_matrix(*shape)
    want = numpy_orthogonalised(x)
    for scale in (1.0, 1e-20, 1e20):
        got = fast(np.float32(scale) * x)
        assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want), scale


@pytest.mark.parametrize("run", [pytest.param(fast, marks=built), orthogonal.plain_orthogonalised])
@pytest.mark.parametrize("shape", [(40, 40), (24, 100), (300, 3)])
def test_keeps_digits_of_small_singular_values(run, shape):
    """Long matrices are left out of the last steps: what is small has grown by then."""
    u, values, v = np.linalg.svd(make_matrix(*shape), full_matrices=False)
    values = np.geomspace(1, 1e-4, len(values))
    x = np.asarray((u * values) @ v, np.float32)
    want = numpy_orthogonalised(x)
    assert np.linalg.norm(run(x) - want) < 5e-5 * np.linalg.norm(want)


@built
def test_zeros_and_what_is_not_finite(lanes):
    assert not np.any(fast(np.zeros((5, 20), np.float32)))
    for bad in (np.nan, np.inf):
        x = make_matrix(5, 20)
        x[2, 3] = bad
        assert np.all(np.isnan(fast(x)))


@built
def test_a_batch_is_one_call_and_each_gets_the_same_bits():
    x = make_matrix(3, 11, 2, 5, 4)  # kernels whose last axis are the columns
    batched = jax.jit(jax.vmap(jax.vmap(lambda x: fast(x, 2))))
    assert batched.lower(x).as_text().count(native._ORTHOGONAL) == 1
    got = batched(x)
    for index in np.ndindex(3, 11):
        np.testing.assert_array_equal(got[index], fast(x[index], 2))


@built
def test_a_call_with_other_arguments_is_an_error_of_jax():
    result = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    call = jax.ffi.ffi_call(native._ORTHOGONAL, result)
    one = np.float32(1)
    for rows, columns in [(0, 4), (4, 3), (5, 4)]:
        sizes = {"rows": np.int64(rows), "columns": np.int64(columns)}
        sizes |= {"whole_steps": np.int64(1), "steps": np.int64(1)}
        with pytest.raises(jax.errors.JaxRuntimeError, match="other arguments than the library's"):
            jax.block_until_ready(call(jnp.ones((4, 4)), a=one, b=one, c=one, **sizes))


@pytest.mark.usefixtures("native_loops")
def test_who_gets_the_loops():
    """Small matrices of float32: XLA shares large ones between cores."""
    assert calls_native(orthogonal.orthogonalised, jnp.ones((64, 24)))
    assert calls_native(functools.partial(orthogonal.orthogonalised, split=2), jnp.ones((3, 3, 8)))
    for other in [jnp.ones((65, 65)), jnp.ones((2, 2**14))]:
        assert not calls_native(orthogonal.orthogonalised, other)
    assert not calls_native(orthogonal.orthogonalised, jnp.ones((4, 4), jnp.bfloat16))
    with native.xla_loops():
        assert not calls_native(orthogonal.orthogonalised, jnp.ones((4, 4)))


@pytest.mark.usefixtures("native_loops")
def test_derivatives_of_any_order_are_those_of_plain_jax():
    x, tangent = make_matrix(3, 4), make_matrix(3, 4, seed=1)

    def derivatives(f):
        def loss(x):
            return jnp.sum(jnp.sin(f(x, num_steps=2)))

        return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (tangent,)))(x)

    got = derivatives(orthogonal.orthogonalised)
    want = derivatives(orthogonal.plain_orthogonalised)
    for g, w in zip(got, want, strict=True):
        assert np.linalg.norm(g - w) < 1e-5 * np.linalg.norm(w)
        assert np.linalg.norm(w) > 0
