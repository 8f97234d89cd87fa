"""What `general` does to one tensor: its averages, its direction and its length."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import native
from learned_opt.optimizers import base, cell, orthogonal

MATRIX, VECTOR, EMBEDDING = KINDS = range(3)
# c before anything is learned, by kind.
SCALES = (0.05, 0.006, 0.1)
# c of vectors where the whole tree is vectors. Alone they have all the way to go; beside matrices
# they are held back, or gains of normalisations go astray where gradients are mostly noise.
SCALE_ALONE = 0.02
# Decays of the three momenta and of the second moment, by kind, before anything is learned. A
# slower momentum is better for ill-conditioned functions of a vector; biases hardly mind.
DECAYS = (
    (0.9, 0.8, 0.995, 0.95),
    (0.9, 0.95, 0.995, 0.95),
    (0.9, 0.8, 0.995, 0.95),
)
NUM_MOMENTA = 3
NESTEROV = 1  # which of the momenta is that of the step
STILL = 1e-4  # of the largest momentum: a tensor whose Nesterov momentum is less does not move
# How long steps of a vector from zero get, as it drifts: see `drifted`.
DRIFT = 2.0
MOST_DRIFT = 3.0
NUM_FEATURES = 13
NUM_CONTEXT = 6
NUM_SIGNALS = 4
# Up to so many units of a layer the C++ loops win, see `network`.
MAX_FAST_UNITS = 64
_EPSILON = 1e-10
_TINY = 1e-30


class Course(NamedTuple):
    """What is the same for all tensors at one step.

    Attributes:
      step: t, 1 at the first step, an int32 scalar.
      length: of this step by the schedule and the length of the run, in [0, 1].
      has_just_begun: see `schedules.has_just_begun`, a bool scalar.
      times: which share of the run is done, log t and log T, all about one: `[3]`.
    """

    step: jax.Array
    length: jax.Array
    has_just_begun: jax.Array
    times: jax.Array


class Tensor(NamedTuple):
    """One tensor before a step.

    Attributes:
      gradient: g_t, `[*shape]`.
      theta: theta_{t-1}, `[*shape]`.
      reference: its own scale, `[]`.
      momentum: moving averages of the gradient, `[3, *shape]`.
      second_moment: a moving average of its square, `[*shape]`.
      from_zero: one if it began at zero, or as good as that, else zero: `[]`.
    """

    gradient: jax.Array
    theta: jax.Array
    reference: jax.Array
    momentum: jax.Array
    second_moment: jax.Array
    from_zero: jax.Array


class Common(NamedTuple):
    """What the proposals for tensors of one kind have in common.

    Attributes:
      layers: of the MLP.
      kept: what the averages keep of a new gradient: momenta, then second moment: `[4]`.
      debias: by which the averages are divided, as they began at zero: `[4]`.
      context: what the first layer reads beside features: `[6]`.
    """

    layers: Any
    kept: jax.Array
    debias: jax.Array
    context: jax.Array


Averages = tuple[jax.Array, jax.Array]  # The next momentum and second moment.
Moved = tuple[jax.Array, Averages]


def rms(x: jax.Array) -> jax.Array:
    """The root of the mean square; zero of no numbers."""
    return _root(jnp.sum(jnp.square(x)) / max(x.size, 1))


def drifted(reference: jax.Array, theta: jax.Array) -> jax.Array:
    """The scale of a vector that began at zero, by how far it is from there.

    Its reference is a guess. If gradients are noise, it stays about zero. If it gets further than
    half of its reference, it has somewhere to go, and longer steps take it there. Distances as
    scales of steps: Ivgi et al. 2023, arXiv 2302.12022.

    Args:
      reference: its scale at first, `[]`.
      theta: the vector, `[*shape]`.

    Returns:
      `[]`, from one to nine times the reference.
    """
    way = DRIFT * rms(theta) / _divisor(reference)
    return reference * jnp.square(jnp.clip(way, 1, MOST_DRIFT)).astype(reference.dtype)


def _root(x):
    """The square root, which does not move at zero: its derivative there is no number."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), x)


def directions(
    phi: Any,
    course: Course,
    kind: int,
    tensors: Sequence[Tensor],
    is_alone: bool = False,
) -> list[Moved]:
    """A step of each of several tensors of one shape, relative to the length of the schedule.

    They are one program over all of them. So a network of many equal layers makes no longer program
    than one of few.

    Args:
      phi: the weights of `general`.
      course: of this step.
      kind: MATRIX, VECTOR or EMBEDDING.
      tensors: the tensors.
      is_alone: whether they are vectors in a tree of nothing else.

    Returns:
      For each of them `c * exp(controller) * reference * u / rms(u)`, `[*shape]`, and the next
      averages, of the gradient and of its square.
    """
    dtype = tensors[0].gradient.dtype
    phi, course = base.widened(({**first_constants(), **phi}, course), dtype)
    kept = _kept(phi["log_kept"][kind], kind, dtype)
    t = course.step.astype(dtype)
    debias = -jnp.expm1(t * jnp.log1p(-kept))  # 1 - (1 - kept)^t
    context = jnp.concatenate([course.times, jax.nn.one_hot(kind, len(KINDS), dtype=dtype)])
    common = Common(phi["network"], kept, debias, context)
    us, signals, averages = proposals(kind != MATRIX, common, tensors)
    scale = SCALE_ALONE if is_alone else SCALES[kind]

    def finished(u, signals, reference):
        if kind == MATRIX:
            u = orthogonal.orthogonalised(u, orthogonal.split_of(u.shape) or 1)
        log_scale = phi["log_scales"][kind]
        if phi["controller"] and kind != VECTOR:
            answer = _answer(phi["controller"], signals, context)
            log_scale = log_scale + 2 * jnp.tanh(answer / 2)
        return scale * jnp.exp(log_scale) * reference * _unit(u)

    steps = jax.vmap(finished)(us, signals, _references_now(kind, tensors, is_alone))
    return [(steps[i], averages[i]) for i in range(len(tensors))]


def _references_now(kind, tensors, is_alone):
    """The tensors' references at this step: larger ones of vectors that drift."""
    references = jnp.stack([tensor.reference for tensor in tensors])
    if kind != VECTOR or is_alone:
        return references
    thetas = jnp.stack([tensor.theta for tensor in tensors])
    from_zero = jnp.stack([tensor.from_zero for tensor in tensors])
    return jnp.where(from_zero > 0, jax.vmap(drifted)(references, thetas), references)


def proposals(
    adaptive: bool,
    common: Common,
    tensors: Sequence[Tensor],
) -> tuple[jax.Array, jax.Array, list[Averages]]:
    """Directions before any of them is orthogonalised, and what there is on the way to them.

    Args:
      adaptive: whether the momentum is divided by the root of the second moment.
      common: what is the same for all of the tensors.
      tensors: of one shape.

    Returns:
      `(u, signals, averages)`: the directions `[tensors, *shape]`, zero where a tensor has not had
      a gradient for long, what the controller reads of each tensor, `[tensors, 4]`, and the next
      averages of each.
    """
    if _is_fast(common, tensors):
        return _compiled_proposals(adaptive)(common, list(tensors))
    return plain_proposals(adaptive, common, tensors)


def _is_fast(common, tensors):
    """Whether the C++ loops can take these arrays, and are faster."""
    if tensors[0].gradient.size == 0:
        return False
    if any(layer["b"].shape[0] > MAX_FAST_UNITS for layer in common.layers):
        return False
    return native.usable(common, tensors)


@functools.cache
def _compiled_proposals(adaptive):
    """The C++ loops, kept so that a program is compiled once."""
    plain = functools.partial(plain_proposals, adaptive)

    def fast(common, tensors):
        matrix = _matrix_of(tensors[0].gradient.shape)
        return native.general_proposals(matrix, adaptive, common, tensors)

    return native.faster(plain, fast)


def _matrix_of(shape):
    """Rows and columns of the matrix that a tensor is, or None where it is none."""
    split = orthogonal.split_of(shape)
    return None if split is None else orthogonal.sides_of(shape, split)


def plain_proposals(
    adaptive: bool,
    common: Common,
    tensors: Sequence[Tensor],
) -> tuple[jax.Array, jax.Array, list[Averages]]:
    """`proposals` in plain JAX.

    It says what they are, it is what is differentiated, and it runs where there is nothing faster.
    """
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *tensors)
    proposal = functools.partial(_proposal, adaptive, common)
    us, signals, (momenta, second_moments) = jax.vmap(proposal)(stacked)
    # By index: outside of `jax.jit` an array that is iterated over is gathered on one device.
    averages = [(momenta[i], second_moments[i]) for i in range(len(tensors))]
    return us, signals, averages


def _proposal(adaptive, common, tensor):
    """`(u, signals, averages)` of one tensor."""
    gradient, theta, reference = tensor[:3]
    averages, m, v = _averaged(common, tensor)
    # In units of the largest momentum nothing overflows, and an epsilon is relative.
    unit = _largest(m)
    g, m, v = gradient / unit, m / unit, jnp.square(_root(v) / unit)
    reciprocal = jax.lax.rsqrt(v + _EPSILON)
    kept = common.kept[NESTEROV]
    nesterov = (1 - kept) * m[NESTEROV] + kept * g
    if adaptive:
        nesterov = nesterov * reciprocal
    u = _unit(nesterov)
    if common.layers:
        features = _features(g, theta, m, v, reciprocal)
        u = u + _answer(common.layers, features, common.context)
    u = jnp.where(_is_still(m), 0, u)
    return u, _signals(g, theta, reference, m), averages


def _is_still(m):
    """Whether a tensor had no gradient for long, or never: then it stays where it is.

    A direction has no size. So what stands in a layer whose units have died would go on along the
    last gradient, at full length, until its momentum underflows.
    """
    of_step = jnp.max(jnp.abs(m[NESTEROV]), initial=0.0)
    return (of_step == 0) | (of_step < STILL * jnp.max(jnp.abs(m), initial=0.0))


def first_constants() -> dict[str, jax.Array]:
    """The constants that may be learned; they stay so where phi has none of its own.

    Returns:
      `log_scales` `[3]` and `log_kept` `[3, 4]`: by what `SCALES`, and one minus `DECAYS`, are
      multiplied, as logarithms.
    """
    kinds = len(KINDS)
    return {"log_scales": jnp.zeros(kinds), "log_kept": jnp.zeros((kinds, NUM_MOMENTA + 1))}


def _kept(log_kept, kind, dtype):
    """What the averages keep of a new gradient, at most half: an average stays an average."""
    first = 1 - jnp.asarray(DECAYS[kind], dtype)
    return jnp.minimum(first * jnp.exp(log_kept), 0.5)


def _averaged(common, tensor):
    """The next averages, and both of them without the bias of a beginning at zero."""
    gradient = tensor.gradient

    def beside_coordinates(x):
        return x[:-1].reshape(-1, *(1,) * gradient.ndim)

    kept = beside_coordinates(common.kept)
    m = tensor.momentum + kept * (gradient[None] - tensor.momentum)
    v = tensor.second_moment
    v = v + common.kept[-1] * (jnp.square(gradient) - v)
    return (m, v), m / beside_coordinates(common.debias), v / common.debias[-1]


def in_units(x: jax.Array) -> jax.Array:
    """`x` over its largest number: then neither squares nor products of sizes overflow."""
    return x / _largest(x)


def _largest(x):
    """The largest of the numbers without their signs, and one where all are zero."""
    largest = jnp.max(jnp.abs(x), initial=0.0)
    return jnp.where(largest > 0, largest, 1)


def _unit(x):
    """`x` over its rms; zeros stay zeros."""
    return x / _divisor(rms(x))


def _divisor(size):
    """What is divided by a size: one by that of zeros, so that derivatives are numbers too."""
    return jnp.where(size == 0, 1, size + _TINY)


def _features(g, theta, m, v, reciprocal):
    """What the MLP reads of each coordinate: `[13, *shape]`, each about one."""
    raw = jnp.concatenate([g[None], theta[None], m])
    adaptive = jnp.concatenate([g[None], m]) * reciprocal[None]
    factored = jnp.concatenate([g[None], m[NESTEROV:]]) * _factored(v)[None]
    features = jnp.concatenate([raw, adaptive, factored])
    squares = jnp.sum(jnp.square(features), range(1, features.ndim), keepdims=True)
    sizes = _root(squares / max(g.size, 1))
    mean = jnp.sum(v) / max(v.size, 1)
    relative = jnp.log((v + _EPSILON) / (mean + _EPSILON))
    return jnp.concatenate([features / _divisor(sizes), relative[None] / 4])


def _factored(v):
    """One over the root of v, as averages over rows and columns have it; zero of no matrix."""
    split = orthogonal.split_of(v.shape)
    if split is None:
        return jnp.zeros_like(v)
    axes = tuple(range(v.ndim))
    of_rows = jnp.mean(v, axes[split:], keepdims=True)
    of_columns = jnp.mean(v, axes[:split], keepdims=True)
    root = _root(jnp.mean(v))
    return root * jax.lax.rsqrt(of_rows + _EPSILON) * jax.lax.rsqrt(of_columns + _EPSILON)


def _signals(gradient, theta, reference, m):
    """What the controller reads of a tensor: `[4]`, each about one."""
    fast, nesterov, slow = m
    sizes = rms(slow), rms(fast), rms(theta), reference
    logs = [jnp.log(jnp.maximum(size, _TINY)) for size in sizes]
    return jnp.stack(
        [
            alignment(gradient, nesterov),
            alignment(fast, slow),
            jnp.clip(logs[0] - logs[1], -4, 4) / 2,
            jnp.clip(logs[2] - logs[3], -4, 4),
        ]
    )


def alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """The cosine between two tensors; zero where one is zero."""
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
