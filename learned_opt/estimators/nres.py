"""Noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180)."""

import dataclasses
import functools

import jax

from learned_opt.estimators import base
from learned_opt.estimators.antithetic import Antithetic, PairedLives
from learned_opt.optimizers.base import Phi


@dataclasses.dataclass(frozen=True)
class NRES(Antithetic):
    """Noise-reuse evolution strategies: PES with one perturbation for a whole life.

    A pair keeps its perturbation e from the beginning of its life to the end:

        mean over pairs of (L(phi + e) - L(phi - e)) / (2 sigma^2) * e

    (Li et al. 2023, algorithm 1). It is unbiased like `PES`, and where losses change smoothly with
    phi its variance is smaller. It needs no derivative of anything. `num_problems` of meta-training
    is the number of pairs.

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
      >>> estimators.NRES(window=50, sigma=0.01, shortest=None).shortest is None
      True
    """

    def _perturb(self, lives: PairedLives, fresh: Phi) -> tuple[Phi, Phi]:
        begins = lives.t == 0

        kept = jax.tree.map(functools.partial(base.chosen, begins), fresh, lives.noise)
        return kept, kept
