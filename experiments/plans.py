"""The plan of a figure: everything that can be checked before anything is measured."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from experiments import art, config_flags, learned, papers, teachers
from experiments.cases import DIGITS, Case, Figure
from experiments.config_flags import split
from experiments.learned import Learned
from learned_opt import _checks, data
from learned_opt.evaluation import baselines
from learned_opt.meta.unrolling import Transformation

EDITION = "embedded edition"
_WORDS = {  # of what `Figure.embedded` may have
    "baselines": "baselines {}",
    "frozen": "no frozen ones",
    "optimizers": "{} alone",
    "num_runs": "{} runs",
    "tune_runs": "tuned on {}",
}


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
      is_embedded: whether it is the figure's embedded edition.
    """

    name: str
    figure: Figure
    config: Config
    cases: list[Case]
    found: dict[str, Learned]
    is_embedded: bool = False

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
    in_full: bool = False,
) -> Plan:
    """The plan of a figure.

    On what is embedded, where the paper has larger data, some figures have an edition that takes
    minutes: `Figure.embedded`. Settings that `config` has go before it.

    Args:
      name: of the figure.
      config: a `Config`.
      places: where learned optimizers are.
      only: the folders of the cases to which the figure is restricted; none for all.
      in_full: whether the figure is made in full on what is embedded as well.

    Returns:
      A `Plan`.

    Raises:
      ValueError: for settings that are not possible.
      FileNotFoundError: for a learned optimizer that is not there.
    """
    figure = papers.FIGURES[_checks.choice("figure", name, papers.FIGURES)]
    on_embedded = _is_on_embedded(figure, config, places.data_dir)
    is_embedded = on_embedded and bool(figure.embedded) and not in_full
    if on_embedded and figure.is_of_pictures:
        words = f"{figure.title}: {art.EMBEDDED}"
        figure = dataclasses.replace(figure, title=words, cases=papers.art_cases(embedded=True))
    if is_embedded:
        words = f"{figure.title}, {EDITION}"
        figure = dataclasses.replace(figure, title=words, **figure.embedded)
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
    return Plan(name, figure, config, chosen, found, is_embedded)


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


def in_words(embedded: Mapping[str, Any]) -> str:
    """What an embedded edition has otherwise than its figure.

    Args:
      embedded: see `Figure`.

    Example:
      >>> from experiments import plans
      >>> plans.in_words({"baselines": ("NAG", "Adam"), "frozen": (), "num_runs": 20})
      'baselines NAG, Adam; no frozen ones; 20 runs'
    """
    parts = []
    for name, value in embedded.items():
        listed = ", ".join(value) if isinstance(value, tuple) else value
        parts.append(_WORDS[name].format(listed))
    return "; ".join(parts)


def shown(plan: Plan) -> str:
    """What a program says of an embedded edition before it begins."""
    config = plan.config
    return (
        f"{plan.name} on what is embedded, in an edition that takes minutes: "
        f"{config.num_runs} runs, rates tuned on {config.tune_runs}; baselines "
        f"{config.baselines.replace(',', ', ')}. --in_full makes the whole figure."
    )


def _is_on_embedded(
    figure: Figure,
    config: Config,
    data_dir: str | None,
) -> bool:
    """Whether what is embedded stands in for larger data of the paper."""
    if figure.is_of_pictures:
        return not art.has_folder(data_dir)
    return config.dataset == DIGITS and any(case.has_digits for case in figure.cases)


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
