"""Learning the numbers of a method, by the gradient through all that it does."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from learned_opt import _checks, devices
from learned_opt.meta import programs
from learned_opt.optimizees import base
from learned_opt.optimizees.base import Family, Optimizee, Theta

Numbers = Any  # a pytree of real floating-point arrays
Method = Callable[[Numbers, Any], Theta]

_AT_ONCE = 50  # updates in one call of the program


def learn_method(
    method: Method,
    numbers: Numbers,
    problem: Optimizee,
    key: jax.Array,
    *,
    num_updates: int = 2_000,
    num_problems: int = 256,
    learning_rate: float = 3e-3,
    floor: float | None = None,
    progress_bar: bool = True,
) -> Numbers:
    """Learns the numbers of a method that solves a family's instances in a fixed number of steps.

    An expert's method has numbers that somebody chose: step sizes, penalties, dampings, a starting
    point. Here they become weights, others for each step if the method has them so, and minimize
    the mean loss at the method's answer. The gradient goes through all of its steps. A start that
    is learned in this way is one from which the method's next steps are good.

    Args:
      method: `method(numbers, instance) -> theta` for one instance, which JAX can differentiate.
      numbers: where learning begins, such as an expert's choice: a pytree of floating-point arrays.
      problem: an `Optimizee`; its `sample` and its `loss` are used.
      key: draws problems.
      num_updates: of the numbers, by Adam with a cosine decay.
      num_problems: fresh problems for each update.
      learning_rate: Adam's at first. All numbers are moved alike, so let them be of order one, such
        as logarithms.
      floor: see `learned_opt.learn_start`.
      progress_bar: whether to show one, on stderr.

    Returns:
      The learned numbers, like `numbers`.

    Raises:
      ValueError: for numbers that are not floating-point arrays, a method that is no function or
        whose answer is not like the family's theta, settings that are not positive, or a loss that
        is not finite.

    Source:
      Gregor and LeCun 2010, Learning fast approximations of sparse coding, section 3, where the
      method is ISTA.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> family = learned_opt.optimizees.quadratic(dim=2)
      >>> def one_step(rate, instance):
      ...     return rate * instance.w.T @ instance.y
      >>> rate = learned_opt.learn_method(
      ...     one_step, jnp.zeros(()), family, jax.random.key(0), num_updates=5, progress_bar=False)
      >>> rate.shape
      ()
    """
    _checks.random_key(key)
    if not callable(method):
        raise ValueError(
            f"method must be a function of numbers and an instance, got {_checks.shown(method)}."
        )
    numbers = _as_arrays(numbers)
    family = base.as_family(problem)
    _check_answer(method, numbers, family, key)
    loss = jax.tree_util.Partial(_LossOfMethod(method), family)
    descent = checked_descent(num_updates, num_problems, learning_rate, floor)
    return descend(loss, numbers, key, descent, "the method", progress_bar)


def _as_arrays(numbers: Numbers) -> Numbers:
    """The numbers as arrays; raises ValueError that names the first leaf that cannot be one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(numbers):
        dtype = np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"numbers must be floating-point numbers or arrays, got {dtype} at "
                f"{_checks.leaf_name(path)}: what is not to be learned belongs in the method."
            )
    return jax.tree.map(jnp.asarray, numbers)


def _check_answer(
    method: Method,
    numbers: Numbers,
    family: Family,
    key: jax.Array,
) -> None:
    begun = jax.eval_shape(base.begin, family, key)
    answer = jax.eval_shape(method, numbers, begun.instance)
    remedy = "let the method return theta of one instance."
    _checks.same_tree("answers of the method", answer, "the family's theta", begun.theta_0, remedy)


@dataclasses.dataclass(frozen=True)
class _LossOfMethod:
    """The loss at a method's answer for a fresh problem; compared by the method it is of."""

    method: Method

    def __call__(
        self,
        family: Family,
        numbers: Numbers,
        key: jax.Array,
    ) -> jax.Array:
        begun = base.begin(family, key)
        theta = self.method(numbers, begun.instance)
        return base.loss_at(family, begun, theta, 0, begun.statistics)[0]


class Descent(NamedTuple):
    """How a mean loss is minimized, see `learned_opt.learn_start`; from `checked_descent`."""

    num_updates: int
    num_problems: int
    learning_rate: float
    floor: float | None

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a cosine decay, behind a bound for the gradient's norm."""
        schedule = optax.cosine_decay_schedule(self.learning_rate, self.num_updates)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def checked_descent(
    num_updates: int,
    num_problems: int,
    learning_rate: float,
    floor: float | None,
) -> Descent:
    """A `Descent` of plain numbers; raises ValueError for one that is not possible."""
    return Descent(
        _checks.positive_int("num_updates", num_updates),
        _checks.positive_int("num_problems", num_problems),
        _checks.positive_float("learning_rate", learning_rate),
        None if floor is None else _checks.not_negative_float("floor", floor),
    )


def descend(
    loss: jax.tree_util.Partial,
    weights: Any,
    key: jax.Array,
    descent: Descent,
    what: str,
    progress_bar: bool,
) -> Any:
    """Minimizes the mean of a loss over fresh problems.

    Args:
      loss: `loss(weights, key) -> scalar` of one problem, which the key draws.
      weights: where to begin, a pytree of arrays.
      key: draws problems.
      descent: how.
      what: is learned, for the progress bar and messages.
      progress_bar: whether to show one, on stderr.

    Returns:
      The weights.

    Raises:
      ValueError: for a loss that is not finite.
    """
    measure, remedy = "loss", "lower learning_rate"
    if descent.floor is not None:
        measure, remedy = "log loss", "lower learning_rate, or raise floor"
    state = descent.optimizer().init(weights)
    with tqdm.tqdm(
        total=descent.num_updates,
        desc=f"learning {what}",
        unit="update",
        disable=not progress_bar or not devices.is_first(),
    ) as bar:
        for first in range(0, descent.num_updates, _AT_ONCE):
            count = min(_AT_ONCE, descent.num_updates - first)
            keys = jax.random.split(jax.random.fold_in(key, first), count)
            weights, state, value = _updates(descent, loss, weights, state, keys)
            if not math.isfinite(float(value)):
                raise ValueError(
                    f"the loss of {what} is {float(value)} after {first + count} updates: leave "
                    f"instances with a NaN out of what `sample` draws from, or {remedy}."
                )
            bar.set_postfix_str(f"{measure} {float(value):.4g}", refresh=False)
            bar.update(count)
    return weights


@functools.partial(programs.jit, static_argnums=(0,))
def _updates(
    descent: Descent,
    loss: jax.tree_util.Partial,
    weights: Any,
    state: Any,
    keys: jax.Array,
) -> tuple[Any, Any, jax.Array]:
    """One update for each key, and the mean over them of what they minimize."""
    optimizer = descent.optimizer()

    def mean_loss(weights: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, descent.num_problems)
        losses = jax.vmap(loss, in_axes=(None, 0))(weights, keys)
        return jnp.mean(losses if descent.floor is None else jnp.log(losses + descent.floor))

    def update(carry: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
        weights, state = carry
        value, slope = jax.value_and_grad(mean_loss)(weights, key)
        step, state = optimizer.update(slope, state, weights)
        return (optax.apply_updates(weights, step), state), value

    (weights, state), values = jax.lax.scan(update, (weights, state), keys)
    return weights, state, jnp.mean(values)
