"""Hand-designed optimizers, each with a learning rate tuned on the papers' grid."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import _checks
from learned_opt.meta import evaluating, programs, unrolling
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem

# (learning rate, horizon) -> optax transformation. A schedule decays over the horizon.
Builder = Callable[[Any, int], optax.GradientTransformation]

# 2^k * 1e-6, k = 0 .. 29: the grid of the first version of Andrychowicz et al. 2016.
LEARNING_RATES = tuple(float(2**k * 1e-6) for k in range(30))


def _sgd(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.sgd(learning_rate)


def _nag(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


def _rmsprop(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.rmsprop(learning_rate)


def _adam(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adam(learning_rate)


def _adagrad(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adagrad(learning_rate)


def _adadelta(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adadelta(learning_rate)


def _rprop(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.rprop(learning_rate)


def _adamw_cosine(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, num_steps))


def _lion(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.lion(learning_rate)


# All other hyperparameters are optax's defaults.
BASELINES: dict[str, Builder] = {
    "SGD": _sgd,
    "NAG": _nag,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Rprop": _rprop,
    # These two are not in the papers. They are what a user would reach for today.
    "AdamW-cosine": _adamw_cosine,
    "Lion": _lion,
}


def _bfgs(num_steps: int) -> optax.GradientTransformation:
    # A memory of all steps forgets nothing, which makes L-BFGS BFGS itself.
    return optax.lbfgs(memory_size=num_steps, scale_init_precond=False)


def _lbfgs(num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.lbfgs()


# Functions of the horizon. Second-order methods have nothing to tune. They evaluate the function
# more than once a step (optax's line search at most 20 times), and take the losses of a run as
# exact.
REFERENCES: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "BFGS": _bfgs,
    "L-BFGS": _lbfgs,
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


def builders(baselines: Iterable[str] | Mapping[str, Builder] | None) -> dict[str, Builder]:
    """The functions that build some baselines.

    Args:
      baselines: names of `BASELINES`, or a dict from a name of your own to a function
        `(learning_rate, num_steps) -> optax transformation`. None for all of `BASELINES`.

    Returns:
      A dict from name to function.

    Raises:
      ValueError: for a name that is not known, or a value that is not a function.
    """
    if baselines is None:
        return dict(BASELINES)
    if isinstance(baselines, Mapping):
        return {name: _builder(name, build) for name, build in baselines.items()}
    return {name: _builder(name, name) for name in baselines}


def _builder(name: str, baseline: str | Builder) -> Builder:
    if isinstance(baseline, str):
        return BASELINES[_checks.choice("baseline", baseline, BASELINES)]
    if not callable(baseline):
        raise ValueError(
            f"the baseline {name!r} must be a function (learning_rate, num_steps) -> optax "
            f"transformation, or a name of BASELINES, got {baseline!r}."
        )
    return baseline


def baseline(
    name: str,
    learning_rate: float,
    num_steps: int,
) -> optax.GradientTransformation:
    """The optax transformation of one of `BASELINES`; a schedule decays over `num_steps`."""
    build = _builder(name, name)
    return build(learning_rate, num_steps)


def tune(
    baseline: str | Builder,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
    num_runs: int,
    learning_rates: Iterable[float] = LEARNING_RATES,
    measure: evaluating.Measure = None,
) -> Tuned:
    """Chooses the learning rate with the smallest mean final loss. The whole grid is one program.

    A rate at which any run diverges has an infinite mean. It is chosen only if all others diverge
    too, and then by the mean over the runs that do not.

    Args:
      baseline: one of `BASELINES`, or a function of your own,
        `(learning_rate, num_steps) -> optax transformation`. The learning rate that it gets is a
        traced number. A function of a module is compiled once, a new lambda each time.
      problem: an `Optimizee`.
      key: draws the problems, the same for every rate.
      num_steps: the horizon.
      num_runs: how many problems.
      learning_rates: the grid.
      measure: `measure(theta_T) -> scalar`, what is to be small at the end, see
        `evaluating.evaluate_with`. None for the loss on the last minibatch.

    Returns:
      A `Tuned`.

    Raises:
      ValueError: for an unknown name, or sizes that are not positive.

    Example:
      >>> import jax, learned_opt, optax
      >>> from learned_opt.evaluation import baselines
      >>> def momentum(learning_rate, num_steps):
      ...     return optax.sgd(learning_rate, momentum=0.9)
      >>> problem = learned_opt.optimizees.quadratic(2)
      >>> rates = (1e-6, 1e-2)
      >>> baselines.tune(momentum, problem, jax.random.key(0), 20, 8, rates).learning_rate
      0.01
    """
    name = baseline if isinstance(baseline, str) else getattr(baseline, "__name__", "baseline")
    build = _builder(name, baseline)
    rates = [_checks.positive_float("learning_rates", rate) for rate in learning_rates]
    num_runs = _checks.positive_int("num_runs", num_runs)
    num_steps = unrolling.check_run(build(1.0, 1), problem, key, num_steps)
    family = optimizee_base.as_family(problem)
    problems = evaluating.begin_runs(family, key, num_runs)
    measure = evaluating.as_measure(measure)
    losses = _final_losses(build, measure, family, problems, jnp.asarray(rates), num_steps)
    losses = np.asarray(losses, np.float64)
    best, loss = _best(losses)
    tx = build(rates[best], num_steps)
    return Tuned(name, rates[best], loss, tx, losses.mean(axis=1))


@functools.partial(programs.jit, static_argnums=(0, 5))
def _final_losses(
    build: Builder,
    measure: jax.tree_util.Partial | None,
    family: Family,
    problems: Problem,
    rates: jax.Array,
    num_steps: int,
) -> jax.Array:
    """The final loss, or what is measured, of every rate and run `[rates, runs]`."""

    def final(rate: jax.Array) -> jax.Array:
        tx = build(rate, num_steps)
        copies = rates.shape[0]
        curves, measures = evaluating.runs(tx, measure, family, problems, num_steps, copies)
        last = curves[:, -1]
        if measure is None:
            return last
        finite = jnp.isfinite(last) & jnp.isfinite(measures)
        return jnp.where(finite, measures, jnp.inf)

    return jax.vmap(final)(rates)


def _best(losses: np.ndarray) -> tuple[int, float]:
    """The position of the best rate in `[rates, runs]`, and its mean loss."""
    mean = losses.mean(axis=1)
    if np.isfinite(mean).any():
        best = int(np.argmin(mean))
    else:
        best = int(np.argmin(_means_of_survivors(losses)))
    return best, float(mean[best])


def _means_of_survivors(losses: np.ndarray) -> np.ndarray:
    """For every rate the mean over the runs that do not diverge; infinite where all do."""
    finite = np.isfinite(losses)
    count = finite.sum(axis=1)
    total = np.where(finite, losses, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)
