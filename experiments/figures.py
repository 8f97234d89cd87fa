"""The course of a figure: for every case tune the baselines and compare on fresh problems.

Whatever is finished is kept: tuned baselines in a folder that all figures share, runs by case and
optimizer. What stands over all cases is written by `summaries`.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import tqdm

from experiments import (
    art,
    cases,
    held_out,
    learned,
    measuring,
    plans,
    summaries,
    tables,
    terminal,
)
from experiments.cases import Case
from experiments.config_flags import split
from experiments.learned import Learned
from experiments.plans import Plan
from learned_opt import _files, devices
from learned_opt.evaluation import comparison, plots, report
from learned_opt.meta import evaluating

LEGENDS = {
    "paper": "Paper: the final loss that the paper prints for its optimizer of that kind.\n",
    "middle half": "Middle half: mean of the middle half of the final losses, which outliers do "
    "not move.\n",
}

Load = Callable[[str], Any]


def run(
    plan: Plan,
    workdir: str,
    tuned_dir: str,
    data_dir: str | None = None,
) -> None:
    """Makes a figure and prints what came out.

    A figure that was stopped goes on where it was.

    Args:
      plan: a `Plan`.
      workdir: where results go.
      tuned_dir: where tuned baselines are kept, for all figures.
      data_dir: the TFDS directory.
    """
    workdir = os.path.expanduser(workdir)
    tuned_dir = os.path.expanduser(tuned_dir)

    @functools.cache
    def load(dataset: str) -> Any:
        return None if dataset == cases.NO_DATA else art.load_any(dataset, data_dir)

    folders = {case: os.path.join(workdir, case.folder) for case in plan.cases}
    for case, folder in folders.items():
        if report.read(folder) is None:
            # A data set that is not there is told before anything is made.
            load(case.dataset_for(plan.config.dataset))
    _claim(workdir, plan)
    done = {}
    bar = tqdm.tqdm(
        total=sum(case.num_steps for case in plan.cases),
        desc=plan.name,
        unit="step",
        dynamic_ncols=sys.stderr.isatty(),
        disable=not devices.is_first(),
    )
    with bar:
        for case, folder in folders.items():
            bar.set_postfix_str(case.title)
            done[case] = _case(case, plan, folder, tuned_dir, load)
            bar.update(case.num_steps)
    text = summaries.write(plan.name, plan.figure, plan.found, done, workdir)
    print(f"\n{terminal.shown(text)}\nEverything is in {workdir}.")


def _claim(workdir: str, plan: Plan) -> None:
    weights = {}
    notes = {}
    for name, optimizer in plan.found.items():
        weights[name] = optimizer.digest
        notes[name] = optimizer.note
    config = dataclasses.asdict(plan.config)
    config["figure"] = plan.name
    if plan.is_embedded:
        config["edition"] = plans.EDITION
    config["weights"] = weights
    measuring.claim(workdir, config, learned=notes)


def _case(
    case: Case,
    plan: Plan,
    folder: str,
    tuned_dir: str,
    load: Load,
) -> report.Report:
    """Tunes, compares and writes one case, unless that is done."""
    runs = os.path.join(folder, "runs")
    done = report.read(folder)
    if done is None:
        done = _measure(case, plan, runs, tuned_dir, load)
    _write(case, plan, folder, done)
    _files.remove_folder(runs)  # all of it is in curves.npz
    return done


def _write(
    case: Case,
    plan: Plan,
    folder: str,
    done: report.Report,
) -> None:
    """The files of one case."""
    first = next(iter(done.rows.values()))
    columns = _columns(case, done.rows)
    text = report.write(
        folder,
        done.rows,
        done.curves,
        case.heading,
        tuple(first.get("measure", {})),
        first_step=case.first_step,
        extra=columns,
        final=case.measure,
        values=done.finals,
    )
    legends = "".join(LEGENDS[header] for header in columns)
    _files.write_text(os.path.join(folder, "table.md"), text + legends)
    _draw_rates(case, plan, os.path.join(folder, "rates.png"), done.rows)


def _draw_rates(
    case: Case,
    plan: Plan,
    picture: str,
    rows: report.Rows,
) -> None:
    """Final losses against learning rates, where baselines were tuned."""
    grids = {}
    for name, row in rows.items():
        if row["tuned"]:
            grids[name] = row["tuned"]["rates"], row["tuned"]["grid"]
    if not grids:
        return
    levels = {}
    for name in plan.found:
        final = case.final_of(rows[name])
        levels[name] = float(final["mean"])
    plots.rates(picture, grids, levels, case.heading, case.label)


def _measure(
    case: Case,
    plan: Plan,
    runs: str,
    tuned_dir: str,
    load: Load,
) -> report.Report:
    """Tunes and compares one case."""
    config = plan.config
    subject, measures = case.build(load(case.dataset_for(config.dataset)))
    if case.final == cases.SEEN:
        seen = evaluating.seen_loss(subject.family, case.num_steps)
        measures = {cases.SEEN: seen, **measures}
    evaluation_key, tune_key = measuring.keys(config.evaluation_seed)
    tuned = comparison.tune_all(
        subject.family,
        jax.random.fold_in(tune_key, case.num_steps),
        case.num_steps,
        config.tune_runs,
        case.baselines_of(split(config.baselines)),
        tuned_dir,
        measure=measures.get(case.final),
        last=case.tune_last,
    )
    compared = comparison.compare(
        plan.transformations(case.num_steps),
        held_out.shown(subject.family) if case.is_held_out else subject.family,
        evaluation_key,
        case.num_steps,
        case.runs_of(config.num_runs),
        tuned=tuned,
        measure=measures or None,
        costs=config.costs,
        path=runs,
    )
    rows = report.summary(compared, _steps(case), case.measure)
    for name, row in rows.items():
        row["paper"] = _in_paper(case, name, plan.found)
    for measure in case.also:
        for name, against in report.differences(compared, measure).items():
            rows[name].setdefault("also", {})[measure] = against
    return report.Report(rows, compared.curves, report.finals(compared, case.measure))


def _in_paper(
    case: Case,
    name: str,
    found: dict[str, Learned],
) -> float | None:
    """What the paper prints for an optimizer, by its name or else by its architecture."""
    if name not in found:
        return case.paper.get(name)
    by_name = case.paper.get(learned.without_seed(name))
    return case.paper.get(found[name].architecture) if by_name is None else by_name


def _steps(case: Case) -> list[int]:
    """At which steps the table shows the loss."""
    horizon = case.num_steps
    early = max(1, horizon // 10)
    half = max(1, horizon // 2)
    return sorted({early, half, horizon})


def _columns(case: Case, rows: report.Rows) -> report.Columns:
    """The columns that only some tables have."""
    columns = report.middles(rows, case.measure)
    if any(row["paper"] is not None for row in rows.values()):
        columns["paper"] = {name: tables.printed(row["paper"]) for name, row in rows.items()}
    return columns
