"""Hand-designed optimizers, and how the learning rate of each is tuned."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from learned_opt import _checks, devices
from learned_opt.devices import PROBLEMS, WHOLE, Shards
from learned_opt.evaluation import halving
from learned_opt.meta import evaluating, programs, unrolling
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem

# (learning rate, horizon) -> optax transformation. A schedule decays over the horizon.
Builder = Callable[[Any, int], optax.GradientTransformation]

# 2^k * 1e-6, k = 0 .. 29: the grid of the first version of Andrychowicz et al. 2016.
LEARNING_RATES = tuple(float(2**k * 1e-6) for k in range(30))
MOST_AT_ONCE = 256  # lives of one call when rates are tuned, however small they are
# On a CPU more at once save no time, and the last rounds have few: what is missing is filled up.
ENOUGH_AT_ONCE = {"cpu": 10}


def inverse_time(first: float, half: float) -> optax.Schedule:
    """The schedule `first / (1 + t / half)`, which needs no end."""

    def rate(count: Any) -> Any:
        return first / (1 + count / half)

    return rate


def _sgd(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.sgd(learning_rate)


def _momentum(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.sgd(learning_rate, momentum=0.9)


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


def _muon(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.contrib.muon(learning_rate)


def _adam_of_digits(num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adam(inverse_time(0.128, 2_000))


def _adam_of_cifar10(num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adam(inverse_time(0.004, 4_000))


# All other hyperparameters are optax's defaults.
BASELINES: dict[str, Builder] = {
    "SGD": _sgd,
    "Momentum": _momentum,
    "NAG": _nag,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Rprop": _rprop,
    # These are not in the papers. They are what a user would reach for today. Muon moves matrices,
    # and all other parameters by Adam with Nesterov's momentum and the same rate.
    "AdamW-cosine": _adamw_cosine,
    "Lion": _lion,
    "Muon": _muon,
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


# Functions of the horizon that have one setting for all problems: what stands beside an optimizer
# of which somebody says that nothing is to be tuned. The constants were chosen once, on other data
# sets (`python -m experiments.inverse_time`).
FROZEN: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "Adam, frozen on digits": _adam_of_digits,
    "Adam, frozen on CIFAR-10": _adam_of_cifar10,
}


class Tuned(NamedTuple):
    """A baseline with its best learning rate.

    Attributes:
      name: which baseline.
      learning_rate: the best rate.
      final_loss: its mean loss at the horizon, or the mean of what else it was tuned for.
      tx: the optax transformation with that rate.
      rates: `[rates]`, all rates that were tried, ascending.
      grid: `[rates]`, that mean for every rate, over the runs that it got; infinite where one of
        them diverged.
      runs: `[rates]`, how many runs each rate got.
      tied: the rates that cannot be told apart from the best one, itself among them: the paired
        95 % interval of the difference holds zero.
    """

    name: str
    learning_rate: float
    final_loss: float
    tx: optax.GradientTransformation
    rates: np.ndarray
    grid: np.ndarray
    runs: np.ndarray
    tied: tuple[float, ...]


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
    learning_rates: Iterable[float] | None = None,
    measure: evaluating.Measure = None,
    last: int = 1,
    on_jobs: Callable[[int], Any] | None = None,
    refine: bool | None = None,
) -> Tuned:
    """Chooses the learning rate with the smallest mean final loss.

    First the papers' grid, by successive halving; then steps of the square root of two around its
    best rate, on all runs, until a rate lies between two that are worse (see `halving.search`).
    All of it calls one compiled program.

    Args:
      baseline: one of `BASELINES`, or a function of your own,
        `(learning_rate, num_steps) -> optax transformation`. The learning rate that it gets is a
        traced number. A function of a module is compiled once, a new lambda each time.
      problem: an `Optimizee`.
      key: draws the problems, the same for every rate.
      num_steps: the horizon.
      num_runs: how many problems; twenty or more for a number that is to be believed.
      learning_rates: the rates to choose from; None for the papers' grid `LEARNING_RATES`.
      measure: `measure(theta_T) -> scalar`, what is to be small at the end, see
        `evaluating.evaluate_with`. None for the loss.
      last: of how many last steps the loss is the mean, where no measure is given. One step's loss
        is that of a single minibatch, and says little where minibatches are small.
      on_jobs: called with a number of lives, rates times runs, when these are done.
      refine: whether finer rates are tried around the best one, within the range of the others;
        None to do so for the papers' grid alone.

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
    if refine is None:
        refine = learning_rates is None
    rates = LEARNING_RATES if learning_rates is None else learning_rates
    rates = [_checks.positive_float("learning_rates", rate) for rate in rates]
    num_runs = _checks.positive_int("num_runs", num_runs)
    num_steps = unrolling.check_run(build(1.0, 1), problem, key, num_steps)
    last = _checks.positive_int("last", last)
    family = optimizee_base.as_family(problem)
    problems = evaluating.begin_runs(family, key, num_runs)
    measure = evaluating.as_measure(measure)
    shards = devices.spread(len(rates) * num_runs)
    of_device = -(-len(rates) * num_runs // shards.num)
    most = max(num_runs, ENOUGH_AT_ONCE.get(jax.default_backend(), MOST_AT_ONCE))
    most = min(most, evaluating.runs_at_once(problems), of_device, MOST_AT_ONCE)
    at_once = shards.num * most
    measure, family, problems = devices.placed((measure, family, problems), shards.mesh)

    def evaluate(job_rates: np.ndarray, job_runs: np.ndarray) -> np.ndarray:
        """Part after part, all of one size, so that one program is enough."""
        finals = []
        for start in range(0, len(job_rates), at_once):
            index = np.arange(start, start + at_once) % len(job_rates)
            part = jnp.asarray(job_rates[index]), jnp.asarray(job_runs[index])
            part = devices.parted(part, shards)
            values = _finals(shards, build, measure, family, problems, *part, num_steps, last)
            count = min(at_once, len(job_rates) - start)
            finals.append(np.asarray(values, np.float64)[:count])
            if on_jobs is not None:
                on_jobs(count)
        return np.concatenate(finals)

    found = halving.search(evaluate, rates, num_runs, refine)
    best = float(found.rates[found.best])
    grid = found.means
    num_runs_of_rates = (~np.isnan(found.values)).sum(axis=1)
    tied = tuple(float(found.rates[i]) for i in found.tied)
    tx = build(best, num_steps)
    loss = float(grid[found.best])
    return Tuned(name, best, loss, tx, found.rates, grid, num_runs_of_rates, tied)


@functools.partial(programs.jit, static_argnums=(0, 1, 7, 8))
def _finals(
    shards: Shards,
    build: Builder,
    measure: jax.tree_util.Partial | None,
    family: Family,
    problems: Problem,
    rates: jax.Array,
    index: jax.Array,
    num_steps: int,
    last: int,
) -> jax.Array:
    """The final loss, or what is measured, of each job `[jobs]`: a rate, and the index of a run."""

    def final(
        measure: jax.tree_util.Partial | None,
        family: Family,
        problems: Problem,
        rate: jax.Array,
        i: jax.Array,
    ) -> jax.Array:
        problem = jax.tree.map(lambda x: x[i], problems)
        losses, measured = evaluating.one_run(
            build(rate, num_steps), measure, family, problem, num_steps
        )
        value = jnp.mean(losses[-last:]) if measure is None else measured
        has_diverged = ~jnp.all(jnp.isfinite(losses)) | ~jnp.isfinite(value)
        return jnp.where(has_diverged, jnp.inf, value)

    def finals(*args: Any) -> jax.Array:
        return shards.gathered(jax.vmap(final, (None, None, None, 0, 0))(*args))

    cut = WHOLE, WHOLE, WHOLE, PartitionSpec(PROBLEMS), PartitionSpec(PROBLEMS)
    return shards.over_devices(finals, cut, WHOLE)(measure, family, problems, rates, index)
