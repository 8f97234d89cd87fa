"""The meta-gradient."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.meta import adjoint, autodiff, imitation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import base as optimizer_base

METHODS = ("adjoint", "autodiff")


class Windows(NamedTuple):
    """A way to run windows and differentiate them.

    Attributes:
      begin: `begin(opt, phi, problem, keys) -> lives`.
      run: `run(opt, phi, problem, lives, weights) -> (losses [T, problems], meta-gradient, lives)`.
      imitate: see `imitation.window`, without its last two arguments; None where there is no such way.
    """

    begin: Callable
    run: Callable
    imitate: Callable | None = None


def meta_gradient(
    opt,
    phi,
    problem,
    key,
    num_steps,
    num_problems=1,
    weights=None,
    method=None,
    block_size=None,
    stop_gradient=True,
    coordinates=None,
):
    """The meta-loss of a whole unroll on fresh problems, and its gradient with respect to phi.

    The meta-loss is the mean over problems of sum_t w_t f(theta_t) (Andrychowicz et al. 2016, equation 3).

    Args:
      opt: a `LearnedOptimizer`.
      phi: its weights.
      problem: an `Optimizee`.
      key: draws the problems: a single one is that of `unroll` with this key, several are those of
        `jax.random.split(key, num_problems)`.
      num_steps: the length T of the unroll.
      num_problems: how many problems at once.
      weights: w_1 .. w_T, or w_0 .. w_T (f(theta_0) counts in the loss and has no gradient); None for w_1 .. w_T = 1.
      method: "adjoint" (the default; see `learned_opt.meta.adjoint`) or "autodiff", reverse mode through the whole
        unroll: slower and larger, for second derivatives and for updates that depend on theta itself.
      block_size: how many coordinates the adjoint method differentiates at a time; None chooses for the device.
      stop_gradient: whether the optimizee's gradients count as constants (the papers' choice). False gives the full
        gradient, through second derivatives, which "autodiff" alone can.
      coordinates: from how many coordinates, of all parameters and problems together, the adjoint method estimates the
        gradient; None for all. The key draws them, one from each of so many strata. The mean over all draws is the
        whole gradient, and the loss is always whole; time and memory of the second pass, and what the first one keeps
        for it, shrink in proportion. Where parts of the parameters or dtypes are updated apart, each gives its share,
        at least one coordinate; parts that are not coordinatewise are never estimated. A number that reaches that of
        all coordinates is as good as None.

    Returns:
      `(loss, gradient)`: a scalar, and a pytree like phi.

    Raises:
      ValueError: for sizes that are not positive, weights of another length, an unknown method, phi of another
        architecture, "adjoint" without `stop_gradient`, or `coordinates` for "autodiff" or for an optimizer that is
        not coordinatewise.
    """
    optimizer_base.check_optimizer("opt", opt)
    _checks.random_key(key)
    num_steps = _checks.positive_int("num_steps", num_steps)
    num_problems = _checks.positive_int("num_problems", num_problems)
    weights, w_0 = _split_weights(weights, num_steps)
    windows = windows_of(method, block_size, stop_gradient, coordinates)
    return _meta_gradient(
        opt, windows, num_problems, phi, optimizee_base.as_partials(problem), key, weights, w_0
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _meta_gradient(opt, windows, num_problems, phi, problem, key, weights, w_0):
    lives = windows.begin(opt, phi, problem, optimizee_base.problem_keys(key, num_problems))
    first = _first_losses(problem, lives)
    losses, gradient, _ = windows.run(opt, phi, problem, lives, weights)
    return w_0 * jnp.mean(first) + jnp.mean(weights @ losses), gradient


@functools.lru_cache(typed=True)
def windows_of(method=None, block_size=None, stop_gradient=True, coordinates=None):
    """The `Windows` of a method; arguments and errors as in `meta_gradient`."""
    if method is None:
        method = "adjoint" if stop_gradient else "autodiff"
    _checks.choice("method", method, METHODS)
    if method == "autodiff":
        for name, value in (("block_size", block_size), ("coordinates", coordinates)):
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} has no meaning for method='autodiff': leave it out."
                )
        return Windows(autodiff.begin, functools.partial(_run_autodiff, bool(stop_gradient)))
    if not stop_gradient:
        raise ValueError(
            "method='adjoint' holds the optimizee's gradients constant: "
            "stop_gradient=False needs method='autodiff'."
        )
    block_size = None if block_size is None else _checks.positive_int("block_size", block_size)
    coordinates = None if coordinates is None else _checks.positive_int("coordinates", coordinates)
    return Windows(
        adjoint.begin,
        functools.partial(_run_adjoint, block_size, coordinates),
        functools.partial(imitation.window, block_size=block_size, coordinates=coordinates),
    )


def _run_adjoint(block_size, coordinates, opt, phi, problem, lives, weights):
    return adjoint.window(opt, phi, problem, lives, weights, block_size, coordinates)


def _run_autodiff(stop_gradient, opt, phi, problem, lives, weights):
    return autodiff.window(opt, phi, problem, lives, weights, stop_gradient)


def check_weights(weights, lengths):
    """The weights w_t as a vector; raises ValueError unless it has one of `lengths`, finite and not negative."""
    if isinstance(weights, jax.core.Tracer):
        return weights
    array = np.asarray(weights, np.float64)
    allowed = " or ".join(map(str, lengths))
    if array.ndim != 1 or array.shape[0] not in lengths:
        raise ValueError(f"weights must be a vector of {allowed} numbers, got shape {array.shape}.")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(
            f"weights must be finite and not negative, got {array.min()} .. {array.max()}."
        )
    return jnp.asarray(array, jnp.result_type(float))


def _split_weights(weights, num_steps):
    if weights is None:
        return jnp.ones(num_steps), jnp.zeros(())
    weights = check_weights(weights, (num_steps, num_steps + 1))
    return (weights, jnp.zeros(())) if weights.shape[0] == num_steps else (weights[1:], weights[0])


def _first_losses(problem, lives):
    def loss(theta, instance, key):
        return problem.loss(theta, instance, optimizee_base.minibatch_key(key, 0))

    return jax.vmap(loss)(lives.theta, lives.problems.instance, lives.problems.key)
