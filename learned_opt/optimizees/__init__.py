"""Families of problems on which optimizers learn and are measured."""

from learned_opt.optimizees.base import Optimizee
from learned_opt.optimizees.classifier import classifier
from learned_opt.optimizees.constraints import bounded, proximal
from learned_opt.optimizees.control import pendulum
from learned_opt.optimizees.curves import biexponential
from learned_opt.optimizees.feature_files import read_features
from learned_opt.optimizees.feature_networks import random_features
from learned_opt.optimizees.image_networks import (
    NetworkFamily,
    cnn,
    cnn_network,
    mlp,
    mlp_network,
    network_family,
    normalized_cnn,
    normalized_cnn_network,
)
from learned_opt.optimizees.measures import accuracy, mean_loss
from learned_opt.optimizees.quadratic import quadratic, rotated_quadratic
from learned_opt.optimizees.rosenbrock import rosenbrock
from learned_opt.optimizees.sequence import sine_lstm
from learned_opt.optimizees.sparse import lasso
from learned_opt.optimizees.starts import begin_start, with_start
from learned_opt.optimizees.style_transfer import neural_art
from learned_opt.optimizees.users import personal_classifiers
from learned_opt.optimizees.wrappers import random_scaling, random_start, with_convex

__all__ = [
    "NetworkFamily",
    "Optimizee",
    "accuracy",
    "begin_start",
    "biexponential",
    "bounded",
    "classifier",
    "cnn",
    "cnn_network",
    "lasso",
    "mean_loss",
    "mlp",
    "mlp_network",
    "network_family",
    "neural_art",
    "normalized_cnn",
    "normalized_cnn_network",
    "pendulum",
    "personal_classifiers",
    "proximal",
    "quadratic",
    "random_features",
    "random_scaling",
    "random_start",
    "read_features",
    "rosenbrock",
    "rotated_quadratic",
    "sine_lstm",
    "with_convex",
    "with_start",
]
