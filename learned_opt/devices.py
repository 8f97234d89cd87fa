"""One program over all devices, of one process or of several.

Work is cut into *shards*, and the number of shards is a setting of a run, part of what identifies
it. How many devices there are is none: every shard is computed by the same code, one after the
other on one device or side by side on several, and what the shards give is gathered and added in
the order of the shards. So the same run has the same bits on any number of devices.

A mesh has two axes: `TRIALS`, between which nothing is ever communicated, and `PROBLEMS`. Whatever
is mapped over it is mapped whole, a whole call of the device and not a step, so that no step
communicates. Every problem is whole on one device.

Several processes run one program (`start`). Each of them comes to the same decisions, because what
could differ between them, such as a clock, a signal or a file, is asked for by all together.
"""

import contextlib
import contextvars
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TRIALS = "trials"
PROBLEMS = "problems"
AXES = (TRIALS, PROBLEMS)

WHOLE = PartitionSpec()  # every device has all of it

_chosen: contextvars.ContextVar[tuple | None] = contextvars.ContextVar("devices", default=None)


@contextlib.contextmanager
def use(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Within this context everything goes over these devices, and no others.

    Args:
      devices: one or several of `jax.devices()`.

    Raises:
      ValueError: for no devices.

    Example:
      >>> import jax, learned_opt
      >>> from learned_opt import devices
      >>> with devices.use(jax.devices()[:1]):
      ...     len(devices.all_devices())
      1
    """
    if not devices:
        raise ValueError("devices must be one of jax.devices() or several, got none.")
    token = _chosen.set(tuple(devices))
    try:
        yield
    finally:
        _chosen.reset(token)


def all_devices() -> tuple[jax.Device, ...]:
    """The devices that everything goes over, of all processes.

    They are those of `use`, or the one of `jax.default_device`, or else all of `jax.devices()`.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    config: Any = jax.config
    default = config.jax_default_device
    if default is None:
        return tuple(jax.devices())
    return (jax.local_devices(backend=default)[0] if isinstance(default, str) else default,)


def make_mesh(trials: int, problems: int) -> Mesh:
    """All devices as a mesh with the axes `TRIALS` and `PROBLEMS`."""
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((trials, problems), AXES, axis_types=types, devices=all_devices())


def check_axes(mesh: Mesh, axes: Sequence[str]) -> None:
    """Raises ValueError that names what is missing unless a mesh has these axes."""
    for axis in axes:
        if axis not in mesh.axis_names:
            there = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
            raise ValueError(
                f"the mesh must have an axis {axis!r}, got one with {there or 'no axes'}: make it "
                f"with jax.make_mesh(shape, {tuple(axes)}, axis_types=...)."
            )


@dataclasses.dataclass(frozen=True)
class Shards:
    """How some work is cut, and the devices that do it; static under jit.

    One shard on no mesh is the work as it is, on one device: nothing is stacked or gathered.

    Attributes:
      num: how many shards.
      mesh: from `make_mesh`, or None.

    Raises:
      ValueError: if the mesh lacks an axis, or its devices do not divide the shards.
    """

    num: int = 1
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.mesh is None:
            return
        check_axes(self.mesh, AXES)
        if self.num % self.mesh.shape[PROBLEMS]:
            raise ValueError(
                f"shards={self.num} must be a multiple of the axis {PROBLEMS!r} of the mesh, got "
                f"one of {self.mesh.shape[PROBLEMS]}."
            )

    @property
    def on_a_device(self) -> int:
        """How many shards each device has."""
        return self.num if self.mesh is None else self.num // self.mesh.shape[PROBLEMS]

    def over_devices(
        self,
        function: Callable,
        in_specs: Any,
        out_specs: Any,
    ) -> Callable:
        """`function` on every device, each with its part; the function itself where no mesh is.

        Args:
          function: a pure function. Inside it, `each`, `gathered` and `mean` know the shards.
          in_specs: which axes of an argument are cut, a `PartitionSpec` for each or a tree of them.
          out_specs: the same of the results.
        """
        if self.mesh is None:
            return function
        # Types that name the devices on which values differ would be for every estimator and every
        # optimizer to keep.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def key(self, key: jax.Array, shard: jax.Array | int) -> jax.Array:
        """The key of a shard; one shard has the key itself."""
        return key if self.num == 1 else jax.random.fold_in(key, shard)

    def each(self, function: Callable, *args: Any) -> Any:
        """`function(shard, *args of the shard)` for every shard of this device, stacked.

        They run one after the other, by the same code however many there are.

        Args:
          function: a pure function of a shard's number and of what belongs to the shard.
          *args: trees with shards on a first axis, from an earlier `each`.
        """
        if self.num == 1:
            return function(0, *args)
        num = self.on_a_device
        first = 0 if self.mesh is None else num * jax.lax.axis_index(PROBLEMS)

        def one(i: jax.Array, *own: Any) -> Any:
            return function((first + i).astype(jnp.int32), *own)

        return in_turn(one, num, *args)

    def gathered(self, tree: Any) -> Any:
        """The first axes of all devices put together; one collective for each dtype.

        Args:
          tree: what `each` gave, or other arrays of which each device has a part.
        """
        if self.num == 1 or self.mesh is None:
            return tree
        packed, unpack = _packed(tree)
        every = [jax.lax.all_gather(x, PROBLEMS, tiled=True) for x in packed]
        return unpack(every)

    def mean(self, tree: Any) -> Any:
        """The mean over all shards of what `each` gave, added in the order of the shards."""
        if self.num == 1:
            return tree
        total = _added(self.gathered(tree))
        return jax.tree.map(lambda t: t / self.num, total)


def in_turn(function: Callable, num: int, *args: Any) -> Any:
    """`function(i, *args of i)` for i = 0 .. num - 1, one after the other, stacked.

    It is `jax.lax.map` whose function XLA compiles by itself, whatever is around it: the same bits
    for every number. Otherwise a loop that runs once would be no loop, a slice of an array of one
    row no slice, and what is computed would be fused with what is around it in another way.

    Args:
      function: a pure function.
      num: how often.
      *args: trees whose leaves have a first axis of that size.
    """
    ways_back = []

    def one(i: jax.Array, own: tuple) -> list[jax.Array]:
        numbers, way_back = _numbers(function(i, *own))
        ways_back.append(way_back)
        return numbers

    def row(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), jax.tree.map(row, args))
    room = [jnp.zeros((num, *x.shape), x.dtype) for x in shapes]

    def nothing(i: jax.Array, own: tuple) -> list[jax.Array]:
        del i, own
        return [jnp.zeros(x.shape, x.dtype) for x in shapes]

    # What XLA does not know to be so, though it is.
    end, is_so = jax.lax.optimization_barrier((jnp.asarray(num, jnp.int32), jnp.asarray(True)))

    def step(i: jax.Array, every: list[jax.Array]) -> list[jax.Array]:
        own = jax.tree.map(lambda x: x[i], args)
        # A branch is a program of its own.
        rows = zip(every, jax.lax.cond(is_so, one, nothing, i, own), strict=True)
        return [jax.lax.dynamic_update_index_in_dim(x, new, i, 0) for x, new in rows]

    return ways_back[0](jax.lax.fori_loop(jnp.zeros((), jnp.int32), end, step, room))


def total(tree: Any, axes: tuple[str, ...]) -> Any:
    """The sum over all devices of a map, added in their order; one collective for each dtype.

    Args:
      tree: what each device has.
      axes: of the mesh, all that the map goes over.
    """
    packed, unpack = _packed(jax.tree.map(lambda x: x[None], tree))
    every = [jax.lax.all_gather(x, axes, tiled=True) for x in packed]
    return _added(unpack(every))


def _added(tree: Any) -> Any:
    """The sum over the first axis, from its beginning to its end."""

    def add(i: jax.Array, total: Any) -> Any:
        return jax.tree.map(lambda t, x: t + x[i], total, tree)

    num = jax.tree.leaves(tree)[0].shape[0]
    return jax.lax.fori_loop(1, num, add, jax.tree.map(lambda x: x[0], tree))


def _numbers(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """All leaves of a tree as arrays of numbers, also random keys, and the way back."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [jnp.asarray(x) for x in leaves]
    impls: dict[int, Any] = {}
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            impls[i] = jax.random.key_impl(leaf)
            leaves[i] = jax.random.key_data(leaf)

    def way_back(numbers: list[jax.Array]) -> Any:
        new = list(numbers)
        for i, impl in impls.items():
            new[i] = jax.random.wrap_key_data(numbers[i], impl=impl)
        return treedef.unflatten(new)

    return leaves, way_back


def _packed(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """All leaves `[m, ...]` as one array `[m, n]` for each dtype, and the way back."""
    leaves, treedef = jax.tree.flatten(tree)
    dtypes = sorted({x.dtype for x in leaves}, key=str)
    of_dtype = [[i for i, x in enumerate(leaves) if x.dtype == dtype] for dtype in dtypes]
    packed = []
    for positions in of_dtype:
        rows = [leaves[i].reshape(leaves[i].shape[0], -1) for i in positions]
        packed.append(jnp.concatenate(rows, axis=1))

    def unpack(packed: list[jax.Array]) -> Any:
        new = list(leaves)
        for positions, rows in zip(of_dtype, packed, strict=True):
            ends = np.cumsum([math.prod(leaves[i].shape[1:]) for i in positions])
            parts = jnp.split(rows, ends[:-1], axis=1)
            for i, part in zip(positions, parts, strict=True):
                new[i] = part.reshape(part.shape[0], *leaves[i].shape[1:])
        return treedef.unflatten(new)

    return packed, unpack


def layout(shards: int, trials: int = 1) -> Shards:
    """How many shards of each of some trials go over all devices.

    Trials take as many devices as they can share evenly, and the shards of a trial the rest.

    Args:
      shards: of one trial. One alone, of one trial, is the work as it is, on one device.
      trials: how many run side by side.

    Raises:
      ValueError: if the devices do not divide the work.
    """
    if shards == 1 and trials == 1:
        if is_several():
            raise ValueError(
                f"shards=1 is work for one device, and {jax.process_count()} processes have "
                f"{jax.device_count()}: give shards={jax.device_count()}, or a multiple of it."
            )
        return Shards()
    num_devices = len(all_devices())
    side_by_side = math.gcd(trials, num_devices)
    of_trial = num_devices // side_by_side
    if shards % of_trial:
        work = f"shards={shards}" if trials == 1 else f"{trials} seeds with shards={shards} each"
        raise ValueError(
            f"{work} cannot be shared by {num_devices} devices: give a multiple of {of_trial} as "
            "shards, or fewer devices (learned_opt.devices.use)."
        )
    return Shards(shards, make_mesh(side_by_side, of_trial))


def spread(num: int) -> Shards:
    """Independent pieces of work over all devices: as many shards as devices.

    The pieces know nothing of each other, so this is no part of what identifies a run.

    Args:
      num: how many pieces there are.
    """
    num_devices = len(all_devices())
    if num_devices == 1 or num == 1:
        return Shards()
    return Shards(num_devices, make_mesh(1, num_devices))


def is_traced(*trees: Any) -> bool:
    """Whether some array of these is being traced by a caller's own jit, vmap or grad."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(trees))


def placed(
    tree: Any,
    mesh: Mesh | None,
    spec: PartitionSpec = WHOLE,
) -> Any:
    """Arrays that every process has alike, on the devices of a mesh.

    Args:
      tree: arrays.
      mesh: where to; None leaves them where they are.
      spec: which axes are cut.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)

    def put(x: Any) -> Any:
        if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
            return x
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x  # it is there already
        return _put(x, sharding)

    return jax.tree.map(put, tree)


def shapes(
    tree: Any,
    mesh: Mesh | None,
    spec: PartitionSpec = WHOLE,
) -> Any:
    """What `placed` would give, without data: for programs that are compiled and not run."""

    def of(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return x
        sharding = None if mesh is None else NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of, tree)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if not is_several():
        return jax.device_put(x, sharding)
    here = np.asarray(x)
    return jax.make_array_from_callback(here.shape, sharding, lambda index: here[index])


def to_host(tree: Any) -> Any:
    """NumPy arrays of all of a tree, also of what other processes hold; all of them ask."""

    def read(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(read, tree)


def to_local(tree: Any) -> Any:
    """Arrays of a mesh as ordinary ones of this process, on its default device."""
    return jax.tree.map(jnp.asarray, to_host(tree))


def parted(tree: Any, shards: Shards) -> Any:
    """Pieces of work on a first axis, shared evenly by the devices of `spread`.

    Where they are no multiple of the devices, the first of them come twice.
    """
    num = jax.tree.leaves(tree)[0].shape[0]
    index = np.arange(-(-num // shards.num) * shards.num) % num
    if len(index) > num:
        tree = jax.tree.map(lambda x: x[index], tree)
    return placed(tree, shards.mesh, PartitionSpec(PROBLEMS))


# Several processes.


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
) -> None:
    """Makes this process one of several that run one program; before anything else of JAX.

    Args:
      coordinator: "host:port" of the first process. None where JAX finds all of them by itself: on
        a TPU pod, on GKE, under Slurm and under MPI.
      num_processes: how many, likewise.
      process_index: which of them this is, likewise.

    Raises:
      ValueError: if the others are not found.
    """
    given = (coordinator, num_processes, process_index)
    if None in given and given != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_index go together: give all three, or none "
            f"where JAX finds them by itself, got {given}."
        )
    # Meta-training notices signals by itself, and elsewhere they end a process as ever.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_index)
    except (ValueError, RuntimeError, ImportError) as error:
        first_line = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise ValueError(
            f"the processes do not come together: {first_line}. Give coordinator=host:port, "
            "num_processes and process_index where JAX does not find them by itself, start all of "
            "them, and see that they reach the coordinator."
        ) from error


class DisagreementError(ValueError):
    """What all processes of a program must have alike, they have not; raised in all of them."""


def is_several() -> bool:
    """Whether this program runs in several processes. It starts none of JAX's backends."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes, shows and asks."""
    return not is_several() or jax.process_index() == 0


def of_all(value: Any) -> list:
    """What every process has as `value`, plain data that JSON can hold; all of them ask."""
    if not is_several():
        return [value]
    here = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(here.size, np.int32))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: here.size] = here
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(bytes(row[: int(n)]).decode()) for row, n in zip(rows, sizes, strict=True)]


def of_first(value: Any) -> Any:
    """What the first process has as `value`; all of them ask."""
    return of_all(value)[0]


def most(*numbers: float) -> list[float]:
    """The largest of each number over all processes; all of them ask."""
    return [max(values) for values in zip(*of_all(list(numbers)), strict=True)]


def check_alike(what: str, value: dict) -> None:
    """Raises DisagreementError in all processes unless all of them have the same plain data.

    Args:
      what: what it is, for the message.
      value: plain data by name.
    """
    values = of_all(value)
    for index, other in enumerate(values):
        for name in sorted({*values[0], *other}):
            if other.get(name) == values[0].get(name):
                continue
            raise DisagreementError(
                f"all processes must have the same {what}, but process 0 has "
                f"{name}={values[0].get(name)!r} and process {index} has {other.get(name)!r}: "
                "start the same command, of the same installation, in all of them."
            )


@contextlib.contextmanager
def by_first() -> Iterator[None]:
    """What is done in this context, the first process does, and the others wait for it.

    The context runs in all of them: whoever is not the first leaves out what is outwardly visible.

    Raises:
      OSError: in the others, where it failed in the first.
    """
    if not is_several():
        yield
        return
    of_all(None)  # whoever still reads what was there before comes to an end
    failed = None
    try:
        yield
    except OSError as error:
        failed = f"{type(error).__name__}: {error}"
        if is_first():
            of_all(failed)
            raise
    failures = [failure for failure in of_all(failed) if failure is not None]
    if failures:
        raise OSError(failures[0])
