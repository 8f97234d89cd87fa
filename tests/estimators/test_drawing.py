import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.estimators import adjoint, drawing, groups
from learned_opt.optimizees import base as optimizee_base

KEY = jax.random.key(3)


def draw(sizes, coordinates, key=KEY, t=0):
    """Draws from groups of these sizes, one parameter each, of a life with this key at this
    time.
    """
    theta = [jax.ShapeDtypeStruct((1, size), jnp.float32) for size in sizes]
    problems = optimizee_base.Problem((), (), key[None], ())
    lives = adjoint.AdjointLives(
        problems, jnp.int32(t), jnp.int32(9), theta, (), [], theta, jnp.zeros(1)
    )
    all_groups = [groups.Group(None, (), (i,), None, False) for i in range(len(sizes))]
    return drawing.draw(all_groups, lives, coordinates)


@pytest.mark.parametrize(("size", "num"), [(10, 3), (7, 6), (10**6, 65_537), (2**31 - 1, 1000)])
def test_each_coordinate_comes_from_its_stratum_and_stands_for_it(size, num):
    (drawn,) = draw([size], num)
    scale = np.asarray(drawn.scale, np.int64)
    ends = np.cumsum(scale)
    assert len(drawn.index) == num
    assert ends[-1] == size
    assert np.ptp(scale) <= 1
    assert np.all((drawn.index >= ends - scale) & (drawn.index < ends))


def test_each_group_window_and_life_has_a_draw_of_its_own():
    first, second = (np.asarray(d.index) for d in draw([10_000, 10_000], 400))
    np.testing.assert_array_equal(draw([10_000, 10_000], 400)[0].index, first)
    later, of_another_life = draw([10_000], 200, t=20), draw([10_000], 200, key=jax.random.key(4))
    for other in (second, later[0].index, of_another_life[0].index):
        assert np.mean(other == first) < 0.1  # one in fifty by chance


def test_the_draw_does_not_share_its_key_with_a_minibatch():
    """A loss may use its key as it likes: no time t gives it the one that the coordinates are
    drawn with.
    """
    times = jnp.concatenate([jnp.arange(1000), jnp.asarray([2**31 - 1])])
    stream = jax.random.key_data(jax.random.fold_in(KEY, drawing.STREAM))
    keys = jax.random.key_data(jax.vmap(lambda t: optimizee_base.minibatch_key(KEY, t))(times))
    assert not np.any(np.all(np.asarray(keys) == np.asarray(stream), axis=-1))


def test_coordinates_are_shared_out_in_proportion():
    assert drawing.shares([600, 300, 100], 10) == [6, 3, 1]
    assert drawing.shares([500, 0, 3, 500], 100) == [49, 1, 1, 50]


def test_a_group_too_large_for_its_indices():
    with pytest.raises(ValueError, match="drawn from at most 2147483647, got 2147483648"):
        drawing.shares([2**31], 5)
