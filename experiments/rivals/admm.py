"""ADMM for the LASSO: with tuned numbers, and with others in each iteration that are learned."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rivals.base import Unrolled
from experiments.rivals.methods import Solver, in_blocks
from learned_opt.optimizees.sparse import soft_threshold

BLOCK = 512  # codes of as many signals are in the processor's cache together


class Numbers(NamedTuple):
    """What an iteration has for itself; `[iterations]` where they are those of all.

    Attributes:
      log_rho: the logarithm of rho, what it costs that both copies of the codes differ.
      relaxation: 1 for the plain method, above 1 for over-relaxation.
      log_threshold: the logarithm of the threshold, in units of penalty / rho.
      dual: the share of the dual in what is multiplied, 1 in the plain method.
      dual_after: its share in what is thresholded, 1 in the plain method.
    """

    log_rho: jax.Array
    relaxation: jax.Array
    log_threshold: jax.Array
    dual: jax.Array
    dual_after: jax.Array


def plain(
    iterations: int,
    columns: np.ndarray,
    penalty: float,
    rho: float,
    relaxation: float,
) -> Solver:
    """ADMM with the same numbers in all iterations.

    Args:
      iterations: how many.
      columns: the dictionary, float64.
      penalty: the weight of the l1 norm.
      rho: what it costs that both copies of the codes differ.
      relaxation: above 1 for over-relaxation.

    Source:
      Boyd et al. 2011, Distributed optimization and statistical learning, sections 3.4.3 and 6.4.
    """
    gram = columns.T @ columns
    inverse = np.linalg.inv(gram + rho * np.eye(len(gram)))
    # x = (D^T y + rho (z - u)) inverse, times the relaxation.
    for_signals = jnp.asarray(relaxation * columns @ inverse, jnp.float32)
    for_codes = jnp.asarray(relaxation * rho * inverse, jnp.float32)

    def solve(signals: jax.Array) -> jax.Array:
        shift = signals @ for_signals

        def iterate(_: jax.Array, state: tuple) -> tuple:
            codes, dual = state
            relaxed = (codes - dual) @ for_codes + shift + (1 - relaxation) * codes
            moved = relaxed + dual
            new = soft_threshold(moved, penalty / rho)
            return new, moved - new

        # Codes and duals are zero in the first iteration.
        first = soft_threshold(shift, penalty / rho)
        return jax.lax.fori_loop(1, iterations, iterate, (first, shift - first))[0]

    return in_blocks(solve, BLOCK)


def unrolled(
    columns: np.ndarray,
    penalty: float,
    iterations: int,
) -> Unrolled:
    """A few iterations of ADMM, each with an inverse matrix of its own.

    Args:
      columns: the dictionary, float64.
      penalty: the weight of the l1 norm.
      iterations: how many.
    """
    gram = columns.T @ columns
    # Inverse matrices of all rho have the same eigenvectors: learning need not invert.
    spectrum = tuple(jnp.asarray(x, jnp.float32) for x in np.linalg.eigh(gram))
    dictionary = jnp.asarray(columns, jnp.float32)

    def method(numbers: Numbers, signal: jax.Array) -> jax.Array:
        products = [functools.partial(_by_spectrum, *spectrum, now) for now in _each(numbers)]
        correlations = signal @ dictionary
        return _iterate(numbers, products, penalty, correlations, products[0](correlations))

    def solve(numbers: Numbers) -> Solver:
        rhos = np.exp(np.asarray(numbers.log_rho, np.float64))
        inverses = [np.linalg.inv(gram + rho * np.eye(len(gram))) for rho in rhos]
        products = [functools.partial(_times, jnp.asarray(x, jnp.float32)) for x in inverses]
        for_first = jnp.asarray(columns @ inverses[0], jnp.float32)

        def of_block(signals: jax.Array) -> jax.Array:
            first = signals @ for_first
            return _iterate(numbers, products, penalty, signals @ dictionary, first)

        return in_blocks(of_block, BLOCK)

    return Unrolled("ADMM", iterations, functools.partial(_begin, iterations), method, solve)


def _begin(iterations: int, key: jax.Array) -> Numbers:
    """Near what tuning finds for the plain method."""
    del key
    ones = jnp.ones(iterations)
    return Numbers(jnp.log(0.4) * ones, 1.7 * ones, 0 * ones, ones, ones)


def _each(numbers: Numbers) -> list[Numbers]:
    return [Numbers(*now) for now in zip(*numbers, strict=True)]


def _by_spectrum(
    eigenvalues: jax.Array,
    vectors: jax.Array,
    now: Numbers,
    x: jax.Array,
) -> jax.Array:
    """x (D^T D + rho)^-1."""
    return (x @ vectors / (eigenvalues + jnp.exp(now.log_rho))) @ vectors.T


def _times(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return x @ matrix


def _iterate(
    numbers: Numbers,
    products: list[Solver],
    penalty: float,
    correlations: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """The codes of one signal, or of several on the first axis.

    Args:
      numbers: of all iterations.
      products: of each, from x to x (D^T D + rho)^-1.
      penalty: the weight of the l1 norm.
      correlations: D^T y.
      first: the first product, of D^T y: codes and dual are zero there.
    """
    codes = dual = jnp.zeros_like(correlations)
    for k, now in enumerate(_each(numbers)):
        rho = jnp.exp(now.log_rho)
        ahead = correlations + rho * (codes - now.dual * dual)
        found = products[k](ahead) if k else first
        relaxed = now.relaxation * found + (1 - now.relaxation) * codes
        moved = relaxed + now.dual_after * dual
        codes = soft_threshold(moved, penalty / rho * jnp.exp(now.log_threshold))
        dual = moved - codes
    return codes
