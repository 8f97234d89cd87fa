"""The page of claims: every claim of the papers, what was measured here, and the verdict."""

import collections
from collections.abc import Iterable, Sequence

from experiments import keeping, papers, watched
from experiments.claims import first_paper, second_paper, verdicts
from experiments.claims.base import ALL, FIRST, FIRST_VERSION, SECOND, Claim
from experiments.claims.finals import Finals
from experiments.claims.verdicts import FAILS, HOLDS, MISSING, OPEN, Judged, Results
from experiments.keeping import Kept
from experiments.watched import WATCHING
from learned_opt.evaluation import report, statistics

PAGE = "claims.md"
CLAIMS = (*first_paper.CLAIMS, *second_paper.CLAIMS)
PAPERS = {FIRST: "Final version", FIRST_VERSION: "First version", SECOND: ""}

# What the protocol asks for.
PERCEPTRON_RUNS, SEEDS = 100, 3
ROUNDING = 0.005  # of the numbers that the papers print

_HEAD = f"""\
# What the papers claim, and whether it holds here

Every figure, table and measurable sentence of Andrychowicz et al. 2016 (its final and its first
version) and of Lv, Jiang, Li 2017. The claims are [data](../experiments/claims);
`python -m experiments.claims` writes this page from [docs/measured](measured), so no verdict is
written by hand. [How we measure](measuring.md) has the rules, [the page of numbers](numbers.md) all
rivals.

- A claim **holds** where the 95 % interval of the difference, run by run, lies on the side that it
  says, for every case and every rival of the paper. It **does not hold** where one of these
  intervals lies on the other side. Otherwise it is **not settled**.
- Rivals are the paper's own, each at the best of its tuned rates. Where the best of all baselines
  here is none of these, the difference to it is told as well.
- "Comparable" and "equal" are within {verdicts.MARGIN:.0%} of the other's loss, which is our
  number: the papers name none. "Guessing" is a loss of ln 10.
- Where one optimizer is held against itself in another case (of other data, or of more steps), two
  intervals are compared, which must not overlap: such a verdict says that it is *unpaired*.
- Where two have never been held against each other, the difference is the sum of those to a third
  optimizer that both have met, and its interval that of the sum.
- The 2017 paper calls the 2016 LSTM "DMoptimizer": `lstm-mnist` here, `rnnprop-mnist` is RNNprop.
"""


def read(folder: str) -> Results:
    """What docs/measured has, by the name of the figure; what was watched as `watching/NAME`."""
    found: Results = keeping.read(folder)
    for name, summary in watched.read(folder).items():
        found[f"{WATCHING}/{name}"] = summary
    return found


def judge(claim: Claim, results: Results) -> list[Judged]:
    """What each check of a claim has found."""
    if claim.test:
        return [Judged(HOLDS, f"shown by `{claim.test}`")]
    if not claim.checks:
        return [Judged(MISSING, claim.reason)]
    return [check.judge(results, claim.figure) for check in claim.checks]


def verdict(claim: Claim, results: Results) -> str:
    """The verdict on a claim."""
    return verdicts.together(found.verdict for found in judge(claim, results))


def page(results: Results) -> str:
    """The text of docs/claims.md.

    Args:
      results: from `read`.
    """
    parts = [_HEAD.strip(), _counts(results)]
    for paper in PAPERS:
        ours = [claim for claim in CLAIMS if claim.paper == paper]
        parts += [f"## {paper}", _table(ours, results)]
        parts += [_section(claim, results) for claim in ours]
    parts += ["## The numbers that the papers print", _printed_numbers(results)]
    return "\n\n".join(parts) + "\n"


def _counts(results: Results) -> str:
    """How many claims of each paper hold."""
    header = ["paper", HOLDS, FAILS, OPEN, MISSING]
    lines = []
    for paper in PAPERS:
        counted = collections.Counter(
            verdict(claim, results) for claim in CLAIMS if claim.paper == paper
        )
        lines.append([paper, *(str(counted[word]) for word in header[1:])])
    return report.markdown(header, lines)


def _table(claims: Sequence[Claim], results: Results) -> str:
    lines = []
    for claim in claims:
        linked = f"[{claim.says}](#{claim.name})"
        lines.append([linked, claim.place, f"**{verdict(claim, results)}**"])
    return report.markdown(["claim", "where", "here"], lines)


def _section(claim: Claim, results: Results) -> str:
    """All that is known of one claim."""
    found = judge(claim, results)
    lines = [
        f'### <a id="{claim.name}"></a>{claim.says}',
        "",
        f"{claim.place[0].upper()}{claim.place[1:]}. **{_title(verdict(claim, results))}.**",
        "",
    ]
    if claim.figure in results or claim.figure == ALL or not claim.figure:
        lines += [f"- {_title(one.verdict)}: {one.words.rstrip('.')}." for one in found]
    printed = claim.printed or _printed(claim, results)
    if printed:
        lines.append(f"- The paper: {printed}.")
    if claim.reason and claim.checks:
        lines.append(f"- {claim.reason}")
    lines += [f"- {text}" for text in _measured_with(claim, results)]
    return "\n".join(lines)


def _title(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _printed(claim: Claim, results: Results) -> str:
    """What the paper prints of the optimizers that a claim is about."""
    texts = []
    for check in claim.checks:
        folder = getattr(check, "case", None)
        case = results.get(claim.figure, {}).get("cases", {}).get(folder)
        if case:
            finals = Finals(case)
            names = (check.ours, *getattr(check, "others", ()))
            known = {name: finals.printed(name) for name in names}
            numbers = [f"{name} {value:.2f}" for name, value in known.items() if value is not None]
            if numbers:
                texts.append(f"{', '.join(numbers)} ({finals.heading})")
    return "; ".join(texts)


def _measured_with(claim: Claim, results: Results) -> list[str]:
    """The command, and what there was less of than the protocol asks for."""
    if claim.figure == ALL:
        return ["Over all figures of [the page of numbers](numbers.md)."]
    if not claim.figure:
        return []
    if claim.figure not in results:
        return [f"`{_command_of(claim.figure)}` measures it; nobody has yet."]
    figure = results[claim.figure]
    if claim.figure.startswith(WATCHING):
        return [f"`{figure['command']}`: {figure['config']['num_runs']} runs."]
    text = f"`{keeping.command(figure)}`: {figure['config']['num_runs']} runs"
    lines = ["; ".join([text, *_shortages(claim, figure), *_on_seeds(claim, figure)]) + "."]
    if any(one.verdict == MISSING for one in judge(claim, results)):
        lines.append(f"What is missing is measured by `{_command_of(claim.figure)}`.")
    return lines


def _command_of(figure: str) -> str:
    """The command that would measure a figure."""
    if figure.startswith(WATCHING):
        name = figure.partition("/")[2]
        return f"python -m experiments.watching --optimizer={name} --data_dir=DIR"
    return f"python -m experiments.reproduce --figure={figure} --train --data_dir=DIR"


def _shortages(claim: Claim, figure: Kept) -> list[str]:
    """What there was less of than the figure or the protocol asks for."""
    found = []
    runs = figure["config"]["num_runs"]
    asked = papers.FIGURES[figure["figure"]].num_runs
    if any(case["about"]["num_steps"] == PERCEPTRON_RUNS for case in figure["cases"].values()):
        asked = max(asked, PERCEPTRON_RUNS)
    if runs < asked:
        found.append(f"fewer than the {asked} that the protocol asks for")
    tune_runs = figure["config"]["tune_runs"]
    if tune_runs < statistics.LEAST_RUNS:
        found.append(
            f"rates tuned on {tune_runs} runs, where {statistics.LEAST_RUNS} are asked for"
        )
    return found


def _on_seeds(claim: Claim, figure: Kept) -> list[str]:
    """How many seeds of meta-training a claim's intervals are over, if it is about any."""
    seeds = _seeds(claim, figure)
    if not seeds:
        return []
    fewest = min(seeds)
    if fewest == 1:
        return [
            f"one seed of meta-training, so this is about these weights (a method asks for {SEEDS})"
        ]
    text = f"intervals are over {fewest} seeds of meta-training as well"
    return [text if fewest >= SEEDS else f"{text} (a method asks for {SEEDS})"]


def _seeds(claim: Claim, figure: Kept) -> list[int]:
    """How many seeds of meta-training the learned optimizers of a claim have."""
    counts = []
    for check in claim.checks:
        case = figure["cases"].get(getattr(check, "case", ""))
        if case and Finals(case).has(check.ours):
            counts.append(Finals(case).num_seeds(check.ours))
    return [count for count in counts if count is not None]


def _printed_numbers(results: Results) -> str:
    """All numbers that the papers print, beside ours."""
    lines = []
    for name, figure in results.items():
        for case in figure.get("cases", {}).values():
            lines += _numbers_of(name, Finals(case))
    head = (
        "A number is *the same* where our interval, widened by the rounding of two digits, holds "
        "it. The papers give no intervals, and no seeds of meta-training: that a number is another "
        "says nothing of a claim.\n\n"
    )
    return head + report.markdown(["figure", "case", "optimizer", "paper", "here", ""], lines)


def _numbers_of(figure: str, case: Finals) -> Iterable[list[str]]:
    for name in case.names():
        printed = case.printed(name)
        if printed is None:
            continue
        summary = case.summary(name)
        low, high = float(summary["low"]), float(summary["high"])
        word = "the same"
        if printed < low - ROUNDING:
            word = "here higher"
        elif printed > high + ROUNDING:
            word = "here lower"
        yield [figure, case.heading, name, f"{printed:.2f}", report.interval(summary), word]
