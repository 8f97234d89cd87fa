"""Hand-designed optimizers, each with its learning rate tuned on the papers' grid."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import _checks
from learned_opt.meta import evaluating, unrolling
from learned_opt.optimizees import base as optimizee_base

# 2^k * 1e-6, k = 0 .. 29: the grid of the first version of Andrychowicz et al. 2016.
LEARNING_RATES = tuple(float(2**k * 1e-6) for k in range(30))


def _adamw_cosine(learning_rate, num_steps):
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, num_steps))


# name -> (learning rate, horizon) -> optax transformation; every other hyperparameter at optax's default.
BASELINES = {
    "SGD": lambda rate, steps: optax.sgd(rate),
    "NAG": lambda rate, steps: optax.sgd(rate, momentum=0.9, nesterov=True),
    "RMSprop": lambda rate, steps: optax.rmsprop(rate),
    "Adam": lambda rate, steps: optax.adam(rate),
    "Adagrad": lambda rate, steps: optax.adagrad(rate),
    "Adadelta": lambda rate, steps: optax.adadelta(rate),
    "Rprop": lambda rate, steps: optax.rprop(rate),
    # Not in the papers: what a user would reach for today.
    "AdamW-cosine": _adamw_cosine,
    "Lion": lambda rate, steps: optax.lion(rate),
}

# name -> horizon -> optax transformation: second-order methods, which have nothing to tune, and which evaluate the
# function more than once a step (at most 20 times in optax's line search). They take the losses of a run as exact.
REFERENCES = {
    "BFGS": lambda steps: optax.lbfgs(
        memory_size=steps, scale_init_precond=False
    ),  # it never forgets: BFGS itself
    "L-BFGS": lambda steps: optax.lbfgs(),
}


class Tuned(NamedTuple):
    """A baseline with the best learning rate of the grid.

    Attributes:
      name: which baseline.
      learning_rate: the best rate.
      final_loss: its mean loss at the horizon, or the mean of what else it was tuned for.
      tx: the optax transformation with that rate.
      grid: `[len(learning_rates)]`, that mean for every rate; infinite where a run diverged.
    """

    name: str
    learning_rate: float
    final_loss: float
    tx: optax.GradientTransformation
    grid: np.ndarray


def baseline(name, learning_rate, num_steps):
    """The optax transformation of a baseline; the horizon `num_steps` is what a schedule decays over."""
    build = BASELINES[_checks.choice("baseline", name, BASELINES)]
    return build(learning_rate, num_steps)


def tune(name, problem, key, num_steps, num_runs, learning_rates=LEARNING_RATES, measure=None):
    """Chooses the learning rate with the best mean final loss; the whole grid is one program.

    A rate at which any run diverges has an infinite mean: it is chosen only if all others diverge too, and then by
    the mean over those runs that do not.

    Args:
      name: one of `BASELINES`.
      problem: an `Optimizee`.
      key: draws the problems, the same for every rate.
      num_steps: the horizon.
      num_runs: how many problems.
      learning_rates: the grid.
      measure: `measure(theta_T) -> scalar`, what is to be small at the end; None for the loss on the last minibatch.

    Returns:
      A `Tuned`.

    Raises:
      ValueError: for an unknown name, or sizes that are not positive.
    """
    build = BASELINES[_checks.choice("baseline", name, BASELINES)]
    num_runs = _checks.positive_int("num_runs", num_runs)
    num_steps = unrolling.check_run(build(1.0, 1), problem, key, num_steps)
    rates = [_checks.positive_float("learning_rates", rate) for rate in learning_rates]
    problem = optimizee_base.as_partials(problem)
    begun = evaluating.begin_all(problem, key, num_runs)
    measure = evaluating.as_measure(measure)
    final = np.asarray(
        _grid(build, measure, problem, begun, jnp.asarray(rates), num_steps), np.float64
    )
    best, loss = _best(final)
    return Tuned(name, rates[best], loss, build(rates[best], num_steps), final.mean(axis=1))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _grid(build, measure, problem, begun, rates, num_steps):
    def final(rate):
        curves, measures = evaluating.runs(
            build(rate, num_steps), measure, problem, begun, num_steps, copies=rates.shape[0]
        )
        last = curves[:, -1]
        return (
            last
            if measure is None
            else jnp.where(jnp.isfinite(last) & jnp.isfinite(measures), measures, jnp.inf)
        )

    return jax.vmap(final)(rates)


def _best(final):
    """The position of the best rate in `[rates, runs]`, and its mean loss."""
    mean = final.mean(axis=1)
    if not np.isfinite(mean).any():
        survivors = np.where(np.isfinite(final), final, 0).sum(1) / np.maximum(
            np.isfinite(final).sum(1), 1
        )
        best = int(np.argmin(np.where(np.isfinite(final).any(1), survivors, np.inf)))
    else:
        best = int(np.argmin(mean))
    return best, float(mean[best])
