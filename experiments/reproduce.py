"""Makes one figure or table of the papers again (Andrychowicz et al. 2016; Lv, Jiang, Li 2017), or all in turn.

Learned optimizers and tuned hand-designed ones side by side on fresh problems: --workdir receives config.json, table.md
(all tables), summary.json, overview.png (final losses of all cases), curves.png (of few cases), and for each case a
folder with curves.npz (every run), curves.png, rates.png (the baselines' losses against their learning rates), table.md
and summary.json. Diverged runs are infinite and counted. A run that was stopped goes on with the same command; tuned
baselines are kept in --tuned_dir for all figures.

%s

Examples:

    python -m experiments.reproduce --figure=rnnprop-table2 --data_dir=~/tensorflow_datasets
    python -m experiments.reproduce --figure=l2l-fig4 --dataset=digits --optimizers=mine=results/mine.safetensors
"""

import os

from absl import flags

from experiments import cases, config_flags, figures, learned, main
from learned_opt import _checks


def _describe(name, figure):
    steps = ", ".join(
        f"{steps:,}" for steps in dict.fromkeys(case.num_steps for case in figure.cases)
    )
    number = f"{len(figure.cases)} case{'s' * (len(figure.cases) > 1)}"
    return (
        f"    {name:<15} {figure.source}: {number}, {steps} steps, {figure.num_runs} runs, "
        f"tuned on {figure.tune_runs}"
    )


__doc__ %= "\n".join(_describe(name, figure) for name, figure in cases.FIGURES.items())

_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    f"One of {', '.join(cases.FIGURES)}; all for all of them, each in a folder of its own.",
    required=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; default results/FIGURE.")
_CASES = flags.DEFINE_string(
    "cases", "", "Only these cases, by the names of their folders; empty for all."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS directory that has the data sets; not needed for digits."
)
_TRAIN_DIR = flags.DEFINE_string(
    "train_dir", "results/train", "Where experiments.train has left its results."
)
_TUNED_DIR = flags.DEFINE_string(
    "tuned_dir", "results/tuned", "Where tuned baselines are kept, for all figures."
)
_TRAIN = flags.DEFINE_bool("train", False, "Train learned optimizers that are missing.")


def run():
    """Makes what the command line asks for."""
    _checks.choice("figure", _FIGURE.value, [*cases.FIGURES, "all"])
    every = _FIGURE.value == "all"
    names = (
        [name for name, f in cases.FIGURES.items() if not f.within] if every else [_FIGURE.value]
    )
    places = learned.Places(_TRAIN_DIR.value, _DATA_DIR.value, _TRAIN.value)
    config = config_flags.read(figures.Config)
    plans = [figures.plan(name, config, places, figures.split(_CASES.value)) for name in names]
    for name, plan in zip(names, plans, strict=True):
        workdir = _WORKDIR.value or "results"
        workdir = workdir if _WORKDIR.value and not every else os.path.join(workdir, name)
        figures.run(plan, workdir, _TUNED_DIR.value, _DATA_DIR.value)


if __name__ == "__main__":
    config_flags.define(figures.Config)
    main.run(run)
