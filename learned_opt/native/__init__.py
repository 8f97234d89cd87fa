"""The inner loops of the networks on a CPU, in C++.

XLA calls them, and they are built with the package where there is a compiler. They compute what
plain JAX computes (`network`, `general_rule` and `orthogonal` in `learned_opt.optimizers`), in less
time: an LSTM's step several times as fast.

A core works on one block of coordinates at a time and keeps it in its cache. It computes the gates
of a unit, applies their nonlinearities and uses them while they are still in registers. For the
derivative of a window it keeps the block's values of all steps. XLA makes a matrix product and an
elementwise loop of each of these, and each of them passes through memory. Of `general`, the
features and hidden units of a block stay in the cache likewise, and so does a small matrix while it
is orthogonalised.

Set the environment variable `LEARNED_OPT_NATIVE=0` to leave the library out of a whole process.
Use `xla_loops` to leave it out of some programs, such as those that are exported.
"""

import contextlib
import ctypes
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from learned_opt.native._interface import INTERFACE

States = tuple[jax.Array, ...]  # One array for each layer.

_STEP = "learned_opt_lstm_step"
_PULL_BACK = "learned_opt_lstm_pull_back"
_GENERAL = "learned_opt_general"
_ORTHOGONAL = "learned_opt_orthogonal"
_VARIABLE = "LEARNED_OPT_NATIVE"

# JAX traces again where this changes, so no program that was traced outside is used inside.
_only_xla = jax.make_user_context(default_value=False)


def xla_loops() -> contextlib.AbstractContextManager[None]:
    """Leaves the C++ loops out of the programs that are traced within this context.

    XLA's own loops compute the same, more slowly on a CPU. Use this for a program that is exported:
    `jax.export` refuses to serialise a call to a library that another process may not have. Inside
    the context `jax.jit` traces a function again that it has compiled with the C++ loops.

    Returns:
      A context manager.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import learned_opt
      >>> tx = learned_opt.pretrained("rnnprop-mnist")
      >>> theta = {"w": jnp.ones(3)}
      >>> with learned_opt.xla_loops():
      ...     exported = jax.export.export(jax.jit(tx.update))(theta, tx.init(theta))
      >>> updates, state = exported.call(theta, tx.init(theta))
    """
    return _only_xla(True)


def available() -> bool:
    """Whether the C++ loops were built and XLA can call them in this process.

    This starts JAX's backends.
    """
    return _library() is not None


def faster(plain: Callable, fast: Callable) -> Callable:
    """`plain`, computed by `fast` where the program runs on a CPU.

    Derivatives, of any order and mode, are those of `plain`.
    """

    @jax.custom_jvp
    def chosen(*args):
        return jax.lax.platform_dependent(*args, cpu=fast, default=plain)

    @chosen.defjvp
    def jvp(primals, tangents):
        return jax.jvp(plain, primals, tangents)

    # Outside any jit, the choice of a platform would be compiled anew for each step.
    return jax.jit(chosen, inline=True)


def usable(*trees: Any) -> bool:
    """Whether the program that is being traced can call the C++ loops with these arrays.

    It can where all arrays are float32, where the program runs on a CPU (`runs_on_cpu`) that is not
    divided into several devices, and outside `xla_loops`. XLA cannot divide a call to another
    library between devices: it would collect all coordinates on each of them. Within a
    `jax.shard_map(..., check_vma=False)` over all axes of a mesh there is nothing to divide, and
    the devices share the cores.
    """
    if _only_xla.value or not runs_on_cpu():
        return False
    for leaf in jax.tree.leaves(trees):
        if not _fits(leaf):
            return False
    return available() and (_num_devices() == 1 or _is_mapped())


def runs_on_cpu() -> bool:
    """Whether a program that is traced now will run on a CPU.

    That is where JAX's default device is: the one of `jax.default_device` if it is set, and of the
    default backend otherwise. Arrays that are committed to another device move a program there
    without being seen here, so on a host with a GPU, trace a program that is meant for the CPU
    within `jax.default_device`.
    """
    config: Any = jax.config
    device = config.jax_default_device
    if device is None:
        return jax.default_backend() == "cpu"
    platform = device if isinstance(device, str) else device.platform
    return platform == "cpu"


def lstm_step(
    problems: int | None,
    weights: Any,
    x_t: jax.Array,
    hidden: States,
    cells: States,
) -> tuple[jax.Array, States, States]:
    """One step of every coordinate, as `network.step` says it.

    Args:
      problems: the size of a first axis of `x_t` and of the states, or None where there is none.
      weights: see `network`.
      x_t: features `[inputs, *coordinates]` or `[problems, inputs, *coordinates]`.
      hidden: the outputs of the layers at t - 1, `[units, *coordinates]` or
        `[problems, units, *coordinates]` each.
      cells: their cell states, likewise.

    Returns:
      `(y_t, hidden, cells)` at t.
    """
    output = weights["output"]
    coordinates = x_t.shape[1:]
    if problems is not None:
        coordinates = (problems, *x_t.shape[2:])
    args = [x_t, output["w"], output["b"]]
    results = [_floats(*coordinates)]
    # A step happens in place where the caller no longer needs the old state.
    aliases = {}
    for layer, *states in zip(weights["layers"], hidden, cells, strict=True):
        args += [layer["w"], layer["b"]]
        for state in states:
            aliases[len(args)] = len(results)
            args.append(state)
            results.append(_floats(*state.shape))
    call = jax.ffi.ffi_call(_STEP, results, input_output_aliases=aliases)
    y_t, *states = call(*args, problems=np.int64(problems or 1))
    new_hidden = tuple(states[::2])
    new_cells = tuple(states[1::2])
    return y_t, new_hidden, new_cells


def lstm_pull_back(
    weights: Any,
    x: jax.Array,
    dy: jax.Array,
    hidden: States,
    cells: States,
    tanh: bool = False,
    with_input: bool = False,
) -> Any:
    """The derivative of a window, as `network.pull_back` says it, for arrays that are `usable`.

    Args:
      weights: see `network`.
      x: features of all steps, `[steps, inputs, n]`.
      dy: cotangents of the outputs, `[steps, n]`.
      hidden: the outputs of the layers before the first step, `[units, n]` each.
      cells: their cell states, likewise.
      tanh: whether `dy` are cotangents of tanh(y) instead of y.
      with_input: whether the cotangents of `x` are wanted too.

    Returns:
      Cotangents like the weights, or a pair of those and the cotangents of `x`.
    """
    output = weights["output"]
    dx_shape = x.shape if with_input else (0,)
    args = [x, dy, output["w"], output["b"]]
    results = [_floats(*dx_shape), _like(output["w"]), _like(output["b"])]
    for layer, h, c in zip(weights["layers"], hidden, cells, strict=True):
        args += [layer["w"], layer["b"], h, c]
        results += [_like(layer["w"]), _like(layer["b"])]
    room = _floats(_workers(), _room(weights, x))
    call = jax.ffi.ffi_call(_PULL_BACK, [*results, room], vmap_method="sequential")
    dx, output_w, output_b, *of_layers, _ = call(*args, tanh=np.int64(tanh))
    layers = []
    for dw, db in zip(of_layers[::2], of_layers[1::2], strict=True):
        layers.append({"w": dw, "b": db})
    pulled = {"layers": layers, "output": {"w": output_w, "b": output_b}}
    return (pulled, dx) if with_input else pulled


def general_proposals(
    matrix: tuple[int, int] | None,
    adaptive: bool,
    common: Any,
    tensors: Sequence[Any],
) -> tuple[jax.Array, jax.Array, list]:
    """What `general` proposes for tensors of one shape, as `general_rule.proposals` says it.

    Under `jax.vmap` it stays one call, with a batch of weights as well as of tensors.

    Args:
      matrix: rows and columns of the matrices that the tensors are, or None.
      adaptive: whether the momentum is divided by the root of the second moment.
      common: a `general_rule.Common`.
      tensors: `general_rule.Tensor`s of one shape that is not empty, at least one.

    Returns:
      `(u, signals, averages)`: `[tensors, *shape]`, `[tensors, 4]` and for each tensor its next
      momentum and second moment.
    """
    args = [common.kept, common.debias, common.context]
    shape = tensors[0].gradient.shape
    results = [_floats(len(tensors), *shape), _floats(len(tensors), 4)]
    aliases = {}
    for tensor in tensors:
        args += [tensor.gradient, tensor.theta, tensor.reference]
        for average in (tensor.momentum, tensor.second_moment):
            aliases[len(args)] = len(results)
            args.append(average)
            results.append(_like(average))
    for layer in common.layers:
        args += [layer["w"], layer["b"]]
    call = jax.ffi.ffi_call(
        _GENERAL, results, input_output_aliases=aliases, vmap_method="broadcast_all"
    )
    rows, columns = matrix or (0, 0)
    us, signals, *averages = call(
        *args,
        tensors=np.int64(len(tensors)),
        rows=np.int64(rows),
        columns=np.int64(columns),
        adaptive=np.int64(adaptive),
    )
    return us, signals, list(zip(averages[::2], averages[1::2], strict=True))


def orthogonalised(
    x: jax.Array,
    sides: tuple[int, int],
    num_whole: int,
    num_steps: int,
    coefficients: tuple[float, float, float],
) -> jax.Array:
    """What `orthogonal.orthogonalised` says, for a matrix that is `usable` and not empty.

    `sides` are the rows and columns of the matrix that the array is. Under `jax.vmap` it stays one
    call. Each matrix is the work of one core. The first `num_whole` steps are made with the whole
    matrix, the others with its square alone.
    """
    call = jax.ffi.ffi_call(_ORTHOGONAL, _like(x), vmap_method="broadcast_all")
    a, b, c = np.asarray(coefficients, np.float32)
    return call(
        x,
        rows=np.int64(sides[0]),
        columns=np.int64(sides[1]),
        whole_steps=np.int64(num_whole),
        steps=np.int64(num_steps),
        a=a,
        b=b,
        c=c,
    )


@functools.cache
def _library() -> Any:
    """The compiled library, with its functions registered with XLA, or None where there is none."""
    # XLA registers functions when its CPU backend starts, and the backend would not start with a
    # library that it refuses. Where the backend runs already, only the registration fails.
    if not _wanted() or _num_devices() == 0:
        return None
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "lstm.library")
    if not os.path.exists(path):
        return None
    try:
        return _load(path)
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".")
        warnings.warn(
            f"learned_opt leaves its C++ loops out, which costs time: {reason}. "
            "To build them anew, install the package again; "
            f"to silence this warning, set {_VARIABLE}=0.",
            stacklevel=2,
        )
        return None


def _wanted() -> bool:
    """Whether the environment leaves the library on."""
    value = os.environ.get(_VARIABLE) or "1"
    if value not in ("0", "1"):
        raise ValueError(f"the environment variable {_VARIABLE} must be 0 or 1, got {value!r}.")
    return value == "1"


def _load(path: str) -> Any:
    library = ctypes.CDLL(path)
    for name in ("interface", "max_workers", "limit_lanes", "lstm_room"):
        function = getattr(library, f"learned_opt_{name}")
        function.restype = ctypes.c_int64
    interface = library.learned_opt_interface()
    if interface != INTERFACE:
        raise ValueError(f"they were built from other sources (interface {interface})")
    for name in (_STEP, _PULL_BACK, _GENERAL, _ORTHOGONAL):
        function = getattr(library, name)
        handler = jax.ffi.pycapsule(function)
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    return library


def _fits(x: Any) -> bool:
    # With explicit sharding, and in a shard_map that checks on which devices values differ, types
    # say more than those of the call's results.
    kind = jax.typeof(x)
    is_explicit = AxisType.Explicit in kind.sharding.mesh.axis_types
    return not is_explicit and not _varying(kind) and x.dtype == jnp.float32


def _varying(kind: Any) -> frozenset:
    if hasattr(kind, "manual_axis_type"):  # since JAX 0.10
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())


def _is_mapped() -> bool:
    """Whether the program that is traced is that of one device, in a map over a whole mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.axis_names) and set(mesh.manual_axes) == set(mesh.axis_names)


def _num_devices() -> int:
    """The number of CPU devices, over all processes of one program."""
    try:
        return jax.device_count("cpu")
    except RuntimeError:  # JAX was told to leave the CPU alone.
        return 0


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return _floats(*x.shape)


def _workers() -> int:
    cores = os.cpu_count() or 1
    if _is_mapped():  # the devices of a map work at the same time
        on_this_host = min(jax.local_device_count("cpu"), jax.sharding.get_abstract_mesh().size)
        cores = max(1, cores // on_this_host)
    most = _library().learned_opt_max_workers()
    return min(cores, most)


def _room(weights: Any, x: jax.Array) -> int:
    """The floats that a worker needs. XLA allocates them, so they count as the program's memory."""
    sizes = []
    inputs = x.shape[1]
    for layer in weights["layers"]:
        units = layer["b"].shape[0] // 4
        sizes += [inputs, units]
        inputs = units
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    steps = ctypes.c_int64(x.shape[0])
    num_layers = ctypes.c_int64(len(weights["layers"]))
    floats = _library().learned_opt_lstm_room(steps, num_layers, array)
    if floats < 0:
        raise MemoryError("the C++ loops found no memory to plan a derivative")
    return floats
