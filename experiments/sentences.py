"""Numbers within sentences of the pages: written by experiments.numbers, as tables are.

A sentence is data: its page, its words, and what stands in the place of each number. Who changes
the words on the page changes them here; a test tells where the two differ.
"""

import os
import re
from collections.abc import Callable, Mapping

from experiments import costs
from experiments.saying import Measured, Sentence, difference, held, over_the_run
from learned_opt.evaluation import report

_SUITE = "small"  # the run of the suite that pages speak of
_ALONE = r"(?:[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?|inf)"
_NUMBER = rf"{_ALONE}(?:\s+\[{_ALONE},\s+{_ALONE}\])?"  # also with its interval


def _quadratics(measured: Measured) -> dict[str, str]:
    case = measured.figures["l2l-quadratics"]["cases"]["quadratic-100"]
    training = case["trainings"]["lstm-quadratic"]
    best = report.best_baseline(case["rows"], case["about"]["final"])
    below = difference(training["against"][best], "below")
    return {"final": report.interval(training["summary"]), "difference": below}


def _final_of_art(measured: Measured) -> dict[str, str]:
    row = measured.figures["l2l-fig8"]["cases"]["neural-art-256"]["rows"]["neural-art"]
    return {"final": f"{report.last(row, None)['mean']:.3g}"}


def _two_finals(measured: Measured) -> dict[str, str]:
    row = measured.figures["rnnprop-table2"]["cases"]["mlp-100"]["rows"]["Adam"]
    return {
        "last": f"{row['loss']['100']['mean']:.3f}",
        "seen": f"{row['measure']['loss on what it saw']['mean']:.3f}",
        "paper": f"{row['paper']:.2f}",
    }


def _ends(
    figure: str,
    case: str,
    **names: str,
) -> Callable[[Measured], dict[str, str]]:
    """Where optimizers end in a case, by its own final measure."""

    def numbers(measured: Measured) -> dict[str, str]:
        of_case = measured.figures[figure]["cases"][case]
        final = of_case["about"]["final"]
        rows = of_case["rows"]
        return {
            place: f"{report.last(rows[name], final)['mean']:.2f}" for place, name in names.items()
        }

    return numbers


def _goals(**whats: str) -> Callable[[Measured], dict[str, str]]:
    """What the whole suite measured of some goals, by their words, with intervals."""

    def numbers(measured: Measured) -> dict[str, str]:
        (suite,) = [suite for suite in measured.suites if suite["name"] == _SUITE]
        goals = {goal["what"]: goal for goal in suite["summary"]["goals"]}
        found = {}
        for place, what in whats.items():
            goal = goals[what]
            found[place] = report.interval({**goal, "mean": goal["value"]}, "{:.2f}")
        return found

    return numbers


def _share_of(rival: str) -> str:
    return f"share of the steps of {rival}, geometric mean"


def _of_costs(**places: tuple[str, str, dict[str, str]]) -> Callable[[Measured], dict[str, str]]:
    """Numbers of the benchmarks' tables: of each its format, its column and its line."""

    def numbers(measured: Measured) -> dict[str, str]:
        found = {}
        for name, (shown, column, where) in places.items():
            found[name] = shown.format(costs.number(costs.cell(measured.costs, column, **where)))
        return found

    return numbers


def _bias(estimator: str) -> tuple[str, str, dict[str, str]]:
    return "{:.2f}", "bias (error), untrained", {"estimator": estimator, "life": "100"}


def _noise(shown: str, estimator: str) -> tuple[str, str, dict[str, str]]:
    return shown, "noise, untrained", {"estimator": estimator, "life": "100"}


def _of_window(shown: str, column: str, method: str) -> tuple[str, str, dict[str, str]]:
    return shown, column, {"coordinates": "15,910", "method": method}


def _beside_muon(matrices: str) -> tuple[str, str, dict[str, str]]:
    return "{:.2f}", "time / muon", {"optimizer": "general", "matrices": matrices}


_GENERAL, _STYLE, _CIFAR = "docs/general.md", "docs/style.md", "docs/cifar.md"
_MNIST = "docs/mnist.md"
_LABELS = {"ten": "cifar10-1000", "five": "cifar5-1000", "two": "cifar2-1000"}

SENTENCES = (
    Sentence(
        "README.md",
        "it ends at {final}, below the best of eleven tuned first-order rivals by {difference} (",
        _quadratics,
    ),
    Sentence(
        "docs/why/final_loss.md",
        "the first is {last} and the second {seen}; the 2017 paper prints {paper}.",
        _two_finals,
    ),
    Sentence(
        _MNIST,
        "with ELU they lie so far apart ({first}, {second}, {third})",
        _ends(
            "rnnprop-table2",
            "mlp-elu-100",
            first="lstm-mnist",
            second="lstm-mnist:1",
            third="lstm-mnist:2",
        ),
    ),
    Sentence(
        _MNIST,
        "The weights that ship do fail, at {first} where Adam is at {adam}; those of two other "
        "seeds end at {second} and {third}, a little above it.",
        _ends(
            "rnnprop-fig2",
            "mlp-all-data-2000",
            first="lstm-mnist",
            second="lstm-mnist:1",
            third="lstm-mnist:2",
            adam="Adam",
        ),
    ),
    Sentence(
        "docs/why/adjoint.md",
        "without second derivatives is off by {bias} of the full one",
        _of_costs(bias=_bias("adjoint, window 100")),
    ),
    Sentence(
        "docs/why/adjoint.md",
        "a window of 20 takes {ours} MiB of temporary memory where reverse mode through "
        "everything takes {theirs}, and is {times} times as fast",
        _of_costs(
            ours=_of_window("{:.0f}", "temporary MiB", "adjoint"),
            theirs=_of_window("{:.0f}", "temporary MiB", "naive"),
            times=_of_window("{:.1f}", "naive / time", "adjoint"),
        ),
    ),
    Sentence(
        "docs/why/truncation.md",
        "windows of 20 are off by {short} of the whole gradient; one window of a hundred, without "
        "second derivatives, by {whole}.",
        _of_costs(short=_bias("adjoint"), whole=_bias("adjoint, window 100")),
    ),
    Sentence(
        "docs/why/truncation.md",
        "one estimate of `Adjoint` has a noise of {adjoint} at fresh weights, one of `PES` {pes}, "
        "one of `NRES` {nres}.",
        _of_costs(
            adjoint=_noise("{:.2f}", "adjoint"),
            pes=_noise("{:.1f}", "pes"),
            nres=_noise("{:.1f}", "nres"),
        ),
    ),
    Sentence(
        _GENERAL,
        "In the mean it needs {adam} of the steps of tuned Adam, {adamw} of those of tuned AdamW, "
        "and {muon} of those of tuned Muon.",
        _goals(
            adam=_share_of("adam-tuned"),
            adamw=_share_of("adamw-tuned"),
            muon=_share_of("muon-tuned"),
        ),
    ),
    Sentence(
        _GENERAL,
        "With nothing tuned it needs {share} of the steps of Muon at one frozen setting,",
        _goals(share=_share_of("muon (frozen)")),
    ),
    Sentence(
        _GENERAL,
        "In the mean its final losses are {ratio} times those of its ablation,",
        _goals(ratio="final loss over that of general-ablated, geometric mean"),
    ),
    Sentence(
        _GENERAL,
        "an update of 10^6 parameters takes {one} times Muon's as one matrix, {sixteen} times as "
        "sixteen of 250 x 250, and {many} times as 256 of 62 x 62",
        _of_costs(
            one=_beside_muon("1 x 1000 x 1000"),
            sixteen=_beside_muon("16 x 250 x 250"),
            many=_beside_muon("256 x 62 x 62"),
        ),
    ),
    Sentence(
        _STYLE,
        "with rates tuned for 32 steps it is below the best baseline, Adam, by {adam} after these, "
        "and below L-BFGS by {l_bfgs}.",
        held(
            "l2l-fig8",
            "neural-art-32",
            "neural-art",
            adam=("Adam", "below"),
            l_bfgs=("L-BFGS", "below"),
        ),
    ),
    Sentence(
        _STYLE,
        "Of its four rivals it is below NAG by {nag}, below RMSprop and SGD by more, and there is "
        "no difference to Adam.",
        held("l2l-fig8", "neural-art-128", "neural-art", nag=("NAG", "below")),
    ),
    Sentence(
        _STYLE,
        "it is below L-BFGS, which evaluates the function several times a step, by {l_bfgs}, and "
        "*above* AdamW with cosine decay by {adamw}.",
        held(
            "l2l-fig8",
            "neural-art-128",
            "neural-art",
            l_bfgs=("L-BFGS", "below"),
            adamw=("AdamW-cosine", "above"),
        ),
    ),
    Sentence(_STYLE, "after 256 steps it stands at {final}, no difference to Adam", _final_of_art),
    Sentence(
        _STYLE,
        "it is below NAG by {nag} and AdamW with cosine decay by {adamw}, and *above* L-BFGS by "
        "{l_bfgs}. SGD and RMSprop were not measured there.",
        held(
            "l2l-fig8",
            "neural-art-double-128",
            "neural-art",
            nag=("NAG", "below"),
            adamw=("AdamW-cosine", "below"),
            l_bfgs=("L-BFGS", "above"),
        ),
    ),
    Sentence(
        _CIFAR,
        "above that of tuned Adam on all three data sets: by {ten} with ten labels, {five} with "
        "five, {two} with two.",
        over_the_run("l2l-fig7", "lstm-cifar10", "Adam", "above", **_LABELS),
    ),
    Sentence(
        _CIFAR,
        "than the LSTM that was trained on all labels, by {five} with five and {two} with two; at",
        over_the_run(
            "l2l-fig7",
            "lstm-cifar10-sub",
            "lstm-cifar10",
            "below",
            five=_LABELS["five"],
            two=_LABELS["two"],
        ),
    ),
    Sentence(
        _CIFAR,
        "and by less over the run ({run})",
        over_the_run("cifar-others", "lstm-cifar10", "Adam", "above", run="cifar10-2x12-1000"),
    ),
    Sentence(
        _CIFAR,
        "the test loss rises by {end}, and",
        held(
            "cifar-others",
            "cifar10-2x12-1000",
            "lstm-cifar10-going-on",
            end=("lstm-cifar10", "above"),
        ),
    ),
    Sentence(
        _CIFAR,
        "and that over the run by {run}.",
        over_the_run(
            "cifar-others",
            "lstm-cifar10-going-on",
            "lstm-cifar10",
            "above",
            run="cifar10-2x12-1000",
        ),
    ),
)


def written(
    page: str,
    text: str,
    measured: Measured,
) -> str:
    """A page with the numbers of its sentences written anew.

    Args:
      page: its path, from the root of the repository.
      text: what it says.
      measured: what the numbers are taken from.
    """
    for sentence in SENTENCES:
        if os.path.normpath(sentence.page) == os.path.normpath(page):
            found = pattern(sentence).search(text)
            if found:
                text = _replaced(text, found, sentence.numbers(measured))
    return text


def pattern(sentence: Sentence) -> re.Pattern:
    """What a sentence looks like on its page, with any numbers and any line breaks."""
    parts = []
    for i, part in enumerate(re.split(r"\{(\w+)\}", sentence.words)):
        if i % 2:
            parts.append(f"(?P<{part}>{_NUMBER})")
        else:
            parts.append(r"\s+".join(map(re.escape, re.split(r"\s+", part))))
    return re.compile("".join(parts))


def _replaced(
    text: str,
    found: re.Match,
    numbers: Mapping[str, str],
) -> str:
    for name in sorted(found.groupdict(), key=found.start, reverse=True):
        if " ".join(found[name].split()) != numbers[name]:  # or else a line may break within it
            text = text[: found.start(name)] + numbers[name] + text[found.end(name) :]
    return text
