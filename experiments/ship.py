"""Puts a trained optimizer into the package: its weights, and a card with what was measured of it.

Reads the work directory of experiments.train, and what experiments.numbers keeps in docs/measured
of the figures in which the optimizer stands under its recipe's name: so cards and pages say the
same. Results of experiments.suite that are kept there, in suite/NAME, go onto the card as well.
Writes NAME.safetensors, NAME.json (the card) and NAME.md (the card for people) into
learned_opt/weights; `learned_opt.pretrained(NAME)` finds them there. With --cards_only the weights
that ship stay as they are, and their cards get what was measured since.

Examples:

    python -m experiments.ship --recipe=rnnprop-mnist
    python -m experiments.ship --recipe=rnnprop-mnist --cards_only
"""

import glob
import os
from typing import Any

from absl import flags

import learned_opt
from experiments import config_flags, keeping, main, recipes, training
from experiments.recipe import Recipe
from learned_opt import _checks, _files, saving, weights
from learned_opt.evaluation import report

Info = dict[str, Any]
ON_CARD = ("final", "ratio", "diverged", "measures")  # what a card holds of each task of the suite


def ship(
    name: str,
    trained: str,
    kept: str,
    folder: str,
) -> int:
    """Writes the files of an optimizer.

    Args:
      name: its recipe.
      trained: the work directory of its training.
      kept: the folder in which experiments.numbers keeps the figures.
      folder: where to.

    Returns:
      How many cases it was measured on.

    Raises:
      ValueError: for an unknown recipe, or one that says nothing of what it is good for.
      FileNotFoundError: if the optimizer is not trained.
    """
    _recipe(name)
    path = os.path.join(os.path.expanduser(trained), training.WEIGHTS)
    opt, phi = learned_opt.load(path)
    info = _informed(name, (saving.read_card(path) or {})["info"], kept)
    learned_opt.save(os.path.join(folder, name), opt, phi, info)
    return _write_page(name, info, folder)


def _recipe(name: str) -> Recipe:
    recipe = recipes.RECIPES[_checks.choice("recipe", name, recipes.RECIPES)]
    if not recipe.good_for or not recipe.not_for:
        raise ValueError(
            f"the recipe {name!r} must say what it is good for and what not: give it good_for and "
            "not_for."
        )
    return recipe


def renew(
    name: str,
    kept: str,
    folder: str,
) -> int:
    """Writes the cards of weights that ship anew, with what was measured since.

    Args:
      name: of the weights.
      kept: the folder in which experiments.numbers keeps the figures.
      folder: where the weights are.

    Returns:
      How many cases they were measured on.

    Raises:
      ValueError: for weights that do not ship.
    """
    path = os.path.join(folder, _checks.choice("weights", name, learned_opt.PRETRAINED))
    card = saving.read_card(path) or {}
    card["info"] = _informed(name, card["info"], kept)
    _files.write_json(saving.card_path(path + saving.SUFFIX), card)
    return _write_page(name, card["info"], folder)


def _informed(
    name: str,
    info: Info,
    kept: str,
) -> Info:
    """What a card says, with what was measured, and in the words of the recipe of today."""
    recipe = _recipe(name)
    return {
        "trained_on": recipe.trained_on(info["dataset"]),
        **info,
        "measured": measured(name, info["seed"], os.path.expanduser(kept)),
        "suite": of_suite(name, os.path.expanduser(kept)),
        "about": recipe.about,
        "good_for": recipe.good_for,
        "not_for": recipe.not_for,
        "departures": recipe.departures(),
    }


def _write_page(
    name: str,
    info: Info,
    folder: str,
) -> int:
    """Writes the card for people; returns on how many cases the optimizer was measured."""
    _files.write_text(os.path.join(folder, f"{name}.md"), describe(name, info))
    return len(info["measured"])


def measured(
    name: str,
    seed: int,
    kept: str,
) -> list[Info]:
    """What the figures say of an optimizer, one dict a case; of two figures the one of more runs.

    It stands there as `name` or as `name:seed`.
    """
    found: dict[tuple, Info] = {}
    for figure in keeping.read(kept).values():
        for folder, case in figure["cases"].items():
            row = case["rows"].get(name, case["rows"].get(f"{name}:{seed}"))
            if row is None:
                continue
            key = folder, case["about"]["final"]
            if key not in found or found[key]["runs"] < row["runs"]:
                rows = {**case["rows"], name: row}
                found[key] = _case(figure["figure"], folder, name, rows, case["about"]["final"])
    return list(found.values())


def of_suite(name: str, kept: str) -> list[Info]:
    """What runs of the suite say of an optimizer: one dict a run of it, with all of its tasks.

    Steps needed against each of the rivals stay with the results: they would be most of the card.
    """
    found = []
    for folder in sorted(glob.glob(os.path.join(kept, "suite", "*"))):
        tasks = _files.read_json(os.path.join(folder, "summary.json"))["tasks"]
        config = _files.read_json(os.path.join(folder, "config.json"))["config"]
        mine = {
            task: {what: rows[name][what] for what in ON_CARD if what in rows[name]}
            for task, rows in tasks.items()
            if name in rows
        }
        if mine:
            found.append({"config": config, "tasks": mine})
    return found


def _case(
    figure: str,
    folder: str,
    name: str,
    rows: report.Rows,
    final: str | None,
) -> Info:
    best = report.best_baseline(rows, final)
    shown = [other for other in dict.fromkeys((name, "Adam", best)) if other in rows]
    return {
        "figure": figure,
        "case": folder,
        "best_baseline": best,
        "final": final or "loss of the last minibatch",
        "runs": rows[name]["runs"],
        "verdict": report.verdict(rows, name, final),
        "optimizers": {other: _of_row(rows[other], final) for other in shown},
    }


def _of_row(row: report.Row, final: str | None) -> Info:
    measures = row.get("measure", {})
    return {
        "learning_rate": row["learning_rate"],
        "diverged": row["diverged"],
        "loss": report.last(row, final),
        "measure": {name: value for name, value in measures.items() if name != final},
        "paper": row.get("paper"),
    }


def describe(name: str, info: Info) -> str:
    """The card for people, as Markdown."""
    lines = [
        f"# {name}",
        "",
        f"{info['about']} ({info['source']}).",
        "",
        f"    tx = learned_opt.pretrained({_arguments(name, info)})",
        "",
        f"- Good for: {info['good_for']}.",
        f"- Not for: {info['not_for']}.",
        f"- Trained on: {info['trained_on']}; {_course(info)}.",
        f"- Trained by: {_command(info)}.",
    ]
    if info.get("teacher"):
        lines.append(f"- Taught by imitation alone of: {info['teacher']}.")
    if info["departures"]:
        lines.append(f"- Other than in the papers: {'; '.join(info['departures'])}.")
    lines.append(
        "- Its configuration and the curve of its training are in the card beside this file "
        "(.json)."
    )
    for run_of_suite in info.get("suite", ()):
        lines += ["", *_suite_lines(run_of_suite)]
    if not info["measured"]:
        return "\n".join([*lines, ""])
    lines += [
        "",
        "Measured at the end of a run, mean with its 95 % interval; rates of the others tuned.",
        "",
    ]
    header = ["case", "measured", "runs", name, "Adam", "best baseline", "diverged"]
    lines.append(report.markdown(header, [_line(name, case) for case in info["measured"]]))
    lines += ["", "Run by run, on the same problems and minibatches (paired 95 % intervals):", ""]
    lines += [f"- {case['case']}: {case['verdict']}" for case in info["measured"]]
    return "\n".join([*lines, ""])


def _arguments(name: str, info: Info) -> str:
    """How `pretrained` is called: what has a schedule needs the number of steps."""
    return f'"{name}", num_steps=T' if info.get("architecture") == "general" else f'"{name}"'


def _suite_lines(run_of_suite: Info) -> list[str]:
    """What a card says of a run of the suite: the loss of each task, and over tuned Adam's."""
    config = run_of_suite["config"]
    rows = []
    for task, row in run_of_suite["tasks"].items():
        ratio = report.interval(row["ratio"]) if row.get("ratio") else "-"
        rows.append([task, report.interval(row["final"]), ratio, str(row["diverged"][0])])
    about = (
        f"In the suite ({config['edition']} edition, {config['num_steps']:,} steps, "
        f"{config['seeds']} seeds), losses at the end with their 95 % intervals:"
    )
    header = ["task", "loss", "over that of tuned Adam", "diverged"]
    return [about, "", report.markdown(header, rows)]


def _course(info: Info) -> str:
    """What a card says of how the training went."""
    horizons = ", ".join(map(str, info["horizons"]))
    parts = [
        f"horizons {horizons}, windows of {info['window']}",
        f"seed {info['seed']}",
        f"{len(info['history'])} epochs",
        f"validation loss {info['validation_loss']:.3g}",
        f"{info['skipped']} meta-gradients not finite",
    ]
    return "; ".join(parts)


def _command(info: Info) -> str:
    environment = info["environment"]
    commit = environment["commit"]
    command = "python -m experiments.train"
    flags_given = f"--recipe={info['recipe']} --seed={info['seed']}"
    devices = f"{environment['num_devices']} x {environment['device']}"
    return f"`{command} {flags_given}` at commit {commit}, on {devices}"


def _line(name: str, case: Info) -> list[str]:
    rows = case["optimizers"]
    best = case["best_baseline"]
    losses = {other: report.interval(row["loss"]) for other, row in rows.items()}
    diverged = 100 * rows[name]["diverged"]
    return [
        case["case"],
        case["final"],
        str(case["runs"]),
        losses[name],
        losses.get("Adam", "-"),
        f"{best} {losses[best]}" if best else "-",
        f"{diverged:.0f} %",
    ]


def define_flags() -> None:
    """Defines the flags of this program."""
    names = ", ".join(recipes.RECIPES)
    config_flags.define_required("recipe", f"One of {names}.")
    flags.DEFINE_string(
        "workdir", None, "Where experiments.train left it; default results/train/RECIPE."
    )
    flags.DEFINE_string(
        "measured", f"docs/{keeping.RESULTS}", "Where experiments.numbers keeps the figures."
    )
    flags.DEFINE_bool(
        "cards_only", False, "Write the card alone; the weights that ship stay as they are."
    )


def run() -> None:
    """Ships what the command line asks for."""
    name = flags.FLAGS.recipe
    if not os.path.isdir(flags.FLAGS.measured):
        raise FileNotFoundError(
            f"there is no folder {flags.FLAGS.measured}: run this at the root of the repository, "
            "or name it with --measured."
        )
    folder = os.path.dirname(weights.__file__)
    if flags.FLAGS.cards_only:
        count = renew(name, flags.FLAGS.measured, folder)
    else:
        workdir = flags.FLAGS.workdir or f"results/train/{name}"
        count = ship(name, workdir, flags.FLAGS.measured, folder)
    of_figures = f", measured on {count} cases of figures" if count else ""
    print(f"{name} is in the package{of_figures}: learned_opt.pretrained({name!r})")


if __name__ == "__main__":
    define_flags()
    main.run(run)
