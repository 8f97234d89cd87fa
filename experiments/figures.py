"""The course of a figure: for every case tune the baselines and compare on fresh problems, then put cases side by side.

Whatever is finished is kept: tuned baselines in a folder that all figures share, runs by case and optimizer.
"""

import dataclasses
import functools
import os
import shutil
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from experiments import cases, config_flags, learned
from learned_opt import _checks, _files, data
from learned_opt.evaluation import baselines, comparison, environment, plots, report, statistics
from learned_opt.meta import checkpoints, evaluating

LEGENDS = {
    "paper": "Paper: the final loss that the paper prints for its optimizer of that kind.\n",
    "middle half": "Middle half: mean of the middle half of the final losses, which outliers do not move.\n",
}
MOST_PANELS = 4  # curves of more cases are not drawn side by side


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a figure; what is empty or 0 is the figure's own."""

    dataset: str = config_flags.field(
        "mnist",
        f"One of {', '.join(data.DATASETS)}, for all cases but those that are "
        "of another in the paper.",
    )
    optimizers: str = config_flags.field(
        "",
        "The learned optimizers, separated by commas: NAME, NAME@FRACTION of its "
        "training, PATH or NAME=PATH of a file; empty for the figure's own.",
    )
    baselines: str = config_flags.field(
        ",".join(baselines.BASELINES), "The hand-designed optimizers to compare with."
    )
    num_runs: int = config_flags.field(
        0, "Fresh problems on which everything is compared; 0 for the figure's own."
    )
    tune_runs: int = config_flags.field(
        0, "Problems on which each baseline's learning rate is tuned; 0 for the figure's own."
    )
    num_steps: int = config_flags.field(
        0,
        "Steps of the shortest case, others in proportion, to try a figure out; "
        "0 for the figure's own.",
    )
    evaluation_seed: int = config_flags.field(
        0, "Seed of the problems on which everything is tuned and compared."
    )


class Plan(NamedTuple):
    """What is to be made: everything that can be checked beforehand.

    Attributes:
      name: of the figure.
      figure: the `cases.Figure`.
      config: the `Config`, complete.
      cases: the cases that are made.
      found: dict from name to `learned.Learned`.
    """

    name: str
    figure: Any
    config: Config
    cases: list
    found: dict


def plan(name, config, places, only=()):
    """The plan of a figure.

    Args:
      name: of the figure.
      config: a `Config`.
      places: `learned.Places`, where learned optimizers are.
      only: the folders of the cases to which the figure is restricted; none for all.

    Returns:
      A `Plan`.

    Raises:
      ValueError: for settings that are not possible.
      FileNotFoundError: for a learned optimizer that is not there.
    """
    figure = cases.FIGURES[_checks.choice("figure", name, cases.FIGURES)]
    config = _complete(figure, config)
    chosen = _chosen(figure, config, only)
    found = learned.find_all(split(config.optimizers), places)
    clash = sorted(found.keys() & {*baselines.BASELINES, *baselines.REFERENCES})
    if clash:
        raise ValueError(
            f"a learned optimizer must not have a baseline's name, got {clash[0]!r}: choose another name."
        )
    return Plan(name, figure, config, chosen, found)


def run(plan, workdir, tuned_dir, data_dir=None):
    """Makes a figure, from wherever an earlier run with this work directory stopped, and prints what came out.

    Args:
      plan: a `Plan`.
      workdir: where results go.
      tuned_dir: where tuned baselines are kept, for all figures.
      data_dir: the TFDS directory.
    """
    workdir, tuned_dir = os.path.expanduser(workdir), os.path.expanduser(tuned_dir)
    load = functools.cache(
        lambda name: None if name == cases.NO_DATA else data.load(name, data_dir)
    )
    for case in plan.cases:
        if report.read(os.path.join(workdir, _folder(case))) is None:
            load(_dataset(case, plan.config))  # what is not there is told before anything is made
    _claim(workdir, plan)
    done, together = {}, {}
    with tqdm.tqdm(
        total=sum(case.num_steps for case in plan.cases),
        desc=plan.name,
        unit="step",
        dynamic_ncols=sys.stderr.isatty(),
    ) as bar:
        for case in plan.cases:
            bar.set_postfix_str(case.title)
            done[case], curves = _case(
                case, plan, os.path.join(workdir, _folder(case)), tuned_dir, load
            )
            together[case] = _together(case, curves, plan.found)
            bar.update(case.num_steps)
    print(_summary(plan, done, together, workdir))


def split(text):
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _complete(figure, config):
    """The configuration with the figure's own settings where it leaves them open."""
    config = dataclasses.replace(
        config,
        optimizers=config.optimizers or figure.optimizers,
        num_runs=config.num_runs or figure.num_runs,
        tune_runs=config.tune_runs or figure.tune_runs,
    )
    for setting, least in (("num_runs", 1), ("tune_runs", 1), ("num_steps", 0)):
        _checks.positive_int(setting, getattr(config, setting), least)
    for name in split(config.baselines):
        _checks.choice("baseline", name, baselines.BASELINES)
    _checks.choice("data set", config.dataset, data.DATASETS)
    return config


def _chosen(figure, config, only):
    """The figure's cases, for the steps that are asked for; those without their data set are left out."""
    scale = (
        config.num_steps / min(case.num_steps for case in figure.cases) if config.num_steps else 1
    )
    scaled = [_scaled(case, scale) for case in figure.cases]
    for folder in only:
        _checks.choice("case", folder, [_folder(case) for case in scaled])
    chosen = []
    for case in scaled:
        if only and _folder(case) not in only:
            continue
        if case.dataset not in (None, cases.NO_DATA) and config.dataset == "digits":
            print(
                f"{case.title} is left out: it needs {case.dataset}, and --dataset=digits is for what is embedded."
            )
            continue
        chosen.append(case)
    if not chosen:
        raise ValueError("no case is left: choose another data set.")
    return chosen


def _scaled(case, scale):
    num_steps = round(scale * case.num_steps)
    return dataclasses.replace(
        case,
        num_steps=num_steps,
        first_step=round(scale * case.first_step),
        position=num_steps if case.position == case.num_steps else case.position,
    )


def _folder(case):
    return f"{case.name}-{case.num_steps}"


def _dataset(case, config):
    return case.dataset or config.dataset


def _claim(workdir, plan):
    """Makes the directory this figure's; what was made by which versions is noted, and may change later."""
    path = os.path.join(workdir, "config.json")
    plain = {
        "figure": plan.name,
        **dataclasses.asdict(plan.config),
        "weights": {name: o.digest for name, o in plan.found.items()},
    }
    if os.path.exists(path):
        checkpoints.check_same(_files.read_json(path).get("config", {}), plain, workdir)
    else:
        _files.write_json(
            path,
            {
                "config": plain,
                "learned": {name: o.note for name, o in plan.found.items()},
                "environment": environment.record(),
            },
        )


def _case(case, plan, folder, tuned_dir, load):
    """Tunes, compares and writes one case, unless that is done; returns its rows and curves."""
    done = report.read(folder)
    if done is None:
        done = _measure(case, plan, os.path.join(folder, "runs"), tuned_dir, load)
    rows, curves = done
    title = f"{case.title}, {case.num_steps} steps"
    measured = next(iter(rows.values())).get("measure", {})
    columns = _columns(case, rows)
    text = report.write(
        folder,
        rows,
        curves,
        title,
        tuple(measured),
        first_step=case.first_step,
        extra=columns,
        final=_measured(case),
    )
    _files.write_text(
        os.path.join(folder, "table.md"), text + "".join(LEGENDS[header] for header in columns)
    )
    grids = {name: row["grid"] for name, row in rows.items() if row["grid"]}
    levels = {name: float(_final(case, rows[name])["mean"]) for name in plan.found}
    if grids:
        plots.rates(
            os.path.join(folder, "rates.png"),
            baselines.LEARNING_RATES,
            grids,
            levels,
            title,
            _label(case),
        )
    shutil.rmtree(os.path.join(folder, "runs"), ignore_errors=True)  # all of it is in curves.npz
    return rows, curves


def _measure(case, plan, runs_path, tuned_dir, load):
    """The rows and curves of one case."""
    config, found = plan.config, plan.found
    dataset = _dataset(case, config)
    subject = case.build(load(dataset))
    evaluation_key, tune_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.evaluation_seed), 1)
    )
    measures = dict(subject.measures)
    if case.final == cases.SEEN:
        measures = {cases.SEEN: evaluating.seen_loss(subject.problem, case.num_steps), **measures}
    goal = "" if case.final == "loss" else "-" + case.final.replace(" ", "-")
    kept = (
        f"{dataset}-{_folder(case)}{goal}-runs{config.tune_runs}-seed{config.evaluation_seed}.json"
    )
    tuned = comparison.tune_all(
        subject.problem,
        jax.random.fold_in(tune_key, case.num_steps),
        case.num_steps,
        config.tune_runs,
        split(config.baselines),
        os.path.join(tuned_dir, kept),
        measure=measures.get(case.final),
    )
    others = {name: baselines.REFERENCES[name](case.num_steps) for name in plan.figure.references}
    learned_ones = {name: o.opt.transform(o.phi) for name, o in found.items()}
    compared = comparison.compare(
        {**learned_ones, **others},
        subject.problem,
        evaluation_key,
        case.num_steps,
        config.num_runs,
        tuned=tuned,
        measure=measures or None,
        path=runs_path,
    )
    rows = report.summary(compared, _steps(case))
    for name, row in rows.items():
        kind = found[name].opt.spec["name"] if name in found else None
        row["paper"] = case.paper.get(name, case.paper.get(kind))
        row["grid"] = tuned[name].grid.tolist() if name in tuned else None
    return rows, compared.curves


def _steps(case):
    """At which steps the table shows the loss."""
    return tuple(
        sorted({max(1, case.num_steps // 10), max(1, case.num_steps // 2), case.num_steps})
    )


def _columns(case, rows):
    """The columns that only some tables have."""
    columns = report.middles(rows, _measured(case))
    if any(row["paper"] is not None for row in rows.values()):
        columns["paper"] = {name: _printed(row["paper"]) for name, row in rows.items()}
    return columns


def _printed(number):
    return "" if number is None else f"{number:.2f}"


def _final(case, row):
    """The summary of what the optimizers of a case are compared by."""
    return report.last(row, _measured(case))


def _measured(case):
    """The measure that is a case's final loss, or None for the loss itself."""
    return None if case.final == "loss" else case.final


def _label(case):
    return "final loss" if case.final == "loss" else f"final {case.final}"


def _summary(plan, done, together, workdir):
    """Writes what stands over all cases, and returns the text for the screen."""
    title = f"{plan.figure.title} ({plan.figure.source})"
    sections = [f"## {title}", _overview(plan, done)]
    for case, rows in done.items():
        with open(os.path.join(workdir, _folder(case), "table.md"), encoding="utf-8") as f:
            sections += [
                f"### {case.title}, {case.num_steps} steps",
                f.read().strip(),
                _claims(case, rows, plan.found),
            ]
        sections += [together[case]] if together[case] else []
    text = "\n\n".join(sections) + "\n"
    _files.write_text(os.path.join(workdir, "table.md"), text)
    _draw(plan, done, os.path.join(workdir, "overview.png"))
    if len(done) <= MOST_PANELS:
        shown = [
            (
                f"{case.title}, {case.num_steps} steps",
                report.read(os.path.join(workdir, _folder(case)))[1],
                case.first_step,
            )
            for case in done
        ]
        plots.panels(os.path.join(workdir, "curves.png"), shown, list(plan.found))
    _files.write_json(
        os.path.join(workdir, "summary.json"),
        {
            "figure": plan.name,
            "title": title,
            "cases": {_folder(case): rows for case, rows in done.items()},
        },
    )
    return f"\n{text}\nEverything is in {workdir}."


def _best(case, rows):
    """The tuned baseline that is best at the end, or None where there is none."""
    finals = {name: float(_final(case, row)["mean"]) for name, row in rows.items() if row["grid"]}
    return min(finals, key=finals.get) if finals else None


def _overview(plan, done):
    """The table of final losses: one line for each case."""
    found = plan.found
    shown = ("Adam", *plan.figure.references, *found)
    header = [plan.figure.axis, "best baseline", *shown]
    lines = []
    for case, rows in done.items():
        best = _best(case, rows)
        panel = f"{case.panel}, " if case.panel else ""
        cells = [
            f"{panel}{_position(case)}",
            "-" if best is None else f"{best} {_cell(case, rows[best])}",
        ]
        cells += [_cell(case, rows[name]) if name in rows else "-" for name in shown]
        lines.append(cells)
    label = " or ".join(dict.fromkeys(_label(case).capitalize() for case in done))
    return f"{label}, mean with its 95 % bootstrap interval:\n\n{report.markdown(header, lines)}"


def _cell(case, row):
    text = report.interval(_final(case, row))
    text += f", {100 * row['diverged']:.0f} % diverged" if row["diverged"] else ""
    return text if row["paper"] is None else f"{text} (paper {_printed(row['paper'])})"


def _position(case):
    return case.title if case.position is None else case.position


def _claims(case, rows, found):
    """One line for each learned optimizer: where it stands."""
    best = _best(case, rows)
    others = dict.fromkeys(name for name in (best, "Adam") if name in rows)
    lines = []
    for name in found:
        ours = _final(case, rows[name])
        parts = []
        for other in others:
            theirs = _final(case, rows[other])
            verdict = statistics.verdict(ours, theirs)
            verdict = f"{verdict} to" if verdict == "no difference" else verdict
            what = "the best tuned baseline, " if other == best else "tuned "
            parts.append(f"{verdict} {what}{other} ({report.interval(theirs)})")
        note = f" ({found[name].note})" if "@" in name else ""
        diverged = (
            f", {100 * rows[name]['diverged']:.0f} % diverged" if rows[name]["diverged"] else ""
        )
        lines.append(
            f"- {name}{note}: {report.interval(ours)}{diverged}; {'; '.join(parts) or 'compared with none'}."
        )
    return "\n".join(lines)


def _together(case, curves, found):
    """The seeds of each learned optimizer together, beside the first one; nothing where there is one seed of each."""
    families = {}
    for name in found:
        families.setdefault(name.partition(":")[0], []).append(curves[name][:, -1])
    if case.final != "loss" or all(len(seeds) == 1 for seeds in families.values()):
        return ""
    first = next(iter(families))
    header = ["optimizer", "seeds", "mean of each seed", "mean", f"times {first}"]
    lines = []
    for name, seeds in families.items():
        beside = (
            ""
            if name == first
            else "{:.3g} [{:.3g}, {:.3g}]".format(*statistics.ratio(seeds, families[first]))
        )
        lines.append(
            [
                name,
                str(len(seeds)),
                ", ".join(f"{losses.mean():.3g}" for losses in seeds),
                report.interval(statistics.summarize(np.mean(seeds, axis=0))._asdict()),
                beside,
            ]
        )
    return (
        f"Seeds of meta-training together; the last column is the geometric mean over problems and seeds of the "
        f"final loss over that of {first}, with its 95 % bootstrap interval over problems:\n\n"
        f"{report.markdown(header, lines)}"
    )


def _draw(plan, done, path):
    """The picture over all cases: the best baseline, Adam, and the learned optimizers."""
    figure, found = plan.figure, plan.found
    panels = {}
    for case, rows in done.items():
        series = panels.setdefault(case.panel, {})
        best = _best(case, rows)
        shown = {
            "best baseline": best,
            **{name: name for name in ("Adam", *plan.figure.references, *found)},
        }
        for label, name in shown.items():
            if name in rows:
                series.setdefault(label, {})[_position(case)] = _final(case, rows[name])
    plots.overview(path, panels, list(found), f"{figure.title}\n{figure.source}", figure.axis)
