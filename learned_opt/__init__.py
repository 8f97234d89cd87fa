"""Learned optimizers for JAX, used like any other optax transformation."""

from learned_opt import data, devices, estimators, optimizees
from learned_opt.estimators import MetaLoss
from learned_opt.evaluation.comparison import compare
from learned_opt.meta.curvature import with_mean_curvature
from learned_opt.meta.evaluating import evaluate
from learned_opt.meta.gradient import meta_gradient
from learned_opt.meta.methods import learn_method
from learned_opt.meta.optimizer import ClippedAdam
from learned_opt.meta.progress import Progress
from learned_opt.meta.settings import Curriculum, RandomSearch, Validation
from learned_opt.meta.signals import Interrupted
from learned_opt.meta.solving import Solution, solver
from learned_opt.meta.starts import learn_start
from learned_opt.meta.training import MetaTrainingError, meta_train, meta_train_seeds
from learned_opt.meta.unrolling import unroll
from learned_opt.meta.watching import Watched, watch
from learned_opt.native import xla_loops
from learned_opt.optimizees import Optimizee
from learned_opt.optimizers import (
    CoordinateRule,
    LearnedOptimizer,
    TensorRule,
    from_optax,
    from_rule,
    general,
    lstm,
    lstm_gac,
    ntm_bfgs,
    ntm_lbfgs,
    partition,
    preconditioned,
    rnnprop,
    safeguard,
    small_fc_lopt,
)
from learned_opt.saving import load, save
from learned_opt.start_files import load_start, save_start
from learned_opt.weights import PRETRAINED, load_pretrained, pretrained, pretrained_card

__version__ = "0.1.0"

__all__ = [
    "PRETRAINED",
    "ClippedAdam",
    "CoordinateRule",
    "Curriculum",
    "Interrupted",
    "LearnedOptimizer",
    "MetaLoss",
    "MetaTrainingError",
    "Optimizee",
    "Progress",
    "RandomSearch",
    "Solution",
    "TensorRule",
    "Validation",
    "Watched",
    "compare",
    "data",
    "devices",
    "estimators",
    "evaluate",
    "from_optax",
    "from_rule",
    "general",
    "learn_method",
    "learn_start",
    "load",
    "load_pretrained",
    "load_start",
    "lstm",
    "lstm_gac",
    "meta_gradient",
    "meta_train",
    "meta_train_seeds",
    "ntm_bfgs",
    "ntm_lbfgs",
    "optimizees",
    "partition",
    "preconditioned",
    "pretrained",
    "pretrained_card",
    "rnnprop",
    "safeguard",
    "save",
    "save_start",
    "small_fc_lopt",
    "solver",
    "unroll",
    "watch",
    "with_mean_curvature",
    "xla_loops",
]
