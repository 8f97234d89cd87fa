"""From the update rule of one whole tensor to an optax transformation of whole trees.

What `coordinatewise` is for rules of one coordinate. A rule of a tensor knows the shape of its
parameter: it may keep factored second moments, normalise over axes, or make a matrix orthogonal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base


class TensorRule(NamedTuple):
    """An update rule of one parameter as a whole.

    Attributes:
      init: `init(theta) -> h_0`, the state in which a parameter begins: any pytree of arrays, of
        one structure for all parameters. An array that a parameter does not need has no numbers,
        `jnp.zeros(0)`. Make arrays from `theta` in its dtype; `zeros(theta, *features)`
        and sums of them over axes are sharded like theta.
      update: `update(phi, seen, h_tm1) -> (u_t, h_t)` for a `Seen` of the whole parameter.
      reads: what `update` reads besides the gradient and the step: a subset of
        `{"params", "value"}`. `seen.theta` and `seen.loss` are None unless they are named here.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> def update(phi, seen, h):  # a step of one length, whatever the gradient's
      ...     return -phi["length"] * seen.gradient / jnp.linalg.norm(seen.gradient), h
      >>> rule = learned_opt.TensorRule(lambda theta: (), update)
      >>> opt = learned_opt.from_rule(rule, lambda key: {"length": 0.1})
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
      >>> u, state = tx.update(jnp.ones(4), tx.init(jnp.ones(4)))
      >>> u
      Array([-0.05, -0.05, -0.05, -0.05], dtype=float32)
    """

    init: Callable[[jax.Array], Any]
    update: Callable[[base.Phi, base.Seen, Any], tuple[jax.Array, Any]]
    reads: frozenset = frozenset()


class TensorState(NamedTuple):
    """State of an optimizer that is lifted from a `TensorRule`.

    Attributes:
      step: steps taken, an int32 scalar.
      rule: the rule's state, with a tree like the parameters in place of each array.
    """

    step: jax.Array
    rule: Any


def zeros(theta: jax.Array, *features: int) -> jax.Array:
    """Zeros `[*features, *theta.shape]` in the dtype of theta, sharded like theta.

    A sum over axes of them is sharded like what is left of theta.
    """
    return base.zeros(theta, features, theta.dtype)


def from_rule(
    rule: TensorRule,
    init: Callable[[jax.Array], base.Phi],
    spec: dict | None = None,
    state_dtype: str | None = None,
) -> base.LearnedOptimizer:
    """Lifts the rule of one tensor to a `LearnedOptimizer`.

    The optax state is a `TensorState`. Inside `jax.shard_map` a rule cannot see the other devices'
    pieces of its tensor: there `update` takes `axis_name=()`, which says that every device holds
    its tensors whole, and refuses everything else.

    Args:
      rule: the `TensorRule`.
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.
      state_dtype: see `coordinatewise.from_rule`.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise.
    """
    rule = rule._replace(reads=base.check_reads(rule.reads))
    return base.LearnedOptimizer(
        base.CheckedInit(init),
        base.Transform(_lift, rule, init, state_dtype, spec),
        False,
        spec,
        reads=rule.reads,
    )


def _lift(rule, state_dtype, phi, phi_dtype):
    """The `init` and `update` of the optax transformation."""

    def start(theta):
        dtype = state_dtype or base.widest(phi_dtype, theta.dtype)
        h_0 = rule.init(theta.astype(dtype))
        # A rule may use one array twice, or theta itself: a state that is donated needs copies.
        return jax.tree.map(jnp.copy, h_0)

    structure = jax.tree.structure(jax.eval_shape(start, jax.ShapeDtypeStruct((), phi_dtype)))

    def init_fn(params):
        _checks.real_floating_tree("params", params)
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
        states = [_of_structure(structure, start(theta), theta) for theta in leaves]
        return TensorState(jnp.zeros((), jnp.int32), _joined(structure, treedef, states))

    def update_fn(updates, state, params=None, *, value=None, axis_name=None, **extra_args):
        del extra_args
        _checks.real_floating_tree("gradients", updates)
        base.check_handed_over(rule.reads, params, value)
        base.check_whole(axis_name, "an optimizer of whole tensors")
        if params is not None:
            base.check_alike("params", params, "the gradients", updates)
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, updates))
        states = _states_of_leaves(start, structure, treedef, leaves, state)
        thetas = leaves if params is None else jax.tree.leaves(params)

        step = state.step + 1
        us, hs = [], []
        for gradient, theta, h in zip(leaves, thetas, states, strict=True):
            u_t, h_t = _update_leaf(rule, phi, phi_dtype, gradient, theta, step, value, h)
            us.append(base.in_dtype_of(u_t, theta))
            hs.append(jax.tree.leaves(h_t))
        return treedef.unflatten(us), TensorState(step, _joined(structure, treedef, hs))

    return init_fn, update_fn


def _of_structure(structure, h_0, theta):
    """The arrays of a first state; raises ValueError if it is not of the rule's structure."""
    leaves, own = jax.tree.flatten(h_0)
    if own != structure:
        raise ValueError(
            f"the rule's state must have one structure for all parameters: for shape {theta.shape} "
            f"it is {own}, and for a scalar {structure}. An array that is not needed has no "
            "numbers: jnp.zeros(0)."
        )
    return leaves


def _joined(structure, treedef, states):
    """The state of all parameters from the arrays of each."""
    columns = zip(*states, strict=True) if states else [()] * structure.num_leaves
    return structure.unflatten([treedef.unflatten(column) for column in columns])


def _states_of_leaves(start, structure, treedef, gradients, state):
    """The rule's state of each parameter; raises ValueError unless all have the right shapes."""
    wrong = (
        "state is not a state of this optimizer for these gradients: make it with tx.init(params)."
    )
    if not isinstance(state, TensorState):
        raise ValueError(wrong)
    try:
        trees = structure.flatten_up_to(state.rule)
        columns = [treedef.flatten_up_to(tree) for tree in trees]
    except (ValueError, TypeError):
        raise ValueError(wrong) from None
    states = []
    for i, gradient in enumerate(gradients):
        h = structure.unflatten([column[i] for column in columns])
        if _shapes(h) != _shapes(jax.eval_shape(start, gradient)):
            raise ValueError(wrong)
        states.append(h)
    return states


def _shapes(tree):
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [jnp.shape(x) for x in leaves]


def _update_leaf(rule, phi, phi_dtype, gradient, theta, step, loss, h_tm1):
    """Runs the rule on one parameter: `(u_t, h_t)`, the state in the dtypes that it is kept in."""
    dtype = base.widest(phi_dtype, gradient.dtype)
    seen = base.seen(rule.reads, gradient.astype(dtype), theta, step, loss)
    u_t, h_t = rule.update(base.widened(phi, dtype), seen, base.widened(h_tm1, dtype))
    if jnp.shape(u_t) != gradient.shape:
        raise ValueError(
            "the rule's update must have the gradient's shape: for a gradient of shape "
            f"{gradient.shape} it has {jnp.shape(u_t)}."
        )
    if _shapes(h_t) != _shapes(h_tm1):
        raise ValueError(
            "the rule's next state must have the structure and shapes of the one before, "
            f"{_shapes(h_tm1)}, got {_shapes(h_t)}."
        )
    return u_t, jax.tree.map(lambda h, old: jnp.asarray(h, old.dtype), h_t, h_tm1)
