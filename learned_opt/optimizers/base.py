"""What a learned optimizer is: an architecture as two pure functions, without weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from learned_opt import _checks, devices

Phi = Any  # the optimizer's weights: a pytree of arrays
Theta = Any  # the parameters that an optimizer updates: a pytree of arrays

READABLE = ("params", "value")  # what an update may read besides gradients, as optax names it


class Parts(NamedTuple):
    """How a partitioned optimizer is put together.

    Attributes:
      optimizers: the `LearnedOptimizer` of each label.
      label_fn: `label_fn(params) -> labels`, a tree with the structure of params or a prefix of it.
    """

    optimizers: dict
    label_fn: Callable[[Theta], Any]


class LearnedOptimizer(NamedTuple):
    """An update rule with weights to be learned.

    `transform(phi)` is an ordinary optax transformation. Two optimizers are equal if their
    functions are: those that this library builds are equal where their settings are, so that
    nothing is compiled twice. A function of your own is equal to itself only.

    Attributes:
      init: `init(key) -> phi`, the initial weights, a plain pytree of arrays.
      transform: `transform(phi) -> LearnedTransformation`.
      coordinatewise: True if the update of a coordinate depends on the gradients of this
        coordinate alone, by the same rule for all. The meta-gradient is then computed in blocks
        of coordinates.
      spec: plain data `{"name": str, "args": dict}` from which `optimizers.from_spec` rebuilds
        the optimizer. None if it cannot be rebuilt.
      parts: the `Parts` of a partitioned optimizer. The meta-gradient then treats each label by
        itself.
      pull_back: a derivative of a window that is faster than `jax.vjp`, for a coordinatewise
        optimizer that has one; see `CoordinateRule`. Its states are those of `transform` for a
        vector of coordinates.
      reads: what an update reads besides gradients and its own state, a subset of
        `{"params", "value"}` (theta and the loss, as optax names them). None if it is not
        declared; `reads_of` finds out.
    """

    init: Callable[[jax.Array], Phi]
    transform: Callable[[Phi], optax.GradientTransformationExtraArgs]
    coordinatewise: bool
    spec: dict | None
    parts: Parts | None = None
    pull_back: Callable | None = None
    reads: frozenset | None = None

    def _functions(self) -> tuple:
        """All that decides on what the optimizer computes: a spec only describes it."""
        return self[:3] + self[4:]

    # A dict has no hash. The two functions tell optimizers apart (they are static under jit).
    def __hash__(self):
        return hash((self.init, self.transform))

    def __eq__(self, other):
        if not isinstance(other, LearnedOptimizer):
            return False
        return self._functions() == other._functions()

    def __ne__(self, other):
        return not self == other


class LearnedTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that `LearnedOptimizer.transform` has made from weights.

    It has nothing that other transformations lack. Its type tells a report what is learned.
    """


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its first arguments: `functools.partial` that is equal by value."""

    function: Callable
    arguments: tuple

    def __call__(self, *args, **kwargs):
        """`function(*arguments, *args, **kwargs)`."""
        return self.function(*self.arguments, *args, **kwargs)


def bind(function: Callable, *arguments: Any) -> Bound:
    """`function` with its first arguments, which must be hashable."""
    return Bound(function, arguments)


def check_optimizer(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a LearnedOptimizer."""
    _checks.instance_of(
        name,
        value,
        LearnedOptimizer,
        "build one with learned_opt.lstm(), load one with learned_opt.load_pretrained, or wrap an "
        "optax optimizer with learned_opt.from_optax.",
    )


def check_init_key(key: Any) -> None:
    """Raises ValueError unless `key` is a random key.

    Whoever passes parameters took the optimizer for an optax transformation; the message says so.
    """
    try:
        _checks.random_key(key)
    except ValueError as error:
        raise ValueError(
            "opt.init makes an optimizer's weights from a random key, got "
            f"{_checks.shown(key)}: make one with jax.random.key(seed), or where an optax "
            "transformation is wanted, hand over opt.transform(phi)."
        ) from error


def check_transformation(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an optax transformation."""
    is_optimizer = isinstance(value, LearnedOptimizer)
    has_functions = hasattr(value, "init") and hasattr(value, "update")
    if is_optimizer or not has_functions:
        raise ValueError(
            f"{name} must be an optax transformation, got {type(value).__name__}: give one such as "
            "optax.adam(1e-3), or opt.transform(phi) of a LearnedOptimizer."
        )


def check_phi(
    phi: Any,
    owner: str,
    expected: Any,
) -> None:
    """Raises ValueError unless `phi` are weights of an optimizer.

    Args:
      phi: the weights.
      owner: the optimizer, for the message.
      expected: its weights, or their shapes.
    """
    remedy = "give weights that its init(key) makes, or that were loaded together with it."
    _checks.same_tree("phi", phi, f"the weights of {owner}", expected, remedy)


def check_alike(
    name: str,
    tree: Any,
    reference_name: str,
    reference: Any,
) -> None:
    """Raises ValueError unless two things that an update is given are of the same parameters.

    Arguments are those of `_checks.same_tree`.
    """
    remedy = "gradients, state and params must be of the same parameters."
    _checks.same_tree(name, tree, reference_name, reference, remedy)


@dataclasses.dataclass(frozen=True)
class CheckedInit:
    """`init(key) -> phi`, with its key checked."""

    init: Callable[[jax.Array], Phi]

    def __call__(self, key: jax.Array) -> Phi:
        """The initial weights."""
        check_init_key(key)
        return self.init(key)


@dataclasses.dataclass(frozen=True)
class Transform:
    """`transform(phi)` of an optimizer that a lift has made from a rule.

    Attributes:
      lift: `lift(rule, state_dtype, phi, phi_dtype) -> (init, update)`, the functions of an optax
        transformation.
      rule: the rule.
      init: `init(key) -> phi`: the weights must be like these.
      state_dtype: see the lift.
      spec: describes the optimizer in messages.
    """

    lift: Callable[..., tuple[Callable, Callable]]
    rule: Any
    init: Callable[[jax.Array], Phi]
    state_dtype: str | None
    spec: dict | None = dataclasses.field(compare=False)

    def __call__(self, phi: Phi) -> LearnedTransformation:
        """The transformation of these weights; raises ValueError for those of another optimizer."""
        expected = _shapes_of_weights(self.init)
        check_phi(phi, _description(self.spec), expected)
        _checks.real_floating_tree("phi", phi)
        phi = jax.tree.map(jnp.asarray, phi)
        phi_dtype = widest(jnp.float32, *jax.tree.leaves(phi))
        return LearnedTransformation(*self.lift(self.rule, self.state_dtype, phi, phi_dtype))


@functools.lru_cache(maxsize=256)
def _shapes_of_weights(init):
    return jax.eval_shape(init, jax.random.key(0))


def _description(spec):
    if spec is None:
        return "this optimizer"
    arguments = ", ".join(f"{name}={value!r}" for name, value in spec["args"].items())
    return f"{spec['name']}({arguments})"


def zeros(
    parameter: jax.Array,
    features: tuple,
    dtype: Any,
) -> jax.Array:
    """State `[*features, *parameter.shape]` of zeros, sharded like the parameter."""
    # `jnp.zeros_like` is a constant to jit. This depends on the parameter and carries its sharding.
    zero = jnp.where(jnp.isnan(parameter), jnp.zeros((), dtype), jnp.zeros((), dtype))
    return jnp.broadcast_to(zero, (*features, *parameter.shape))


def widest(*arrays_or_dtypes: Any) -> Any:
    """The dtype that holds all of them, also where JAX is told to promote none by itself."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays_or_dtypes)


def in_dtype_of(x: jax.Array, like: Any) -> jax.Array:
    """`x` in the dtype of `like`."""
    return x.astype(jnp.result_type(like))


def widened(tree: Any, dtype: Any) -> Any:
    """A tree with its floating-point arrays in `dtype`; integers such as counts stay."""

    def of_leaf(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(of_leaf, tree)


# What an update reads


def conditional(
    holds: jax.Array,
    true_fun: Callable,
    false_fun: Callable,
    *operands: Any,
) -> Any:
    """`jax.lax.cond`, with a plain `if` outside of `jax.jit`: there it would compile at each step.

    Args:
      holds: which of the two functions is called, `[]`.
      true_fun: called with the operands where `holds`.
      false_fun: called with them elsewhere; it returns arrays of the same types.
      *operands: trees of arrays.

    Returns:
      What the function returns.
    """
    if isinstance(holds, jax.core.Tracer):
        return jax.lax.cond(holds, true_fun, false_fun, *operands)
    return (true_fun if holds else false_fun)(*operands)


class Seen(NamedTuple):
    """What a rule sees at step t besides its own state.

    Attributes:
      gradient: g_t.
      theta: theta_{t-1}, the parameters at which the gradient was taken. None unless the rule
        declares that it reads "params".
      step: t, 1 at the first step; an int32 scalar.
      loss: the loss at theta_{t-1}, a scalar. None unless the rule declares that it reads "value".
    """

    gradient: jax.Array
    theta: jax.Array | None
    step: jax.Array
    loss: jax.Array | None


def seen(
    reads: frozenset,
    gradient: jax.Array,
    theta: Any,
    step: jax.Array,
    loss: Any,
) -> Seen:
    """The `Seen` of a rule, in the dtype of the gradient; what the rule does not read is None."""
    dtype = gradient.dtype
    return Seen(
        gradient,
        jnp.asarray(theta, dtype) if "params" in reads else None,
        step,
        jnp.asarray(loss, dtype) if "value" in reads else None,
    )


def check_reads(reads: Any) -> frozenset:
    """Returns `reads` as a frozenset; raises ValueError unless all of it can be read."""
    if isinstance(reads, str):
        raise ValueError(f"reads must be a set such as {{'params'}}, got {reads!r}.")
    for name in reads:
        _checks.choice("entry of reads", name, READABLE)
    return frozenset(reads)


def check_handed_over(
    reads: frozenset,
    params: Any,
    value: Any,
) -> None:
    """Raises ValueError if an update lacks what its rule reads."""
    if "params" in reads and params is None:
        raise ValueError(
            "this optimizer reads the parameters: call tx.update(gradients, state, params)."
        )
    if "value" in reads and value is None:
        raise ValueError(
            "this optimizer reads the loss: call tx.update(gradients, state, params, value=loss)."
        )


def reads_of(opt: LearnedOptimizer, theta: Theta) -> frozenset:
    """What the updates of an optimizer read besides gradients and its own state.

    An optimizer may declare it. Otherwise its update is traced, without computing anything, and
    reads what updates or the next state depend on. To look at dtypes and shapes is not to read.

    Args:
      opt: a `LearnedOptimizer`.
      theta: the parameters of one problem, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A subset of `{"params", "value"}`: the parameters, and the loss. Of a partitioned optimizer
      the union over those parts that have parameters.

    Raises:
      ValueError: if the update needs more than gradients, parameters and the loss.

    Example:
      >>> import jax, optax, learned_opt
      >>> from learned_opt.optimizers.base import reads_of
      >>> theta = jax.ShapeDtypeStruct((3,), "float32")
      >>> sorted(reads_of(learned_opt.from_optax(optax.adamw(0.1)), theta))
      ['params']
      >>> sorted(reads_of(learned_opt.lstm(), theta))
      []
    """
    if opt.reads is not None:
        return opt.reads
    if opt.parts is None:
        return _traced_reads(opt, theta)
    labels = jax.tree.broadcast(opt.parts.label_fn(theta), theta)
    found: frozenset = frozenset()
    for label, part in opt.parts.optimizers.items():
        mine = _with_label(theta, labels, label)
        if jax.tree.leaves(mine):
            found |= reads_of(part, mine)
    return found


def _with_label(theta, labels, label):
    def of_leaf(x, own_label):
        return x if own_label == label else optax.MaskedNode()

    return jax.tree.map(of_leaf, theta, labels)


def _traced_reads(opt, theta):
    def shape_of(x):
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))

    params = jax.tree.map(shape_of, theta)
    value = jax.ShapeDtypeStruct((), jnp.float32)
    phi = jax.eval_shape(opt.init, jax.random.key(0))
    state = jax.eval_shape(lambda phi, params: opt.transform(phi).init(params), phi, params)

    def update(extra, phi, gradients, state):
        extra = dict(extra)
        params = extra.pop("params", None)
        return opt.transform(phi).update(gradients, state, params, **extra)

    def trace(extra):
        return jax.make_jaxpr(update)(extra, phi, params, state)

    everything = {"params": params, "value": value}
    try:
        traced = trace(everything)
    except Exception as error:
        first_line = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            "the update of this optimizer takes more than gradients, parameters and the loss, "
            f"which are all that there is here: {first_line}"
        ) from error
    is_used = _used_inputs(traced)
    found = set()
    for name in READABLE:
        others = {other: x for other, x in everything.items() if other != name}
        if _any_used(is_used, everything, name) or not _succeeds(trace, others):
            found.add(name)
    return frozenset(found)


def _used_inputs(traced):
    """Of each input of a traced function, whether an output depends on it."""
    _, is_used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return is_used


def _any_used(is_used, everything, name):
    """Whether any leaf of `everything[name]` is used; `everything` is the first argument."""
    leaves = jax.tree_util.tree_leaves_with_path(everything)
    first = is_used[: len(leaves)]
    return any(u for (path, _), u in zip(leaves, first, strict=True) if path[0].key == name)


def _succeeds(trace, extra):
    """Whether an update can be traced without what `extra` lacks."""
    try:
        trace(extra)
    except Exception:
        return False
    return True


# Several devices


def axes_of_coordinates(axis_name: Any) -> tuple:
    """The mesh axes over which the coordinates of a problem are spread inside a `jax.shard_map`.

    Args:
      axis_name: what the caller of `update` says: a name, a tuple of names, or None.

    Returns:
      A tuple of names; `()` if each device holds all coordinates, as along the axes of
      `learned_opt.devices`.

    Raises:
      ValueError: if the caller says nothing inside a `jax.shard_map`, where a mean over all
        coordinates would be one over those of a single device.
    """
    if axis_name is not None:
        return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    manual = jax.sharding.get_abstract_mesh().manual_axes
    mapped = [axis for axis in manual if axis not in devices.AXES]
    if mapped:
        raise ValueError(
            f"axis_name must be given inside a shard_map over {', '.join(map(repr, mapped))}, as "
            "this optimizer reads all coordinates: tx.update(gradients, state, params, "
            "axis_name=...) takes the axes over which the parameters are sharded, or () if every "
            "device holds them whole."
        )
    return ()


def varying_axes(x: jax.Array) -> frozenset:
    """The axes of a `jax.shard_map` along which the type of `x` says that it differs."""
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):  # since JAX 0.10
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())


def check_whole(axis_name: Any, who: str) -> None:
    """Raises ValueError where the coordinates of a problem are spread inside a `jax.shard_map`."""
    axes = axes_of_coordinates(axis_name)
    if axes:
        raise ValueError(
            f"axis_name must be () for {who}, got {axis_name!r}: it cannot read what other devices "
            "hold. Use jax.jit with sharded arrays in place of jax.shard_map."
        )
