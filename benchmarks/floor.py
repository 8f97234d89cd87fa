"""What the machine can do, measured beside the programs: the floor under their times.

A program can be no faster than its multiplications at the rate at which the machine multiplies large matrices, and no
faster than its memory traffic at the rate at which the machine copies a large array.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_MATMUL, _COPY = "machine: matmul", "machine: copy"


class Work(NamedTuple):
    """What a program cannot avoid."""

    operations: float  # floating point, a multiplication and an addition counted as two
    bytes: float = 0.0  # read and written


class Machine:
    """Two programs to be timed in turns with the others, and the floor that their times give."""

    def __init__(self, quick):
        side, length = (256, 2**20) if quick else (2_048, 2**26)
        self._matrix, self._vector = jnp.ones((side, side)), jnp.zeros(length)
        self._multiply, self._add = jax.jit(jnp.dot), jax.jit(lambda x: x + 1, donate_argnums=0)
        self._work = {_MATMUL: 2 * side**3, _COPY: 2 * self._vector.nbytes}

    def programs(self):
        """Dict from name to program, for `timing.interleaved`."""
        return {_MATMUL: lambda: self._multiply(self._matrix, self._matrix), _COPY: self._copied}

    def _copied(self):
        # In place: the first touch of fresh memory, which an operating system hands out page by page, is no bandwidth.
        self._vector = self._add(self._vector)
        return self._vector

    def rates(self, times):
        """Medians of `{"operations": a second, "bytes": a second}`."""
        return {
            kind: self._work[name] / float(np.median(times[name]))
            for kind, name in (("operations", _MATMUL), ("bytes", _COPY))
        }

    def over_floor(self, times, name, work):
        """How many times as long as its floor the program `name` took, round by round."""
        floor = np.maximum(
            np.multiply(times[_MATMUL], work.operations / self._work[_MATMUL]),
            np.multiply(times[_COPY], work.bytes / self._work[_COPY]),
        )
        return np.divide(times[name], floor)


def network_operations(phi):
    """Operations of a step of one coordinate: each weight is multiplied and added once."""
    return 2 * sum(x.size for x in jax.tree.leaves(phi))
