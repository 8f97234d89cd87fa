"""Sparse coding, and the methods for the LASSO."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rivals import admm
from experiments.rivals.base import Rival, Task
from experiments.rivals.methods import Solver, in_blocks
from learned_opt import _checks
from learned_opt.optimizees import sparse
from learned_opt.optimizees.sparse import soft_threshold

# How many iterations of ADMM have numbers of their own, which are learned.
UNROLLED = 8
# How many signals a method's numbers are tuned on, and which.
NUM_TUNING, TUNING_SEED = 256, 1_000_000
WHY = (
    "At 0.1 % above the minimum, codes are a tenth or less as far from the exact solution as that "
    "is from the code behind the signal (-36 dB of it), and their error in that code is the exact "
    "solution's to 1 %."
)


def task(
    num_rows: int = 100,
    num_columns: int = 200,
    penalty: float = 0.1,
    seed: int = 0,
) -> Task:
    """Sparse coding, see `learned_opt.optimizees.sparse.lasso`.

    Args:
      num_rows, num_columns, penalty, seed: see `lasso`.

    Returns:
      A `Task`.
    """
    family = sparse.lasso(num_rows, num_columns, penalty, seed=seed)
    columns = sparse.dictionary(num_rows, num_columns, seed)
    return Task(
        family=family,
        fresh=family,
        objective=functools.partial(_objective, columns, penalty),
        reference=functools.partial(_reference, columns, penalty),
        rivals=_rivals(family, columns, penalty),
        tolerance=1e-3,
        scale=lambda reference: reference,
        why=WHY,
        unrolled=admm.unrolled(columns, penalty, UNROLLED),
    )


def _objective(
    columns: np.ndarray,
    penalty: float,
    codes: np.ndarray,
    signals: np.ndarray,
) -> np.ndarray:
    codes = np.asarray(codes, np.float64)
    residuals = codes @ columns.T - np.asarray(signals, np.float64)
    return np.sum(residuals**2, axis=1) / 2 + penalty * np.sum(np.abs(codes), axis=1)


def _reference(
    columns: np.ndarray,
    penalty: float,
    signals: np.ndarray,
) -> np.ndarray:
    codes = solutions(columns, penalty, signals)
    return _objective(columns, penalty, codes, signals)


def solutions(
    columns: np.ndarray,
    penalty: float,
    signals: np.ndarray,
    accuracy: float = 1e-10,
) -> np.ndarray:
    """Codes `[signals, num_columns]` whose duality gap is at most `accuracy` of the objective.

    They come from FISTA with restarts in float64.

    Args:
      columns: the dictionary, float64.
      penalty: the weight of the l1 norm.
      signals: `[signals, num_rows]`.
      accuracy: the largest relative duality gap.

    Raises:
      RuntimeError: if some gap is larger.
    """
    signals = np.asarray(signals, np.float64)
    step = 1 / sparse.largest_eigenvalue(columns)
    matrix = np.eye(columns.shape[1]) - step * columns.T @ columns
    shift = step * signals @ columns
    state = (np.zeros_like(shift), np.zeros_like(shift), np.ones((len(signals), 1)))
    for _ in range(200):
        for _ in range(50):
            state = _fista_step(matrix, shift, step * penalty, state)
        if np.max(relative_gap(columns, penalty, state[0], signals)) <= accuracy:
            return state[0]
    raise RuntimeError("FISTA in float64 did not converge.")


def _fista_step(
    matrix: np.ndarray,
    shift: np.ndarray,
    threshold: float,
    state: tuple,
) -> tuple:
    codes, ahead, t = state
    moved = ahead @ matrix + shift
    new = moved - np.clip(moved, -threshold, threshold)
    # O'Donoghue and Candes 2015: start again where momentum leads uphill.
    uphill = np.sum((ahead - new) * (new - codes), axis=1, keepdims=True) > 0
    t = np.where(uphill, 1.0, t)
    next_t = (1 + np.sqrt(1 + 4 * t**2)) / 2
    return new, new + (t - 1) / next_t * (new - codes), next_t


def relative_gap(
    columns: np.ndarray,
    penalty: float,
    codes: np.ndarray,
    signals: np.ndarray,
) -> np.ndarray:
    """The duality gap of codes over their objective: no code can be better by more than this."""
    residuals = signals - codes @ columns.T
    steepest = np.max(np.abs(residuals @ columns), axis=1, keepdims=True)
    dual_point = residuals * np.minimum(1.0, penalty / steepest)
    dual = np.sum(signals**2 - (signals - dual_point) ** 2, axis=1) / 2
    objective = _objective(columns, penalty, codes, signals)
    return (objective - dual) / objective


def _rivals(
    family: Any,
    columns: np.ndarray,
    penalty: float,
) -> tuple[Rival, ...]:
    # The training signals are drawn when the first method asks for them.
    tuning = functools.cache(functools.partial(_tuning, family, columns, penalty))
    bound = functools.partial(functools.partial, columns=columns, penalty=penalty, tuning=tuning)
    iterations = (5, 10, 15, 20, 22, 25, 28, 31, 35, 40, 45, 50, 70, 100, 150, 200, 300, 500, 1000)
    few = (3, 5, 7, 8, 9, 10, 11, 12, 13, 15, 20, 30, 50, 100, 200)
    tolerances = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
    return (
        Rival("ISTA", iterations, bound(_solve_untuned, momentum=no_momentum)),
        Rival("FISTA", iterations, bound(_solve_untuned, momentum=growing_momentum)),
        Rival(
            "FISTA with restarts", iterations, bound(_solve_untuned, momentum=_restarted_momentum)
        ),
        Rival("constant momentum, tuned", iterations, bound(_solve_momentum)),
        Rival("ADMM, tuned", few, bound(_solve_admm)),
        Rival("coordinate descent (scikit-learn)", tolerances, bound(_solve_coordinates), False),
    )


class _Tuning(NamedTuple):
    """Training signals that a method's numbers are tuned on, and their minima."""

    signals: jax.Array
    reference: np.ndarray


def _tuning(
    family: Any,
    columns: np.ndarray,
    penalty: float,
) -> _Tuning:
    keys = jax.random.split(jax.random.key(TUNING_SEED), NUM_TUNING)
    signals = jax.vmap(family.sample)(keys)
    return _Tuning(signals, _reference(columns, penalty, signals))


def _tuned(
    tuning: _Tuning,
    columns: np.ndarray,
    penalty: float,
    candidates: list[Solver],
) -> Solver:
    """The candidate with which 95 % of the training signals are nearest to their minimum."""

    def distance(candidate: Solver) -> float:
        reached = _objective(columns, penalty, candidate(tuning.signals), tuning.signals)
        return float(np.nan_to_num(np.quantile(reached / tuning.reference, 0.95), nan=np.inf))

    return min(candidates, key=distance)


def _solve_untuned(
    effort: int,
    *,
    columns: np.ndarray,
    penalty: float,
    tuning: Callable,
    momentum: Callable,
) -> Solver:
    """The proximal gradient method with the step 1 / L and this momentum."""
    del tuning
    return accelerated(effort, columns, penalty, momentum)


def _solve_momentum(
    effort: int,
    *,
    columns: np.ndarray,
    penalty: float,
    tuning: Callable,
) -> Solver:
    """One momentum for all iterations and a step beyond 1 / L, the best of a grid."""
    candidates = [
        accelerated(effort, columns, penalty, functools.partial(_constant, beta), longer)
        for beta in (0.7, 0.8, 0.9)
        for longer in (1.0, 1.3)
    ]
    return _tuned(tuning(), columns, penalty, candidates)


def no_momentum(t: jax.Array, uphill: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ISTA: the proximal gradient method as it is."""
    del uphill
    return t, jnp.zeros_like(t)


def _constant(
    beta: float,
    t: jax.Array,
    uphill: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    del uphill
    return t, jnp.full_like(t, beta)


def growing_momentum(t: jax.Array, uphill: jax.Array) -> tuple[jax.Array, jax.Array]:
    """FISTA: Beck and Teboulle 2009."""
    del uphill
    next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    return next_t, (t - 1) / next_t


def _restarted_momentum(t: jax.Array, uphill: jax.Array) -> tuple[jax.Array, jax.Array]:
    """O'Donoghue and Candes 2015, the gradient scheme, for each signal on its own."""
    return growing_momentum(jnp.where(uphill > 0, 1.0, t), uphill)


def accelerated(
    iterations: int,
    columns: np.ndarray,
    penalty: float,
    momentum: Callable,
    longer: float = 1.0,
) -> Solver:
    """The proximal gradient method with a momentum `momentum(t, uphill) -> (t, beta)`."""
    step = longer / sparse.largest_eigenvalue(columns)
    # x - step D^T (D x - y) is one product.
    for_codes = np.eye(columns.shape[1]) - step * columns.T @ columns
    matrix, for_signals = (jnp.asarray(x, jnp.float32) for x in (for_codes, step * columns))

    def solve(signals: jax.Array) -> jax.Array:
        shift = signals @ for_signals

        def iterate(_: jax.Array, state: tuple) -> tuple:
            codes, ahead, t = state
            new = soft_threshold(ahead @ matrix + shift, step * penalty)
            change = new - codes
            uphill = jnp.sum((ahead - new) * change, axis=1, keepdims=True)
            t, beta = momentum(t, uphill)
            return new, new + beta * change, t

        zeros = jnp.zeros_like(shift)
        ones = jnp.ones((len(signals), 1))
        return jax.lax.fori_loop(0, iterations, iterate, (zeros, zeros, ones))[0]

    return in_blocks(solve, admm.BLOCK)


def _solve_admm(
    effort: int,
    *,
    columns: np.ndarray,
    penalty: float,
    tuning: Callable,
) -> Solver:
    """Boyd et al. 2011, section 6.4, over-relaxed, with the inverse matrix computed once."""
    candidates = [
        admm.plain(effort, columns, penalty, rho, relaxation)
        for rho in (0.2, 0.4, 0.55)
        for relaxation in (1.6, 1.85)
    ]
    return _tuned(tuning(), columns, penalty, candidates)


def _solve_coordinates(
    effort: float,
    *,
    columns: np.ndarray,
    penalty: float,
    tuning: Callable,
) -> Solver:
    """Coordinate descent with the matrix D^T D, in compiled code; the effort is a tolerance."""
    del tuning
    linear_model = _checks.extra("sklearn.linear_model", "scikit-learn", "coordinate descent")
    single = columns.astype(np.float32)
    features = np.asfortranarray(single)
    # scikit-learn divides the squared distance by the number of rows.
    settings = {
        "l1_ratio": 1.0,
        "alphas": [penalty / len(columns)],
        "precompute": single.T @ single,
        "check_input": False,
        "max_iter": 10_000,
        "tol": effort,
    }

    def solve(signals: Any) -> np.ndarray:
        signals = np.asarray(signals, np.float32)
        correlations = signals @ single
        rows = zip(signals, correlations, strict=True)
        paths = [linear_model.enet_path(features, y, Xy=c, **settings)[1] for y, c in rows]
        return np.stack([path[:, 0] for path in paths])

    return solve
