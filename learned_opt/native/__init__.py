"""The inner loops on a CPU, in C++: called by XLA, and built with the package where there is a compiler.

A core keeps a block of coordinates in its cache: the gates of a unit are computed, passed through their nonlinearities
and used while they are in registers, and for the derivative of a window the block's values over all steps stay where
they are. XLA's program makes a matrix product and an elementwise loop of each of these, over all coordinates, through
memory.
"""

import ctypes
import functools
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

_STEP, _PULL_BACK = "learned_opt_lstm_step", "learned_opt_lstm_pull_back"
_INTERFACE = 2  # what learned_opt_interface() answers
_MAX_WORKERS = 32  # kParts in lstm.cc


@functools.cache
def _library():
    """The compiled library, its functions known to XLA; None where it was not built or cannot be loaded."""
    try:
        library = ctypes.CDLL(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "lstm.library")
        )
        if getattr(library, "learned_opt_interface", int)() != _INTERFACE:
            warnings.warn(
                "learned_opt's C++ loops were built from other sources and are left out, which costs time: "
                "install the package again (pip install -e .).",
                stacklevel=2,
            )
            return None
        for name in (_STEP, _PULL_BACK):
            jax.ffi.register_ffi_target(
                name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu"
            )
    except (OSError, AttributeError, RuntimeError):
        return None
    library.learned_opt_lstm_room.restype = ctypes.c_int64
    return library


def available():
    """Whether the C++ loops were built and XLA can call them."""
    return _library() is not None


def usable(*trees):
    """Whether the C++ loops can take these arrays: all float32, on a CPU that is not cut into several devices.

    XLA cannot split a call into another library between devices: it would collect all coordinates on each.
    """
    return all(map(_fits, jax.tree.leaves(trees))) and available() and _num_devices() == 1


def _fits(x):
    # Under explicit sharding and in a shard_map, types tell of the mesh, and the results of a call do not.
    axis_types = jax.typeof(x).sharding.mesh.axis_types
    return x.dtype == jnp.float32 and all(kind == AxisType.Auto for kind in axis_types)


def _num_devices():
    """How many CPU devices there are, over all processes of one program."""
    try:
        return jax.device_count("cpu")
    except RuntimeError:  # JAX was told to leave the CPU alone
        return 0


def lstm_step(problems, weights, x_t, hidden, cells):
    """`network.step`; `problems` is the size of a first axis of `x_t` and the states, or None where there is none.

    Returns:
      `(y_t, hidden, cells)`.
    """
    shape = x_t.shape[1:] if problems is None else (problems, *x_t.shape[2:])
    args, results, aliases = (
        [x_t, weights["output"]["w"], weights["output"]["b"]],
        [_like(*shape)],
        {},
    )
    for layer, *state in zip(weights["layers"], hidden, cells, strict=True):
        args += [layer["w"], layer["b"]]
        for part in state:
            aliases[len(args)] = len(
                results
            )  # a step in place, where the caller no longer needs the old state
            args.append(part)
            results.append(_like(*part.shape))
    call = jax.ffi.ffi_call(_STEP, results, input_output_aliases=aliases)
    y_t, *states = call(*args, problems=np.int64(problems or 1))
    return y_t, tuple(states[::2]), tuple(states[1::2])


def lstm_pull_back(weights, x, dy, hidden, cells, tanh=False, with_input=False):
    """`network.pull_back` for arrays that are `usable`; `x` `[steps, inputs, n]`, `dy` `[steps, n]`."""
    args = [x, dy, weights["output"]["w"], weights["output"]["b"]]
    results = [_like(*(x.shape if with_input else (0,))), _like(*args[2].shape), _like()]
    for layer, h, c in zip(weights["layers"], hidden, cells, strict=True):
        args += [layer["w"], layer["b"], h, c]
        results += [_like(*layer["w"].shape), _like(*layer["b"].shape)]
    results.append(_like(_workers(), _room(weights, x)))
    call = jax.ffi.ffi_call(_PULL_BACK, results, vmap_method="sequential")
    dx, w, b, *layers, _ = call(*args, tanh=np.int64(tanh))
    pairs = zip(layers[::2], layers[1::2], strict=True)
    pulled = {"layers": [{"w": dw, "b": db} for dw, db in pairs], "output": {"w": w, "b": b}}
    return (pulled, dx) if with_input else pulled


def _like(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _workers():
    return min(os.cpu_count() or 1, _MAX_WORKERS)


def _room(weights, x):
    """Floats that a worker needs: the block of memory is XLA's, and counted like all that a program needs."""
    sizes, inputs = [], x.shape[1]
    for layer in weights["layers"]:
        units = layer["b"].shape[0] // 4
        sizes += [inputs, units]
        inputs = units
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    return _library().learned_opt_lstm_room(
        ctypes.c_int64(x.shape[0]), ctypes.c_int64(len(sizes) // 2), array
    )
