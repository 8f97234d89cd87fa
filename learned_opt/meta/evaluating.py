"""Loss curves of an optimizer on fresh problems."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from learned_opt import _checks, _fingerprint, devices
from learned_opt.devices import PROBLEMS, WHOLE, Shards
from learned_opt.meta import programs, unrolling
from learned_opt.meta.unrolling import Rule, Run, Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem
from learned_opt.optimizers.base import Phi

# A function of theta_T, a function of (run, problem), a dict of such functions, or None.
Measure = Callable[..., Any] | dict[str, Any] | None

# How many numbers of theta live at once. Where the runs hold more, they go batch after batch.
COORDINATES_AT_ONCE = {"cpu": 2**18}
ACCELERATOR_COORDINATES_AT_ONCE = 2**24


def evaluate(
    tx: Transformation,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
    num_runs: int,
) -> jax.Array:
    """Runs an optimizer on `num_runs` fresh problems.

    Run i is `unroll` with the key `jax.random.split(key, num_runs)[i]`. A single run is `unroll`
    with the key itself. The runs go over all devices there are, also of several processes
    (`learned_opt.devices`).

    Args:
      tx: an optax transformation or a pair `(opt, phi)`. Weights in a pair are an argument of the
        compiled program: other weights of an equal optimizer do not compile again.
      problem: an `Optimizee`.
      key: draws the problems.
      num_steps: the horizon T.
      num_runs: how many problems.

    Returns:
      Losses `[num_runs, num_steps + 1]`. A run that diverges is infinite from then on, and counts.

    Raises:
      ValueError: for sizes that are not positive, or arguments of another kind.

    Example:
      >>> import jax, learned_opt, optax
      >>> problem = learned_opt.optimizees.quadratic()
      >>> learned_opt.evaluate(optax.sgd(0.01), problem, jax.random.key(0), 5, num_runs=3).shape
      (3, 6)
    """
    losses, _ = evaluate_with(None, tx, problem, key, num_steps, num_runs)
    return losses


def evaluate_with(
    measure: Measure,
    tx: Transformation,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
    num_runs: int,
) -> tuple[jax.Array, Any]:
    """`evaluate`, with something else measured at the end of every run.

    Args:
      measure: a function of the final parameters, `measure(theta_T) -> scalar`, such as the
        accuracy on test data. A function with an attribute `of_run = True` is called with the
        whole run and its problem instead: `measure(run, problem) -> scalar`, with an
        `unrolling.Run` and an `optimizees.base.Problem`. None, or a dict of such functions.
      tx, problem, key, num_steps, num_runs: see `evaluate`.

    Returns:
      `(losses [num_runs, num_steps + 1], measures [num_runs])`. The measures are None if `measure`
      is None, and a dict if it is one.
    """
    num_steps = unrolling.check_run(tx, problem, key, num_steps)
    num_runs = _checks.positive_int("num_runs", num_runs)
    family = optimizee_base.as_family(problem)
    problems = begin_runs(family, key, num_runs)
    rule, phi = unrolling.separate(tx)
    bound = as_measure(measure)
    shards = devices.spread(num_runs)
    if shards.mesh is None or devices.is_traced(phi, bound, family, problems):
        return _evaluate(Shards(), rule, phi, bound, family, problems, num_steps)
    phi, bound, family = devices.placed((phi, bound, family), shards.mesh)
    parts = devices.parted(problems, shards)
    done = _evaluate(shards, rule, phi, bound, family, parts, num_steps)
    return jax.tree.map(lambda x: x[:num_runs], devices.to_local(done))


def as_measure(measure: Measure) -> jax.tree_util.Partial | None:
    """A measure in a form that can go through `jax.jit` as an argument; None stays None."""
    if measure is None:
        return None
    if isinstance(measure, dict):
        every = {name: as_measure(one) for name, one in measure.items()}
        return jax.tree_util.Partial(_Every(), every)
    return optimizee_base.as_partial(measure)


def seen_loss(problem: Optimizee, num_steps: int) -> jax.tree_util.Partial:
    """The measure f(theta_T), the mean over all minibatches that the run has trained on.

    It lies below the loss at step T, which is that of a minibatch that the run has not seen.

    Args:
      problem: an `Optimizee`, the one that is evaluated.
      num_steps: the horizon T.

    Returns:
      A measure for `evaluate_with` and `learned_opt.compare`.

    Source:
      Lv, Jiang, Li 2017, figure 3.
    """
    family = optimizee_base.as_family(problem)
    return jax.tree_util.Partial(_SeenLoss(num_steps), family)


def fingerprint(
    measure: Measure,
    family: Family,
    num_steps: int,
) -> str | None:
    """What tells one measure of runs of a family from another; None for no measure."""
    bound = as_measure(measure)
    if bound is None:
        return None
    problem = jax.eval_shape(optimizee_base.begin, family, jax.random.key(0))
    losses = jnp.zeros(num_steps + 1)
    run = Run(losses, problem.theta_0, problem.statistics)
    return _fingerprint.of_function(jax.tree_util.Partial(measured, bound), run, problem)


@dataclasses.dataclass(frozen=True)
class _Every:
    """A dict of measures as one."""

    of_run = True

    def __call__(
        self,
        measures: dict[str, Callable],
        run: Run,
        problem: Problem,
    ) -> dict[str, Any]:
        return {name: measured(measure, run, problem) for name, measure in measures.items()}


@dataclasses.dataclass(frozen=True)
class _SeenLoss:
    num_steps: int
    of_run = True

    def __call__(
        self,
        family: Family,
        run: Run,
        problem: Problem,
    ) -> jax.Array:
        def loss_of(t: jax.Array) -> jax.Array:
            loss, _ = optimizee_base.loss_at(family, problem, run.theta, t, run.statistics)
            return loss

        return jnp.mean(jax.lax.map(loss_of, jnp.arange(self.num_steps)))


def measured(
    measure: jax.tree_util.Partial | None,
    run: Run,
    problem: Problem,
) -> Any:
    """What a measure from `as_measure` says of one run; None for no measure."""
    if measure is None:
        return None
    if getattr(measure.func, "of_run", False):
        return measure(run, problem)
    return measure(run.theta)


# This program is apart from `_evaluate`: all optimizers that are measured on the same problems
# share it.
@functools.partial(programs.jit, static_argnums=(2,))
def begin_runs(
    family: Family,
    key: jax.Array,
    num_runs: int,
) -> Problem:
    """Draws the problems of `num_runs` runs, stacked on a first axis."""
    return optimizee_base.begin_all(family, optimizee_base.problem_keys(key, num_runs))


@functools.partial(programs.jit, static_argnums=(0, 1, 6))
def _evaluate(
    shards: Shards,
    rule: Rule,
    phi: Phi,
    measure: jax.tree_util.Partial | None,
    family: Family,
    problems: Problem,
    num_steps: int,
) -> tuple[jax.Array, Any]:
    def of_device(
        phi: Phi,
        measure: jax.tree_util.Partial | None,
        family: Family,
        problems: Problem,
    ) -> tuple[jax.Array, Any]:
        done = runs(unrolling.join(rule, phi), measure, family, problems, num_steps)
        return shards.gathered(done)

    cut = WHOLE, WHOLE, WHOLE, PartitionSpec(PROBLEMS)
    return shards.over_devices(of_device, cut, WHOLE)(phi, measure, family, problems)


def runs(
    tx: Any,
    measure: jax.tree_util.Partial | None,
    family: Family,
    problems: Problem,
    num_steps: int,
) -> tuple[jax.Array, Any]:
    """`evaluate_with` for problems that have begun, for use in other programs.

    It checks nothing and compiles nothing.

    Args:
      tx: an optax transformation.
      measure: from `as_measure`.
      family: the family.
      problems: of the family, from `optimizees.base.begin_all`.
      num_steps: the horizon T.

    Returns:
      See `evaluate_with`.
    """

    def one(problem: Problem) -> tuple[jax.Array, Any]:
        return one_run(tx, measure, family, problem, num_steps)

    batch_size = min(runs_at_once(problems), problems.key.shape[0])
    curves, measures = jax.lax.map(one, problems, batch_size=batch_size)
    return infinite_once_diverged(curves), measures


def one_run(
    tx: Any,
    measure: jax.tree_util.Partial | None,
    family: Family,
    problem: Problem,
    num_steps: int,
) -> tuple[jax.Array, Any]:
    """`runs` for one problem: its losses `[T + 1]` as they are, and what is measured."""
    run = unrolling.life(unrolling.join(tx, ()), family, problem, num_steps)
    return run.losses, measured(measure, run, problem)


def runs_at_once(problems: Problem) -> int:
    """How many problems of this size go side by side on this machine."""
    num_runs = problems.key.shape[0]
    num_numbers = sum(x.size for x in jax.tree.leaves(problems.theta_0))
    return problems_at_once(num_numbers // num_runs)


def problems_at_once(coordinates: int) -> int:
    """How many problems of so many coordinates go side by side on this machine."""
    backend = jax.default_backend()
    at_once = COORDINATES_AT_ONCE.get(backend, ACCELERATOR_COORDINATES_AT_ONCE)
    return max(1, at_once // max(1, coordinates))


def infinite_once_diverged(curves: jax.Array) -> jax.Array:
    """Losses `[..., T + 1]`, infinite from the first value of a run that is not finite."""
    not_finite = ~jnp.isfinite(curves) * 1
    diverged = jax.lax.cummax(not_finite, axis=curves.ndim - 1) > 0
    return jnp.where(diverged, jnp.inf, curves)
