"""Loss curves of an optimizer on fresh problems."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.meta import unrolling
from learned_opt.optimizees import base as optimizee_base

# Numbers of theta that live at once: more runs than this hold are run one batch after another.
COORDINATES_AT_ONCE = {"cpu": 2**18}
ACCELERATOR_COORDINATES_AT_ONCE = 2**24


def evaluate(tx, problem, key, num_steps, num_runs):
    """Runs an optimizer on `num_runs` fresh problems.

    Run i is `unroll` with `jax.random.split(key, num_runs)[i]`, a single run is `unroll` with the key itself.

    Args:
      tx: an optax transformation.
      problem: an `Optimizee`.
      key: draws the problems.
      num_steps: the horizon T.
      num_runs: how many problems.

    Returns:
      Losses `[num_runs, num_steps + 1]`. A run that diverges is infinite from then on, and counts.

    Raises:
      ValueError: for sizes that are not positive, or arguments of another kind.
    """
    return evaluate_with(None, tx, problem, key, num_steps, num_runs)[0]


def evaluate_with(measure, tx, problem, key, num_steps, num_runs):
    """`evaluate`, with something else measured at the end of every run.

    Args:
      measure: `measure(theta_T) -> scalar`, such as the accuracy on test data; `seen_loss(problem, num_steps)`; None;
        or a dict of such measures.
      tx, problem, key, num_steps, num_runs: see `evaluate`.

    Returns:
      `(losses [num_runs, num_steps + 1], measures [num_runs])`, the measures None if `measure` is None, and a dict if
      it is one.
    """
    num_steps = unrolling.check_run(tx, problem, key, num_steps)
    num_runs = _checks.positive_int("num_runs", num_runs)
    problem = optimizee_base.as_partials(problem)
    begun = begin_all(problem, key, num_runs)
    return _jitted_runs(tx, as_measure(measure), problem, begun, num_steps)


def as_measure(measure):
    """What `evaluate_with` takes as a measure in a form that can go through `jax.jit` as an argument, None as None."""
    if isinstance(measure, dict):
        return jax.tree_util.Partial(_Every(), {name: as_measure(m) for name, m in measure.items()})
    return (
        measure
        if measure is None or isinstance(measure, jax.tree_util.Partial)
        else jax.tree_util.Partial(measure)
    )


def seen_loss(problem, num_steps):
    """The measure that Lv, Jiang, Li 2017 print (figure 3): f(theta_T), the mean over all minibatches of the run.

    It lies below the loss at step T, which is that of a minibatch that the run has not trained on.
    """
    return jax.tree_util.Partial(_SeenLoss(num_steps), optimizee_base.as_partials(problem))


@dataclasses.dataclass(frozen=True)
class _Every:
    """A dict of measures as one."""

    of_run = True

    def __call__(self, measures, theta, begun):
        return {name: _measure(measure, theta, begun) for name, measure in measures.items()}


@dataclasses.dataclass(frozen=True)
class _SeenLoss:
    num_steps: int
    of_run = True  # it is told of the run whose theta it measures

    def __call__(self, problem, theta, begun):
        def loss(t):
            return problem.loss(theta, begun.instance, optimizee_base.minibatch_key(begun.key, t))

        return jnp.mean(jax.lax.map(loss, jnp.arange(self.num_steps)))


def _measure(measure, theta, begun):
    return measure(theta, begun) if getattr(measure.func, "of_run", False) else measure(theta)


# A program of its own: it is compiled once for all the optimizers that are measured on the same problems.
begin_all = functools.partial(jax.jit, static_argnums=2)(optimizee_base.begin_all)


def runs(tx, measure, problem, begun, num_steps, copies=1):
    """`evaluate_with` on problems that have begun, without checks or jit, for use inside other programs.

    Args:
      tx, measure, problem, num_steps: see `evaluate_with`.
      begun: problems from `optimizees.base.begin_all`.
      copies: over how many values this is vmapped outside; for the choice of how many runs are made at once.
    """
    num_runs = begun.key.shape[0]
    num_coordinates = max(
        1, copies * sum(x.size for x in jax.tree.leaves(begun.theta_0)) // num_runs
    )
    at_once = COORDINATES_AT_ONCE.get(jax.default_backend(), ACCELERATOR_COORDINATES_AT_ONCE)
    batch_size = max(1, min(num_runs, at_once // num_coordinates))

    def one(begun):
        run = unrolling.life(tx, problem, begun, num_steps)
        return run.losses, None if measure is None else _measure(measure, run.theta, begun)

    curves, measures = jax.lax.map(one, begun, batch_size=batch_size)
    return infinite_once_diverged(curves), measures


def infinite_once_diverged(curves):
    """Losses `[..., T + 1]` with everything from the first value that is not finite replaced by infinity."""
    diverged = jax.lax.cummax(~jnp.isfinite(curves) * 1, axis=curves.ndim - 1) > 0
    return jnp.where(diverged, jnp.inf, curves)


_jitted_runs = functools.partial(jax.jit, static_argnums=(0, 4))(runs)
