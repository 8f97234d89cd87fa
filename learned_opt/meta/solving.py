"""A family of problems solved many times: thousands of instances in one program."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import _checks
from learned_opt.meta import evaluating, programs, unrolling
from learned_opt.meta.unrolling import Rule
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Optimizee, Problem, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi
from learned_opt.optimizers.safeguard import SafeguardState, safeguard


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("theta", "value", "steps", "moved"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a solver gives: `theta, value, steps = solve(instances)`.

    Every array has the instances on its first axis.

    Attributes:
      theta: the answers: the family's `solution` of the best parameters that were met, or these
        themselves where the family has none.
      value: the loss there, `[instances]`. It is infinite where no step had a finite loss.
      steps: how many steps an instance took until the tolerance was met, or num_steps,
        `[instances]` int32.
      moved: the parameters that the optimizer moved, of which theta is the `solution`. A solver
        takes them as `theta_0`, to go on from there.
    """

    theta: Any
    value: jax.Array
    steps: jax.Array
    moved: Theta

    def __iter__(self) -> Iterator[Any]:
        return iter((self.theta, self.value, self.steps))

    @property
    def found(self) -> jax.Array:
        """Whether there is an answer: False where data or losses are not finite, `[instances]`."""
        return jnp.isfinite(self.value)


class _Life(NamedTuple):
    """One problem between two steps."""

    theta: Theta
    state: Any
    best: Theta
    value: jax.Array  # at the best
    steps: jax.Array
    is_done: jax.Array


class _Settings(NamedTuple):
    """What is static in a solver's program."""

    num_steps: int
    has_tolerance: bool
    keep_best: bool


def solver(
    opt: LearnedOptimizer | optax.GradientTransformation,
    phi: Phi,
    problem: Optimizee,
    *,
    num_steps: int,
    tolerance: float | None = None,
    fallback: optax.GradientTransformation | None = None,
    share: float = 0.5,
    keep_best: bool = True,
    batch_size: int | None = None,
) -> Callable[..., Solution]:
    """A function that solves many instances of a family in one program.

    Args:
      opt: a `LearnedOptimizer`; or an optax transformation, with None for phi.
      phi: its weights. They are arguments of the compiled program.
      problem: the family, an `Optimizee` without statistics. Its `loss` should read no key: what is
        random in it is drawn anew at every step.
      num_steps: the most steps of an instance; 0 gives where instances start.
      tolerance: an instance stops where no entry of its gradient is larger than this, and counts no
        more; when all have stopped, the program ends. With bounds by a smooth map a gradient is
        small near a bound as well. None: all take num_steps steps.
      fallback: a classical method that a learned step has to keep up with; see `safeguard`. Its own
        steps are not checked: it should be one that converges.
      share: of the progress that the fallback guarantees; see `safeguard`.
      keep_best: whether the answer is the best point that was met. The last one is quicker to come
        by where the loss costs much more than its gradient.
      batch_size: how many instances go side by side at most; None for as many as fit into the
        device's fast memory. The others follow, in the same program.

    Returns:
      `solve(instances, key=None, theta_0=None) -> Solution`. `instances` are what `problem.sample`
      gives, stacked on a first axis: the user's own arrays. `key` is for families that start at
      random or have random losses; theta_0 are starting points in the place of `problem.init`'s,
      stacked as well: another solution's `moved`. The function can be jitted, which saves time
      where there are few instances. It cannot be differentiated.

    Raises:
      ValueError: for settings that are not possible. `solve` raises it for instances of other
        shapes than the family's.

    Example:
      >>> import jax, learned_opt, optax
      >>> family = learned_opt.optimizees.quadratic(dim=2)
      >>> solve = learned_opt.solver(optax.adam(0.1), None, family, num_steps=5)
      >>> instances = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 3))
      >>> theta, value, steps = solve(instances)
      >>> theta.shape, value.shape
      ((3, 2), (3,))
    """
    tx = (opt, phi) if isinstance(opt, LearnedOptimizer) else opt
    unrolling.check_transformation("opt", tx)
    rule, weights = unrolling.separate(tx)
    if not isinstance(opt, LearnedOptimizer) and phi is not None:
        raise ValueError("phi must be None for an optax transformation, which has no weights.")
    family = optimizee_base.as_family(problem)
    if getattr(problem, "statistics", None) is not None:
        raise ValueError("problem must have no statistics: a solver does not carry them.")
    if tolerance is not None:
        tolerance = _checks.positive_float("tolerance", tolerance)
    num_steps = _checks.positive_int("num_steps", num_steps, minimum=0)
    settings = _Settings(num_steps, tolerance is not None, _checks.boolean("keep_best", keep_best))
    if batch_size is not None:
        batch_size = _checks.positive_int("batch_size", batch_size)
    guarded = _Guarded(rule, fallback, share)
    if fallback is not None:
        safeguard(optax.identity(), fallback, share=share)  # checks them
    shapes = _Shapes.of(family)

    def solve(
        instances: Any,
        key: jax.Array | None = None,
        theta_0: Theta | None = None,
    ) -> Solution:
        key = jax.random.key(0) if key is None else key
        _checks.random_key(key)
        instances = _stacked(instances, shapes.instance)
        if theta_0 is not None:
            theta_0 = _starting(theta_0, shapes.theta, instances)
        size = batch_size or shapes.at_once()
        arguments = (weights, family, instances, key, theta_0, tolerance or 0.0)
        return _solve(guarded, settings, size, *arguments)

    return solve


class _Shapes(NamedTuple):
    """The shapes of one instance and of its parameters."""

    instance: Any
    theta: Any

    @classmethod
    def of(cls, family: Family) -> "_Shapes":
        """Those of a family; raises ValueError for one whose problems differ in theta_0 alone."""
        key = jax.random.key(0)
        instance = jax.eval_shape(family.sample, key)
        if not jax.tree.leaves(instance):
            raise ValueError(
                "problem has no instances, its problems differ in theta_0 alone: a solver needs a "
                "family whose `sample` gives arrays."
            )
        return cls(instance, jax.eval_shape(optimizee_base.begin, family, key).theta_0)

    def at_once(self) -> int:
        """How many instances go side by side on this machine."""
        return evaluating.problems_at_once(sum(x.size for x in jax.tree.leaves(tuple(self))))


class _Guarded(NamedTuple):
    """A rule, and the fallback that guards it."""

    rule: Rule
    fallback: optax.GradientTransformation | None
    share: float

    def join(self, phi: Phi) -> optax.GradientTransformationExtraArgs:
        """The transformation of these weights."""
        tx = unrolling.join(self.rule, phi)
        if self.fallback is None:
            return tx
        return safeguard(tx, self.fallback, share=self.share)


def _stacked(instances: Any, like: Any) -> Any:
    """The instances as arrays; raises ValueError unless all have the shapes of the family's."""
    places = jax.tree_util.tree_leaves_with_path(like)
    names = [_checks.leaf_name(path) for path, _ in places]
    parts = zip(_leaves(instances, like), jax.tree.leaves(like), names, strict=True)
    found = jax.tree.structure(like).unflatten([_array(*part) for part in parts])
    counts = {x.shape[:1] for x in jax.tree.leaves(found)}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            "instances must be stacked on a first axis of one length, got leaves of the shapes "
            f"{[list(x.shape) for x in jax.tree.leaves(found)]}."
        )
    if counts == {(0,)}:
        raise ValueError("instances must hold at least one instance, got none.")
    one = jax.tree.map(_without_first_axis, found)
    remedy = "stack instances like those of the family's `sample` on a first axis."
    _checks.same_tree(
        "instances, less their first axis,", one, "the family's instances", like, remedy
    )
    return found


def _without_first_axis(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _starting(
    theta_0: Theta,
    like: Theta,
    instances: Any,
) -> Theta:
    """The user's starting points as arrays; raises ValueError unless there is one an instance."""
    theta_0 = jax.tree.map(jnp.asarray, theta_0)
    count = len(jax.tree.leaves(instances)[0])
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), like)
    remedy = "give one starting point for each instance, stacked on a first axis."
    _checks.same_tree("theta_0", theta_0, "the starting points", stacked, remedy)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), theta_0, like)


def _leaves(instances: Any, like: Any) -> list:
    """The arrays of instances; a tuple or list may stand for the family's NamedTuple."""
    structure = jax.tree.structure(like)
    is_plain = type(instances) in (tuple, list) and isinstance(like, tuple)
    if is_plain and len(instances) == len(like):
        pairs = zip(instances, like, strict=True)
        return [leaf for part, own in pairs for leaf in _leaves(part, own)]
    try:
        return structure.flatten_up_to(instances)
    except (ValueError, TypeError):
        raise ValueError(
            f"instances must be like the family's, {_described(like)}, got "
            f"{type(instances).__name__}."
        ) from None


def _described(like: Any) -> str:
    """The fields of an instance."""
    places = jax.tree_util.tree_leaves_with_path(like)
    fields = [f"{_checks.leaf_name(path)} {list(x.shape)}" for path, x in places]
    return f"{type(like).__name__} with {', '.join(fields)}"


def _array(
    x: Any,
    like: Any,
    name: str,
) -> jax.Array:
    """One array of the instances in the family's dtype, if nothing is lost by it."""
    if not isinstance(x, jax.Array):
        x = _of_numpy(x, like, name)
    wanted, given = like.dtype, x.dtype
    is_kept = jnp.issubdtype(given, wanted) or given == wanted
    if jnp.issubdtype(wanted, jnp.floating):
        is_kept = not jnp.issubdtype(given, jnp.complexfloating)
    elif jnp.issubdtype(wanted, jnp.integer):
        is_kept = jnp.issubdtype(given, jnp.integer) or given == jnp.bool_
    if not is_kept:
        raise ValueError(
            f"instances at {name} must be {wanted}, got {given}, which loses something: the "
            "family's `sample` says what they are."
        )
    return jnp.asarray(x, wanted)


def _of_numpy(
    x: Any,
    like: Any,
    name: str,
) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray) and np.any(np.ma.getmaskarray(x)):
        raise ValueError(f"instances at {name} are masked: leave out what is missing.")
    try:
        x = np.asarray(x)
    except ValueError as error:
        shapes = sorted({str(np.shape(row)) for row in x})
        raise ValueError(
            f"instances at {name} must all have the shape {like.shape}, got {', '.join(shapes)}: "
            "instances of other shapes are another family."
        ) from error
    if x.dtype.kind not in "biufcV":  # V: bfloat16 and its like
        raise ValueError(f"instances at {name} must be numbers, got {x.dtype}.")
    is_whole = x.dtype.kind == "f" and jnp.issubdtype(like.dtype, jnp.integer)
    if is_whole and np.all(x == np.round(x)) and np.all(np.isfinite(x)):
        return x.astype(like.dtype)
    return x


def _begin(family: Family, keys: jax.Array, instances: Any) -> Problem:
    """The problems of instances, as they start."""

    def one(key: jax.Array, instance: Any) -> Problem:
        _, init_key, step_key = jax.random.split(key, 3)
        return Problem(instance, family.init(init_key, instance), step_key, ())

    return jax.vmap(one)(keys, instances)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def _solve(
    guarded: _Guarded,
    settings: _Settings,
    batch_size: int,
    phi: Phi,
    family: Family,
    instances: Any,
    key: jax.Array,
    theta_0: Theta | None,
    tolerance: float,
) -> Solution:
    count = len(jax.tree.leaves(instances)[0])
    problems = _begin(family, jax.random.split(key, count), instances)
    if theta_0 is not None:
        problems = problems._replace(theta_0=theta_0)
    tx = guarded.join(phi)

    def of_batch(problems: Problem) -> Solution:
        return _batch(tx, settings, family, problems, tolerance)

    if count <= batch_size:
        return of_batch(problems)
    num_batches = -(-count // batch_size)
    batch_size = -(-count // num_batches)
    # All batches have one size: the last problem may be solved more than once.
    index = jnp.minimum(jnp.arange(num_batches * batch_size), count - 1)
    split = jax.tree.map(
        lambda x: x[index].reshape(num_batches, batch_size, *x.shape[1:]), problems
    )
    solved = jax.lax.map(of_batch, split)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], solved)


def _batch(
    tx: optax.GradientTransformationExtraArgs,
    settings: _Settings,
    family: Family,
    problems: Problem,
    tolerance: float,
) -> Solution:
    """Solves problems side by side."""

    def begin(problem: Problem) -> _Life:
        theta_0 = problem.theta_0
        loss = jax.eval_shape(family.loss, theta_0, problem.instance, problem.key, ())[0]
        value = jnp.full((), jnp.inf, loss.dtype)
        return _Life(theta_0, tx.init(theta_0), theta_0, value, jnp.int32(0), jnp.array(False))

    step = jax.vmap(functools.partial(_step, tx, settings, family, tolerance), in_axes=(0, 0, None))
    lives = jax.vmap(begin)(problems)
    if settings.has_tolerance:

        def goes_on(carry: tuple) -> jax.Array:
            t, lives = carry
            return (t < settings.num_steps) & ~jnp.all(lives.is_done)

        def body(carry: tuple) -> tuple:
            t, lives = carry
            return t + 1, step(problems, lives, t)

        t, lives = jax.lax.while_loop(goes_on, body, (jnp.int32(0), lives))
    else:
        t = jnp.int32(settings.num_steps)
        lives = jax.lax.fori_loop(0, t, lambda t, lives: step(problems, lives, t), lives)
    return jax.vmap(functools.partial(_end, settings, family), in_axes=(0, 0, None))(
        problems, lives, t
    )


def _step(
    tx: optax.GradientTransformationExtraArgs,
    settings: _Settings,
    family: Family,
    tolerance: float,
    problem: Problem,
    life: _Life,
    t: jax.Array,
) -> _Life:
    loss, gradient, _ = optimizee_base.value_and_grad_at(family, problem, life.theta, t, ())
    best, value = _better(settings, life, life.theta, loss)

    def value_fn(theta: Theta) -> jax.Array:
        return optimizee_base.loss_at(family, problem, theta, t, ())[0]

    updates, state = tx.update(
        gradient, life.state, life.theta, value=loss, grad=gradient, value_fn=value_fn
    )
    theta = optax.apply_updates(life.theta, updates)
    new = _Life(theta, state, best, value, life.steps + 1, life.is_done)
    if not settings.has_tolerance:
        return new
    is_done = life.is_done | _has_ended(life, loss, gradient, tolerance)
    # An instance that was done stays as it is; one that is done now has its best, and no new step.
    kept = life._replace(best=best, value=value, is_done=is_done)
    return jax.tree.map(functools.partial(jnp.where, is_done), kept, new)


def _has_ended(
    life: _Life,
    loss: jax.Array,
    gradient: Theta,
    tolerance: float,
) -> jax.Array:
    """Whether an instance meets the tolerance, or will never."""
    sizes = [jnp.max(jnp.abs(g), initial=0.0) for g in jax.tree.leaves(gradient)]
    largest = jnp.max(jnp.stack([x.astype(loss.dtype) for x in sizes]), initial=0.0)
    # What is not finite will not become so again: it need not hold up the others.
    has_ended = (largest <= tolerance) | ~jnp.isfinite(largest)
    if isinstance(life.state, SafeguardState):
        # A proposal that is not good enough is taken back: it ends nothing.
        has_ended &= life.state.accepts(loss, gradient)
    return has_ended


def _better(
    settings: _Settings,
    life: _Life,
    theta: Theta,
    loss: jax.Array,
) -> tuple[Theta, jax.Array]:
    """The better of the best point so far and this one."""
    if not settings.keep_best:
        return life.best, life.value
    is_better = (loss < life.value) & jnp.isfinite(loss)
    best = jax.tree.map(functools.partial(jnp.where, is_better), theta, life.best)
    return best, jnp.where(is_better, loss, life.value)


def _end(
    settings: _Settings,
    family: Family,
    problem: Problem,
    life: _Life,
    t: jax.Array,
) -> Solution:
    """The answer of one problem after its last step."""
    loss, _ = optimizee_base.loss_at(family, problem, life.theta, t, ())
    if isinstance(life.state, SafeguardState):
        life, loss = _judged(family, problem, life, loss, t)
    best, value = _better(settings, life, life.theta, loss)
    if not settings.keep_best:
        best, value = life.theta, jnp.where(jnp.isfinite(loss), loss, jnp.inf)
    answer = best if family.solution is None else family.solution(best, problem.instance)
    return Solution(answer, value, life.steps, best)


def _judged(
    family: Family,
    problem: Problem,
    life: _Life,
    loss: jax.Array,
    t: jax.Array,
) -> tuple[_Life, jax.Array]:
    """The last proposal, or where the fallback leads if it is not good enough."""
    is_kept = life.state.accepts(loss)
    settled = life.state.settled(life.theta)
    other, _ = optimizee_base.loss_at(family, problem, settled, t, ())
    theta = jax.tree.map(functools.partial(jnp.where, is_kept), life.theta, settled)
    return life._replace(theta=theta), jnp.where(is_kept, loss, other)
