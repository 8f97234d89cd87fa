"""What `general` does to one tensor: its averages, its direction and its length."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.optimizers import base, cell, orthogonal

MOMENTA = (0.9, 0.95, 0.995)
NESTEROV = 1  # which of them is the momentum of the step
SECOND_MOMENT = 0.95
MATRIX, VECTOR, EMBEDDING = KINDS = range(3)
# c of each kind before anything is learned.
FIRST_SCALES = (0.02, 0.006, 0.06)
NUM_FEATURES = 13
NUM_CONTEXT = 6
NUM_SIGNALS = 4
_EPSILON = 1e-10
_TINY = 1e-30


class Course(NamedTuple):
    """What is the same for all tensors at one step.

    Attributes:
      step: t, 1 at the first step, an int32 scalar.
      length: of this step by the schedule, in [0, 1].
      times: which share of the run is done, log t and log T, all about one: `[3]`.
    """

    step: jax.Array
    length: jax.Array
    times: jax.Array


class Tensor(NamedTuple):
    """One tensor before a step.

    Attributes:
      gradient: g_t, `[*shape]`.
      theta: theta_{t-1}, `[*shape]`.
      reference: its own scale, `[]`.
      momentum: moving averages of the gradient, `[3, *shape]`.
      second_moment: a moving average of its square, `[*shape]`.
    """

    gradient: jax.Array
    theta: jax.Array
    reference: jax.Array
    momentum: jax.Array
    second_moment: jax.Array


Moved = tuple[jax.Array, tuple[jax.Array, jax.Array]]


def rms(x: jax.Array) -> jax.Array:
    """The root of the mean square; zero of no numbers."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) / max(x.size, 1))


def directions(
    phi: Any,
    course: Course,
    kind: int,
    tensors: Sequence[Tensor],
) -> list[Moved]:
    """`direction` of several tensors of one shape, as one program over all of them.

    So a network of many equal layers makes no longer program than one of few.
    """
    if len(tensors) == 1:
        return [direction(phi, course, kind, tensors[0])]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *tensors)
    moved = jax.vmap(lambda tensor: direction(phi, course, kind, tensor))(stacked)
    return [jax.tree.map(lambda x, i=i: x[i], moved) for i in range(len(tensors))]


def direction(
    phi: Any,
    course: Course,
    kind: int,
    tensor: Tensor,
) -> Moved:
    """A step of one tensor, relative to the length of the schedule.

    Args:
      phi: the weights of `general`.
      course: of this step.
      kind: MATRIX, VECTOR or EMBEDDING.
      tensor: the tensor.

    Returns:
      `c * exp(controller) * reference * u / rms(u)`, `[*shape]`, and the next averages, of the
      gradient and of its square.
    """
    dtype = tensor.gradient.dtype
    phi, course = base.widened((phi, course), dtype)
    gradient, theta, reference = tensor[:3]
    averages, m, v = _averaged(phi["log_kept"], course.step, tensor)
    # In units of the largest momentum nothing underflows, and an epsilon is relative.
    largest = jnp.max(jnp.abs(m), initial=0.0)
    unit = jnp.where(largest > 0, largest, 1)
    g, m, v = gradient / unit, m / unit, jnp.square(jnp.sqrt(v) / unit)
    reciprocal = jax.lax.rsqrt(v + _EPSILON)
    kept = _kept(phi["log_kept"], g.dtype)[NESTEROV]
    nesterov = (1 - kept) * m[NESTEROV] + kept * g
    if kind != MATRIX:
        nesterov = nesterov * reciprocal
    u = _unit(nesterov)
    context = jnp.concatenate([course.times, jax.nn.one_hot(kind, len(KINDS), dtype=u.dtype)])
    if phi["network"]:
        u = u + _answer(phi["network"], _features(g, theta, m, v, reciprocal), context)
    if kind == MATRIX:
        u = orthogonal.orthogonalised(u, orthogonal.split_of(u.shape) or 1)
    # Whatever the MLP answers: a tensor that never had a gradient stays where it is.
    u = jnp.where(largest > 0, _unit(u), 0)
    log_scale = phi["log_scales"][kind]
    if phi["controller"]:
        signals = _signals(g, theta, reference, m)
        answer = _answer(phi["controller"], signals, context)
        log_scale = log_scale + 2 * jnp.tanh(answer / 2)
    return FIRST_SCALES[kind] * jnp.exp(log_scale) * reference * u, averages


def _kept(log_kept, dtype):
    """What the averages keep of a new gradient, at most half: an average stays an average."""
    first = 1 - jnp.asarray((*MOMENTA, SECOND_MOMENT), dtype)
    return jnp.minimum(first * jnp.exp(log_kept), 0.5)


def _averaged(log_kept, step, tensor):
    """The next averages, and both of them without the bias of a beginning at zero."""
    gradient = tensor.gradient
    kept = _kept(log_kept, gradient.dtype)
    of_m = kept[:-1].reshape(-1, *(1,) * gradient.ndim)
    m = tensor.momentum + of_m * (gradient[None] - tensor.momentum)
    v = tensor.second_moment + kept[-1] * (jnp.square(gradient) - tensor.second_moment)
    t = step.astype(gradient.dtype)
    weights = -jnp.expm1(t * jnp.log1p(-kept))  # 1 - (1 - kept)^t
    of_m = weights[:-1].reshape(of_m.shape)
    return (m, v), m / of_m, v / weights[-1]


def _unit(x):
    """`x` over its rms; zeros stay zeros."""
    return x / (rms(x) + _TINY)


def _features(g, theta, m, v, reciprocal):
    """What the MLP reads of each coordinate: `[13, *shape]`, each about one."""
    raw = jnp.concatenate([g[None], theta[None], m])
    adaptive = jnp.concatenate([g[None], m]) * reciprocal[None]
    factored = jnp.concatenate([g[None], m[NESTEROV:]]) * _factored(v)[None]
    features = jnp.concatenate([raw, adaptive, factored])
    squares = jnp.sum(jnp.square(features), range(1, features.ndim), keepdims=True)
    sizes = jnp.sqrt(squares / max(g.size, 1))
    mean = jnp.sum(v) / max(v.size, 1)
    relative = jnp.log((v + _EPSILON) / (mean + _EPSILON))
    return jnp.concatenate([features / (sizes + _TINY), relative[None] / 4])


def _factored(v):
    """One over the root of v, as averages over rows and columns have it; zero of no matrix."""
    split = orthogonal.split_of(v.shape)
    if split is None:
        return jnp.zeros_like(v)
    axes = tuple(range(v.ndim))
    of_rows = jnp.mean(v, axes[split:], keepdims=True)
    of_columns = jnp.mean(v, axes[:split], keepdims=True)
    root = jnp.sqrt(jnp.mean(v))
    return root * jax.lax.rsqrt(of_rows + _EPSILON) * jax.lax.rsqrt(of_columns + _EPSILON)


def _signals(gradient, theta, reference, m):
    """What the controller reads of a tensor: `[4]`, each about one."""
    fast, nesterov, slow = m[0], m[NESTEROV], m[-1]
    sizes = rms(slow), rms(fast), rms(theta), reference
    logs = [jnp.log(jnp.maximum(size, _TINY)) for size in sizes]
    return jnp.stack(
        [
            _alignment(gradient, nesterov),
            _alignment(fast, slow),
            jnp.clip(logs[0] - logs[1], -4, 4) / 2,
            jnp.clip(logs[2] - logs[3], -4, 4),
        ]
    )


def _alignment(x, y):
    """The cosine between two tensors."""
    return jnp.mean(_unit(x) * _unit(y)) if x.size else jnp.zeros((), x.dtype)


def _answer(layers, inputs, context):
    """What an MLP of ReLU units answers for each coordinate: `[*coordinates]`.

    Args:
      layers: its layers.
      inputs: `[inputs, *coordinates]`.
      context: `[6]`, what is the same for all of them: to the first layer it is a bias.
    """
    first = layers[0]
    num_inputs = first["w"].shape[1] - context.shape[0]
    bias = first["b"] + first["w"][:, num_inputs:] @ context
    x = cell.dense(first["w"][:, :num_inputs], bias, inputs)
    for layer in layers[1:]:
        x = cell.dense(layer["w"], layer["b"], jax.nn.relu(x))
    return x[0]
