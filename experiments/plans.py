"""The plan of a figure: everything that can be checked before anything is measured."""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

from experiments import art, config_flags, learned, papers, teachers
from experiments.cases import DIGITS, Case, Figure
from experiments.config_flags import split
from experiments.learned import Learned
from learned_opt import _checks, data
from learned_opt.evaluation import baselines
from learned_opt.meta.unrolling import Transformation


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
        "", "The hand-designed optimizers to compare with; empty for the figure's own."
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
    costs: bool = config_flags.field(
        True, "Whether a step of each optimizer is timed; it takes a quiet machine."
    )


class Plan(NamedTuple):
    """What is to be made.

    Attributes:
      name: of the figure.
      figure: the `Figure`.
      config: the `Config`, complete.
      cases: the cases that are made.
      found: dict from name to `Learned`.
    """

    name: str
    figure: Figure
    config: Config
    cases: list[Case]
    found: dict[str, Learned]

    def transformations(self, num_steps: int) -> dict[str, Transformation]:
        """Everything that is compared and not tuned, by name."""
        every: dict[str, Transformation] = {}
        for name, optimizer in self.found.items():
            every[name] = (optimizer.opt, optimizer.phi)
        for name in self.figure.references:
            every[name] = baselines.REFERENCES[name](num_steps)
        for name in self.figure.frozen:
            every[name] = baselines.FROZEN[name](num_steps)
        for optimizer in self.found.values():
            if optimizer.teacher:
                every.update(teachers.rivals(optimizer.teacher))
        for name, rates in self.figure.swept.items():
            for rate in rates:
                every[f"{name} at {rate:g}"] = baselines.baseline(name, rate, num_steps)
        return every


def plan(
    name: str,
    config: Config,
    places: learned.Places,
    only: Collection[str] = (),
) -> Plan:
    """The plan of a figure.

    Args:
      name: of the figure.
      config: a `Config`.
      places: where learned optimizers are.
      only: the folders of the cases to which the figure is restricted; none for all.

    Returns:
      A `Plan`.

    Raises:
      ValueError: for settings that are not possible.
      FileNotFoundError: for a learned optimizer that is not there.
    """
    figure = papers.FIGURES[_checks.choice("figure", name, papers.FIGURES)]
    figure = _of_these_pictures(figure, places.data_dir)
    config = _complete(figure, config)
    chosen = _chosen(figure, config, only)
    found = learned.find_all(split(config.optimizers), places)
    taken = {*baselines.BASELINES, *baselines.REFERENCES, *baselines.FROZEN}
    clash = sorted(found.keys() & taken)
    if clash:
        raise ValueError(
            f"a learned optimizer must not have a baseline's name, got {clash[0]!r}: choose "
            "another name."
        )
    return Plan(name, figure, config, chosen, found)


def _complete(figure: Figure, config: Config) -> Config:
    """The configuration with the figure's own settings where it leaves them open."""
    config = dataclasses.replace(
        config,
        optimizers=config.optimizers or figure.optimizers,
        baselines=config.baselines or ",".join(figure.baselines),
        num_runs=config.num_runs or figure.num_runs,
        tune_runs=config.tune_runs or figure.tune_runs,
    )
    for setting, least in (("num_runs", 1), ("tune_runs", 1), ("num_steps", 0)):
        _checks.positive_int(setting, getattr(config, setting), least)
    for name in split(config.baselines):
        _checks.choice("baseline", name, baselines.BASELINES)
    _checks.choice("data set", config.dataset, data.DATASETS)
    return config


def _of_these_pictures(figure: Figure, data_dir: str | None) -> Figure:
    """A figure that says so where its pictures and features are the embedded ones."""
    of_pictures = [case.family.builder.of_pictures for case in figure.cases]
    if not any(of_pictures) or art.has_folder(data_dir):
        return figure
    cases = papers.art_cases(embedded=True)
    return dataclasses.replace(figure, title=f"{figure.title}: {art.EMBEDDED}", cases=cases)


def _chosen(
    figure: Figure,
    config: Config,
    only: Collection[str],
) -> list[Case]:
    """The figure's cases, for the steps that are asked for.

    Those that need another data set than the embedded one, where that is asked for, are left out.
    """
    shortest = min(case.num_steps for case in figure.cases)
    scale = config.num_steps / shortest if config.num_steps else 1
    scaled = [_scaled(case, scale) for case in figure.cases]
    for folder in only:
        _checks.choice("case", folder, [case.folder for case in scaled])
    chosen = []
    for case in scaled:
        if only and case.folder not in only:
            continue
        is_embedded = case.has_digits or case.family.builder.of_pictures
        if case.dataset is not None and not is_embedded and config.dataset == DIGITS:
            print(
                f"{case.title} is left out: it needs {case.dataset}, and --dataset=digits is for "
                "what is embedded."
            )
            continue
        chosen.append(case)
    if not chosen:
        raise ValueError("no case is left: choose another data set.")
    return chosen


def _scaled(case: Case, scale: float) -> Case:
    num_steps = round(scale * case.num_steps)
    return dataclasses.replace(
        case,
        num_steps=num_steps,
        first_step=round(scale * case.first_step),
        position=num_steps if case.position == case.num_steps else case.position,
    )
