"""Estimators of the meta-gradient: values, each of which owns its options.

The next one is a file beside these, with a frozen dataclass that has the methods of
`base.Estimator`.
"""

from learned_opt.estimators.adjoint import Adjoint
from learned_opt.estimators.autodiff import Autodiff
from learned_opt.estimators.base import Estimate, Estimator
from learned_opt.estimators.imitate import Imitate
from learned_opt.estimators.meta_loss import MetaLoss
from learned_opt.estimators.mixture import Mixture
from learned_opt.estimators.nres import NRES
from learned_opt.estimators.pes import PES
from learned_opt.estimators.sharded import Sharded

__all__ = [
    "NRES",
    "PES",
    "Adjoint",
    "Autodiff",
    "Estimate",
    "Estimator",
    "Imitate",
    "MetaLoss",
    "Mixture",
    "Sharded",
]
