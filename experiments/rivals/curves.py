"""Bi-exponential decays: what an expert would fit them with."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import scipy.optimize

from experiments.rivals.base import Refinement, Rival, Task, Unrolled
from experiments.rivals.methods import in_blocks, lbfgs
from learned_opt import optimizees
from learned_opt.optimizees import curves
from learned_opt.optimizees.curves import Decay, Measured

NOISE = 0.01
_BLOCK = 1024  # curves whose Jacobians fit the cache together
_PAIRS = [(i, j) for i in range(4) for j in range(i + 1)]
_UNROLLED_SIZES = (24, 24)  # of the network whose start is learned through one step
_FEW = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
# Where the reference starts, in turn: the family's start, and the corners of what is drawn.
_STARTS = [
    (0.0, -0.85, 0.0, 2.2),
    *((0.0, f, slow, fast) for f in (-2.2, 0.0) for slow in (-0.4, 0.4) for fast in (1.4, 2.9)),
]


def task() -> Task:
    """Fits of bi-exponential decays with a noise of 1 %."""
    return Task(
        family=curves.biexponential(NOISE),
        fresh=curves.biexponential(NOISE),
        objective=objective,
        reference=reference,
        rivals=rivals(),
        tolerance=0.005,
        scale=np.ones_like,
        why=(
            "A fit a tenth of a standard error away from the best one has a chi-squared that is "
            "0.01 higher, and a loss 0.005 higher: closer than that, the noise hides the rest."
        ),
        refinement=Refinement("Levenberg-Marquardt", _FEW, _levenberg_marquardt_from),
        unrolled=unrolled(_UNROLLED_SIZES, 1),
    )


def unrolled(hidden_sizes: tuple[int, ...], num_steps: int) -> Unrolled:
    """Levenberg-Marquardt from a network's start, whose weights are the numbers.

    Args:
      hidden_sizes: of the network, see `learned_opt.optimizees.begin_start`.
      num_steps: of Levenberg-Marquardt.
    """
    family = curves.biexponential(NOISE)

    def method(start: Any, instance: Measured) -> jax.Array:
        theta = _begun(family, start, instance)
        return _fit_block(instance.signal[None], theta[None], num_steps)[0]

    def solve(start: Any) -> Callable[[Measured], Decay]:
        def fit(instances: Measured) -> jax.Array:
            theta = jax.vmap(functools.partial(_begun, family, start))(instances)
            return _fit_block(instances.signal, theta, num_steps)

        run = in_blocks(fit, _BLOCK)
        return jax.jit(lambda instances: curves.solution(run(instances).T))

    begin = functools.partial(optimizees.begin_start, family, hidden_sizes=hidden_sizes)
    return Unrolled("Levenberg-Marquardt", num_steps, begin, method, solve)


def _begun(
    family: optimizees.Optimizee,
    start: Any,
    instance: Measured,
) -> jax.Array:
    """Where the network starts; the family's own start needs no key."""
    return optimizees.with_start(family, start).init(jax.random.key(0), instance)


def rivals() -> tuple[Rival, ...]:
    """The methods to beat."""
    few, many = _FEW[1:], (5, 10, 15, 20, 30, 50, 100)
    return (
        Rival("Levenberg-Marquardt", few, _levenberg_marquardt),
        Rival("Levenberg-Marquardt (Optimistix)", few, _optimistix),
        Rival("L-BFGS (Optax)", many, _lbfgs),
        Rival("Levenberg-Marquardt (SciPy)", (1e-1, 1e-2, 1e-3, 1e-5, 1e-8), _scipy, False),
    )


def objective(answers: Decay, instances: Measured) -> np.ndarray:
    """Half of chi squared in double precision, `[instances]`."""
    s0, f, fast, slow = (np.asarray(x, np.float64)[:, None] for x in answers)
    b = np.asarray(curves.B_VALUES)[None]
    signal = s0 * (f * np.exp(-b * fast) + (1 - f) * np.exp(-b * slow))
    return np.sum(((signal - np.asarray(instances.signal, np.float64)) / NOISE) ** 2, 1) / 2


def reference(instances: Measured) -> np.ndarray:
    """The lowest objective of fits from several starts, in double precision."""
    with jax.enable_x64(True):
        measured = Measured(jnp.asarray(np.asarray(instances.signal, np.float64)))
        fit = jax.jit(functools.partial(levenberg_marquardt, num_steps=300))
        answers = [fit(measured, start=start) for start in jnp.asarray(_STARTS)]
        return np.min([objective(answer, measured) for answer in answers], 0)


def levenberg_marquardt(
    instances: Measured,
    num_steps: int,
    start: jax.Array | None = None,
) -> Decay:
    """Fits of all curves together, each with a damping of its own.

    The measurements are on the first axis and the curves on the last one, and the system of four
    equations is solved by a Cholesky decomposition that is written out: all is elementwise.

    Args:
      instances: the curves.
      num_steps: the number of steps, refused ones too.
      start: where fits start, `[4]`, or `[curves, 4]` for a start of each; the family's if None.
    """
    if start is None:
        start = jnp.asarray(curves.START, instances.signal.dtype)
    start = jnp.broadcast_to(start, (len(instances.signal), 4))
    fit = in_blocks(functools.partial(_fit_block, num_steps=num_steps), _BLOCK)
    return curves.solution(fit(instances.signal, start).T)


def _fit_block(
    signal: jax.Array,
    start: jax.Array,
    num_steps: int,
) -> jax.Array:
    """Theta `[curves, 4]` of signals `[curves, len(B_VALUES)]`, after one step or more."""
    signal, theta = signal.T, start.T
    damping = jnp.full(signal.shape[1], 1e-3, signal.dtype)
    state = (theta, damping, jnp.full_like(damping, 2), _quadratic(theta, signal))
    step = functools.partial(_damped_step, signal)
    state = jax.lax.fori_loop(0, num_steps - 1, lambda _, state: step(state), state)
    return _last_step(signal, state).T


def _damped_step(signal: jax.Array, state: tuple) -> tuple:
    """One step of each curve, with the damping of Nielsen 1999."""
    theta, damping, growth, model = state
    trial, promised = _trial(state)
    new = _quadratic(trial, signal)
    gain = (model[0] - new[0]) / jnp.maximum(promised, 1e-30)
    taken = model[0] > new[0]
    shrunk = damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
    damping = jnp.clip(jnp.where(taken, shrunk, damping * growth), 1e-9, 1e9)
    growth = jnp.where(taken, 2.0, 2 * growth)
    model = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, model)
    return jnp.where(taken[None], trial, theta), damping, growth, model


def _last_step(signal: jax.Array, state: tuple) -> jax.Array:
    """Theta after a step that no other follows: there only the loss has to be computed."""
    theta, _, _, model = state
    trial, _ = _trial(state)
    error = curves.signal(curves.solution(trial)) - signal
    taken = model[0] > jnp.sum(error * error, 0) / (2 * NOISE**2)
    return jnp.where(taken[None], trial, theta)


def _trial(state: tuple) -> tuple[jax.Array, jax.Array]:
    """Where a damped step leads, and how much lower the model promises the loss to be there."""
    theta, damping, _, (_, gradient, hessian) = state
    # Marquardt's scaling; the ridge keeps a direction that the data say nothing about bounded.
    added = [damping * (hessian[i, i] + 1e-3) for i in range(4)]
    step = _solve(hessian, added, gradient)
    promised = sum(step[i] * (added[i] * step[i] + gradient[i]) for i in range(4)) / 2
    return jnp.clip(theta - jnp.stack(step), -20, 20), promised


def _quadratic(theta: jax.Array, signal: jax.Array) -> tuple[jax.Array, list, dict]:
    """Loss, gradient and Gauss-Newton Hessian at theta `[4, curves]`, in units of the noise."""
    b = jnp.asarray(curves.B_VALUES, theta.dtype)[:, None]
    decay = curves.solution(theta)
    s0, f, fast, slow = (part[None] for part in decay)
    first, second = s0 * f * jnp.exp(-b * fast), s0 * (1 - f) * jnp.exp(-b * slow)
    error = first + second - signal
    jacobian = [
        first + second,
        (1 - f) * first - f * second,
        -b * (fast * first + slow * second),
        -b * (fast - slow) * first,
    ]
    scale = 1 / NOISE**2
    gradient = [scale * jnp.sum(column * error, 0) for column in jacobian]
    hessian = {(i, j): scale * jnp.sum(jacobian[i] * jacobian[j], 0) for i, j in _PAIRS}
    return scale / 2 * jnp.sum(error * error, 0), gradient, hessian


def _solve(matrix: dict, added: list, right: list) -> list:
    """Solves (matrix + diagonal) x = right for 4 x 4 matrices, elementwise over the curves."""
    factor: dict = {}
    inverse: list = []
    forward: list = []
    for i in range(4):
        for j in range(i):
            factor[i, j] = inverse[j] * (
                matrix[i, j] - sum(factor[i, k] * factor[j, k] for k in range(j))
            )
        pivot = matrix[i, i] + added[i] - sum(factor[i, k] ** 2 for k in range(i))
        # Rounding can take a pivot below what was added to it, but not the exact value.
        inverse.append(jax.lax.rsqrt(jnp.maximum(pivot, added[i] + 1e-12)))
        known = sum(factor[i, k] * forward[k] for k in range(i))
        forward.append(inverse[i] * (right[i] - known))
    x: list = [None] * 4
    for i in reversed(range(4)):
        x[i] = inverse[i] * (forward[i] - sum(factor[k, i] * x[k] for k in range(i + 1, 4)))
    return x


def _levenberg_marquardt(effort: int) -> Callable[[Measured], Decay]:
    return jax.jit(functools.partial(levenberg_marquardt, num_steps=effort))


def _levenberg_marquardt_from(effort: int) -> Callable[[Measured, jax.Array], Decay]:
    return lambda instances, theta: levenberg_marquardt(instances, effort, theta)


def _each(fit: Callable[[Any], jax.Array]) -> Callable[[Measured], Decay]:
    """A fit of one curve, from measurements to theta, as one of many."""
    return jax.jit(lambda instances: curves.solution(jax.vmap(fit, out_axes=1)(instances)))


def _optimistix(effort: int) -> Callable[[Measured], Decay]:
    solver: Any = optimistix.LevenbergMarquardt(rtol=1e-9, atol=1e-9)
    start = jnp.asarray(curves.START)

    def fit(instance: Measured) -> jax.Array:
        return optimistix.least_squares(
            lambda theta, args: curves.residuals(theta, args, NOISE),
            solver,
            start,
            args=instance,
            max_steps=effort,
            throw=False,
        ).value

    return _each(fit)


def _lbfgs(effort: int) -> Callable[[Measured], Decay]:
    def fit(instance: Measured) -> jax.Array:
        def loss(theta: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(curves.residuals(theta, instance, NOISE))) / 2

        return lbfgs(loss, jnp.asarray(curves.START), effort, memory_size=8)

    return _each(fit)


def _scipy(effort: float) -> Callable[[Measured], Decay]:
    """MINPACK's fit of one curve after the other, with the Jacobian that is written out."""
    b = np.asarray(curves.B_VALUES)

    def parts(theta: np.ndarray) -> tuple:
        s0, slow = np.exp(theta[0]), np.exp(theta[2])
        f, fast = 1 / (1 + np.exp(-theta[1])), slow * (1 + np.exp(theta[3]))
        return f, fast, slow, s0 * f * np.exp(-b * fast), s0 * (1 - f) * np.exp(-b * slow), s0

    def error(theta: np.ndarray, signal: np.ndarray) -> np.ndarray:
        *_, first, second, _ = parts(theta)
        return (first + second - signal) / NOISE

    def jacobian(theta: np.ndarray, signal: np.ndarray) -> np.ndarray:
        del signal
        f, fast, slow, first, second, _ = parts(theta)
        return (
            np.stack(
                [
                    first + second,
                    (1 - f) * first - f * second,
                    -b * (fast * first + slow * second),
                    -b * (fast - slow) * first,
                ],
                1,
            )
            / NOISE
        )

    def fit(signal: np.ndarray) -> tuple:
        with np.errstate(over="ignore"):
            theta = scipy.optimize.least_squares(
                error,
                np.asarray(curves.START),
                jacobian,
                method="lm",
                ftol=effort,
                xtol=effort,
                gtol=effort,
                args=(signal,),
            ).x
            f, fast, slow, *_, s0 = parts(theta)
        return s0, f, fast, slow

    def solve(instances: Measured) -> Decay:
        answers = [fit(signal) for signal in np.asarray(instances.signal, np.float64)]
        return Decay(*np.array(answers).T)

    return solve
