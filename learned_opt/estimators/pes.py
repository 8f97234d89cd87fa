"""Persistent evolution strategies (Vicol, Metz, Sohl-Dickstein 2021, arXiv 2112.13835)."""

import dataclasses

import jax
import jax.numpy as jnp

from learned_opt.estimators.antithetic import Antithetic, PairedLives
from learned_opt.optimizers.base import Phi


@dataclasses.dataclass(frozen=True)
class PES(Antithetic):
    """Persistent evolution strategies: unbiased over whole lives, from short windows.

    In every window each pair has fresh perturbations e, and the difference of its losses is
    credited to the sum of all perturbations of its life so far:

        mean over pairs of (L(phi + e) - L(phi - e)) / (2 sigma^2) * sum of e

    (Vicol, Metz, Sohl-Dickstein 2021, algorithm 2). So what an early step does to a late loss is in
    the estimate, which truncation leaves out. Its variance grows with the number of windows in a
    life. It needs no derivative of anything. The `num_problems` of meta-training is the number of
    pairs.

    Attributes:
      window: see `antithetic.Antithetic`.
      sigma: see there.
      shortest: see there.
      objective: see there.
      clip: see there.
      staggered: see there.
      only: see there.

    Example:
      >>> from learned_opt import estimators
      >>> estimators.PES(window=50, sigma=0.01, shortest=100).objective
      'mean'
    """

    def _perturb(self, lives: PairedLives, fresh: Phi) -> tuple[Phi, Phi]:
        return fresh, jax.tree.map(jnp.add, lives.noise, fresh)
