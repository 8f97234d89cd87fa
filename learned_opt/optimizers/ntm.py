"""NTM-BFGS and NTM-L-BFGS (Andrychowicz et al. 2016, appendix D; appendix B of version 1).

A controller, the network of LSTM+GAC, has heads on a memory that all coordinates share. At each
step it reads the gradient of a coordinate and what the memory answered to the step before. It says
how the coordinate moves, what is read next, and what is written.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import averaging, base, communicating, network
from learned_opt.optimizers import memory as memory_lib
from learned_opt.optimizers.communicating import Leaves
from learned_opt.optimizers.settings import UNSET, settings


class NTMState(NamedTuple):
    """State of NTM-BFGS and NTM-L-BFGS.

    Attributes:
      controller: the state of the controller.
      read: what the read heads of the last step got, M r: `[read heads, *parameter.shape]` for
        each parameter.
      memory: M - M_0 by rows, `[n, *parameter.shape]` for each parameter where n is the number of
        all coordinates; or `memory.Pairs`.
    """

    controller: Any
    read: Any
    memory: Any


class Heads(NamedTuple):
    """What a controller answers, all of it `Leaves`.

    Attributes:
      update: u_t, `[*parameter.shape]`.
      read: r_t, `[read heads, *parameter.shape]`.
      left: a_t, `[write heads, *parameter.shape]`.
      right: b_t, likewise.
    """

    update: Leaves
    read: Leaves
    left: Leaves
    right: Leaves


class Controller(NamedTuple):
    """What decides on updates, reads and writes.

    Attributes:
      init: `init(zeros, dtype) -> state`, see `communicating.TreeRule`.
      step: `step(phi, gs, read, state, average) -> (Heads, state)`: gradients g_t
        `[*parameter.shape]` and read results `[read heads, *parameter.shape]`, both `Leaves`.
        `average` is the mean over all coordinates of `Leaves` `[features, *parameter.shape]`, and
        the only way by which coordinates may meet.
    """

    init: Callable[[Callable, Any], Any]
    step: Callable[[Any, Leaves, Leaves, Any, Callable], tuple[Heads, Any]]


def rule(
    controller: Controller,
    memory: memory_lib.Memory,
    num_reads: int,
) -> communicating.TreeRule:
    """The `communicating.TreeRule` of a controller with a memory (figures 14 and 15)."""
    return communicating.TreeRule(
        base.bind(_start, controller, memory, num_reads),
        base.bind(_update, controller, memory),
        memory.across_devices,
    )


def _start(controller, memory, num_reads, zeros, dtype):
    return NTMState(controller.init(zeros, dtype), zeros(num_reads), memory.init(zeros))


def _update(controller, memory, phi, gs, state, coordinates):
    heads, controller_state = controller.step(
        phi, gs, state.read, state.controller, coordinates.average
    )
    read = memory.read(state.memory, heads.read, coordinates)
    written = memory.write(state.memory, heads.left, heads.right)
    return heads.update, NTMState(controller_state, read, written)


def ntm_bfgs(
    preset: str = "quadratic",
    *,
    hidden_sizes: int | Sequence[int] = (20, 20),
    num_averaged: int = 5,
    num_reads: int = 1,
    num_writes: int = 3,
    memory_scale: float = 1.0,
    preprocess_p: float | None = UNSET,
    output_scale: float = UNSET,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """NTM-BFGS: LSTM+GAC with a memory over all coordinates.

    The memory is an n x n matrix, as the estimate of the inverse Hessian in BFGS. Each read head
    emits a number r_t for each coordinate, and gets M_t r_t back at the next step. Each write head
    emits a_t and b_t, and M_{t+1} = M_t + sum a_t b_t^T. With one read head, three write heads and
    two averages this can carry out BFGS itself: the paper states it, the tests show it.

    The paper leaves some things open. Here M_0 is `memory_scale` times the identity, the first step
    reads zeros, a step reads before it writes, and all heads are linear in the outputs of the last
    layer. Read results come to the first layer as they are, also where gradients are preprocessed.

    Inside a `jax.shard_map` every device must hold all coordinates of its problems, and `update`
    takes `axis_name=()`.

    Args:
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged: see `lstm_gac`.
      num_reads: read heads; 1 in the paper.
      num_writes: write heads; 3 in the paper.
      memory_scale: M_0 is the identity times this.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise. Its state has n numbers a parameter for n
      parameters, and those of `lstm_gac`. Beyond some thousand parameters use `ntm_lbfgs`.

    Raises:
      ValueError: as `lstm_gac`, or for numbers of heads that are not positive.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.ntm_bfgs()
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    memory_scale = _checks.positive_float("memory_scale", memory_scale)
    return _build(
        "ntm_bfgs",
        memory_lib.dense(memory_scale),
        {"memory_scale": memory_scale},
        num_reads,
        num_writes,
        num_averaged,
        settings(preset, hidden_sizes, preprocess_p, output_scale),
        state_dtype,
    )


def ntm_lbfgs(
    preset: str = "quadratic",
    *,
    history: int = 30,
    hidden_sizes: int | Sequence[int] = (20, 20),
    num_averaged: int = 5,
    num_reads: int = 1,
    num_writes: int = 3,
    memory_scale: float = 1.0,
    preprocess_p: float | None = UNSET,
    output_scale: float = UNSET,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """NTM-L-BFGS: `ntm_bfgs` with a memory of only the last pairs of vectors that were written.

    It is the same as `ntm_bfgs` until `history` pairs are written, which is after
    `history / num_writes` steps. From then on the oldest pairs are forgotten. A read costs an inner
    product for each pair.

    Inside a `jax.shard_map`, `update` takes `axis_name`; see `communicating.from_rule`.

    Args:
      history: K, how many pairs are kept, at least as many as are written in a step.
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged, num_reads, num_writes, memory_scale: see `ntm_bfgs`.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise. Its state has `2 * history` numbers a
      parameter, and those of `lstm_gac`.

    Raises:
      ValueError: as `ntm_bfgs`, or for a history shorter than a step's writes.

    Example:
      >>> import jax, learned_opt
      >>> opt = learned_opt.ntm_lbfgs("mnist", history=12)
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
    """
    memory_scale = _checks.positive_float("memory_scale", memory_scale)
    num_writes = _checks.positive_int("num_writes", num_writes)
    history = _checks.positive_int("history", history, minimum=num_writes)
    arguments = {"history": history, "memory_scale": memory_scale}
    return _build(
        "ntm_lbfgs",
        memory_lib.limited(memory_scale, history),
        arguments,
        num_reads,
        num_writes,
        num_averaged,
        settings(preset, hidden_sizes, preprocess_p, output_scale),
        state_dtype,
    )


def _build(name, memory, arguments, num_reads, num_writes, num_averaged, chosen, state_dtype):
    num_reads = _checks.positive_int("num_reads", num_reads)
    num_writes = _checks.positive_int("num_writes", num_writes)
    num_averaged = averaging.check_averaged(num_averaged, chosen.hidden_sizes)
    state_dtype = _checks.state_dtype(state_dtype)
    arguments = {
        **chosen.arguments(),
        **arguments,
        "num_averaged": num_averaged,
        "num_reads": num_reads,
        "num_writes": num_writes,
        "state_dtype": state_dtype,
    }
    controller = Controller(
        base.bind(averaging.start, chosen.hidden_sizes, num_averaged),
        base.bind(_step, chosen, num_reads, num_writes),
    )
    num_heads = num_reads + 2 * num_writes
    num_inputs = chosen.num_features + num_reads
    init = base.bind(_init_weights, num_inputs, chosen.hidden_sizes, num_heads)
    spec = {"name": name, "args": arguments}
    return communicating.from_rule(rule(controller, memory, num_reads), init, spec, state_dtype)


def _init_weights(num_inputs, hidden_sizes, num_heads, key):
    """Those of `network`, and the heads in the order read, left, right."""
    network_key, heads_key = jax.random.split(key)
    w = 0.1 * jax.random.normal(heads_key, (num_heads, hidden_sizes[-1]))
    heads = {"w": w, "b": jnp.zeros(num_heads)}
    return {**network.init(network_key, num_inputs, hidden_sizes), "heads": heads}


def _step(chosen, num_reads, num_writes, phi, gs, read, state, average):
    def inputs_of(g, read_by_last_step):
        return jnp.concatenate([chosen.features(g), read_by_last_step])

    signal, state = averaging.step(phi["layers"], gs.map(inputs_of, read), state, average)
    heads = averaging.linear(phi["heads"], signal)
    update = averaging.linear(chosen.scaled(phi)["output"], signal)
    num_left = num_reads + num_writes
    read = heads.map(lambda x: x[:num_reads])
    left = heads.map(lambda x: x[num_reads:num_left])
    right = heads.map(lambda x: x[num_left:])
    return Heads(update, read, left, right), state
