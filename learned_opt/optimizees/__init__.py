"""Families of functions to be minimized: the problems on which optimizers are learned and measured."""

from learned_opt.optimizees.base import Optimizee
from learned_opt.optimizees.classifier import accuracy, classifier, mlp, mlp_network
from learned_opt.optimizees.quadratic import quadratic

__all__ = ["Optimizee", "accuracy", "classifier", "mlp", "mlp_network", "quadratic"]
