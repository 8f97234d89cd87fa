"""What a compiled program does, counted from its text: collectives, their bytes, and FLOPs.

XLA's own `cost_analysis` counts the body of a loop once. Here it counts as often as the loop runs,
where the compiler knows how often that is. A loop of which it does not know counts once: those of
`meta_train` over windows are such, so what is counted of them is one window. Loops over the shards
that a device has are such too: the caller knows how many these are.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

# What moves data between devices; on some backends as a pair -start, -done.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
# Operations that compute nothing: they name, move or shape.
_FREE = frozenset(
    re.findall(
        r"\S+",
        """
        parameter constant tuple get-tuple-element bitcast bitcast-convert copy copy-start copy-done
        reshape broadcast transpose slice dynamic-slice dynamic-update-slice concatenate pad gather
        scatter iota reverse after-all partition-id replica-id opt-barrier custom-call
        rng-bit-generator get-dimension-size domain infeed outfeed send recv
        """,
    )
)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass
class Counted:
    """What is counted of a program, of one device.

    Attributes:
      collectives: how many, by kind.
      bytes: what they give, in bytes.
      flops: additions, multiplications and other operations on numbers, in products of matrices
        and elsewhere.
      in_loops: how many collectives are in loops of which the compiler knows how often they run:
        such as those over the steps of a window.
    """

    collectives: dict[str, float] = dataclasses.field(default_factory=dict)
    bytes: float = 0.0
    flops: float = 0.0
    in_loops: float = 0.0

    @property
    def num_collectives(self) -> float:
        """How many collectives there are, of all kinds."""
        return sum(self.collectives.values())

    def add(self, other: "Counted", times: float = 1) -> None:
        """Adds what another part does, so many times."""
        for kind, count in other.collectives.items():
            self.collectives[kind] = self.collectives.get(kind, 0) + times * count
        self.bytes += times * other.bytes
        self.flops += times * other.flops
        self.in_loops += times * other.in_loops


def count(text: str, unknown: Sequence[int] = ()) -> Counted:
    """Counts a compiled program.

    Args:
      text: of a program in HLO, `jax.jit(f).lower(...).compile().as_text()`.
      unknown: how often the loops run of which the compiler does not know it, by how many of such
        are around them; 1 for those that are deeper. For `meta_train`'s windows `(1, 1, shards of a
        device)`: episodes, windows, shards.

    Returns:
      The `Counted` of one device.

    Raises:
      ValueError: if there is no program in the text.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.evaluation import counting
      >>> def steps(x):
      ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]
      >>> text = jax.jit(steps).lower(jnp.ones((4, 4))).compile().as_text()
      >>> counting.count(text).flops >= 5 * 2 * 4**3
      True
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("text must be a compiled program in HLO, got one without an entry.")
    return _Counter(computations, tuple(unknown)).of(entry, 0)


def _computations(text: str) -> tuple[dict[str, list[str]], str | None]:
    """The lines of every computation, by name, and the name of the first to run."""
    computations: dict[str, list[str]] = {}
    entry = None
    lines: list[str] = []
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$", line)
        if head and not line.startswith((" ", "HloModule")):
            lines = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith(" "):
            lines.append(line)
    return computations, entry


class _Counter:
    def __init__(self, computations: dict[str, list[str]], unknown: tuple[int, ...]) -> None:
        self._computations = computations
        self._unknown = unknown
        self._done: dict[tuple[str, int], Counted] = {}

    def of(self, name: str, depth: int) -> Counted:
        """What a computation does, called once, within so many loops that nobody knows."""
        if (name, depth) in self._done:
            return self._done[name, depth]
        total = Counted()
        shapes: dict[str, str] = {}
        for line in self._computations.get(name, []):
            found = _INSTRUCTION.match(line)
            if not found:
                continue
            own_name, shape, operation, rest = found.groups()
            shapes[own_name] = shape
            total.add(self._of_instruction(operation, shape, rest, shapes, depth))
        self._done[name, depth] = total
        return total

    def _of_instruction(
        self,
        operation: str,
        shape: str,
        rest: str,
        shapes: dict[str, str],
        depth: int,
    ) -> Counted:
        kind = operation.removesuffix("-start")
        if kind in COLLECTIVES:
            size = _bytes_of(shape) if operation == kind else _bytes_of(_last_part(shape))
            return Counted({kind: 1}, size, 0.0)
        if operation == "while":
            return self._of_while(rest, depth)
        if operation == "conditional":
            return self._of_branches(rest, depth)
        if operation in ("fusion", "call", "async-start", "map"):
            total = Counted()
            for name in _called(rest, "calls", "to_apply"):
                total.add(self.of(name, depth))
            return total
        return Counted(flops=_flops(operation, shape, rest, shapes))

    def _of_while(self, rest: str, depth: int) -> Counted:
        known = self._trip_count(rest)
        if known is not None:
            times = known
        else:
            times = self._unknown[depth] if depth < len(self._unknown) else 1
            depth += 1
        total = Counted()
        for name in _called(rest, "body", "condition"):
            total.add(self.of(name, depth), times)
        if known is not None:
            total.in_loops = total.num_collectives
        return total

    def _trip_count(self, rest: str) -> int | None:
        """How often a loop runs: as the compiler notes it, or the number that it counts up to."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
        if noted:
            return int(noted.group(1))
        (condition,) = _called(rest, "condition")
        lines = "\n".join(self._computations.get(condition, []))
        bounds = re.findall(r"= s32\[\]\S* constant\((\d+)\)", lines)
        return int(bounds[0]) if len(bounds) == 1 else None

    def _of_branches(self, rest: str, depth: int) -> Counted:
        """The branch that costs most."""
        names = _called(rest, "true_computation", "false_computation")
        listed = re.search(r"branch_computations=\{([^}]*)\}", rest)
        if listed:
            names += [name.strip().lstrip("%") for name in listed.group(1).split(",")]
        branches = [self.of(name, depth) for name in names]
        return max(branches, key=lambda branch: (branch.num_collectives, branch.flops))


def _called(rest: str, *attributes: str) -> list[str]:
    """The computations that an instruction names in some attributes."""
    names = []
    for attribute in attributes:
        names += re.findall(rf"\b{attribute}=%?([\w.\-]+)", rest)
    return names


def _flops(
    operation: str,
    shape: str,
    rest: str,
    shapes: dict[str, str],
) -> float:
    if operation in _FREE or operation.endswith("-done"):
        return 0.0
    size = _size_of(shape)
    if operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
        dims = _dims(_operand(rest, 0, shapes))
        return 2.0 * size * math.prod(dims[i] for i in _numbers(contracted))
    if operation == "convolution":
        kernel = _dims(_operand(rest, 1, shapes))
        labels = re.search(r"dim_labels=\w+_(\w+)->", rest)
        outputs = kernel[labels.group(1).index("o")] if labels else 1
        return 2.0 * size * math.prod(kernel) / max(1, outputs)
    if operation in ("reduce", "reduce-window", "sort"):
        return float(_size_of(_operand(rest, 0, shapes)))
    return float(size)


def _operand(
    rest: str,
    position: int,
    shapes: dict[str, str],
) -> str:
    """The shape of an operand, which stands beside it or where it was made."""
    operands = re.findall(r"(?:([a-z]\w*\[[\d,]*\])\S* )?%([\w.\-]+)", rest)
    shape, name = operands[position]
    return shape or shapes.get(name, "")


def _numbers(found: re.Match | None) -> list[int]:
    return [int(number) for number in found.group(1).split(",") if number] if found else []


def _dims(shape: str) -> list[int]:
    """The sizes of the first array in a shape."""
    found = _SHAPE.search(shape)
    return [int(size) for size in found.group(2).split(",") if size] if found else []


def _size_of(shape: str) -> int:
    return sum(math.prod(_dims(f"x[{dims}]")) for _, dims in _SHAPE.findall(shape))


def _bytes_of(shape: str) -> float:
    total = 0.0
    for dtype, dims in _SHAPE.findall(shape):
        total += _width(dtype) * math.prod(_dims(f"x[{dims}]"))
    return total


def _width(dtype: str) -> float:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.search(r"\d+", dtype)
    return int(bits.group()) / 8 if bits else 4.0


def _last_part(shape: str) -> str:
    """Of the pair that an asynchronous collective gives, what it will have made."""
    parts = _SHAPE.findall(shape)
    dtype, dims = parts[-1]
    return f"{dtype}[{dims}]"
