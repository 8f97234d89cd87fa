"""What the benchmarks share: ratios and their spread, memory of programs, tables, plots, flags."""

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from matplotlib import figure

from experiments import main as experiments_main
from experiments import processes, terminal
from learned_opt import _files
from learned_opt.evaluation import environment
from learned_opt.evaluation import report as report_lib
from learned_opt.optimizees import base as optimizee_base

_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Directory for results.json, table.md and plot.png; by default "
    "results/benchmarks/NAME, with --quick results/benchmarks/NAME-quick.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds",
    None,
    "Timing rounds, of which median and quartiles are taken; by default 11, with --quick 3.",
    lower_bound=1,
)
_QUICK = flags.DEFINE_boolean(
    "quick",
    False,
    "Small sizes and few rounds, in some seconds: shows that everything "
    "runs; its numbers mean nothing.",
)

MIB = 2**20


class Settings(NamedTuple):
    """The shared flags, with their defaults filled in."""

    output: str
    rounds: int
    quick: bool


class Spread(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} - {number(self.high)})"


def settings(name: str) -> Settings:
    """The `Settings` of the benchmark `name` from the command line."""
    quick = _QUICK.value
    folder = f"{name}-quick" if quick else name
    output = _OUTPUT.value or os.path.join("results", "benchmarks", folder)
    return Settings(os.path.expanduser(output), _ROUNDS.value or by_default(11, 3), quick)


def by_default(value: Any, quick: Any) -> Any:
    """The value, or another one with --quick."""
    return quick if _QUICK.value else value


def define_sizes(
    default: Sequence[int],
    quick: Sequence[int],
    text: str,
) -> Callable[[], list[int]]:
    """Defines --sizes, a list of positive integers; see `define_numbers_or`."""
    return define_numbers_or("sizes", default, quick, text)


def define_numbers_or(
    name: str,
    default: Sequence[int],
    quick: Sequence[int],
    text: str,
) -> Callable[[], list[int]]:
    """Defines a flag for a list of positive integers, with a default of its own for --quick.

    The main module adopts the flag with the other flags of this module.

    Returns:
      A function that gives the flag's value, or its default, as a list of ascending integers.
    """
    shown, shown_quick = ",".join(map(str, default)), ",".join(map(str, quick))
    given = define_numbers(name, f"{text}; by default {shown}, with --quick {shown_quick}.")

    def value() -> list[int]:
        return given() or sorted(by_default(default, quick))

    return value


def define_numbers(name: str, text: str) -> Callable[[], list[int] | None]:
    """Defines a flag for a list of positive integers.

    Returns:
      A function that gives them, ascending, or None where the flag is not given.
    """
    numbers = flags.DEFINE_list(name, None, text)
    flags.register_validator(
        name, _are_numbers, "must be positive integers, separated by commas, like 10,100."
    )

    def value() -> list[int] | None:
        if not numbers.value:
            return None
        return sorted({int(number) for number in numbers.value})

    return value


def define_count(
    name: str,
    default: int,
    quick: int,
    text: str,
    lower_bound: int = 1,
) -> Callable[[], int]:
    """Defines a flag for an integer, with a default of its own for --quick.

    Returns:
      A function that gives the flag's value, or its default.
    """
    text = f"{text}; by default {default}, with --quick {quick}."
    count = flags.DEFINE_integer(name, None, text, lower_bound)
    return lambda: by_default(default, quick) if count.value is None else count.value


def define_positive(
    name: str,
    default: float | None,
    text: str,
) -> flags.FlagHolder:
    """Defines a flag for a finite number above 0, or for None where that is its default."""
    holder = flags.DEFINE_float(name, default, text)
    flags.register_validator(name, _is_positive, "must be a finite number above 0.")
    return holder


def _is_positive(value: float | None) -> bool:
    return value is None or (math.isfinite(value) and value > 0)


def _are_numbers(values: list[str] | None) -> bool:
    if values is None:
        return True
    return len(values) > 0 and all(map(_is_positive_integer, values))


def _is_positive_integer(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark's `main()` under absl.

    Arguments that are no flags are refused, and what a user got wrong is told in one line. The
    whole trace is shown with --v=1.
    """

    def checked(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(experiments_main.unexpected(argv[1]))
        processes.run(main, experiments_main.told)

    processes.define_flags()
    # That JAX looks for accelerators is no news to a user of a benchmark.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    terminal.fit_help()
    app.run(checked)


def spread(values: Any) -> Spread:
    """The `Spread` of some numbers."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(low), float(median), float(high))


def ratio(
    times: dict[str, list[float]],
    name: str,
    reference: str,
) -> Spread | None:
    """How many times as long `name` takes as `reference`, in each round.

    Returns:
      The `Spread` over rounds, or None if one of the two was not timed.
    """
    if name not in times or reference not in times:
        return None
    return spread(np.divide(times[name], times[reference]))


def compiled(
    function: Callable,
    *args: Any,
    donate: Any = (),
) -> jax.stages.Compiled:
    """The compiled program of `function`.

    Args:
      function: a pure function.
      *args: its arguments, arrays or their shapes.
      donate: positions of arguments whose memory the program may use again.
    """
    return jax.jit(function, donate_argnums=donate).lower(*args).compile()


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Bytes that a program needs while it runs, beside its arguments and its results."""
    return int(program.memory_analysis().temp_size_in_bytes)


def num_coordinates(problem: Any) -> int:
    """The number of parameters of an optimizee."""
    family = optimizee_base.as_family(problem)
    theta = jax.eval_shape(optimizee_base.begin, family, jax.random.key(0)).theta_0
    return sum(x.size for x in jax.tree.leaves(theta))


def show_milliseconds() -> bool:
    """Whether absolute times are shown.

    Those of a CPU say more about its other work than about the program.
    """
    return jax.default_backend() != "cpu"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table. Cells are shown as text, and None as '-'."""
    return report_lib.markdown(header, [[_cell(c) for c in row] for row in rows])


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def number(value: float) -> str:
    """A number in three significant digits, never in exponents: 0.0123, 4.56, 12,300."""
    if not math.isfinite(value):
        return str(value)
    magnitude = math.floor(math.log10(abs(value))) if value else 2
    digits = 2 - magnitude
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def times_as(value: float | None) -> str | None:
    """A factor in a table: '4.56 x', or None."""
    return None if value is None else f"{number(value)} x"


def new_axes(panels: int) -> tuple[figure.Figure, np.ndarray]:
    """A figure with `panels` log-log plots side by side; returns `(figure, axes)`."""
    fig = figure.Figure(figsize=(6 * panels, 4.5), layout="constrained")
    axes = fig.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.set(xscale="log", yscale="log")
        ax.grid(which="both", alpha=0.3)
    return fig, axes


def draw(
    ax: Any,
    sizes: Sequence[float],
    spreads: Sequence[Spread],
    label: str,
) -> None:
    """A line of medians over sizes with bars from quartile to quartile."""
    low, median, high = np.transpose(spreads)
    bars = [median - low, high - median]
    ax.errorbar(sizes, median, yerr=bars, marker="o", capsize=3, label=label)


def grouped(results: Sequence[dict], field: str) -> dict[str, list[dict]]:
    """The results by what they have in a field, in the order in which that first comes."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        groups.setdefault(result[field], []).append(result)
    return groups


def column(results: Sequence[dict], field: str) -> list:
    """One field of every result."""
    return [result[field] for result in results]


def record(
    name: str,
    chosen: Settings,
    **fields: Any,
) -> dict:
    """What every benchmark records, and its own fields."""
    return {
        "benchmark": name,
        "rounds": chosen.rounds,
        "quick": chosen.quick,
        "environment": environment.record(),
        **fields,
    }


def report(
    output: str,
    text: str,
    recorded: dict,
    fig: figure.Figure,
) -> None:
    """Prints a table and writes it with the raw record and the plot.

    Each file appears whole or not at all.
    """
    where = f"{describe(recorded['environment'])}\n\n{text}\n"
    print(f"\n{terminal.shown(where)}")
    _files.write_json(os.path.join(output, "results.json"), _plain(recorded))
    _files.write_text(os.path.join(output, "table.md"), where)
    with _files.whole(os.path.join(output, "plot.png")) as temporary:
        fig.savefig(temporary, dpi=120)
    print(f"Written to {output}: results.json (raw times), table.md, plot.png.")


def describe(env: dict) -> str:
    """One line about the machine and the versions."""
    parts = [f"{env['num_devices']} x {env['device']} ({env['backend']})"]
    if env["backend"] == "cpu":
        loops = "" if env["native"] else ", without the C++ loops"
        parts[0] += f" with {env['cpu_cores']} cores{loops}"
    versions = env["versions"]
    parts += [f"{name} {versions[name]}" for name in ("jax", "flax", "optax", "python")]
    if env["commit"]:
        parts.append(f"commit {env['commit'][:12]}")
    return ", ".join(parts)


def _plain(value: Any) -> Any:
    """As JSON holds it: each `Spread` as a dict."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value
