"""What a claim is."""

import dataclasses

from experiments.claims.verdicts import AnyCheck

FIRST = "Andrychowicz et al. 2016"
FIRST_VERSION = "Andrychowicz et al. 2016, first version"
SECOND = "Lv, Jiang, Li 2017"

ALL = "all"  # for `Claim.figure`: over all figures that were measured


@dataclasses.dataclass(frozen=True)
class Claim:
    """A figure, a table or a sentence of a paper that can be measured.

    Attributes:
      name: of its place on the page.
      says: the claim, in our words.
      paper: one of the constants above.
      place: where the paper has it.
      figure: the name of the result that decides it, in docs/measured; empty where nothing here
        measures it.
      checks: what it comes down to; it holds where all of them do.
      printed: the numbers that the paper gives, where it gives any.
      reason: why it is not measured, where no figure measures it; else what of the papers' setting
        is another here.
      test: the test of this library that shows it, where it is about mathematics, as FILE::NAME.
    """

    name: str
    says: str
    paper: str
    place: str
    figure: str = ""
    checks: tuple[AnyCheck, ...] = ()
    printed: str = ""
    reason: str = ""
    test: str = ""
