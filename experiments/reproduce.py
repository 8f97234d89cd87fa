"""Makes one figure or table of the papers again, or all of them in turn.

The papers are Andrychowicz et al. 2016 and Lv, Jiang, Li 2017. Learned optimizers and tuned
hand-designed ones stand side by side on fresh problems: --workdir receives config.json, table.md
(all tables), summary.json, overview.png (final losses of all cases), curves.png (of few cases), and
for each case a folder with curves.npz (every run), curves.png, rates.png (the baselines' losses
against their learning rates), table.md and summary.json. Diverged runs are infinite and counted. A
run that was stopped goes on with the same command; tuned baselines are kept in --tuned_dir for all
figures.

%s

Where a figure has an embedded edition, that is what is made without data of your own: with
--dataset=digits, and of neural art where there is no folder neural_art in --data_dir. It takes
minutes on two quiet cores. --in_full makes the whole figure there too.

Examples:

    python -m experiments.reproduce --figure=rnnprop-table2 --data_dir=~/tensorflow_datasets
    python -m experiments.reproduce --figure=l2l-fig7 --dataset=digits
    python -m experiments.reproduce --figure=l2l-fig8
    python -m experiments.reproduce --figure=l2l-fig4 --dataset=digits --optimizers=mine=PATH
    python -m experiments.reproduce --figure=l2l-fig4 --data_dir=~/tensorflow_datasets
        --optimizers=lstm-mnist,lstm-mnist:1,lstm-mnist:2      # three seeds of one training
"""

import os

from absl import flags

from experiments import config_flags, figures, learned, main, papers, plans
from experiments.cases import Figure
from learned_opt import _checks


def _describe(name: str, figure: Figure) -> str:
    steps = dict.fromkeys(f"{case.num_steps:,}" for case in figure.cases)
    count = len(figure.cases)
    parts = [
        f"{count} cases" if count > 1 else "1 case",
        f"{', '.join(steps)} steps",
        f"{figure.num_runs} runs",
        f"tuned on {figure.tune_runs}",
    ]
    text = f"    {name:<15} {figure.source}: {', '.join(parts)}"
    if figure.embedded:
        text += f" ({plans.EDITION}: {plans.in_words(figure.embedded)})"
    return text


_LINES = [_describe(name, figure) for name, figure in papers.FIGURES.items()]
__doc__ %= "\n".join(_LINES)


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define(plans.Config)
    names = ", ".join(papers.FIGURES)
    config_flags.define_required(
        "figure", f"One of {names}; all for all of them, each in a folder of its own."
    )
    flags.DEFINE_string("workdir", None, "Where results go; default results/FIGURE.")
    flags.DEFINE_string(
        "cases", "", "Only these cases, by the names of their folders; empty for all."
    )
    flags.DEFINE_string(
        "data_dir", None, "TFDS directory that has the data sets; not needed for digits."
    )
    flags.DEFINE_string(
        "train_dir", "results/train", "Where experiments.train has left its results."
    )
    flags.DEFINE_string(
        "tuned_dir", "results/tuned", "Where tuned baselines are kept, for all figures."
    )
    flags.DEFINE_bool("train", False, "Train learned optimizers that are missing.")
    flags.DEFINE_bool("in_full", False, "Make no embedded edition, but the whole figure.")


def run() -> None:
    """Makes what the command line asks for."""
    given = flags.FLAGS
    _checks.choice("figure", given.figure, [*papers.FIGURES, "all"])
    workdirs = _workdirs(given.figure, given.workdir)
    places = learned.Places(given.train_dir, given.data_dir, given.train)
    config = config_flags.read(plans.Config)
    only = config_flags.split(given.cases)
    every = [plans.plan(name, config, places, only, given.in_full) for name in workdirs]
    for plan in every:
        if plan.is_embedded:
            print(plans.shown(plan))
        figures.run(plan, workdirs[plan.name], given.tuned_dir, given.data_dir)


def _workdirs(name: str, workdir: str | None) -> dict[str, str]:
    """The figures to make, and where each goes."""
    if name != "all":
        return {name: workdir or os.path.join("results", name)}
    folder = workdir or "results"
    workdirs = {}
    for each, figure in papers.FIGURES.items():
        if not figure.within:
            workdirs[each] = os.path.join(folder, each)
    return workdirs


if __name__ == "__main__":
    define_flags()
    main.run(run)
