"""Learned optimizers for JAX, used like any other optax transformation."""

from learned_opt import data, optimizees
from learned_opt.meta.gradient import meta_gradient
from learned_opt.meta.unrolling import unroll
from learned_opt.optimizers import LearnedOptimizer, from_optax, lstm, partition
