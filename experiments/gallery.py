"""The gallery of the site: a page for each figure, family and run of the suite that is kept.

Everything is read from docs/measured, where `experiments.numbers` keeps what was measured. A page
has the picture, a narrow table with verdicts, the command that measures it, and the versions with
which it was measured. An overview leads to all of them, and to pages of docs that no other page
has in its table of contents.
"""

import glob
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from experiments import keeping, numbers, papers, payback, rivals, tables
from experiments.suite import tables as suite_tables
from learned_opt import _files
from learned_opt.evaluation import report, statistics

FOLDER = "docs/results"
MEASURED = f"../{keeping.RESULTS}"  # from there
SUITE = numbers.SUITE
# Pages of docs that stand in the overview whenever they are there, in this order.
BESIDE = ("claims", "mnist", "cifar", "style", "watching", "numbers", "older_numbers", "measuring")
_TREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)


class Page(NamedTuple):
    """A page of the gallery, and what the overview shows of it."""

    name: str
    title: str
    source: str  # where in a paper, or which program
    picture: str  # below docs/measured; empty for none
    verdicts: list[str]  # a sentence each
    text: str  # what follows the title


def pages(docs: str) -> dict[str, str]:
    """All pages of the gallery, by their paths in the repository.

    Args:
      docs: the folder docs.
    """
    kept = os.path.join(docs, keeping.RESULTS)
    figures = [_figure(figure, kept) for figure in keeping.read(kept).values()]
    families = [_family(name, kept) for name in rivals.TASKS if _has_family(name, kept)]
    suites = [_suite(run, kept) for run in numbers.suites(kept)]
    groups = {
        "The papers' figures and tables, and what was measured beside them": figures,
        "Networks that no optimizer was trained on": suites,
        "Families that are solved thousands of times": families,
    }
    every = [*figures, *suites, *families]
    found = {f"{FOLDER}/{page.name}.md": f"# {page.title}\n\n{page.text}\n" for page in every}
    found[f"{FOLDER}/index.md"] = _overview(groups, _others(docs))
    return found


# One figure


def _figure(figure: keeping.Kept, kept: str) -> Page:
    name = figure["figure"]
    known = papers.FIGURES[name]
    cases = numbers.cases(figure)
    said = _in_words(cases)
    pictures = [file for file in numbers.PICTURES if _is_there(kept, f"{name}-{file}.png")]
    alternatives = {
        "overview": f"{known.title}: final losses against {known.axis}",
        "curves": f"{known.title}: loss curves of all optimizers",
    }
    parts = [f"{known.source}.", *_bullets(said)]
    parts += [
        f"![{alternatives[picture]}]({MEASURED}/{name}-{picture}.png)" for picture in pictures
    ]
    parts += [
        "## Final losses",
        tables.narrow(figure["axis"], cases),
        f"{_labels(cases)} Mean with its 95 % interval; the difference is taken run by run on the "
        "same problems and minibatches. [How we measure](../measuring.md) has the rules.",
        "## How it was measured",
        f"    {keeping.command(figure)}",
        numbers.measured_with(figure),
        *_rates(figure),
        f"[The page of numbers](../numbers.md) holds every optimizer against every rival; the data "
        f"are in `docs/measured/{name}.json`.",
    ]
    picture = f"{name}-{pictures[0]}.png" if pictures else ""
    return Page(name, known.title, known.source, picture, said, "\n\n".join(parts))


def _labels(cases: list[tuple[tables.About, report.Rows]]) -> str:
    """What "final loss" means here."""
    labels = dict.fromkeys(about["label"] for about, _ in cases)
    text = "; ".join(labels)
    return f"{text[:1].upper()}{text[1:]}."


def _rates(figure: keeping.Kept) -> list[str]:
    """The tuned rates, a line a case."""
    lines = []
    for case in figure["cases"].values():
        words = numbers.tuned(case["rows"])
        if words:
            lines.append(f"- {case['about']['heading']}. {words}")
    return ["\n".join(lines)] if lines else []


def _in_words(cases: list[tuple[tables.About, report.Rows]]) -> list[str]:
    """How often each learned optimizer is below, level with or above the best tuned baseline."""
    counts: dict[str, dict[str, int]] = {}
    rival = _rival(cases)
    for about, rows in cases:
        best = report.best_baseline(rows, about["final"])
        for name in report.learned(rows):
            held = rows[name]["against"].get(best)
            if held is not None:
                of_name = counts.setdefault(name, {})
                of_name[held["verdict"]] = of_name.get(held["verdict"], 0) + 1
    return [_counted(name, of_name, rival) for name, of_name in counts.items()]


def _rival(cases: list[tuple[tables.About, report.Rows]]) -> str:
    """What the best of the tuned baselines is called; where they are few, they are named."""
    tuned: dict[str, None] = {}
    for _, rows in cases:
        tuned.update(dict.fromkeys(name for name, row in rows.items() if row["kind"] == "tuned"))
    if len(tuned) == 1:
        return f"tuned {next(iter(tuned))}, the only tuned baseline"
    if len(tuned) == 2:
        return f"the better of tuned {' and '.join(tuned)}"
    return "the best tuned baseline"


def _counted(
    name: str,
    of_name: dict[str, int],
    rival: str,
) -> str:
    total = sum(of_name.values())
    parts = []
    for verdict, count in of_name.items():
        place = "to" if verdict == statistics.NO_DIFFERENCE else ""
        words = " ".join([verdict, place, "it" if parts else rival]).split()
        parts.append(" ".join(words))
        if total > 1:
            parts[-1] += f" in {count}" + (f" of {total} cases" if len(parts) == 1 else "")
    return f"{name}: {', '.join(parts)}."


# One family


def _has_family(name: str, kept: str) -> bool:
    return _is_there(kept, numbers.THOUSANDS, f"{name}.json")


def _family(name: str, kept: str) -> Page:
    summary = _files.read_json(os.path.join(kept, numbers.THOUSANDS, f"{name}.json"))
    rows, training = summary["rows"], summary["training"]
    verdict = payback.verdict(name, rows, training)
    title = f"{summary['about'][:1].upper()}{summary['about'][1:]}"
    picture = f"{numbers.THOUSANDS}/{name}.png"
    alternative = f"{title}: total time against the number of instances, learning included"
    parts = [
        f"{verdict[:1].upper()}{verdict[1:]}",
        f"![{alternative}]({MEASURED}/{picture})",
        "## Every method at the cheapest effort that is accurate enough",
        f"{payback.how_measured(summary)} {summary['why']}",
        payback.table(rows, training),
        '"Solved" is the share of instances that are accurate enough; 95 % have to be. "Paid back '
        'after" is the number of instances after which learning has paid for itself.',
        "## How it was measured",
        f"    python -m experiments.thousands --family={name}",
        f"{_versions(summary['environment'])} [The page on such families](../solving.md) says when "
        "learning is worth it.",
    ]
    return Page(
        f"thousands-{name}",
        title,
        "experiments.thousands",
        picture,
        [parts[0]],
        "\n\n".join(parts),
    )


# A run of the suite


def _suite(run: dict[str, Any], kept: str) -> Page:
    name, config, summary = run["name"], run["config"], run["summary"]
    settings, folder = config["config"], os.path.join(kept, SUITE, name)
    tasks = _number_of(len(summary["tasks"]), "task")
    others = _number_of(settings["tune_runs"], "other run")
    steps = f"{settings['num_steps']:,} steps"
    title = f"The suite, {settings['edition']} edition: {tasks}, {steps}"
    said = [_goal(goal) for goal in summary["goals"] if goal["holds"] is not None]
    pictures = {
        "curves": "loss curves of all optimizers on each task",
        "ratios": "final losses over that of tuned Adam",
        "shares": "shares of a rival's steps after which its loss is reached",
    }
    shown = [file for file in pictures if _is_there(folder, f"{file}.png")]
    parts = [
        f"The {settings['edition']} edition on {settings['data']} data: {settings['num_steps']:,} "
        f"steps, {settings['seeds']} seeds, rates tuned on {others}.",
        *(f"![{title}: {pictures[file]}]({MEASURED}/{SUITE}/{name}/{file}.png)" for file in shown),
        "## Final losses",
        suite_tables.finals(run),
        "The mean over the last 5 % of the steps, with its 95 % interval over seeds.",
        "## Goals",
        *_bullets(said),
        f"[All tables of this run]({MEASURED}/{SUITE}/{name}/table.md), with accuracies and shares "
        "of the rivals' steps.",
        "## How it was measured",
        f"    {suite_command(settings, summary['tasks'])}",
        _versions(config["environment"]),
        f"```{{toctree}}\n:hidden:\n\nTables: {name} <{MEASURED}/{SUITE}/{name}/table>\n```",
    ]
    failed = [_goal(goal) for goal in summary["goals"] if goal["holds"] is False]
    held = sum(goal["holds"] is True for goal in summary["goals"])
    words = [f"{held} of {len(said)} goals that were measured hold.", *failed]
    picture = f"{SUITE}/{name}/{shown[0]}.png" if shown else ""
    return Page(f"suite-{name}", title, "experiments.suite", picture, words, "\n\n".join(parts))


def _number_of(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _goal(goal: dict[str, Any]) -> str:
    words = {True: "holds", False: "does not hold"}
    value = f"{goal['value']:.3g}"
    if goal["low"] != goal["high"]:
        value += f" [{goal['low']:.3g}, {goal['high']:.3g}]"
    sign = "<" if goal["strict"] else "<="
    return f"{goal['what']}: {value}, wanted {sign} {goal['bound']:g}: {words[goal['holds']]}."


def suite_command(settings: dict[str, Any], tasks: Iterable[str]) -> str:
    """The command that carries out a run of the suite as it was carried out."""
    given = [f"--tasks={','.join(tasks)}"]
    defaults = {
        "edition": "small",
        "num_steps": 2_000,
        "seeds": 5,
        "tune_runs": 5,
        "evaluation_seed": 0,
    }
    for setting, default in defaults.items():
        if settings[setting] != default:
            given.append(f"--{setting}={settings[setting]}")
    if settings["data"] == "TFDS":
        given.append("--data_dir=DIR")
    return " ".join(["python -m experiments.suite", *given])


# The overview


def _overview(groups: dict[str, list[Page]], others: list[str]) -> str:
    parts = [
        "# Results",
        "Every figure and table that was measured, one page each: the picture, the losses with "
        "their intervals, where each learned optimizer stands beside the best tuned baseline, and "
        "the command that measures it. A result that went against us stands here like the others.",
    ]
    for title, found in groups.items():
        if found:
            parts += [f"## {title}", _grid(found)]
    names = [page.name for found in groups.values() for page in found]
    entries = [*(f"../{name}" for name in others), *names]
    parts.append("\n".join(["```{toctree}", ":hidden:", "", *entries, "```", ""]))
    return "\n\n".join(parts)


def _grid(found: list[Page]) -> str:
    lines = ["::::{grid} 1 2 2 3", ":gutter: 3", ""]
    for page in found:
        lines += [f":::{{grid-item-card}} {page.title}", f":link: {page.name}", ":link-type: doc"]
        if page.picture:
            lines += [f":img-top: {MEASURED}/{page.picture}", f":img-alt: {page.title}"]
        lines += ["", f"{page.source}.", "", *(f"- {line}" for line in page.verdicts), ":::", ""]
    return "\n".join([*lines, "::::"])


def _others(docs: str) -> list[str]:
    """Pages of docs for this table of contents: some by name, and those that no other has."""
    there = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(docs, "*.md"))}
    with open(os.path.join(docs, "index.md"), encoding="utf-8") as f:
        listed = set(" ".join(_TREE.findall(f.read())).split())
    named = [name for name in BESIDE if name in there]
    return [*named, *sorted(there - {"index"} - listed - set(named))]


def _bullets(lines: list[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _versions(environment: dict[str, Any]) -> str:
    versions = environment["versions"]
    return (
        f"JAX {versions['jax']}, optax {versions['optax']}, Python {versions['python']}, "
        f"{environment['device']}."
    )


def _is_there(*path: str) -> bool:
    return os.path.exists(os.path.join(*path))
