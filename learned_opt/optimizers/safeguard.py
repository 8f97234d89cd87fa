"""A learned optimizer that keeps the guarantee of a hand-designed one."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import _checks
from learned_opt.optimizers import base
from learned_opt.optimizers.base import Theta

# Of the loss at x: two losses that differ by less are the same but for rounding.
_ROUNDING = 4.0
# Of the fallback's step: by more than this its end must not be missed on the way back.
_MISSED = 1e-3
# A rest is at most 2**_LONGEST - 1 steps, which an int32 holds.
_LONGEST = 30


class SafeguardState(NamedTuple):
    """State of `safeguard` between two updates.

    Attributes:
      tx_state: the state of `tx`. It has seen the gradients of accepted points alone.
      fallback_state: the state of `fallback`, which has seen the same gradients.
      is_proposal: whether the parameters are a proposal of `tx` that is yet to be judged.
      target: where the fallback's step from the last accepted point x leads, like the parameters.
        Parameters go there if the proposal is rejected.
      threshold: what the loss of the proposal must not exceed, a scalar.
      failures: the number of rejections since a proposal was last accepted.
      rest: the number of accepted points at which `tx` is not yet to propose again.
      steps: the number of updates.
      proposed: how many of them were proposals of `tx`.
      rejected: how many of the proposals were rejected. As many gradients were lost.
    """

    tx_state: Any
    fallback_state: Any
    is_proposal: jax.Array
    target: Theta
    threshold: jax.Array
    failures: jax.Array
    rest: jax.Array
    steps: jax.Array
    proposed: jax.Array
    rejected: jax.Array

    def settled(self, params: Theta) -> Theta:
        """The parameters to end with, which keep the guarantee.

        Args:
          params: the parameters after the update that has returned this state.

        Returns:
          `params`, or `target` where these are a proposal that was not judged.
        """
        return _choose(self.is_proposal, self.target, params)

    def accepts(self, value: jax.Array, gradients: Theta = ()) -> jax.Array:
        """Whether the parameters stay: all do but a proposal that is not good enough.

        Args:
          value: the loss at the parameters, a scalar. One that is NaN is not at most the threshold.
          gradients: those at the parameters, where they are known.
        """
        is_low = value.astype(self.threshold.dtype) <= self.threshold
        is_enough = is_low & jnp.isfinite(value) & _all_finite(gradients)
        return ~self.is_proposal | is_enough


class _Guarded(NamedTuple):
    """The arguments of `safeguard`."""

    tx: optax.GradientTransformationExtraArgs
    fallback: optax.GradientTransformationExtraArgs
    share: Any
    patience: Any


def safeguard(
    tx: optax.GradientTransformation,
    fallback: optax.GradientTransformation,
    *,
    share: float = 0.5,
    patience: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Follows `tx` as long as it makes at least the progress that `fallback` guarantees.

    At an accepted point x the next parameters are a proposal of `tx`. Its loss comes with the next
    update, `tx.update(gradients, state, params, value=loss)`. The proposal is accepted if the loss
    is at most f(x) + share * <g(x), u(x)>, with the gradient g and the update u of the fallback.
    Otherwise the parameters go to x + u(x), where the fallback's step leads, which is not judged.
    Each update takes one loss and one gradient, as ever; a rejection loses one gradient.

    Let the gradient of f be L-Lipschitz. With `optax.sgd(1 / L)` and share 0.5 the loss falls from
    each accepted point to the next by at least `|g(x)|^2 / (2 L)`, whatever `tx` does, up to the
    rounding of the loss. So after t updates with r rejections all holds that follows from this for
    t - r steps of gradient descent:

    - f - f* <= (1 - mu / L)^(t - r) (f(x_0) - f*) if f is mu-strongly convex.
    - f - f* <= 2 L R^2 / (t - r) if f is convex; no point where f <= f(x_0) is farther than R from
      the minimizer.

    The fallback's own steps are not judged: one that is too long ruins a run. All this holds for
    accepted points: in the end, take `state.settled(params)` (in an `optax.chain`, the
    `settled` of its last state). At most every second
    update is rejected. If `tx` always fails, at most patience + log2(t) of them are, since its
    rests become longer.

    Where the update of `tx` is not finite, or leads so far that adding numbers of this precision
    cannot lead back, the fallback's step is taken at once.

    The loss should be one without noise: that of another minibatch says little about progress. In
    an `optax.chain` this comes last, as the parameters must be those that it has led to. Where a
    `LearnedOptimizer` is expected, wrap it with `learned_opt.from_optax`.

    Args:
      tx: an optax transformation, such as `opt.transform(phi)`.
      fallback: an optax transformation with a guarantee, such as `optax.sgd(1 / L)`.
      share: of the progress that the gradient promises for the fallback's step, the share that a
        proposal must make; above 0 and at most 1.
      patience: the number of rejections in a row after which `tx` proposes again at once. After
        k more of them it rests for 2^k - 1 steps, which the fallback takes.

    Returns:
      An optax transformation whose state is a `SafeguardState`. Updates have the dtypes of the
      parameters. Parameters and `value` must be handed over.

    Raises:
      ValueError: if `tx` or `fallback` is no optax transformation, or for a number out of range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, learned_opt
      >>> opt = learned_opt.lstm()
      >>> learned = opt.transform(opt.init(jax.random.key(0)))
      >>> tx = learned_opt.safeguard(learned, optax.sgd(0.5))
      >>> theta = jnp.ones(3)
      >>> state = tx.init(theta)
      >>> loss, gradient = jax.value_and_grad(lambda x: jnp.sum(x**2))(theta)
      >>> updates, state = tx.update(gradient, state, theta, value=loss)
      >>> theta = optax.apply_updates(theta, updates)
      >>> int(state.proposed), int(state.rejected)
      (1, 0)
      >>> state.settled(theta).tolist()
      [0.0, 0.0, 0.0]

    Source: Heaton et al. 2020, Safeguarded Learned Convex Optimization, arXiv 2003.01880.
    """
    base.check_transformation("tx", tx)
    base.check_transformation("fallback", fallback)
    guarded = _Guarded(
        optax.with_extra_args_support(tx),
        optax.with_extra_args_support(fallback),
        _check_share(share),
        _check_patience(patience),
    )
    is_learned = isinstance(tx, base.LearnedTransformation)
    kind = base.LearnedTransformation if is_learned else optax.GradientTransformationExtraArgs
    return kind(base.bind(_init, guarded), base.bind(_update, guarded))


def _check_share(share):
    share = _checks.positive_float("share", share)
    if not isinstance(share, jax.core.Tracer) and share > 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}.")
    return share


def _check_patience(patience):
    if isinstance(patience, jax.Array):  # a hyperparameter that optax has injected
        return patience
    return _checks.positive_int("patience", patience, minimum=0)


def _init(guarded, params):
    _checks.real_floating_tree("params", params)
    params = jax.tree.map(jnp.asarray, params)
    # One array for each field: a program to which the state is donated takes none twice.
    failures, rest, steps, proposed, rejected = (jnp.zeros((), jnp.int32) for _ in range(5))
    return SafeguardState(
        tx_state=guarded.tx.init(params),
        fallback_state=guarded.fallback.init(params),
        is_proposal=jnp.zeros((), bool),
        target=jax.tree.map(lambda p: base.zeros(p, (), p.dtype), params),
        threshold=jnp.zeros((), _dtype_of_losses(params)),
        failures=failures,
        rest=rest,
        steps=steps,
        proposed=proposed,
        rejected=rejected,
    )


def _dtype_of_losses(params):
    """The widest there is: losses are compared where they differ in their last digits."""
    return base.widest(jnp.result_type(float), *jax.tree.leaves(params))


def _update(guarded, gradients, state, params=None, *, value=None, axis_name=None, **extra_args):
    _check_handed_over(gradients, params, value)
    base.check_whole(axis_name, "safeguard")
    if axis_name is not None:
        extra_args["axis_name"] = axis_name
    params = jax.tree.map(jnp.asarray, params)
    value = jnp.asarray(value)
    is_accepted = state.accepts(value, gradients)
    back = _returned(guarded, state, params)
    onward = _gone_on(guarded, state, gradients, params, value, extra_args)
    return _choose(is_accepted, onward, back)


def _check_handed_over(gradients, params, value):
    call = "tx.update(gradients, state, params, value=loss)"
    if params is None:
        raise ValueError(f"safeguard reads the parameters: call {call}.")
    if value is None:
        raise ValueError(f"safeguard reads the loss at the parameters: call {call}.")
    if jnp.shape(value) != ():
        raise ValueError(f"value must be a scalar loss, got the shape {jnp.shape(value)}.")
    base.check_alike("gradients", gradients, "the parameters", params)


def _returned(guarded, state, params):
    """`(updates, state)` where the proposal is rejected: the next parameters are the target."""
    updates = jax.tree.map(operator.sub, state.target, params)
    failures = optax.safe_increment(state.failures)
    doublings = jnp.clip(failures - guarded.patience, 0, _LONGEST).astype(jnp.int32)
    state = state._replace(
        is_proposal=jnp.zeros((), bool),
        failures=failures,
        rest=jnp.left_shift(jnp.ones((), jnp.int32), doublings) - 1,
        steps=optax.safe_increment(state.steps),
        rejected=optax.safe_increment(state.rejected),
    )
    return updates, state


def _gone_on(guarded, state, gradients, params, value, extra_args):
    """`(updates, state)` where the parameters are accepted."""
    seen = functools.partial(_step, gradients, params, value, extra_args)
    own, tx_state = seen(guarded.tx, state.tx_state)
    safe, fallback_state = seen(guarded.fallback, state.fallback_state)
    target = _sum(params, safe)
    proposal = _sum(params, own)
    takes_over = _all_finite(proposal) & _stays_finite(state.tx_state, tx_state)
    proposes = (state.rest == 0) & _leads_back(proposal, target, safe)
    state = state._replace(
        tx_state=_choose(takes_over, tx_state, state.tx_state),
        fallback_state=fallback_state,
        is_proposal=proposes,
        target=target,
        threshold=_threshold(guarded.share, state, gradients, safe, value),
        failures=jnp.where(state.is_proposal, 0, state.failures),
        rest=jnp.maximum(state.rest - 1, 0),
        steps=optax.safe_increment(state.steps),
        proposed=jnp.where(proposes, optax.safe_increment(state.proposed), state.proposed),
    )
    return _choose(proposes, own, safe), state


def _step(gradients, params, value, extra_args, tx, state):
    """`tx.update`, with updates in the dtypes of the parameters."""
    updates, state = tx.update(gradients, state, params, value=value, **extra_args)
    return jax.tree.map(base.in_dtype_of, updates, params), state


def _threshold(share, state, gradients, safe, value):
    """The loss that the fallback's step promises; never above f(x), but for rounding."""
    dtype = state.threshold.dtype
    promised = jnp.minimum(_total(jnp.multiply, dtype, gradients, safe), 0)
    is_floating = jnp.issubdtype(value.dtype, jnp.floating)
    epsilon = float(jnp.finfo(value.dtype if is_floating else dtype).eps)
    value = value.astype(dtype)
    rounding = _ROUNDING * epsilon * jnp.abs(value)
    return value + jnp.asarray(share, dtype) * promised + rounding


def _leads_back(proposal, target, safe):
    """Whether `proposal + (target - proposal)` is the target, as nearly as matters.

    From 1e8 no float32 leads to 1: the sum is 0. From what is not finite nothing leads back. Of
    each coordinate's error its own rounding does not count. The rest loses at most twice its share
    in the fallback's step of the progress.
    """

    def missed(start, end):
        reached = _rounded(start + _rounded(end - start))
        rounding = jnp.finfo(end.dtype).eps * jnp.abs(end)
        return jnp.maximum(jnp.abs(reached - end) - rounding, 0)

    dtype = _dtype_of_losses(target)
    error = _total(jnp.square, dtype, jax.tree.map(missed, proposal, target))
    length = _total(jnp.square, dtype, safe)
    return jnp.sqrt(error) <= _MISSED * jnp.sqrt(length)


def _sum(params, updates):
    """What `optax.apply_updates` makes of them."""
    return jax.tree.map(lambda p, u: _rounded(p + u), params, updates)


def _rounded(x):
    """`x` as it is in memory; XLA may compute with more digits than the dtype has."""
    info = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


def _total(function, dtype, *trees):
    """The sum over all coordinates of a function of them."""

    def of_leaf(*leaves):
        wide = (jnp.asarray(leaf).astype(dtype) for leaf in leaves)
        return jnp.sum(function(*wide))

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, *trees)), jnp.zeros((), dtype))


def _all_finite(tree):
    return _all(jax.tree.map(jnp.isfinite, tree))


def _stays_finite(old, new):
    """Whether nothing has become infinite or NaN; some states begin with an infinite entry."""

    def of_leaf(old, new):
        if not jnp.issubdtype(jnp.result_type(new), jnp.inexact):
            return True
        return jnp.isfinite(new) | ~jnp.isfinite(old)

    return _all(jax.tree.map(of_leaf, old, new))


def _all(tree):
    checks = (jnp.all(leaf) for leaf in jax.tree.leaves(tree))
    return functools.reduce(jnp.logical_and, checks, jnp.ones((), bool))


def _choose(condition, chosen, other):
    return jax.tree.map(functools.partial(jnp.where, condition), chosen, other)
