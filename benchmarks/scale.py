"""What a window of meta-training costs on 1 to 256 devices, before anybody pays for them.

The real program is compiled, and nothing is run: for simulated devices of a CPU, and for a TPU pod
with --topology (v5e:16x16 has 256 chips), which needs `pip install libtpu` and no TPU.
Meta-training in shards (`learned_opt.meta_train(..., shards=...)`) stands beside the same window as
XLA's GSPMD divides it by itself, where only its arrays are laid out on the devices.

Columns, of one window and one device:
  collectives    how often devices communicate, and in brackets how often within a step
  bytes          what that gives each of them
  FLOPs          by how often loops run
  work           the share of the FLOPs that no other device repeats
  memory         arguments and temporaries, as the compiler reports it
  time, speed    MODELLED, not measured: FLOPs at --flops a second, a collective at --latency and
                 its bytes at --bandwidth a second, nothing at the same time; how many times as fast
                 as one device, and as a share of the number of devices

The numbers of --flops, --latency and --bandwidth are assumptions, and are printed with the table.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib import figure

import learned_opt
from benchmarks import cases, common
from learned_opt import devices
from learned_opt.devices import PROBLEMS, Shards
from learned_opt.estimators import Adjoint
from learned_opt.evaluation import counting
from learned_opt.meta import training

_sizes = common.define_sizes([1, 2, 4, 8, 32, 256], [1, 2], "Numbers of devices")
_per_shard = common.define_count("problems", 2, 1, "Problems of each shard")
_width = common.define_count("width", 20, 4, "Hidden units of the network that is optimized")
_window = common.define_count("window", 20, 4, "Steps of a window")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "A TPU topology to compile for as well, such as v5e:16x16."
)
_FLOPS = flags.DEFINE_float("flops", 2e12, "Assumed FLOPs a second of a device.")
_LATENCY = flags.DEFINE_float("latency", 2e-5, "Assumed seconds of a collective.")
_BANDWIDTH = flags.DEFINE_float("bandwidth", 4.5e10, "Assumed bytes a second between devices.")
flags.adopt_module_key_flags(common)

SHARDS, GSPMD = "shards", "GSPMD"


@dataclasses.dataclass(frozen=True)
class Counted:
    """One program, of one device."""

    target: str
    program: str
    devices: int
    collectives: float
    in_steps: float
    bytes: float
    flops: float
    memory: int

    @property
    def seconds(self) -> float:
        """The modelled time of a window."""
        talking = _LATENCY.value * self.collectives + self.bytes / _BANDWIDTH.value
        return self.flops / _FLOPS.value + talking


def settings(shards: int) -> dict[str, Any]:
    """The settings of meta-training: as many shards as there are devices at most."""
    return {
        "num_steps": _window(),
        "num_problems": shards * _per_shard(),
        "estimator": Adjoint(window=_window()),
    }


def in_shards(
    case: cases.Case,
    shards: int,
    there: tuple,
) -> jax.stages.Lowered:
    """Meta-training's window over some devices."""
    with devices.use(there):
        return training.lowered(case.opt, case.problem, case.key, shards=shards, **settings(shards))


def by_gspmd(
    case: cases.Case,
    shards: int,
    there: tuple,
) -> jax.stages.Lowered:
    """The same window in one piece, whose arrays lie on the devices, problem by problem."""
    with devices.use(there):
        mesh = devices.make_mesh(1, len(there))
    lay = functools.partial(_laid, mesh, shards * _per_shard())
    return training.lowered(case.opt, case.problem, case.key, shards=1, lay=lay, **settings(shards))


def _laid(
    mesh: jax.sharding.Mesh,
    num_problems: int,
    tree: Any,
    is_of_problems: bool,
) -> Any:
    """Shapes on a mesh: what belongs to problems is cut where these are, or are flattened."""

    def of(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return x
        spec = PartitionSpec()
        if is_of_problems and x.ndim and x.shape[0] == num_problems:
            spec = PartitionSpec(PROBLEMS)
        elif is_of_problems and x.ndim and x.shape[-1] % mesh.shape[PROBLEMS] == 0:
            spec = PartitionSpec(*(None,) * (x.ndim - 1), PROBLEMS)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(of, tree)


def count(
    target: str,
    program: str,
    lowered: jax.stages.Lowered,
    num_devices: int,
    shards: int,
) -> Counted:
    """Compiles a program, and counts what it does."""
    compiled = lowered.compile()
    of_device = shards // num_devices if program == SHARDS else 1
    counted = counting.count(compiled.as_text(), (1, 1, of_device))
    memory = compiled.memory_analysis()
    return Counted(
        target,
        program,
        num_devices,
        counted.num_collectives,
        counted.in_loops,
        counted.bytes,
        counted.flops,
        memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    )


def measure(
    target: str,
    there: tuple,
    numbers: list[int],
    shards: int,
) -> list[Counted]:
    """Both programs over several numbers of devices."""
    case = cases.make(cases.IMAGE_SHAPES["digits"], _width(), _window())
    results = []
    with learned_opt.xla_loops():  # what is in the C++ loops could not be counted
        for number in numbers:
            for program, lower in ((SHARDS, in_shards), (GSPMD, by_gspmd)):
                if program == GSPMD and number == 1:
                    continue
                print(f"compiling for {number} devices ({target}, {program})", file=sys.stderr)
                lowered = lower(case, shards, there[:number])
                results.append(count(target, program, lowered, number, shards))
    return results


def topology(name: str) -> tuple:
    """The devices of a TPU topology; none, with a sentence, where libtpu is missing."""
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        line = str(error).strip().split("\n", 1)[0]
        print(
            f"Nothing is compiled for {name}: {line}. It needs `pip install libtpu`, and a name "
            "like v5e:16x16.",
            file=sys.stderr,
        )
        return ()


def measure_topology(name: str) -> list[Counted]:
    """Both programs for all chips of a topology, and for one chip of its kind."""
    there = topology(name)
    if not there:
        return []
    shards = len(there)
    kind = name.split(":", 1)[0]
    alone = topology(f"{kind}:2x2")  # the compiler takes a part of a topology of one host alone
    results = measure(name, alone, [1], shards) if alone else []
    return results + measure(name, there, [shards], shards)


def one_device(results: list[Counted], result: Counted) -> Counted | None:
    """The same work on one device of the same kind, where it was compiled."""
    alone = [r for r in results if r.target == result.target and r.devices == 1]
    return alone[0] if alone else None


def as_table(results: list[Counted]) -> str:
    """The results as a Markdown table."""
    header = [
        "for",
        "program",
        "devices",
        "collectives (in steps)",
        "bytes",
        "FLOPs",
        "work",
        "memory, MiB",
        "modelled time, ms",
        "modelled speed",
    ]
    rows = []
    for r in results:
        alone = one_device(results, r)
        work, speed = None, None
        if alone is not None:
            work = f"{100 * alone.flops / (r.devices * r.flops):.1f} %"
            times = alone.seconds / r.seconds
            speed = f"{common.number(times)} x ({100 * times / r.devices:.0f} %)"
        rows.append(
            [
                r.target,
                r.program,
                r.devices,
                f"{r.collectives:,.0f} ({r.in_steps:,.0f})",
                f"{r.bytes:,.0f}",
                f"{r.flops:.3g}",
                work,
                common.number(r.memory / common.MIB),
                common.number(1000 * r.seconds),
                speed,
            ]
        )
    assumed = (
        f"Modelled, not measured: {_FLOPS.value:.3g} FLOPs a second, {_LATENCY.value:.3g} s a "
        f"collective, {_BANDWIDTH.value:.3g} bytes a second."
    )
    return common.table(header, rows) + "\n" + assumed


def as_figure(results: list[Counted]) -> figure.Figure:
    """Collectives, and modelled speed, against the number of devices."""
    fig, (left, right) = common.new_axes(2)
    for target in dict.fromkeys(r.target for r in results):
        for program in (SHARDS, GSPMD):
            mine = [r for r in results if (r.target, r.program) == (target, program)]
            if not mine:
                continue
            numbers = [r.devices for r in mine]
            label = f"{program}, {target}"
            left.plot(numbers, [r.collectives for r in mine], marker="o", label=label)
            alone = one_device(results, mine[0])
            if alone is not None:
                speeds = [alone.seconds / r.seconds for r in mine]
                right.plot(numbers, speeds, marker="o", label=label)
    left.set(xlabel="devices", ylabel="collectives of a window")
    right.set(xlabel="devices", ylabel="modelled speed, one device = 1")
    left.legend()
    return fig


def main() -> None:
    """Compiles for every number of devices that the flags ask for, and reports."""
    chosen = common.settings("scale")
    numbers = _sizes()
    shards = max(numbers)
    for number in numbers:
        Shards(shards)  # the largest number is that of the shards: the others divide it
        if shards % number:
            raise ValueError(f"--sizes must divide the largest of them, {shards}, got {number}.")
    jax.config.update("jax_num_cpu_devices", shards)
    results = measure("CPU", tuple(jax.devices("cpu")), numbers, shards)
    if _TOPOLOGY.value:
        results += measure_topology(_TOPOLOGY.value)
    plain = [dataclasses.asdict(r) for r in results]
    record = common.record("scale", chosen, results=plain, shards=shards)
    common.report(chosen.output, as_table(results), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
