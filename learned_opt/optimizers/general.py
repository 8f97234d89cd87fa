"""An optimizer for networks that it was not trained on: relative steps, and a small MLP.

A step is `-scale * c * length(t / T) * reference * u` for each tensor. The direction u has a root
mean square of one, and the reference is the tensor's own scale. So a problem in other units is the
same problem.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import (
    base,
    general_damping,
    general_rule,
    orthogonal,
    schedules,
    settings,
)
from learned_opt.optimizers.general_rule import EMBEDDING, MATRIX, VECTOR

# The reference of tensors of zeros in a tree of nothing else, which is a linear model as a rule:
# how large its weights become where inputs and targets are standardised.
NO_SCALE = 1.0
# Of the largest scale: a tensor that begins below it is as good as zero, such as the gains of
# layers that begin as nothing.
TINY = 1e-4
# Of the steepest tensor: what is flatter says nothing of how steep tensors are. It may stand behind
# gains that are tiny.
FLAT = 1e-4
WEIGHT_DECAY = 0.02  # which share of the parameters `weight_decay=1` takes in the longest step


class GeneralState(NamedTuple):
    """State of `general`.

    Attributes:
      step: steps taken, an int32 scalar.
      momentum: moving averages of the gradient, leaves `[3, *parameter.shape]`.
      second_moment: a moving average of its square, leaves like the parameters.
      reference: each tensor's own scale, leaves `[]`; zero before the first step.
      from_zero: one for each tensor that began at zero, or as good as that; leaves `[]`.
      damping: a factor on all steps, in [0.2, 1]: a scalar, one as a rule.
    """

    step: jax.Array
    momentum: Any
    second_moment: Any
    reference: Any
    from_zero: Any
    damping: jax.Array


class Settings(NamedTuple):
    """What the rule is built from; see `general`."""

    num_steps: int | None
    schedule: str
    scale: float
    weight_decay: float
    hidden_sizes: tuple
    controller_sizes: tuple
    learn_constants: bool
    embedding: Callable[[str], bool] | None


def is_embedding(path: str) -> bool:
    """Whether a parameter is an embedding by its path, such as "['Embed_0']['embedding']"."""
    return "embed" in path.lower()


def general(
    *,
    num_steps: int | None = None,
    schedule: str = "linear",
    scale: float = 1.0,
    weight_decay: float = 0.0,
    hidden_sizes: int | Sequence[int] = (8, 8),
    controller_sizes: int | Sequence[int] = (8,),
    learn_constants: bool = True,
    embedding: Callable[[str], bool] | None = None,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """An optimizer with relative steps, whose direction and length are learned.

    For each tensor, with g the gradient, m its moving averages (decays 0.9, 0.8, 0.995; for vectors
    0.9, 0.95, 0.995), v that of its square (0.95), and n the Nesterov momentum of the second
    average:

        u = n + MLP(features)                matrices: then orthogonalised
        u = n / sqrt(v) + MLP(features)      vectors, embeddings
        step = -scale * damping * c * length(t / T) * exp(controller) * reference * u / rms(u)

    n, and each of the 13 features of a coordinate, is divided by its rms over the tensor: g, theta,
    m (3), all of these but theta over sqrt(v) (4), and over the root of Adafactor's factored
    second moment (3), and log v relative to its mean. Six numbers beside them are the same for
    all coordinates: the share of the run that is done, log t, log T, and the kind of tensor. The
    controller is a second MLP that reads these six, and of the tensor how well gradient and
    averages agree (3) and how much it has grown. It speaks of matrices and embeddings: what tiny
    networks teach of biases is wrong for other functions of a vector. The constant c belongs to the
    kind of tensor; in a tree of nothing but vectors they have one of their own. Where T is over
    1,000, steps are `(1000 / T)^0.4` times as long.

    The reference is rms(theta_0). A tensor of zeros has no scale, and one whose rms is 10^4 times
    smaller than the largest is taken for one. Its reference is such that rms(g) * reference at the
    first step is the other tensors': the geometric mean of all but those that are 10^4 times
    flatter than the steepest. It is at most the largest rms. So with all parameters in other
    units, or another factor on the loss, updates are the same in these units. Only a tree of
    nothing but zeros has no unit: there the reference is one.

    The reference of zeros is a guess. A vector beside matrices that began at zero shows its scale
    by how far it goes, which takes gradients that agree: once rms(theta) is more than half of its
    reference, its steps are `(2 rms(theta) / reference)^2` times as long, nine times at most.

    Where inputs are large, steps that are relative to the parameters are too long. Then gradients
    point against their momenta. While that is so in the first half of the warm-up, and the first 50
    steps, one factor on all steps falls, to 0.2 at least. As a rule it stays at one.

    A tensor stays where it is while its gradients are zero: once the second average is 10^4 times
    smaller than the largest of the three.

    It begins as the harness, with nothing learned: the last layers of both MLPs are zero. The
    constants, c and the decays, are learned as well, unless `learn_constants` is False.

    The state takes 4 numbers a parameter, 16 bytes in float32. An update reads theta: `update` must
    be called with the parameters.

    Args:
      num_steps: T, the steps of the run. None for a run whose length is handed to `update` as
        `horizon=T`, as this library's own loops do. After T steps "cosine" and "linear" do not
        move.
      schedule: "cosine", "linear" or "constant", with a warm-up of 5 %, or "endless", for a run
        without an end: no `num_steps` is needed.
      scale: factor on all steps; a number that `optax.inject_hyperparams` may trace.
      weight_decay: pulls the parameters to zero: `-0.02 * scale * length * weight_decay * theta`.
      hidden_sizes: units of the MLP's layers; `()` for no MLP.
      controller_sizes: units of the controller's layers; `()` for no controller.
      learn_constants: whether c and the decays are part of the weights. The best ones for tiny
        networks are not those for larger ones.
      embedding: `embedding(path) -> bool` says which tensors are embeddings, which are not
        orthogonalised; the path is `jax.tree_util.keystr`'s. None for those with "embed" in their
        path.
      state_dtype: see `lstm`.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise and reads the parameters.

    Raises:
      ValueError: for settings that are not possible; in `update`, where T is not known.

    Source:
      The direction of a small MLP, normalised by tensor: Celo2, arXiv 2602.19142. Orthogonalised
      momentum: Jordan et al. 2024. Features: Metz et al. 2022, arXiv 2203.11860.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> opt = learned_opt.general(num_steps=100)
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
      >>> theta = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
      >>> updates, state = tx.update(theta, tx.init(theta), theta)
    """
    if num_steps is not None:
        num_steps = _checks.positive_int("num_steps", num_steps)
    chosen = Settings(
        num_steps,
        _checks.choice("schedule", schedule, schedules.SCHEDULES),
        _checks.positive_float("scale", scale),
        _checks.not_negative_float("weight_decay", weight_decay),
        _layer_sizes("hidden_sizes", hidden_sizes),
        _layer_sizes("controller_sizes", controller_sizes),
        _checks.boolean("learn_constants", learn_constants),
        embedding,
    )
    state_dtype = _checks.state_dtype(state_dtype)
    settings.check_precision("decays", max(map(max, general_rule.DECAYS)), state_dtype)
    sizes = chosen.hidden_sizes, chosen.controller_sizes
    init = base.bind(_init_weights, *sizes, chosen.learn_constants)
    spec = _spec(chosen, state_dtype)
    return base.LearnedOptimizer(
        base.CheckedInit(init),
        base.Transform(_lift, chosen, init, state_dtype, spec),
        False,
        spec,
        reads=frozenset({"params"}),
    )


def _layer_sizes(name, value):
    is_empty = isinstance(value, (tuple, list)) and not value
    return () if is_empty else _checks.sizes(name, value)


def _spec(chosen, state_dtype):
    """None for a function of the user's own, which no file can hold."""
    if chosen.embedding is not None:
        return None
    arguments = {
        **chosen._asdict(),
        "hidden_sizes": list(chosen.hidden_sizes),
        "controller_sizes": list(chosen.controller_sizes),
        "state_dtype": state_dtype,
    }
    return {"name": "general", "args": arguments}


def _init_weights(hidden_sizes, controller_sizes, learn_constants, key):
    network_key, controller_key = jax.random.split(key)
    num_inputs = general_rule.NUM_FEATURES + general_rule.NUM_CONTEXT
    num_signals = general_rule.NUM_SIGNALS + general_rule.NUM_CONTEXT
    phi = {
        "network": _init_layers(network_key, num_inputs, hidden_sizes),
        "controller": _init_layers(controller_key, num_signals, controller_sizes),
    }
    return {**general_rule.first_constants(), **phi} if learn_constants else phi


def _init_layers(key, num_inputs, sizes):
    """Layers of an MLP whose answer is zero at first; none for no units."""
    if not sizes:
        return []
    layers = []
    for layer_key, num_units in zip(jax.random.split(key, len(sizes)), sizes, strict=True):
        w = jax.random.normal(layer_key, (num_units, num_inputs)) / jnp.sqrt(num_inputs)
        layers.append({"w": w, "b": jnp.zeros(num_units)})
        num_inputs = num_units
    return [*layers, {"w": jnp.zeros((1, num_inputs)), "b": jnp.zeros(1)}]


def _lift(chosen, state_dtype, phi, phi_dtype):
    """The `init` and `update` of the optax transformation."""

    def init_fn(params):
        _checks.real_floating_tree("params", params)
        params = jax.tree.map(jnp.asarray, params)

        def zeros(theta, *features):
            dtype = state_dtype or base.widest(phi_dtype, theta.dtype)
            return base.zeros(theta, features, dtype)

        def scalar(theta):
            return jnp.zeros((), base.widest(phi_dtype, theta.dtype))

        return GeneralState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(lambda theta: zeros(theta, general_rule.NUM_MOMENTA), params),
            jax.tree.map(zeros, params),
            jax.tree.map(scalar, params),
            jax.tree.map(scalar, params),
            jnp.ones((), base.widest(phi_dtype, *jax.tree.leaves(params))),
        )

    def update_fn(updates, state, params=None, *, axis_name=None, horizon=None, **extra_args):
        del extra_args
        _checks.real_floating_tree("gradients", updates)
        base.check_handed_over(frozenset({"params"}), params, None)
        base.check_whole(axis_name, "an optimizer of whole tensors")
        base.check_alike("params", params, "the gradients", updates)
        _check_state(state, updates)
        step = state.step + 1
        course = _course(chosen, step, horizon)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(updates)
        gradients = [_widened(gradient, phi_dtype) for _, gradient in leaves]
        params_leaves = jax.tree.leaves(params)
        thetas = [_widened(theta, phi_dtype) for theta in params_leaves]
        known = jax.tree.leaves(state.reference), jax.tree.leaves(state.from_zero)
        references, from_zero = _references(step, thetas, gradients, *known)
        kept_momenta = jax.tree.leaves(state.momentum)
        momenta = [_widened(momentum, phi_dtype) for momentum in kept_momenta]
        second_moments = jax.tree.leaves(state.second_moment)
        us: list = [None] * len(leaves)
        hs: list = [None] * len(leaves)
        groups = _groups(chosen, leaves, gradients)
        is_alone = all(kind == VECTOR for kind, _ in groups)
        damping = _damping(state.damping, course, groups, gradients, momenta)
        for (kind, _), alike in groups.items():
            tensors = [
                general_rule.Tensor(
                    gradients[i],
                    thetas[i],
                    references[i].astype(gradients[i].dtype),
                    momenta[i],
                    _widened(second_moments[i], phi_dtype),
                    from_zero[i].astype(gradients[i].dtype),
                )
                for i in alike
            ]
            of_group = general_rule.directions(phi, course, kind, tensors, is_alone)
            for i, (u_t, h_t) in zip(alike, of_group, strict=True):
                decay = WEIGHT_DECAY * chosen.weight_decay * thetas[i]
                length = chosen.scale * course.length.astype(u_t.dtype) * damping.astype(u_t.dtype)
                us[i] = base.in_dtype_of(-length * (u_t + decay), params_leaves[i])
                hs[i] = h_t
        state = GeneralState(
            step,
            treedef.unflatten([_as_kept(h[0], m) for h, m in zip(hs, kept_momenta, strict=True)]),
            treedef.unflatten([_as_kept(h[1], v) for h, v in zip(hs, second_moments, strict=True)]),
            treedef.unflatten(references),
            treedef.unflatten(from_zero),
            damping,
        )
        return treedef.unflatten(us), state

    return init_fn, update_fn


def _widened(x, dtype):
    x = jnp.asarray(x)
    return x.astype(base.widest(dtype, x.dtype))


def _check_state(state, updates):
    """Raises ValueError for the state of something else."""
    shapes = jax.tree.map(jnp.shape, updates)
    if isinstance(state, GeneralState):
        held = jax.tree.map(jnp.shape, state.second_moment)
        if jax.tree.structure(held) == jax.tree.structure(shapes) and held == shapes:
            return
    raise ValueError(
        "state is not a state of this optimizer for these gradients: make it with tx.init(params)."
    )


def _course(chosen, step, horizon):
    """What this step is in the course of the run; raises ValueError where its end is not known."""
    end = chosen.num_steps if chosen.num_steps is not None else horizon
    if end is None and chosen.schedule != "endless":
        raise ValueError(
            "num_steps must be given, as steps become shorter toward the end of a run: "
            "num_steps=T, or schedule='endless' for a run without an end."
        )
    share = schedules.share(chosen.schedule, step, end)
    log_t = jnp.log(step.astype(share.dtype)) / jnp.log(1_000.0)
    log_end = jnp.ones_like(share)
    if chosen.schedule != "endless":
        log_end = jnp.log(jnp.asarray(end, share.dtype)) / jnp.log(1_000.0)
    times = jnp.stack([share, log_t, log_end])
    return general_rule.Course(
        step,
        schedules.length(chosen.schedule, step, end) * schedules.of_long_runs(chosen.schedule, end),
        schedules.has_just_begun(chosen.schedule, step, end),
        times,
    )


def _damping(damping, course, groups, gradients, momenta):
    """The next damping: matrices and embeddings decide, vectors are moved by their own sizes."""
    decisive = [i for (kind, _), alike in groups.items() if kind != VECTOR for i in alike]
    return general_damping.following(
        damping,
        course.has_just_begun,
        [gradients[i] for i in decisive],
        [momenta[i][general_rule.NESTEROV] for i in decisive],
    )


def _as_kept(new, old):
    return new.astype(old.dtype)


def _groups(chosen, leaves, gradients):
    """The positions of tensors of one kind and type, which are moved in one go."""
    groups: dict = {}
    for i, ((path, _), gradient) in enumerate(zip(leaves, gradients, strict=True)):
        kind = _kind(chosen, path, gradient.shape)
        groups.setdefault((kind, jax.typeof(gradient)), []).append(i)
    return groups


def _kind(chosen, path, shape):
    embedding = chosen.embedding or is_embedding
    if orthogonal.split_of(shape) is None:
        return VECTOR
    return EMBEDDING if embedding(jax.tree_util.keystr(path)) else MATRIX


def _references(step, thetas, gradients, known, from_zero):
    """Each tensor's own scale, and whether it had none: found at the first step, then kept."""
    if not thetas:
        return [], []
    operands = thetas, gradients, (known, from_zero)
    # A conditional, as it would go through all parameters and gradients for nothing later.
    return base.conditional(step == 1, _found_references, lambda _, __, kept: kept, *operands)


def _found_references(thetas, gradients, kept):
    """The references, and for each tensor whether it had no scale, as the state keeps them."""
    sizes = jnp.stack([general_rule.rms(theta) for theta in thetas])
    slopes = jnp.stack([general_rule.rms(gradient) for gradient in gradients])
    # Kept apart, or XLA makes a program of all of them for each tensor's reference.
    sizes, slopes = jax.lax.optimization_barrier((sizes, slopes))
    largest = jnp.max(sizes)
    has_scale = sizes > TINY * largest
    logs = _log(sizes) + _log(slopes)
    counts = has_scale & (slopes > 0)
    steepest = jnp.max(jnp.where(counts, logs, -jnp.inf))
    counts = counts & (logs > steepest + math.log(FLAT))
    count = jnp.sum(counts)
    mean_log = jnp.sum(jnp.where(counts, logs, 0)) / jnp.maximum(count, 1).astype(logs.dtype)
    largest = jnp.where(largest > 0, largest, NO_SCALE)
    # As steep as the others, in their units: where nothing is steep, as long as the longest.
    as_steep = jnp.exp(jnp.minimum(mean_log - _log(slopes), _log(largest)))
    of_tiny = jnp.where((count > 0) & (slopes > 0), as_steep, largest)
    found = jnp.where(has_scale, sizes, of_tiny)
    known, from_zero = kept
    return (
        [found[i].astype(x.dtype) for i, x in enumerate(known)],
        [jnp.logical_not(has_scale[i]).astype(x.dtype) for i, x in enumerate(from_zero)],
    )


def _log(x):
    return jnp.log(jnp.maximum(x, 1e-38))
