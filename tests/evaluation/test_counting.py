import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from learned_opt.evaluation import counting


def counted(function, *args):
    return counting.count(jax.jit(function).lower(*args).compile().as_text())


def test_a_product_of_matrices_counts_as_often_as_its_loop_runs():
    a = jnp.ones((3, 4))
    b = jnp.ones((4, 4))
    once = counted(jnp.matmul, a, b)
    assert once.flops == 2 * 3 * 4 * 4

    def steps(a, b):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, length=7)[0]

    several = counted(steps, a, b)
    assert several.flops >= 7 * once.flops
    assert several.flops < 8 * (once.flops + 2 * a.size)


def test_a_loop_that_nobody_knows_counts_once():
    def steps(a, num):
        return jax.lax.fori_loop(0, num, lambda _, x: x @ x, a)

    size = 16
    found = counted(steps, jnp.ones((size, size)), 3)
    assert 2 * size**3 <= found.flops < 2 * size**3 + 100
    text = jax.jit(steps).lower(jnp.ones((size, size)), 3).compile().as_text()
    assert 3 * found.flops <= counting.count(text, (3,)).flops + 20 < 3 * found.flops + 100


def test_collectives_count_with_their_bytes_and_where_they_are():
    mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,))

    def run(x):
        def step(x, _):
            return jax.lax.psum(x, "x") / 4, None

        x = jax.lax.scan(step, x, length=5)[0]
        return jax.lax.all_gather(x, "x", tiled=True)

    mapped = jax.shard_map(run, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False)
    found = counted(mapped, jnp.ones((8, 3)))
    assert found.collectives == {"all-reduce": 5, "all-gather": 1}
    assert found.in_loops == 5
    assert found.bytes == 5 * 4 * (2 * 3) + 4 * (8 * 3)


def test_the_dearer_branch_counts():
    def run(x, is_large):
        return jax.lax.cond(is_large, lambda x: x @ x, lambda x: x, x)

    assert counted(run, jnp.ones((8, 8)), True).flops >= 2 * 8**3


def test_a_convolution_counts_what_it_multiplies():
    image, kernel = jnp.ones((1, 2, 8, 8)), jnp.ones((5, 2, 3, 3))

    def run(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "VALID")

    least = 2 * 5 * 6 * 6 * 2 * 3 * 3
    assert least <= counted(run, image, kernel).flops < 1.1 * least


def test_what_is_no_program_is_told():
    with pytest.raises(ValueError, match="must be a compiled program in HLO"):
        counting.count("hello")
