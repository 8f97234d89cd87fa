"""What the first seconds cost: importing the package, and compiling the first meta-gradient.

  import    `import learned_opt` in a fresh interpreter, beside `import jax, optax`, which a user's
            program does anyway
  compile   tracing and compiling learned_opt.meta_gradient for learned_opt.lstm("mnist") on the
            MNIST experiment's network and images of its shape, with windows of several lengths,
            beside the naive implementation (benchmarks/naive.py)

Columns:
  seconds        median over rounds (quartiles): these are what a user waits for, whatever the ratio
  / reference    how many times as long as the reference of the same rounds; median (quartiles)

Interpreters and compilations take turns within each round. The default run takes about two minutes
on two CPU cores.
"""

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import cases, common, naive
from learned_opt.evaluation import timing
from learned_opt.meta import programs as programs_lib
from learned_opt.optimizers.base import Phi

IMPORTS = {"import jax, optax": "import jax, optax", "import learned_opt": "import learned_opt"}
WIDTH = 20
_sizes = common.define_sizes([20, 100, 1_000], [5], "Steps of the windows that are compiled")
flags.adopt_module_key_flags(common)


def imports() -> dict[str, Callable]:
    """Dict from name to a function that imports in a fresh interpreter."""
    runs = {}
    for name, code in IMPORTS.items():
        runs[name] = functools.partial(subprocess.run, [sys.executable, "-c", code], check=True)
    return runs


def compilations(window: int) -> dict[str, Callable]:
    """Dict from name to a function that traces and compiles a meta-gradient anew."""
    hidden_sizes = common.by_default((20, 20), (4,))
    case = cases.make(cases.IMAGE_SHAPES["mnist"], WIDTH, window, hidden_sizes)
    args = case.phi, case.problem, case.key

    def by_flax(
        phi: Phi,
        problem: Any,
        key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        weights = naive.from_learned(phi)
        return naive.meta_gradient(naive.like(case.opt), weights, problem, key, window)

    def adjoint(
        phi: Phi,
        problem: Any,
        key: jax.Array,
    ) -> tuple[jax.Array, Phi]:
        return learned_opt.meta_gradient(case.opt, phi, problem, key, window)

    def compile_anew(function: Callable) -> None:
        programs_lib.clear()
        jax.clear_caches()
        common.compiled(function, *args)

    return {
        f"naive, {window} steps": functools.partial(compile_anew, by_flax),
        f"meta_gradient, {window} steps": functools.partial(compile_anew, adjoint),
    }


def measure(
    programs: dict[str, Callable],
    rounds: int,
    title: str,
) -> list[dict]:
    """Times programs beside the first of them; returns one dict for each."""
    times = timing.interleaved(programs, rounds, title, warm=False)
    reference = next(iter(programs))
    results = []
    for name in programs:
        ratio = common.ratio(times, name, reference)
        results.append({"what": name, "seconds": times[name], "time_over_reference": ratio})
    return results


def as_table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    rows = []
    for result in results:
        seconds = common.spread(result["seconds"])
        rows.append([result["what"], seconds, result["time_over_reference"]])
    return common.table(["what", "seconds", "/ reference"], rows)


def as_figure(results: list[dict], windows: list[int]) -> figure.Figure:
    """Seconds of compilation against the length of the window."""
    fig, (ax,) = common.new_axes(1)
    for name in ("naive", "meta_gradient"):
        mine = [result for result in results if result["what"].startswith(f"{name}, ")]
        spreads = [common.spread(result["seconds"]) for result in mine]
        common.draw(ax, windows, spreads, name)
    ax.set(xlabel="steps of the window", ylabel="seconds")
    ax.set(title="Compiling the first meta-gradient")
    ax.legend()
    return fig


def main() -> None:
    """Measures imports, and compilation for every window that the flags ask for, and reports."""
    settings = common.settings("start")
    results = measure(imports(), settings.rounds, "imports")
    for window in _sizes():
        results += measure(compilations(window), settings.rounds, f"compilation, {window} steps")
    record = common.record("start", settings, results=results)
    common.report(settings.output, as_table(results), record, as_figure(results, _sizes()))


if __name__ == "__main__":
    common.run(main)
