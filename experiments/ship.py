"""Puts a trained optimizer into the package: its weights, and a card with what was measured of it.

Reads the work directory of experiments.train, and the summaries of all figures of experiments.reproduce below
--results in which the optimizer stands under its recipe's name. Writes NAME.safetensors, NAME.json (the card) and
NAME.md (the card for people) into learned_opt/weights; `learned_opt.pretrained(NAME)` finds them there.

Example:

    python -m experiments.ship --recipe=rnnprop-mnist
"""

import glob
import os

from absl import flags

import learned_opt
from experiments import main, recipes
from experiments.cases import ALL_DATA
from learned_opt import _checks, _files, saving, weights
from learned_opt.evaluation import report


def ship(name, trained, results, folder):
    """Writes the files of an optimizer.

    Args:
      name: its recipe.
      trained: the work directory of its training.
      results: the folder that has the figures.
      folder: where to.

    Returns:
      How many cases it was measured on.
    """
    recipe = recipes.RECIPES[_checks.choice("recipe", name, recipes.RECIPES)]
    path = os.path.join(os.path.expanduser(trained), "optimizer.safetensors")
    opt, phi = learned_opt.load(path)
    info = saving.read_card(path)["info"]
    info |= {
        "measured": measured(name, info["seed"], os.path.expanduser(results)),
        "about": recipe.about,
        "good_for": recipe.good_for,
        "not_for": recipe.not_for,
    }
    learned_opt.save(os.path.join(folder, name), opt, phi, info)
    _files.write_text(os.path.join(folder, f"{name}.md"), describe(name, info))
    return len(info["measured"])


def measured(name, seed, results):
    """What the figures below `results` say of an optimizer, as `name` or as `name:seed`, one dict a case."""
    found = {}
    for path in sorted(glob.glob(os.path.join(results, "**", "summary.json"), recursive=True)):
        summary = _files.read_json(path)
        for case, rows in summary.get("cases", {}).items():
            ours = [rows[key] for key in (name, f"{name}:{seed}") if key in rows]
            if ours:
                found[case] = _case(summary["figure"], case, name, {**rows, name: ours[0]})
    return list(found.values())


def _case(figure, case, name, rows):
    final = ALL_DATA if ALL_DATA in rows[name].get("measure", {}) else None
    others = {other: row for other, row in rows.items() if row["learning_rate"] is not None}
    best = min(
        others, key=lambda other: float(report.last(others[other], final)["mean"]), default=None
    )
    shown = {other: rows[other] for other in (name, "Adam", best) if other in rows}
    return {
        "figure": figure,
        "case": case,
        "best_baseline": best,
        "final": final or "loss of the last minibatch",
        "optimizers": {
            other: {
                "learning_rate": row["learning_rate"],
                "diverged": row["diverged"],
                "loss": report.last(row, final),
                "measure": row.get("measure", {}),
                "paper": row.get("paper"),
            }
            for other, row in shown.items()
        },
    }


def describe(name, info):
    """The card for people, as Markdown."""
    environment = info["environment"]
    lines = [
        f"# {name}",
        "",
        f"{info['about']} ({info['source']}).",
        "",
        f'    tx = learned_opt.pretrained("{name}")',
        "",
        f"- Good for: {info['good_for']}.",
        f"- Not for: {info['not_for']}.",
        f"- Trained on: {_problem(info)}; horizons {', '.join(map(str, info['horizons']))}, windows of "
        f"{info['window']}; seed {info['seed']}; {len(info['history'])} epochs; validation loss "
        f"{info['validation_loss']:.3g}; {info['skipped']} meta-gradients not finite.",
        f"- Trained by: `python -m experiments.train --recipe={info['recipe']} --seed={info['seed']}` at commit "
        f"{environment['commit']}, on {environment['num_devices']} x {environment['device']}.",
        *([f"- Taught by imitation alone of: {info['teacher']}."] if info.get("teacher") else []),
        "- Its configuration and the curve of its training are in the card beside this file (.json).",
        "",
        "Measured at the end of a run, mean with its 95 % bootstrap interval; rates of the others tuned.",
        "",
    ]
    header = ["case", "measured", name, "Adam", "best baseline", "diverged"]
    return (
        "\n".join(lines)
        + "\n"
        + report.markdown(header, [_line(name, case) for case in info["measured"]])
        + "\n"
    )


def _problem(info):
    if info["dataset"] is None:
        return f"{recipes.FAMILIES[info['family']]}, ten dimensions, {info['num_problems']} at once"
    shrunk = f" with images shrunk by {info['shrink']}" if info["shrink"] > 1 else ""
    return (
        f"{info['dataset']}{shrunk}, a perceptron with one hidden layer of 20 sigmoid units, minibatches of 128, "
        "theta_0 ~ N(0, 0.1)"
        + (f", Random Scaling with L = {info['scaling']:g}" if info["scaling"] else "")
        + (", combined with convex functions" if info["convex"] else "")
    )


def _line(name, case):
    rows, best = case["optimizers"], case["best_baseline"]
    cells = [
        report.interval(rows[other]["loss"]) if other in rows else "-"
        for other in (name, "Adam", best)
    ]
    cells[2] = f"{best} {cells[2]}" if best else "-"
    return [case["case"], case["final"], *cells, f"{100 * rows[name]['diverged']:.0f} %"]


def run():
    """Ships what the command line asks for."""
    name = _RECIPE.value
    count = ship(
        name,
        _WORKDIR.value or f"results/train/{name}",
        _RESULTS.value,
        os.path.dirname(weights.__file__),
    )
    print(f"{name} is in the package, measured on {count} cases: learned_opt.pretrained({name!r})")


if __name__ == "__main__":
    _RECIPE = flags.DEFINE_string(
        "recipe", None, f"One of {', '.join(recipes.RECIPES)}.", required=True
    )
    _WORKDIR = flags.DEFINE_string(
        "workdir", None, "Where experiments.train left it; default results/train/RECIPE."
    )
    _RESULTS = flags.DEFINE_string("results", "results", "The folder in which the figures are.")
    main.run(run)
