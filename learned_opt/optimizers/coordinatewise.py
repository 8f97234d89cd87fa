"""From the update rule of one coordinate to an optax transformation of whole trees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base


class CoordinateRule(NamedTuple):
    """An update rule as the papers write it: for one coordinate (Andrychowicz et al. 2016, 2.1).

    Write it for one coordinate, a scalar gradient and vectors of state, with any operation of JAX
    in it. The lift vmaps it over the coordinates of every parameter.

    A rule may also take many coordinates at once: features stand on the first axis, coordinates
    on later axes, and nothing mixes the later axes. Such a rule says `broadcasts=True` and is not
    vmapped. The built-in rules do so, because it is faster: `jax.vmap` puts coordinates first
    wherever a rule adds a bias or joins features, and transposes back and forth.

    Attributes:
      init: `init(dtype) -> h_0`, the constant state in which each coordinate begins: a pytree of
        arrays `[*features]` with one axis or more. A scalar in it, such as a count, is shared by
        all coordinates; its next value may depend on itself alone.
      update: `update(phi, g_t, h_tm1) -> (u_t, h_t)`: the gradient in, the update out. A rule
        that reads more gets a `Seen` in place of `g_t`.
      pull_back: a derivative of a window, where there is one that is faster than `jax.vjp` of a
        scan of `update`: `pull_back(phi, g, du, h_0) -> dphi` is < du, d u / d phi > for gradients
        and cotangents of the updates `[steps, n]`. It answers None for arrays it does not take.
      broadcasts: whether `update` takes many coordinates at once.
      reads: what `update` reads besides the gradient: a subset of `{"params", "value"}`. If there
        is any, `update` gets a `Seen` with the step, theta, and the loss.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> def update(phi, g, m):  # momentum: one number of state for each coordinate
      ...     m = phi["decay"] * m + g
      ...     return -phi["rate"] * m[0], m
      >>> rule = learned_opt.CoordinateRule(lambda dtype: jnp.zeros(1, dtype), update)
      >>> opt = learned_opt.from_rule(rule, lambda key: {"decay": 0.9, "rate": 0.1})
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
      >>> theta = jnp.ones((2, 3))
      >>> u, state = tx.update(theta, tx.init(theta))
      >>> state.shape
      (1, 2, 3)
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[jax.Array, Any]]
    pull_back: Callable | None = None
    broadcasts: bool = False
    reads: frozenset = frozenset()


class CountedState(NamedTuple):
    """State of a rule that reads more than gradients: `step` counts for it."""

    step: jax.Array  # steps taken, int32
    rule: Any  # the rule's own state


def from_rule(
    rule: CoordinateRule,
    init: Callable[[jax.Array], base.Phi],
    spec: dict | None = None,
    state_dtype: str | None = None,
) -> base.LearnedOptimizer:
    """Lifts the rule of one coordinate to a `LearnedOptimizer`.

    The optax state has the structure of the rule's state. Where the rule has an array
    `[*features]` it has a tree like the parameters with leaves `[*features, *parameter.shape]`,
    sharded like the parameters. Features come first, so that the layout of a parameter is never
    changed and a TPU pads no feature axis. A rule that reads more than gradients has its state in
    a `CountedState`.

    Args:
      rule: the `CoordinateRule`.
      init: `init(key) -> phi`.
      spec: see `LearnedOptimizer`.
      state_dtype: the dtype in which the state is kept between steps. None is float32, or float64
        where parameters or weights are float64. Arithmetic is in float32 at least.

    Returns:
      A coordinatewise `LearnedOptimizer`.
    """
    rule = rule._replace(reads=base.check_reads(rule.reads))
    return base.LearnedOptimizer(
        base.CheckedInit(init),
        base.Transform(_lift, rule, init, state_dtype, spec),
        True,
        spec,
        pull_back=rule.pull_back,
        reads=rule.reads,
    )


def _lift(rule, state_dtype, phi, phi_dtype):
    """The `init` and `update` of the optax transformation."""

    def init_fn(params):
        _checks.real_floating_tree("params", params)
        h_0 = _broadcast(rule, params, state_dtype, phi_dtype)
        if not rule.reads:
            return h_0
        return CountedState(jnp.zeros((), jnp.int32), h_0)

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        _checks.real_floating_tree("gradients", updates)
        base.check_handed_over(rule.reads, params, value)
        count, h_tm1 = _without_count(rule, state)
        parts = _Parts(rule, h_tm1, updates)
        if params is not None:
            base.check_alike("params", params, "the gradients", updates)
        leaves, treedef = jax.tree.flatten(updates)
        if not leaves:
            return updates, state

        step = None if count is None else count + 1
        thetas = leaves if params is None else jax.tree.leaves(params)
        us, hs = [], []
        for gradient, theta, h in zip(leaves, thetas, parts.of_leaves(len(leaves)), strict=True):
            shared = _Shared(phi, phi_dtype, parts.structure, step, value)
            u_t, h_t = _update_leaf(rule, shared, gradient, theta, h)
            us.append(base.in_dtype_of(u_t, theta))
            hs.append(h_t)
        h_t = parts.joined(hs, treedef)
        new_state = h_t if count is None else CountedState(step, h_t)
        return treedef.unflatten(us), new_state

    return init_fn, update_fn


def _broadcast(rule, params, state_dtype, phi_dtype):
    """The state in which every coordinate of `params` begins."""

    def of_parameter(h_0, p):
        dtype = state_dtype or base.widest(phi_dtype, p.dtype)
        own_axes = range(h_0.ndim, h_0.ndim + p.ndim)
        start = jnp.expand_dims(h_0.astype(dtype), own_axes)
        return base.zeros(p, h_0.shape, dtype) + start

    def of_part(h_0):
        if h_0.ndim == 0:
            return h_0
        return jax.tree.map(lambda p: of_parameter(h_0, p), params)

    params = jax.tree.map(jnp.asarray, params)
    return jax.tree.map(of_part, rule.init(jnp.float32))


def _without_count(rule, state):
    """`(steps taken, the rule's state)`; no count for a rule that reads gradients alone."""
    if not rule.reads:
        return None, state
    if not isinstance(state, CountedState):
        raise ValueError(_WRONG_STATE)
    return state.step, state.rule


_WRONG_STATE = "state is not a state of this optimizer: make it with tx.init(params)."


class _Parts:
    """The arrays of a rule's state, each of them for all parameters.

    Where the rule has an array `[*features]` its part is a tree like the parameters. Where it has
    a scalar its part is that scalar.
    """

    def __init__(self, rule, state, gradients):
        start = jax.eval_shape(lambda: rule.init(jnp.float32))
        starts = jax.tree.leaves(start)
        self.structure = jax.tree.structure(start)
        self._is_shared = [h.ndim == 0 for h in starts]
        try:
            self._parts = self.structure.flatten_up_to(state)
            found = [_features(part, h.ndim) for part, h in zip(self._parts, starts, strict=True)]
        except (ValueError, TypeError, AttributeError):
            raise ValueError(_WRONG_STATE) from None
        for features, h in zip(found, starts, strict=True):
            if features is not None and features != h.shape:
                raise ValueError(_WRONG_STATE)
        self._check_parameters(starts, gradients)

    def _check_parameters(self, starts, gradients):
        """Raises ValueError unless the state is one of parameters like the gradients."""
        for part, h in zip(self._parts, starts, strict=True):
            if h.ndim > 0:
                own = jax.tree.map(lambda x: _own_shape(x, h.ndim), part)  # noqa: B023
                base.check_alike("gradients", gradients, "the parameters of this state", own)
                return

    def of_leaves(self, num_leaves):
        """For each parameter the leaves of its state."""
        columns = []
        for part, is_shared in zip(self._parts, self._is_shared, strict=True):
            columns.append([part] * num_leaves if is_shared else jax.tree.leaves(part))
        return [tuple(column[i] for column in columns) for i in range(num_leaves)]

    def joined(self, states, treedef):
        """The state from those of all parameters."""
        parts = []
        for column, is_shared in zip(zip(*states, strict=True), self._is_shared, strict=True):
            parts.append(column[0] if is_shared else treedef.unflatten(column))
        return self.structure.unflatten(parts)


def _features(part, num_axes):
    """The first axes of a part's arrays, or None where it has none."""
    if num_axes == 0:
        return jnp.shape(part)
    leaves = jax.tree.leaves(part)
    return leaves[0].shape[:num_axes] if leaves else None


def _own_shape(h, num_axes):
    """The shape of the parameter to which a leaf of the state belongs."""
    return jax.ShapeDtypeStruct(h.shape[num_axes:], h.dtype)


class _Shared(NamedTuple):
    """What is the same for all parameters in one update."""

    phi: base.Phi
    phi_dtype: Any
    structure: Any  # of the rule's state
    step: jax.Array | None
    loss: jax.Array | None


def _update_leaf(rule, shared, gradient, theta, h_tm1):
    """Runs the rule on every coordinate of one parameter: `(u_t, leaves of the state)`."""
    gradient = jnp.asarray(gradient)
    dtype = base.widest(shared.phi_dtype, gradient.dtype)
    phi = base.widened(shared.phi, dtype)
    state = base.widened(shared.structure.unflatten(h_tm1), dtype)
    seen = gradient.astype(dtype)
    if rule.reads:
        seen = base.seen(rule.reads, seen, theta, shared.step, shared.loss)
    update = rule.update if rule.broadcasts else _vmapped(rule, state, seen, gradient.ndim)
    u_t, h_t = update(phi, seen, state)
    new = shared.structure.flatten_up_to(h_t)
    _check_result(gradient, u_t, h_tm1, new)
    return u_t, tuple(map(base.in_dtype_of, new, h_tm1))


def _vmapped(rule, state, seen, num_axes):
    """The rule over all axes of a parameter. Axes come last and are mapped one by one."""
    starts = jax.eval_shape(lambda: rule.init(jnp.float32))
    state_axes = jax.tree.map(lambda h: -1 if h.ndim else None, starts)
    seen_axes = -1
    if rule.reads:
        seen_axes = base.Seen(-1, None if seen.theta is None else -1, None, None)
    update = rule.update
    for _ in range(num_axes):
        update = jax.vmap(update, (None, seen_axes, state_axes), (-1, state_axes))
    return update


def _check_result(gradient, u_t, old, new):
    """Raises ValueError unless a rule answers in the shapes in which it was asked."""
    if jnp.shape(u_t) != gradient.shape:
        raise ValueError(
            "the rule's update must have the gradient's shape: for a gradient of shape "
            f"{gradient.shape} it has {jnp.shape(u_t)}."
        )
    old_shapes = [h.shape for h in old]
    new_shapes = [jnp.shape(h) for h in new]
    if new_shapes != old_shapes:
        raise ValueError(
            f"the rule's next state must have the shapes of the one before, {old_shapes}, "
            f"got {new_shapes}."
        )
