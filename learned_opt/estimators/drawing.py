"""An estimate from fewer coordinates: which coordinates of an optimizee stand for all of them.

The adjoint method's meta-gradient is a sum over coordinates. The coordinates of a group are cut
into strata, runs of neighbours of nearly equal size. One coordinate of each is drawn uniformly, and
counts as often as its stratum has coordinates. The mean over all draws is the sum itself, exactly.
As every part of every parameter has its strata, the estimate scatters less than one from
coordinates drawn anywhere.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.estimators import groups as groups_lib
from learned_opt.estimators.groups import Group

# Folded into a problem's key beside the times t = 0, 1, .. that draw its minibatches: no time is so
# late.
STREAM = np.uint32(2**32 - 1)
MAX_SIZE = 2**31 - 1


class Drawn(NamedTuple):
    """The coordinates of a group that its meta-gradient is computed from.

    Attributes:
      index: their positions in the group's vector, `[N]`, ascending; None for all of them.
      scale: how many coordinates each of them stands for, `[N]`; None where all are there.
    """

    index: jax.Array | None = None  # type: ignore[assignment]
    scale: jax.Array | None = None

    def take(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """The drawn ones of `x`, whose `axis` follows the group's coordinates."""
        if self.index is None:
            return x
        return jnp.take(
            x, self.index, axis, mode="clip", unique_indices=True, indices_are_sorted=True
        )


def draw(
    groups: list[Group],
    lives: Any,
    coordinates: int | None,
) -> list[Drawn]:
    """Draws for one window.

    Args:
      groups: the groups of parameters.
      lives: the lives at the start of the window. The key of the first problem and the time decide
        the draw.
      coordinates: how many in all, shared out by `shares`; None for all.

    Returns:
      One `Drawn` a group. Groups that are no vectors are always whole.
    """
    if coordinates is None:
        return [Drawn()] * len(groups)
    sizes = groups_lib.sizes(groups, lives.theta)
    key = jax.random.fold_in(jax.random.fold_in(lives.problems.key[0], STREAM), lives.t)
    drawn = []
    for i, share in enumerate(shares(sizes, coordinates)):
        drawn.append(_draw(jax.random.fold_in(key, i), sizes[i], share))
    return drawn


def shares(sizes: list[int], coordinates: int) -> list[int]:
    """How many coordinates each group contributes: in proportion to its size, and at least one.

    Raises:
      ValueError: if all sizes are 0, or one is beyond what 32 bits can index.
    """
    total = sum(sizes)
    if not total:
        raise ValueError(
            f"coordinates={coordinates} needs an optimizer that is coordinatewise, or has a part "
            "that is: leave it out."
        )
    if max(sizes) > MAX_SIZE:
        raise ValueError(
            f"coordinates={coordinates} are drawn from at most {MAX_SIZE}, got {max(sizes)}: leave "
            "it out, or lower num_problems."
        )
    ends = [coordinates * end // total for end in itertools.accumulate(sizes, initial=0)]
    return [max(1, end - start) for start, end in itertools.pairwise(ends)]


def _draw(
    key: jax.Array,
    size: int,
    num: int,
) -> Drawn:
    """One coordinate of each of `num` strata of `size` coordinates."""
    if num >= size:
        return Drawn()
    # On the device the product could overflow.
    bounds = np.arange(num + 1, dtype=np.int64) * size // num
    low, high = bounds[:-1].astype(np.int32), bounds[1:].astype(np.int32)
    index = jax.random.randint(key, (num,), low, high, jnp.int32)
    return Drawn(index, jnp.asarray(np.diff(bounds), jnp.float32))
