"""NTM-BFGS and NTM-L-BFGS (Andrychowicz et al. 2016, appendix D; appendix B of its first version).

A controller, the network of LSTM+GAC, with heads on a memory that all coordinates share. At each step it reads a
coordinate's gradient and what the step before asked the memory for, and says how the coordinate moves, what is read
next, and what is written.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import averaging, communicating, network
from learned_opt.optimizers import memory as memory_lib
from learned_opt.optimizers.communicating import Leaves
from learned_opt.optimizers.settings import UNSET, settings


class NTMState(NamedTuple):
    """State of NTM-BFGS and NTM-L-BFGS.

    Attributes:
      controller: the controller's.
      read: what the last step's read heads got: M r, `[read heads, *parameter.shape]` for each parameter.
      memory: M - M_0 by rows, `[n, *parameter.shape]` for each parameter, n the number of all coordinates; or
        `memory.Pairs`.
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
    """What decides on updates, reads and writes: functions of each coordinate alone, and averages over all.

    Attributes:
      init: `init(zeros, dtype) -> state`, see `communicating.TreeRule`.
      step: `step(phi, gs, read, state, average) -> (Heads, state)`: gradients g_t `[*parameter.shape]` and read results
        `[read heads, *parameter.shape]`, both `Leaves`; `average` is the mean over all coordinates of `Leaves`
        `[features, *parameter.shape]`, and the only way by which coordinates may meet.
    """

    init: Callable[[Callable, Any], Any]
    step: Callable[[Any, Leaves, Leaves, Any, Callable], tuple[Heads, Any]]


def rule(controller, memory, num_reads):
    """The `communicating.TreeRule` of a controller with a `memory.Memory`: the paper's figures 14 and 15."""

    def init(zeros, dtype):
        return NTMState(controller.init(zeros, dtype), zeros(num_reads), memory.init(zeros))

    def update(phi, gs, state):
        heads, controller_state = controller.step(
            phi, gs, state.read, state.controller, communicating.average
        )
        read = memory.read(state.memory, heads.read)
        return heads.update, NTMState(
            controller_state, read, memory.write(state.memory, heads.left, heads.right)
        )

    return communicating.TreeRule(init, update)


def ntm_bfgs(
    preset="quadratic",
    *,
    hidden_sizes=(20, 20),
    num_averaged=5,
    num_reads=1,
    num_writes=3,
    memory_scale=1.0,
    preprocess_p=UNSET,
    output_scale=UNSET,
    state_dtype=None,
):
    """NTM-BFGS: LSTM+GAC with a memory over all coordinates, an n x n matrix as BFGS's estimate of the inverse Hessian.

    Each read head emits a number r_t for each coordinate, and gets M_t r_t back at the next step; each write head emits
    a_t and b_t, and M_{t+1} = M_t + sum a_t b_t^T. With one read head, three write heads and two averages this can
    carry out BFGS itself (the paper states it, the tests show it).

    The paper is silent about some things; here M_0 is `memory_scale` times the identity, the first step reads zeros,
    a step reads before it writes, all heads are linear in the last layer's outputs, and read results come to the first
    layer as they are, also where gradients are preprocessed.

    Args:
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged: see `lstm_gac`.
      num_reads: read heads; 1 in the paper.
      num_writes: write heads; 3 in the paper.
      memory_scale: M_0 is the identity times this.

    Returns:
      A `LearnedOptimizer`, not coordinatewise. Its state has n numbers a parameter for n parameters, and those of
      `lstm_gac`: beyond some thousand parameters use `ntm_lbfgs`.

    Raises:
      ValueError: as `lstm_gac`, or for numbers of heads that are not positive.

    Example:
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
    preset="quadratic",
    *,
    history=30,
    hidden_sizes=(20, 20),
    num_averaged=5,
    num_reads=1,
    num_writes=3,
    memory_scale=1.0,
    preprocess_p=UNSET,
    output_scale=UNSET,
    state_dtype=None,
):
    """NTM-L-BFGS: `ntm_bfgs` with a memory of only the last pairs of vectors that were written.

    The same as `ntm_bfgs` until `history` pairs are written, which is after `history / num_writes` steps; from then on
    the oldest pairs are forgotten. A read costs an inner product for each pair.

    Args:
      history: K, how many pairs are kept, at least as many as are written in a step.
      preset, hidden_sizes, preprocess_p, output_scale, state_dtype: see `lstm`.
      num_averaged, num_reads, num_writes, memory_scale: see `ntm_bfgs`.

    Returns:
      A `LearnedOptimizer`, not coordinatewise. Its state has `2 * history` numbers a parameter, and those of
      `lstm_gac`.

    Raises:
      ValueError: as `ntm_bfgs`, or for a history shorter than a step's writes.

    Example:
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
    spec = {
        "name": name,
        "args": {
            **chosen.arguments(),
            **arguments,
            "num_averaged": num_averaged,
            "num_reads": num_reads,
            "num_writes": num_writes,
            "state_dtype": state_dtype,
        },
    }
    controller = Controller(
        functools.partial(averaging.start, chosen.hidden_sizes, num_averaged),
        functools.partial(_step, chosen, num_reads, num_writes),
    )
    return communicating.from_rule(
        rule(controller, memory, num_reads),
        functools.partial(_init_weights, chosen, num_reads, num_writes),
        spec,
        state_dtype,
    )


def _init_weights(chosen, num_reads, num_writes, key):
    """Those of `network`, and the heads in the order read, left, right."""
    network_key, heads_key = jax.random.split(key)
    num_heads = num_reads + 2 * num_writes
    w = 0.1 * jax.random.normal(heads_key, (num_heads, chosen.hidden_sizes[-1]))
    return {
        **network.init(network_key, chosen.num_features + num_reads, chosen.hidden_sizes),
        "heads": {"w": w, "b": jnp.zeros(num_heads)},
    }


def _step(chosen, num_reads, num_writes, phi, gs, read, state, average):
    inputs = gs.map(lambda g, i: jnp.concatenate([chosen.features(g), i]), read)
    signal, state = averaging.step(phi["layers"], inputs, state, average)
    heads = averaging.linear(phi["heads"], signal)
    read, left, right = (
        heads.map(lambda x, part=part: x[part])
        for part in (
            slice(num_reads),
            slice(num_reads, num_reads + num_writes),
            slice(num_reads + num_writes, None),
        )
    )
    return Heads(averaging.linear(chosen.scaled(phi)["output"], signal), read, left, right), state
