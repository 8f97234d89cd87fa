"""Writes the pages of numbers and of claims, and tables of other pages, from the figures' results.

Reads config.json and summary.json of every figure of experiments.reproduce below --results, keeps
what the pages need in docs/measured (one file a figure, so that the pages can be written without
measuring again), and writes docs/numbers.md, docs/claims.md, the tables of the README and of all
pages of docs, which stand between two comments, and the numbers within some sentences
(experiments/sentences.py). None of these is written by hand; what the benchmarks say is read from
their tables in benchmarks/README.md. A figure that is not below --results stays as it is in
docs/measured. The site's gallery is made of docs/measured as well, when the site is built
(experiments.gallery).

Examples:

    python -m experiments.numbers --results=results
    python -m experiments.numbers --redraw
    python -m experiments.numbers --check       # whether the pages are what docs/measured says
"""

import functools
import glob
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments import (
    costs,
    keeping,
    main,
    papers,
    payback,
    recovery,
    redrawing,
    rivals,
    sentences,
    solvers,
    tables,
    watched,
)
from experiments.claims import page as claims
from experiments.keeping import RESULTS, Kept
from experiments.learned import without_seed
from experiments.suite import tables as suite_tables
from learned_opt import _checks, _files
from learned_opt.evaluation import baselines, comparison, report

THOUSANDS = "thousands"  # below docs/measured and below results; also the name of its tables
RECOVERY = "recovery"  # below results; also the name of its file in docs/measured, and of a table
ARCHITECTURES = "thousands-architectures"  # the name of a table
SUITE = "suite"  # below docs/measured; its tables are suite-NAME and suite-NAME-means
COSTS, MEMORY = "costs", "costs-memory"  # the names of tables
PAGE = "numbers.md"
PICTURES = ("overview", "curves")  # of a figure; curves of few cases only
# Tables of other pages: `<!-- numbers: NAME -->` and `<!-- end -->` are around each. `NAME narrow`
# is the one that fits a narrow page, with the optimizers after it (`NAME narrow: A, B`) or all.
_BLOCK = re.compile(
    r"(<!-- numbers: ([\w-]+)( narrow)?(?:: ([^\n]*?))? -->\n).*?(<!-- end -->)", re.DOTALL
)

_HEAD = """\
# The numbers of all figures, and how they were measured

This page and the tables of others are written by `python -m experiments.numbers` from
`docs/measured`. [How we measure](measuring.md) has the rules. Each figure has its
command, which prints the same numbers on the same machine; then the final losses, mean with its
95 % interval; then where each learned optimizer stands, by the paired 95 % interval of the
difference run by run on the same problems and minibatches. A *training* with several seeds has them
as the outer level of the resampling. In brackets after a rate stands the range of the rates that
cannot be told apart from it.
"""


def collect(results: str, kept: str) -> list[str]:
    """Takes what the pages need from the figures' results; returns the figures that were there.

    Args:
      results: the folder that has the figures.
      kept: the folder that keeps what the pages need.
    """
    found = []
    for path in sorted(glob.glob(os.path.join(results, "*", "summary.json"))):
        summary = _files.read_json(path)
        if "figure" not in summary:
            continue  # a study's, or a family's
        config = _files.read_json(os.path.join(os.path.dirname(path), "config.json"))
        if "edition" in config["config"]:
            continue  # to be tried out, and not to be kept
        name = summary["figure"]
        file = os.path.join(kept, f"{name}.json")
        _files.write_json(file, _distilled(summary, config), indent=1)  # half of it is indentation
        for picture in PICTURES:
            drawn = os.path.join(os.path.dirname(path), f"{picture}.png")
            if os.path.exists(drawn):
                shutil.copyfile(drawn, os.path.join(kept, f"{name}-{picture}.png"))
        redrawing.keep(os.path.dirname(path), kept, name)
        found.append(name)
    return found


def collect_families(results: str, kept: str) -> list[str]:
    """Takes what `experiments.thousands` has measured; returns the families that were there.

    Args:
      results, kept: see `collect`.
    """
    found = []
    for path in sorted(glob.glob(os.path.join(results, THOUSANDS, "*", "summary.json"))):
        summary = _files.read_json(path)
        name = payback.kept_as(summary["family"], summary["architecture"])
        _files.write_json(os.path.join(kept, THOUSANDS, f"{name}.json"), _rounded(summary))
        if name == summary["family"]:  # other architectures are a line of a table each
            picture = os.path.join(os.path.dirname(path), "totals.png")
            shutil.copyfile(picture, os.path.join(kept, THOUSANDS, f"{name}.png"))
        found.append(name)
    return found


def collect_recovery(results: str, kept: str) -> list[str]:
    """Takes what `experiments.recovery` has measured; returns its name if it was there.

    Args:
      results, kept: see `collect`.
    """
    path = os.path.join(results, RECOVERY, "summary.json")
    if not os.path.exists(path):
        return []
    _files.write_json(os.path.join(kept, f"{RECOVERY}.json"), _rounded(_files.read_json(path)))
    return [RECOVERY]


def families(kept: str) -> str:
    """What a page has of all families: their tables and verdicts."""
    paths = {name: os.path.join(kept, THOUSANDS, f"{name}.json") for name in rivals.TASKS}
    parts = []
    for name, path in paths.items():
        if os.path.exists(path):
            picture = f"![{name}: total time]({RESULTS}/{THOUSANDS}/{name}.png)"
            parts += [payback.section(_files.read_json(path)), picture]
    return "\n\n".join(parts)


def families_in_short(kept: str) -> str:
    """A line a family: how the quickest accurate rival and the learned solver compare."""
    lines = []
    for name in rivals.TASKS:
        path = os.path.join(kept, THOUSANDS, f"{name}.json")
        if os.path.exists(path):
            lines.append(payback.in_short(_files.read_json(path)))
    return report.markdown(["family", "the quickest rival", "the learned solver"], lines)


def solvers_by_architecture(kept: str) -> str:
    """Families for which several architectures were measured, a line for each."""
    summaries = []
    for name in rivals.TASKS:
        names = [payback.kept_as(name, each) for each in solvers.NAMES]
        paths = [os.path.join(kept, THOUSANDS, f"{each}.json") for each in names]
        there = [path for path in paths if os.path.exists(path)]
        if len(there) > 1:
            summaries += [_files.read_json(path) for path in there]
    return payback.architectures(summaries)


def suites(kept: str) -> list[dict[str, Any]]:
    """The runs of the suite that are kept: dicts with `name`, `config` and `summary`."""
    found = []
    for folder in sorted(glob.glob(os.path.join(kept, SUITE, "*"))):
        config = _files.read_json(os.path.join(folder, "config.json"))
        summary = _files.read_json(os.path.join(folder, "summary.json"))
        found.append({"name": os.path.basename(folder), "config": config, "summary": summary})
    return found


def _distilled(summary: dict[str, Any], config: dict[str, Any]) -> Kept:
    """What the pages need of a figure."""
    cases = {}
    for folder, rows in summary["cases"].items():
        about = summary["about"][folder]
        cases[folder] = {
            "about": about,
            "rows": {name: _row(row, about["final"]) for name, row in rows.items()},
            "trainings": summary["trainings"][folder],
        }
    return _rounded(
        {
            "figure": summary["figure"],
            "title": summary["title"],
            "axis": summary["axis"],
            "config": config["config"],
            "environment": config["environment"],
            "cases": cases,
        }
    )


def _row(row: report.Row, final: str | None) -> report.Row:
    """A row of a report with the final loss alone, and no cost."""
    keep = ("kind", "runs", "learning_rate", "diverged", "against", "also", "paper", "measure")
    kept = {key: row[key] for key in keep if key in row}
    last_step, last_loss = list(row["loss"].items())[-1]
    kept["loss"] = {last_step: last_loss}
    kept["tuned"] = row["tuned"]
    return kept


def _rounded(value: Any) -> Any:
    """Plain data with numbers of six digits, which is more than any page shows."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def page(kept: dict[str, Kept], folder: str) -> str:
    """The text of docs/numbers.md.

    Args:
      kept: from `keeping.read`.
      folder: where that was kept, with the pictures.
    """
    return "\n".join([_HEAD, *(_section(figure, folder) for figure in kept.values())])


def _section(figure: Kept, folder: str) -> str:
    name, title = figure["figure"], figure["title"]
    pairs = papers.FIGURES[name].pairs
    parts = [
        f"## {title}",
        f"    {keeping.command(figure)}",
        measured_with(figure),
        tables.fitting(figure["axis"], cases(figure)),
    ]
    for picture in PICTURES:
        file = f"{name}-{picture}.png"
        if os.path.exists(os.path.join(folder, file)):
            parts.append(f"![{title}: {picture}]({RESULTS}/{file})")
    for case in figure["cases"].values():
        rows, about = case["rows"], case["about"]
        parts.append(f"**{about['heading']}**, {about['label']}. {tuned(rows)}")
        measured = tables.measures(rows)
        if measured:
            parts.append(measured)
        lines = [tables.standing(rows, about["final"], pairs, case["trainings"])]
        seeds_as_one = tables.with_trainings(rows, case["trainings"], about["final"])
        lines += _better_rates(seeds_as_one, about["final"])
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cases(figure: Kept) -> list[tuple[tables.About, report.Rows]]:
    """What every case is about, and its rows; seeds of one training are one row."""
    found = []
    for case in figure["cases"].values():
        about = case["about"]
        found.append(
            (about, tables.with_trainings(case["rows"], case["trainings"], about["final"]))
        )
    return found


def measured_with(figure: Kept) -> str:
    """How many runs, which baselines, which versions, in words."""
    config, environment = figure["config"], figure["environment"]
    versions = environment["versions"]
    return (
        f"{config['num_runs']} runs, rates tuned on {config['tune_runs']} others, evaluation seed "
        f"{config['evaluation_seed']}; baselines: {config['baselines'].replace(',', ', ')}; JAX "
        f"{versions['jax']}, optax {versions['optax']}, {environment['device']}."
    )


def tuned(rows: report.Rows) -> str:
    """The tuned rates of a case in words; empty where there are none."""
    parts = []
    for name, row in rows.items():
        if row["kind"] == comparison.TUNED:
            tied = row["tuned"]["tied"]
            beside = f" [{min(tied):.3g}, {max(tied):.3g}]" if len(tied) > 1 else ""
            parts.append(f"{name} {row['learning_rate']:.3g}{beside}")
    return f"Rates: {', '.join(parts)}." if parts else ""


def _better_rates(rows: report.Rows, final: str | None) -> list[str]:
    """For which of its rates Adam is below each learned optimizer (2017, figure 3), a line each.

    A rate's mean is that over the runs on which it was tuned, so this is not of pairs.
    """
    if "Adam" not in rows:
        return []
    tuned = rows["Adam"]["tuned"]
    lines = []
    for name in report.learned(rows):
        if ":" in name:
            continue  # a seed of a training
        level = float(report.last(rows[name], final)["mean"])
        better = [
            rate
            for rate, mean in zip(tuned["rates"], tuned["grid"], strict=True)
            if float(mean) < level
        ]
        if better:
            lines.append(
                f"- Adam's rates below {name}, on the runs of its tuning: {min(better):.2g} to "
                f"{max(better):.2g}."
            )
    return lines


def block(figure: Kept) -> str:
    """What the README has of a figure: a table, and a verdict for each learned optimizer.

    Of what was given it has the teachers; frozen rivals are on the page of numbers.
    """
    _, first = cases(figure)[0]
    apart = (*baselines.FROZEN, *baselines.REFERENCES)
    given = [name for name, row in first.items() if row["kind"] == comparison.GIVEN]
    beside = ["Adam", *(name for name in given if name not in apart)]
    names = [*beside, *report.learned(first)]
    lines = [tables.fitting(figure["axis"], cases(figure), names), ""]
    for case in figure["cases"].values():
        about, rows, trainings = case["about"], case["rows"], case["trainings"]
        best = report.best_baseline(rows, about["final"])
        against = {}
        for name in report.learned(rows):
            # Seeds of one training stand together, in the place of each alone.
            training = trainings.get(without_seed(name))
            held = training["against"] if training else rows[name]["against"]
            label = f"{without_seed(name)}, {len(training['seeds'])} seeds" if training else name
            against[label] = held
        for label, held in against.items():
            shown = [other for other in dict.fromkeys([best, *beside]) if other in held]
            parts = [report.held_against(held[other], other) for other in shown]
            lines.append(f"- {about['place']}, {label}: {'; '.join(parts)}.")
    return "\n".join(lines)


def narrow(figure: Kept, names: list[str] | None) -> str:
    """What a page has of a figure that is narrow: of all that is not tuned, or of some by name."""
    return tables.narrow(figure["axis"], cases(figure), names)


def with_blocks(
    text: str,
    folder: str,
    lines: list[costs.Line],
) -> str:
    """A page with its tables written anew.

    Args:
      text: the page.
      folder: docs/measured.
      lines: what the benchmarks say, from `costs.read`.

    Raises:
      ValueError: for a table of something that was not measured.
    """

    def replaced(found: re.Match) -> str:
        before, name, is_narrow, names, after = found.groups()
        chosen = names.split(", ") if names else None
        return f"{before}{_written(name, bool(is_narrow), chosen, folder, lines)}\n{after}"

    return _BLOCK.sub(replaced, text)


def _written(
    name: str,
    is_narrow: bool,
    names: list[str] | None,
    folder: str,
    lines: list[costs.Line],
) -> str:
    """What stands between two comments."""
    if name == COSTS:
        return costs.table(lines)
    if name == MEMORY:
        return costs.memory(lines)
    if name == RECOVERY:
        return recovery.table(_files.read_json(os.path.join(folder, f"{RECOVERY}.json")))
    if name == ARCHITECTURES:
        return solvers_by_architecture(folder)
    if name == THOUSANDS:
        return families_in_short(folder) if is_narrow else families(folder)
    if name.startswith(f"{SUITE}-"):
        return _of_suite(name, names, folder)
    for watching, summary in watched.read(folder).items():
        if name == f"{watched.WATCHING}-{watching}":
            return watched.block(summary)
    kept = keeping.read(folder)
    figure = kept[_checks.choice("figure", name, kept)]
    return narrow(figure, names) if is_narrow else block(figure)


def _of_suite(
    name: str,
    names: list[str] | None,
    folder: str,
) -> str:
    """The table `suite-RUN`, with a line a task, or `suite-RUN-means`, with a line an optimizer."""
    written: dict[str, Callable[[list[str] | None], str]] = {}
    for run in suites(folder):
        written[f"{SUITE}-{run['name']}"] = functools.partial(suite_tables.finals, run)
        written[f"{SUITE}-{run['name']}-means"] = functools.partial(suite_tables.means, run)
    return written[_checks.choice("table of the suite", name, written)](names)


def pages(docs: str, readme: str) -> dict[str, str]:
    """All pages that are written, by their paths, as docs/measured has them."""
    folder = os.path.join(docs, RESULTS)
    found = {os.path.join(docs, PAGE): page(keeping.read(folder), folder)}
    found[os.path.join(docs, claims.PAGE)] = claims.page(claims.read(folder))
    root = os.path.dirname(os.path.abspath(readme))
    lines = costs.read(os.path.join(root, costs.PAGE))
    measured = sentences.Measured(keeping.read(folder), suites(folder), lines)
    elsewhere = [costs.PAGE, *(sentence.page for sentence in sentences.SENTENCES)]
    above = os.path.normpath(os.path.join(docs, os.pardir))
    paths = [
        readme,
        *_pages_with_blocks(docs),
        *(os.path.normpath(os.path.join(above, page)) for page in elsewhere),
    ]
    for path in {os.path.abspath(path): path for path in reversed(paths)}.values():
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                text = with_blocks(f.read(), folder, lines)
            found[path] = sentences.written(os.path.relpath(path, root), text, measured)
    return found


def _pages_with_blocks(docs: str) -> list[str]:
    """The pages of docs in which tables stand between comments."""
    found = []
    for path in sorted(glob.glob(os.path.join(docs, "**", "*.md"), recursive=True)):
        with open(path, encoding="utf-8") as f:
            if "_build" not in path and _BLOCK.search(f.read()):
                found.append(path)
    return found


def stale(docs: str, readme: str) -> list[str]:
    """The pages that are not what docs/measured says."""
    found = []
    for path, text in pages(docs, readme).items():
        with open(path, encoding="utf-8") as f:
            if f.read() != text:
                found.append(path)
    return found


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("results", "results", "The folder in which the figures are.")
    flags.DEFINE_string("docs", "docs", "The folder of the page; the README stands beside it.")
    flags.DEFINE_bool(
        "redraw", False, "Whether to draw the pictures again from what docs/measured keeps."
    )
    flags.DEFINE_bool("check", False, "Whether to write nothing, and to fail where a page is old.")


def run() -> None:
    """Writes the pages, or checks them."""
    docs = keeping.docs_folder(flags.FLAGS.docs)
    readme = os.path.join(os.path.dirname(os.path.abspath(docs)), "README.md")
    if flags.FLAGS.check:
        old = stale(docs, readme)
        if old:
            raise ValueError(
                f"{', '.join(old)} must be what docs/measured says: python -m experiments.numbers "
                "writes them anew."
            )
        print("The pages are what docs/measured says.")
        return
    kept = os.path.join(docs, RESULTS)
    results = flags.FLAGS.results
    found = collect(results, kept) + collect_families(results, kept)
    found += collect_recovery(results, kept) + watched.collect(results, kept)
    if flags.FLAGS.redraw:
        redrawing.run(kept)
    for path, text in pages(docs, readme).items():
        _files.write_text(path, text)
    read = f"{len(found)} results were read: {', '.join(found)}" if found else "No result was read"
    print(f"{read}. The pages are written from {kept}.")


if __name__ == "__main__":
    define_flags()
    main.run(run)
