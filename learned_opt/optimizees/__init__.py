"""Families of functions to be minimized: the problems on which optimizers are learned and measured."""

from learned_opt.optimizees.base import Optimizee
from learned_opt.optimizees.classifier import (
    accuracy,
    classifier,
    cnn,
    cnn_network,
    mlp,
    mlp_network,
)
from learned_opt.optimizees.quadratic import quadratic, rotated_quadratic
from learned_opt.optimizees.rosenbrock import rosenbrock
from learned_opt.optimizees.sequence import sine_lstm
from learned_opt.optimizees.wrappers import random_scaling, with_convex

__all__ = [
    "Optimizee",
    "accuracy",
    "classifier",
    "cnn",
    "cnn_network",
    "mlp",
    "mlp_network",
    "quadratic",
    "random_scaling",
    "rosenbrock",
    "rotated_quadratic",
    "sine_lstm",
    "with_convex",
]
