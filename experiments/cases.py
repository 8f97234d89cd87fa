"""What a figure of the papers is: cases, each one family of problems for one number of steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.families import ALL_DATA, FamilySpec, Subject
from learned_opt.evaluation import baselines, report

# f(theta_T) over the minibatches that the run itself has seen: what Lv, Jiang, Li 2017 print as
# final loss (figure 3). It is below the loss at step T, that of a fresh minibatch: for Adam on the
# base MLP 0.30 (printed: 0.31), and 0.34.
SEEN = "loss on what it saw"
LOSS = "loss"  # of the last minibatch
# Rates are tuned on the mean over this share of a run's last steps, where the loss of a single
# minibatch is what is reported.
TUNED_SHARE = 0.05
NO_DATA = "none"
DIGITS = "digits"


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One family for one number of steps.

    Attributes:
      name: of its folder. Two cases of one name, horizon and `final` are the same wherever they
        stand.
      title: of its picture and table.
      family: what optimizers are measured on.
      num_steps: the horizon.
      first_step: where the picture begins.
      final: what is tuned for and compared at the end: LOSS, SEEN, or one of the measures.
      paper: the final losses that the paper prints, under an optimizer's name or its
        architecture's.
      panel: of the picture over all cases.
      position: on the axis of that picture; None for the title.
      dataset: the data set that the case needs, or None for the one that is asked for.
      has_digits: whether the embedded digits can stand in its place, where they are asked for.
      is_held_out: whether curves are losses on held-out data, and the test loss, its mean over the
        run and the training loss are measured; see `held_out.shown`.
      also: measures beside the final loss for which optimizers are held against each other.
      baselines: which of the figure's baselines are tuned here; none for all of them.
      most_runs: how many runs it has at most, where one takes long; None for the figure's.
    """

    name: str
    title: str
    family: FamilySpec
    num_steps: int = 100
    first_step: int = 0
    final: str = LOSS
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    panel: str = ""
    position: Any = None
    dataset: str | None = None
    has_digits: bool = False
    is_held_out: bool = False
    also: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    most_runs: int | None = None

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.name}-{self.num_steps}"

    @property
    def heading(self) -> str:
        """Its title with its number of steps."""
        return f"{self.title}, {self.num_steps} steps"

    @property
    def place(self) -> Any:
        """Where it stands on the axis of the picture over all cases."""
        return self.title if self.position is None else self.position

    @property
    def measure(self) -> str | None:
        """The measure that is its final loss; None for the loss itself."""
        return None if self.final == LOSS else self.final

    @property
    def tune_last(self) -> int:
        """Of how many last steps the mean is tuned for."""
        has_minibatches = self.family.builder.has_minibatches
        return max(1, round(TUNED_SHARE * self.num_steps)) if has_minibatches else 1

    @property
    def label(self) -> str:
        """What its final loss is called."""
        return f"final {self.final}" if self.measure else "final loss"

    def dataset_for(self, asked: str) -> str:
        """The data set that it is made of, where one is asked for on the command line."""
        if not self.family.builder.needs_data:
            return NO_DATA
        if self.has_digits and asked == DIGITS:
            return DIGITS
        return self.dataset or asked

    def baselines_of(self, asked: Sequence[str]) -> list[str]:
        """Which of the baselines that are asked for are tuned here."""
        return [name for name in asked if not self.baselines or name in self.baselines]

    def runs_of(self, asked: int) -> int:
        """How many runs it has, where so many are asked for."""
        return asked if self.most_runs is None else min(asked, self.most_runs)

    def build(self, splits: Any) -> tuple[Subject, dict]:
        """What optimizers are measured on, and the measures of theta_T by name."""
        subject = self.family.build(splits, self.is_held_out)
        measures = subject.measures(all_data=self.final == ALL_DATA)
        if self.is_held_out:
            measures = {**subject.test_measures(), **measures}
        return subject, measures

    def final_of(self, row: report.Row) -> dict[str, Any]:
        """The summary of an optimizer's final loss."""
        return report.last(row, self.measure)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or a table of a paper.

    Attributes:
      title: of the picture over all cases.
      source: paper and figure.
      cases: the `Case`s.
      axis: what the cases differ in.
      optimizers: the learned ones, as `learned.find` takes them.
      num_runs: fresh problems on which everything is compared.
      tune_runs: problems on which each baseline's learning rate is tuned.
      within: the figure that has all of this one in it, or None.
      references: of `baselines.REFERENCES`, methods with nothing to tune that are shown beside the
        others.
      frozen: of `baselines.FROZEN`, methods with one setting for all problems. Teachers of the
        learned ones stand beside these.
      swept: baselines at several rates, each a rival of its own.
      baselines: which are tuned, where not all are.
      pairs: learned optimizers that are held against each other as well, `(ours, theirs)`.
      embedded: of these attributes those that are others in the embedded edition, which takes
        minutes; see `plans.plan`.
    """

    title: str
    source: str
    cases: tuple[Case, ...]
    axis: str
    optimizers: str = "lstm-mnist,rnnprop-mnist"
    num_runs: int = 100
    tune_runs: int = 20
    within: str | None = None
    references: tuple[str, ...] = ()
    frozen: tuple[str, ...] = tuple(baselines.FROZEN)
    swept: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    baselines: tuple[str, ...] = tuple(baselines.BASELINES)
    pairs: tuple[tuple[str, str], ...] = ()
    embedded: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_of_pictures(self) -> bool:
        """Whether it is measured on pictures, and not on a data set."""
        return any(case.family.builder.of_pictures for case in self.cases)
