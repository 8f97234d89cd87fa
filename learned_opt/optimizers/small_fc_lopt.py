"""The small per-parameter MLP optimizer, "small_fc_lopt" (Metz et al. 2022, arXiv 2203.11860)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base, cell, settings, tensorwise

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


class SmallFcState(NamedTuple):
    """State of one parameter; a decay for each feature on the first axis.

    Attributes:
      momentum: moving averages of the gradient, `[momenta, *parameter.shape]`.
      second_moment: a moving average of its square, `[1, *parameter.shape]`.
      rows: moving averages of its square, averaged over one axis of the parameter, which has size 1
        here. Where the parameter has fewer than two axes, of the square itself.
      columns: likewise, averaged over another axis. It has no numbers where the parameter has fewer
        than two.
    """

    momentum: jax.Array
    second_moment: jax.Array
    rows: jax.Array
    columns: jax.Array


class Settings(NamedTuple):
    """What the rule is built from; see `small_fc_lopt`."""

    hidden_sizes: tuple
    momenta: tuple
    second_moment: float
    factored: tuple
    output_scale: float
    magnitude_scale: float

    @property
    def num_features(self) -> int:
        """How many features the MLP reads of a coordinate."""
        return 4 + 2 * len(self.momenta) + 6 * len(self.factored) + len(TIME_SCALES)


def small_fc_lopt(
    *,
    hidden_sizes: int | Sequence[int] = (4, 4),
    momenta: Sequence[float] = (0.9, 0.99, 0.999),
    second_moment: float = 0.999,
    factored: Sequence[float] = (0.9, 0.99, 0.999),
    output_scale: float = 1e-3,
    magnitude_scale: float = 1e-3,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """The small MLP optimizer of Metz et al. 2022: one MLP for every coordinate of a tensor.

    `u = -output_scale * d * exp(magnitude_scale * a)`, where the MLP answers a direction d and a
    magnitude a. It has ReLU units and reads 39 features of a coordinate. Here g is the gradient, m
    its moving averages, v that of its square, and r and c are Adafactor's: averages of the square
    over rows and over columns (Shazeer and Stern 2018). With `f = r^-1/2 c^-1/2 mean(r)^1/2`:

        g    theta    m (3)    v    m / sqrt(v) (3)    1 / sqrt(v)    g f (3)    m f (3)
        r (3)    c (3)    1 / sqrt(r) (3)    1 / sqrt(c) (3)    tanh(t / scale - 1) (11)

    Rows and columns are those of the two largest axes. A parameter with fewer axes has v with the
    decays of r in place of r and c. Each feature but the time is divided by the root of its mean
    square over the tensor. So the MLP hardly sees the scale of gradients and parameters. The
    decays are learned as well: 1 - (1 - decay) exp(10 delta), with delta in phi and zero at first.

    The state takes 4 numbers a parameter, 16 bytes in float32, beside rows and columns. An update
    reads theta: `update` must be called with the parameters. The paper trains it by
    `learned_opt.estimators.PES`.

    What the paper's text leaves open is as in its authors' published code, as far as known: small
    constants, the time's scales, and t = 0 at the first step. It differs from that code in that
    an axis of equal length is chosen by its position, the later first; that a parameter without
    coordinates has no NaN; and that vectors use one constant under all roots of r. Decays beyond
    0 and 1 are clipped.

    Args:
      hidden_sizes: units of the MLP's layers.
      momenta: decays of m at first, each in [0, 1).
      second_moment: the decay of v at first.
      factored: decays of r and c at first.
      output_scale: factor on updates.
      magnitude_scale: factor on the magnitude before it is exponentiated.
      state_dtype: see `lstm`.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise and reads the parameters.

    Raises:
      ValueError: for sizes or scales that are not positive, decays outside [0, 1), an unknown
        dtype, and decays above 0.99 with a state of 16 bits.

    Source:
      Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein: Practical tradeoffs between memory,
      compute, and performance in learned optimizers, 2022.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> opt = learned_opt.small_fc_lopt()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
      >>> theta = jnp.ones((2, 3))
      >>> u, state = tx.update(theta, tx.init(theta), theta)
    """
    chosen = Settings(
        _checks.sizes("hidden_sizes", hidden_sizes),
        _check_decays("momenta", momenta),
        _check_decays("second_moment", (second_moment,))[0],
        _check_decays("factored", factored),
        _checks.positive_float("output_scale", output_scale),
        _checks.positive_float("magnitude_scale", magnitude_scale),
    )
    state_dtype = _checks.state_dtype(state_dtype)
    largest = max(*chosen.momenta, *chosen.factored, chosen.second_moment)
    settings.check_precision("decays", largest, state_dtype)
    num_momenta, num_factored = len(chosen.momenta), len(chosen.factored)
    rule = tensorwise.TensorRule(
        base.bind(_init_state, num_momenta, num_factored),
        base.bind(_update, chosen),
        reads=frozenset({"params"}),
    )
    sizes = (chosen.num_features, *chosen.hidden_sizes, 2)
    init = base.bind(_init_weights, sizes, num_momenta, num_factored)
    return tensorwise.from_rule(rule, init, _spec(chosen, state_dtype), state_dtype)


def _spec(chosen, state_dtype):
    arguments = {
        **chosen._asdict(),
        "hidden_sizes": list(chosen.hidden_sizes),
        "momenta": list(chosen.momenta),
        "factored": list(chosen.factored),
        "state_dtype": state_dtype,
    }
    return {"name": "small_fc_lopt", "args": arguments}


def _check_decays(name, decays):
    decays = tuple(decays)
    if not decays or not all(0 <= decay < 1 for decay in decays):
        raise ValueError(f"{name} must be numbers in [0, 1), got {decays!r}.")
    return tuple(float(decay) for decay in decays)


def _init_weights(sizes, num_momenta, num_factored, key):
    layers = []
    keys = jax.random.split(key, len(sizes) - 1)
    for layer_key, num_inputs, num_units in zip(keys, sizes[:-1], sizes[1:], strict=True):
        shape = num_units, num_inputs
        w = jax.random.truncated_normal(layer_key, -2, 2, shape) / jnp.sqrt(num_inputs)
        layers.append({"w": w, "b": jnp.zeros(num_units)})
    decays = {
        "momenta": jnp.zeros(num_momenta),
        "second_moment": jnp.zeros(1),
        "factored": jnp.zeros(num_factored),
    }
    return {"layers": layers, "decays": decays}


def _init_state(num_momenta, num_factored, theta):
    momentum = tensorwise.zeros(theta, num_momenta)
    second_moment = tensorwise.zeros(theta, 1)
    squares = tensorwise.zeros(theta, num_factored)
    axes = _factored_axes(theta.shape)
    if axes is None:
        return SmallFcState(momentum, second_moment, squares, jnp.zeros(0, theta.dtype))
    over_columns, over_rows = axes
    return SmallFcState(
        momentum, second_moment, _mean(squares, over_rows), _mean(squares, over_columns)
    )


def _factored_axes(shape):
    """The two largest axes, the larger one last; None where there are fewer.

    They are counted in an array that has features before the parameter's axes.
    """
    if len(shape) < 2:
        return None
    by_size = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return 1 + by_size[-2], 1 + by_size[-1]


def _mean(x, axes):
    """The mean over axes, which stay with size 1; zero where there is nothing to average."""
    total = jnp.sum(x, axis=axes, keepdims=True)
    return total / max(x.size // max(total.size, 1), 1)


def _update(chosen, phi, seen, state):
    decays = phi["decays"]
    g = seen.gradient[None]
    square = jnp.square(g)
    momentum = _averaged(state.momentum, chosen.momenta, decays["momenta"], g)
    second_moment = _averaged(
        state.second_moment, (chosen.second_moment,), decays["second_moment"], square
    )
    axes = _factored_axes(seen.gradient.shape)
    square = square + 1e-30  # of squares that underflow
    of_rows = square if axes is None else _mean(square, axes[1])
    rows = _averaged(state.rows, chosen.factored, decays["factored"], of_rows)
    columns = state.columns
    if axes is not None:
        of_columns = _mean(square, axes[0])
        columns = _averaged(state.columns, chosen.factored, decays["factored"], of_columns)

    state = SmallFcState(momentum, second_moment, rows, columns)
    features = _normalised(_features(seen, state, axes))
    return _output(chosen, phi["layers"], features, seen.step), state


def _averaged(old, first_decays, deltas, new):
    """A moving average with learned decays."""
    kept = 1 - jnp.asarray(first_decays, old.dtype)
    decays = jnp.clip(1 - kept * jnp.exp(10 * deltas), 0, 1)
    decays = decays.reshape(-1, *(1,) * (old.ndim - 1))
    return decays * old + (1 - decays) * new


def _features(seen, state, axes):
    """All features but the time: `[features, *parameter.shape]`."""
    g = seen.gradient[None]
    m, v = state.momentum, state.second_moment
    root_v = jax.lax.rsqrt(v + 1e-6)
    columns = state.rows if axes is None else state.columns
    factor = _factor(state, axes)
    features = [
        g,
        seen.theta[None],
        m,
        v,
        m * root_v,
        root_v,
        g * factor,
        m * factor,
        state.rows,
        columns,
        jax.lax.rsqrt(state.rows + 1e-8),
        jax.lax.rsqrt(columns + 1e-8),
    ]
    # A sum, and not `broadcast_to`: so rows and columns become sharded as the gradient is.
    zero = jnp.zeros_like(g)
    return jnp.concatenate([x + zero for x in features])


def _factor(state, axes):
    """Adafactor's estimate of one over the root of the mean square, for each coordinate."""
    if axes is None:
        return _reciprocal_root(state.rows)
    relative = state.rows / (_mean(state.rows, axes[0]) + 1e-9)
    return _reciprocal_root(relative) * _reciprocal_root(state.columns)


def _reciprocal_root(x):
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _normalised(features):
    """Each feature over the root of its mean square over the tensor."""
    mean_square = _mean(jnp.square(features), tuple(range(1, features.ndim)))
    return features * jax.lax.rsqrt(mean_square + 1e-5)


def _output(chosen, layers, features, step):
    """The update from normalised features `[features, *parameter.shape]` and the time."""
    t = (step - 1).astype(features.dtype)
    time = jnp.tanh(t / jnp.asarray(TIME_SCALES, features.dtype) - 1)
    num_time = len(TIME_SCALES)
    first = layers[0]
    # The time is the same for all coordinates: what the first layer makes of it is a bias.
    w, w_time = jnp.split(first["w"], [first["w"].shape[1] - num_time], axis=1)
    x = cell.dense(w, first["b"] + w_time @ time, features)
    for layer in layers[1:]:
        x = cell.dense(layer["w"], layer["b"], jax.nn.relu(x))
    # To unpack a sharded array outside of jit would gather it.
    direction, magnitude = x[0], x[1]
    return -chosen.output_scale * direction * jnp.exp(chosen.magnitude_scale * magnitude)
