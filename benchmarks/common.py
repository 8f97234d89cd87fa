"""What the benchmarks share: ratios and their spread, memory of programs, tables, plots, flags."""

import logging
import math
import os
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags
from matplotlib import figure

from learned_opt import _files
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

    def __str__(self):
        return f"{number(self.median)} ({number(self.low)} - {number(self.high)})"


def settings(name):
    """The `Settings` of the benchmark `name` from the command line."""
    quick = _QUICK.value
    output = _OUTPUT.value or os.path.join(
        "results", "benchmarks", name + ("-quick" if quick else "")
    )
    return Settings(os.path.expanduser(output), _ROUNDS.value or (3 if quick else 11), quick)


def define_sizes(default, quick, text):
    """Defines --sizes, a list of positive integers; the main module adopts it with this module's other flags.

    Returns:
      A function that gives the flag's value, or its default, as a list of ascending integers.
    """
    given = define_numbers(
        "sizes",
        f"{text}; by default {','.join(map(str, default))}, with --quick "
        f"{','.join(map(str, quick))}.",
    )
    return lambda: given() or sorted(quick if _QUICK.value else default)


def define_numbers(name, text):
    """Defines a flag for a list of positive integers; returns a function that gives them, ascending, or None."""
    numbers = flags.DEFINE_list(name, None, text)
    flags.register_validator(
        name, _are_numbers, "must be positive integers, separated by commas, like 10,100."
    )
    return lambda: sorted({int(n) for n in numbers.value}) if numbers.value else None


def define_count(name, default, quick, text, lower_bound=1):
    """Defines a flag for an integer with a default of its own for --quick; returns a function that gives it."""
    count = flags.DEFINE_integer(
        name, None, f"{text}; by default {default}, with --quick {quick}.", lower_bound
    )
    return lambda: count.value if count.value is not None else quick if _QUICK.value else default


def _are_numbers(values):
    return values is None or (len(values) > 0 and all(v.isdecimal() and int(v) > 0 for v in values))


def run(main):
    """Runs a benchmark's `main()` under absl, refusing arguments that are no flags."""

    def checked(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        main()

    # JAX's search for accelerators is no news to who runs a benchmark.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    app.run(checked)


def spread(values):
    """The `Spread` of some numbers."""
    return Spread(*(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])))


def ratio(times, name, reference):
    """The `Spread` over rounds of how many times as long `name` takes as `reference`, or None if one was not timed."""
    if name not in times or reference not in times:
        return None
    return spread(np.divide(times[name], times[reference]))


def compiled(function, *args, donate=()):
    """The program of `function` for `args` (arrays or shapes), compiled; `donate` are positions of arguments."""
    return jax.jit(function, donate_argnums=donate).lower(*args).compile()


def temporary_bytes(program):
    """Bytes that a compiled program needs while it runs, beside its arguments and its results."""
    return int(program.memory_analysis().temp_size_in_bytes)


def num_coordinates(problem):
    """Parameters of an optimizee."""
    theta = jax.eval_shape(optimizee_base.begin, problem, jax.random.key(0)).theta_0
    return sum(x.size for x in jax.tree.leaves(theta))


def show_milliseconds():
    """Whether absolute times are quoted: those of a CPU say more about its other work than about the program."""
    return jax.default_backend() != "cpu"


def table(header, rows):
    """A Markdown table; cells are shown as text, None as '-'."""
    return report_lib.markdown(
        header, [["-" if c is None else str(c) for c in row] for row in rows]
    )


def number(value):
    """A number in three significant digits, never in exponents: 0.0123, 4.56, 12,300."""
    if not math.isfinite(value):
        return str(value)
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def times_as(value):
    """A factor in a table: '4.56 x', or None."""
    return None if value is None else f"{number(value)} x"


def new_axes(panels):
    """A figure with `panels` log-log plots side by side; returns `(figure, axes)`."""
    fig = figure.Figure(figsize=(6 * panels, 4.5), layout="constrained")
    axes = fig.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.set(xscale="log", yscale="log")
        ax.grid(which="both", alpha=0.3)
    return fig, axes


def draw(ax, sizes, spreads, label):
    """A line of medians over sizes with bars from quartile to quartile."""
    low, median, high = np.transpose(spreads)
    ax.errorbar(
        sizes, median, yerr=[median - low, high - median], marker="o", capsize=3, label=label
    )


def report(output, text, record, fig):
    """Prints a table and writes it with the raw record and the plot; each file appears whole or not at all."""
    where = f"{describe(record['environment'])}\n\n{text}\n"
    print(f"\n{where}")
    _files.write_json(os.path.join(output, "results.json"), _plain(record))
    _files.write_text(os.path.join(output, "table.md"), where)
    with _files.whole(os.path.join(output, "plot.png")) as temporary:
        fig.savefig(temporary, dpi=120)
    print(f"Written to {output}: results.json (raw times), table.md, plot.png.")


def describe(env):
    """One line about the machine and the versions."""
    loops = "" if env["native"] else ", without the C++ loops"
    cores = f" with {env['cpu_cores']} cores{loops}" if env["backend"] == "cpu" else ""
    commit = f", commit {env['commit'][:12]}" if env["commit"] else ""
    versions = ", ".join(
        f"{name} {env['versions'][name]}" for name in ("jax", "flax", "optax", "python")
    )
    return f"{env['num_devices']} x {env['device']} ({env['backend']}){cores}, {versions}{commit}"


def _plain(value):
    """As JSON holds it: each `Spread` as a dict."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value
