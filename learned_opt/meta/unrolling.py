"""The life of one problem under one optimizer."""

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.meta import programs
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem, Theta
from learned_opt.optimizers import base as optimizer_base
from learned_opt.optimizers.base import LearnedOptimizer, Phi

# An optax transformation, or an architecture with its weights.
Transformation: TypeAlias = optax.GradientTransformation | tuple[LearnedOptimizer, Phi]
# What of it is static: the optax transformation itself, or the architecture.
Rule: TypeAlias = optax.GradientTransformation | LearnedOptimizer


class Run(NamedTuple):
    """What is left of a problem's life.

    Attributes:
      losses: `[num_steps + 1]`, f(theta_t) for t = 0 .. num_steps, each on the minibatch of step t.
      theta: the parameters theta_T.
      statistics: what the problem carries beside theta, after num_steps steps; an empty tuple for
        a family without statistics.
    """

    losses: jax.Array
    theta: Theta
    statistics: Any = ()


def unroll(
    tx: Transformation,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
) -> Run:
    """Runs an optimizer for `num_steps` steps on a fresh problem.

    This is equation 3 of Andrychowicz et al. 2016. The minibatch of step t depends on the key and
    on t alone, so a longer run with the same key begins with the shorter one. The function can be
    jitted, vmapped over keys, and differentiated.

    Args:
      tx: an optax transformation or a pair `(opt, phi)`. Weights in a pair are an argument of the
        compiled program: other weights of an equal optimizer do not compile again. The
        transformation gets the parameters and, as extra arguments, the loss `value`, its gradient
        `grad` and the function `value_fn` of the parameters, for optimizers that search along a
        line.
      problem: an `Optimizee`.
      key: draws the problem, theta_0 and the minibatches.
      num_steps: the horizon T.

    Returns:
      A `Run`.

    Raises:
      ValueError: for a horizon that is not positive, or arguments of another kind.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.lstm()
      >>> problem = learned_opt.optimizees.quadratic()
      >>> phi = opt.init(jax.random.key(0))
      >>> learned_opt.unroll((opt, phi), problem, jax.random.key(1), num_steps=3).losses.shape
      (4,)
    """
    num_steps = check_run(tx, problem, key, num_steps)
    rule, phi = separate(tx)
    return _unroll(rule, phi, optimizee_base.as_family(problem), key, num_steps)


def check_run(
    tx: Transformation,
    problem: Optimizee,
    key: jax.Array,
    num_steps: int,
) -> int:
    """The checks that `unroll` and `evaluate` share; returns `num_steps`."""
    check_transformation("tx", tx)
    optimizee_base.as_family(problem)
    _checks.random_key(key)
    return _checks.positive_int("num_steps", num_steps)


def check_transformation(name: str, tx: Transformation) -> None:
    """Raises ValueError unless `tx` is an optax transformation or a pair `(opt, phi)` that fits."""
    if is_pair(tx):
        opt, phi = tx
        tx = opt.transform(phi)  # checks phi
    optimizer_base.check_transformation(name, tx)


def is_pair(tx: Any) -> bool:
    """Whether this is a pair `(opt, phi)`."""
    return isinstance(tx, tuple) and len(tx) == 2 and isinstance(tx[0], LearnedOptimizer)


def separate(tx: Transformation) -> tuple[Rule, Phi]:
    """What of an optimizer is static in a program, and what is an argument of it."""
    return tx if is_pair(tx) else (tx, ())


def join(rule: Rule, phi: Phi) -> optax.GradientTransformationExtraArgs:
    """The transformation of what `separate` has separated; it takes extra arguments."""
    tx = rule.transform(phi) if isinstance(rule, LearnedOptimizer) else rule
    return optax.with_extra_args_support(tx)


def life(
    tx: optax.GradientTransformationExtraArgs,
    family: Family,
    problem: Problem,
    num_steps: int,
) -> Run:
    """`unroll` for a problem that `optimizees.base.begin` has drawn, for use in other programs.

    It checks nothing and compiles nothing.
    """

    def step(carry: tuple, t: jax.Array) -> tuple[tuple, jax.Array]:
        theta, state, statistics = carry
        loss, gradient, after = optimizee_base.value_and_grad_at(
            family, problem, theta, t, statistics
        )
        value_fn = functools.partial(loss_of, t=t, statistics=statistics)
        updates, state = tx.update(
            gradient,
            state,
            theta,
            value=loss,
            grad=gradient,
            value_fn=value_fn,
            horizon=num_steps,
        )
        return (optax.apply_updates(theta, updates), state, after), loss

    def loss_of(
        theta: Theta,
        t: jax.Array | int,
        statistics: Any,
        horizon: int | None = None,
    ) -> jax.Array:
        del horizon  # optax's line search hands over everything that an update gets
        loss, _ = optimizee_base.loss_at(family, problem, theta, t, statistics)
        return loss

    begun = problem.theta_0, tx.init(problem.theta_0), problem.statistics
    (theta, _, statistics), losses = jax.lax.scan(step, begun, jnp.arange(num_steps))
    final_loss = loss_of(theta, num_steps, statistics)
    return Run(jnp.append(losses, final_loss), theta, statistics)


@functools.partial(programs.jit, static_argnums=(0, 4))
def _unroll(
    rule: Rule,
    phi: Phi,
    family: Family,
    key: jax.Array,
    num_steps: int,
) -> Run:
    problem = optimizee_base.begin(family, key)
    return life(join(rule, phi), family, problem, num_steps)
