"""What the machine can do, measured beside the programs: the floor under their times.

A program can be no faster than its multiplications at the rate at which the machine multiplies
large matrices. It can be no faster than its memory traffic at the rate at which the machine copies
a large array.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.optimizers.base import Phi

_MATMUL, _COPY = "machine: matmul", "machine: copy"

Times = dict[str, list[float]]


class Work(NamedTuple):
    """What a program cannot avoid.

    Attributes:
      operations: in floating point; a multiplication and an addition count as two.
      bytes: read and written.
    """

    operations: float
    bytes: float = 0.0


class Machine:
    """Two programs to be timed in turns with the others, and the floor that their times give."""

    def __init__(self, quick: bool) -> None:
        side, length = (256, 2**20) if quick else (2_048, 2**26)
        self._matrix = jnp.ones((side, side))
        self._vector = jnp.zeros(length)
        self._multiply = jax.jit(jnp.dot)
        self._add = jax.jit(_plus_one, donate_argnums=0)
        self._work = {_MATMUL: 2 * side**3, _COPY: 2 * self._vector.nbytes}

    def programs(self) -> dict[str, Callable[[], jax.Array]]:
        """Dict from name to program, for `timing.interleaved`."""
        return {_MATMUL: self._multiplied, _COPY: self._copied}

    def _multiplied(self) -> jax.Array:
        return self._multiply(self._matrix, self._matrix)

    def _copied(self) -> jax.Array:
        # In place. An operating system hands out fresh memory page by page: that is no bandwidth.
        self._vector = self._add(self._vector)
        return self._vector

    def rates(self, times: Times) -> dict[str, float]:
        """Medians of `{"operations": a second, "bytes": a second}`."""
        return {"operations": self._rate(times, _MATMUL), "bytes": self._rate(times, _COPY)}

    def _rate(self, times: Times, name: str) -> float:
        return self._work[name] / float(np.median(times[name]))

    def over_floor(
        self,
        times: Times,
        name: str,
        work: Work,
    ) -> np.ndarray:
        """How many times as long as its floor the program `name` took, in each round."""
        multiplying = np.multiply(times[_MATMUL], work.operations / self._work[_MATMUL])
        copying = np.multiply(times[_COPY], work.bytes / self._work[_COPY])
        return np.divide(times[name], np.maximum(multiplying, copying))


def network_operations(phi: Phi) -> int:
    """Operations of a step of one coordinate: each weight is multiplied and added once."""
    return 2 * sum(x.size for x in jax.tree.leaves(phi))


def _plus_one(x: jax.Array) -> jax.Array:
    return x + 1
