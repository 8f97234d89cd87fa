"""What the first seconds cost: importing the package, and compiling the first meta-gradient.

  import    `import learned_opt` in a fresh interpreter, beside `import jax, optax`, which a user's program does anyway
  compile   tracing and compiling learned_opt.meta_gradient for learned_opt.lstm("mnist") on the MNIST experiment's
            network and images of its shape, with windows of several lengths, beside the naive implementation
            (benchmarks/naive.py)

Columns:
  seconds        median over rounds (quartiles): these are what a user waits for, whatever the ratio
  / reference    how many times as long as the reference of the same rounds; median (quartiles)

Interpreters and compilations take turns within each round. The default run takes about two minutes on two CPU cores.
"""

import functools
import subprocess
import sys

import jax
from absl import flags

import learned_opt
from benchmarks import cases, common, naive
from learned_opt.evaluation import environment, timing

IMPORTS = {"import jax, optax": "import jax, optax", "import learned_opt": "import learned_opt"}
WIDTH = 20
_sizes = common.define_sizes([20, 100, 1_000], [5], "Steps of the windows that are compiled")
flags.adopt_module_key_flags(common)


def imports():
    """Dict from name to a function that imports in a fresh interpreter."""
    return {
        name: functools.partial(subprocess.run, [sys.executable, "-c", code], check=True)
        for name, code in IMPORTS.items()
    }


def compilations(window):
    """Dict from name to a function that traces and compiles a meta-gradient anew."""
    case = cases.make(cases.IMAGE_SHAPES["mnist"], WIDTH, window)
    args = case.phi, case.problem, case.key

    def by_flax(phi, problem, key):
        return naive.meta_gradient(
            naive.like(case.opt), naive.from_learned(phi), problem, key, window
        )

    def adjoint(phi, problem, key):
        return learned_opt.meta_gradient(case.opt, phi, problem, key, window)

    def compile_anew(function):
        jax.clear_caches()
        common.compiled(function, *args)

    return {
        f"naive, {window} steps": functools.partial(compile_anew, by_flax),
        f"meta_gradient, {window} steps": functools.partial(compile_anew, adjoint),
    }


def measure(programs, rounds, title):
    """Times programs beside the first of them; returns one dict for each."""
    times = timing.interleaved(programs, rounds, title, warm=False)
    reference = next(iter(programs))
    return [
        {
            "what": name,
            "seconds": times[name],
            "time_over_reference": common.ratio(times, name, reference),
        }
        for name in programs
    ]


def as_table(results):
    """The results as a Markdown table."""
    return common.table(
        ["what", "seconds", "/ reference"],
        [[r["what"], common.spread(r["seconds"]), r["time_over_reference"]] for r in results],
    )


def as_figure(results, windows):
    """Seconds of compilation against the length of the window."""
    fig, (ax,) = common.new_axes(1)
    for name in ("naive", "meta_gradient"):
        mine = [common.spread(r["seconds"]) for r in results if r["what"].startswith(f"{name}, ")]
        common.draw(ax, windows, mine, name)
    ax.set(
        xlabel="steps of the window", ylabel="seconds", title="Compiling the first meta-gradient"
    )
    ax.legend()
    return fig


def main():
    """Measures imports, and compilation for every window that the flags ask for, and reports."""
    settings = common.settings("start")
    results = measure(imports(), settings.rounds, "imports")
    for window in _sizes():
        results += measure(compilations(window), settings.rounds, f"compilation, {window} steps")
    record = {
        "benchmark": "start",
        "rounds": settings.rounds,
        "quick": settings.quick,
        "environment": environment.record(),
        "results": results,
    }
    common.report(settings.output, as_table(results), record, as_figure(results, _sizes()))


if __name__ == "__main__":
    common.run(main)
