"""The page of claims: claims point to what exists, and verdicts follow from numbers by rule."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from experiments import keeping, papers, watched
from experiments.claims import __main__ as program
from experiments.claims import finals, page, verdicts
from experiments.claims.base import FIRST, Claim
from experiments.claims.verdicts import (
    FAILS,
    HOLDS,
    MISSING,
    OPEN,
    Above,
    Below,
    Comparable,
    Equal,
    Level,
    Lower,
    MoreThan,
    NeverDiverges,
    Seen,
)
from learned_opt.evaluation import statistics
from tests.experiments.programs import in_process

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Figures that are measured by programs which are not here yet.
ELSEWHERE = ("l2l-fig7", "l2l-fig8", "all", "")


def test_every_claim_points_to_something_that_exists():
    names = [claim.name for claim in page.CLAIMS]
    assert len(set(names)) == len(names)
    for claim in page.CLAIMS:
        known = claim.figure in papers.FIGURES or claim.figure in ELSEWHERE
        assert known or claim.figure.startswith(watched.WATCHING), claim.name
        if claim.figure in papers.FIGURES:
            folders = {case.folder for case in papers.FIGURES[claim.figure].cases}
            for check in claim.checks:
                assert {check.case, getattr(check, "than", check.case)} <= folders, claim.name
        # What is decided by nothing says why.
        assert bool(claim.checks) == bool(claim.figure)
        assert claim.checks or claim.reason or claim.test
        if claim.test:
            file, _, test = claim.test.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text()


def test_every_figure_of_the_papers_has_a_claim():
    claimed = {claim.figure for claim in page.CLAIMS}
    for name, figure in papers.FIGURES.items():
        in_papers = "20" in figure.source and name not in ("shortcuts", "l2l-v1-fig4")
        assert name in claimed or not in_papers, name


def test_the_page_is_what_the_results_say():
    """And every link of its tables leads to a claim."""
    text = (DOCS / page.PAGE).read_text()
    assert text == page.page(page.read(str(DOCS / keeping.RESULTS)))
    places = set(re.findall(r'<a id="([\w-]+)">', text))
    assert places == {claim.name for claim in page.CLAIMS}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) == places
    assert "/work" not in text


NUM_RUNS = 24


@pytest.fixture
def runs():
    """Final losses of a small figure: [cases][name] -> [runs], or [seeds, runs] of a training."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, NUM_RUNS))
    common = {"Adam": 1.0 + 0.1 * noise[0], "SGD": 1.3 + 0.1 * noise[0] + 0.01 * noise[1]}
    ours = 0.9 + 0.1 * noise[0] + 0.02 * rng.normal(size=NUM_RUNS)
    near = 1.0 + 0.1 * noise[0] + 0.05 * rng.normal(size=NUM_RUNS)
    seeds = np.stack([0.80, 0.82, 0.84])[:, None] + 0.1 * noise[0] + 0.01 * noise[1]
    frozen = 1.6 + 0.1 * noise[0] + 0.03 * rng.normal(size=NUM_RUNS)
    first = {**common, "frozen": frozen, "ours": ours, "near": near, "method": seeds}
    second = {"Adam": common["Adam"], "ours": 0.5 * common["Adam"] + 0.01 * noise[1]}
    return {"a-100": first, "b-100": second}


@pytest.fixture
def results(runs):
    """The same as docs/measured has it: what was tuned holds no paired differences."""
    cases = {}
    for folder, losses in runs.items():
        rows, trainings = {}, {}
        for name, values in losses.items():
            against = {}
            for other, theirs in losses.items():
                if other != name and theirs.ndim == 1:
                    against[other] = plain(statistics.paired(values, theirs))
            if values.ndim == 2:
                means = values.mean(axis=1).tolist()
                summary = statistics.summarize(values)._asdict()
                trainings[name] = {
                    "seeds": means,
                    "summary": summary,
                    "against": {other: against[other] for other in ("Adam", "frozen")},
                }
                continue
            kind = {"Adam": "tuned", "SGD": "tuned", "frozen": "given"}.get(name, "learned")
            rows[name] = {
                "kind": kind,
                "runs": NUM_RUNS,
                "loss": {"100": statistics.summarize(values)._asdict()},
                "diverged": 0.0,
                "paper": 0.97 if name == "Adam" else None,
                "against": {} if kind == "tuned" else against,
            }
        about = {"final": None, "heading": folder, "num_steps": 100}
        cases[folder] = {"rows": rows, "trainings": trainings, "about": about}
    return {
        "l2l-fig4": {
            "figure": "l2l-fig4",
            "config": {"num_runs": NUM_RUNS, "tune_runs": 5},
            "cases": cases,
        }
    }


def plain(difference):
    return {**difference._asdict(), "verdict": difference.verdict}


def verdict(check, results):
    return check.judge(results, "l2l-fig4").verdict


def t_interval(differences):
    """Student's, which has nothing to do with the bootstrap of the library."""
    scipy_stats = pytest.importorskip("scipy.stats")
    half = scipy_stats.t.ppf(0.975, len(differences) - 1) * scipy_stats.sem(differences)
    return differences.mean() - half, differences.mean() + half


@pytest.mark.parametrize("name", ["ours", "near"])
@pytest.mark.parametrize("rival", ["Adam", "SGD"])
def test_verdicts_are_those_of_an_independent_interval(runs, results, name, rival):
    losses = runs["a-100"]
    low, high = t_interval(losses[name] - losses[rival])
    below = HOLDS if high < 0 else FAILS if low > 0 else OPEN
    above = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    assert verdict(Below("a-100", name, (rival,)), results) == below
    assert verdict(Above("a-100", name, (rival,)), results) == above
    margin = 0.1 * losses[rival].mean()
    comparable = HOLDS if high < margin else FAILS if low > margin else OPEN
    assert verdict(Comparable("a-100", name, (rival,)), results) == comparable
    if low > -margin and high < margin:
        equal = HOLDS
    else:
        equal = FAILS if low > margin or high < -margin else OPEN
    assert verdict(Equal("a-100", name, (rival,)), results) == equal


def test_each_verdict_comes_up(results):
    """The cases above are not all of one kind."""
    assert verdict(Below("a-100", "ours", ("Adam",)), results) == HOLDS
    assert verdict(Above("a-100", "ours", ("Adam",)), results) == FAILS
    assert verdict(Below("a-100", "near", ("Adam",)), results) == OPEN
    assert verdict(Below("a-100", "near", ("Adam", "SGD")), results) == OPEN
    assert verdict(Equal("a-100", "near", ("Adam",)), results) == HOLDS
    assert verdict(Comparable("a-100", "ours", ("Adam", "SGD")), results) == HOLDS
    assert verdict(Below("a-100", "ours", ("Muon",)), results) == MISSING
    assert verdict(Below("a-100", "absent", ("Adam",)), results) == MISSING
    assert verdict(Below("c-100", "ours", ("Adam",)), results) == MISSING
    assert Below("a-100", "ours", ("Adam",)).judge(results, "l2l-fig5").verdict == MISSING


def test_two_that_never_met_are_held_against_a_third(runs, results):
    """The interval of the sum is wider than their own, and holds it."""
    case = finals.Finals(results["l2l-fig4"]["cases"]["a-100"])
    for ours, theirs in (("Adam", "SGD"), ("method", "SGD")):
        found = case.difference(ours, theirs)
        own = runs["a-100"][ours] - runs["a-100"][theirs]
        np.testing.assert_allclose(found.mean, own.mean(), rtol=1e-6)
        low, high = t_interval(own.reshape(-1, NUM_RUNS).mean(axis=0))
        assert found.low < low < high < found.high
    backwards = case.difference("SGD", "Adam")
    forwards = case.difference("Adam", "SGD")
    np.testing.assert_allclose([backwards.low, backwards.high], [-forwards.high, -forwards.low])


def test_levels_and_cases_against_each_other(runs, results):
    mean = runs["b-100"]["ours"].mean()
    assert verdict(Level("b-100", "ours", most=mean + 0.1), results) == HOLDS
    assert verdict(Level("b-100", "ours", least=mean + 0.1), results) == FAILS
    assert verdict(Level("b-100", "ours", most=mean), results) == OPEN
    assert verdict(Lower("b-100", "ours", "a-100"), results) == HOLDS
    assert verdict(Lower("a-100", "ours", "b-100"), results) == FAILS
    # A gain of half against one of a tenth.
    found = MoreThan("b-100", "ours", "a-100", "Adam").judge(results, "l2l-fig4")
    assert found.verdict == HOLDS
    assert re.search(r"below by 50% \[\d\d%, \d\d%\] on b-100, below by 1[01]% ", found.words)
    # Two cases have no runs in common, and the words say so.
    lower = Lower("b-100", "ours", "a-100").judge(results, "l2l-fig4")
    assert found.words.endswith("on a-100; unpaired")
    assert lower.words.endswith("on a-100; unpaired")
    assert verdict(MoreThan("a-100", "ours", "b-100", "Adam"), results) == FAILS
    assert verdict(MoreThan("a-100", "near", "b-100", "Adam"), results) == MISSING


def test_another_measure_than_the_final_loss(results):
    rows = results["l2l-fig4"]["cases"]["b-100"]["rows"]
    for name, mean in (("ours", 1.0), ("Adam", 0.8)):
        rows[name]["measure"] = {"course": {"mean": mean, "low": 0.9, "high": 1.1}}
    worse = {"mean": 0.2, "low": 0.1, "high": 0.3, "lower": 0.0, "num_runs": NUM_RUNS}
    rows["ours"]["also"] = {"course": {"Adam": worse}}
    assert verdict(Below("b-100", "ours", ("Adam",)), results) == HOLDS
    found = Below("b-100", "ours", ("Adam",), measure="course").judge(results, "l2l-fig4")
    assert found.verdict == FAILS
    assert found.words == "b-100, course: ours 1 [0.9, 1.1]; above Adam by 0.2 [0.1, 0.3]"


def test_divergence_and_few_runs(results):
    assert verdict(NeverDiverges("ours"), results) == HOLDS
    case = results["l2l-fig4"]["cases"]["b-100"]
    case["rows"]["ours"]["diverged"] = 0.25
    found = NeverDiverges("ours").judge(results, "all")
    assert found == (FAILS, "ours, 48 runs in 2 cases: 25% on b-100")
    case["rows"]["ours:1"] = {**case["rows"]["ours"], "diverged": 0.5}  # another seed of it
    found = NeverDiverges("ours").judge(results, "all")
    assert found.words == "ours, 72 runs in 2 cases: 25% on b-100, 50% on b-100"
    case["rows"]["ours"]["against"]["Adam"]["num_runs"] = 19
    found = Below("b-100", "ours", ("Adam",)).judge(results, "l2l-fig4")
    assert found.verdict == OPEN
    assert "no verdict from 19 runs" in found.words


def test_what_was_seen_is_judged_by_its_interval():
    numbers = {"size": {"mean": 1.5, "low": 1.2, "high": "inf"}}
    seen = {"watching/x": {"config": {"num_runs": 20}, "numbers": numbers}}
    assert Seen("size", least=1.0).judge(seen, "watching/x").verdict == HOLDS
    assert Seen("size", most=1.0).judge(seen, "watching/x").verdict == FAILS
    assert Seen("size", least=1.3).judge(seen, "watching/x").verdict == OPEN
    numbers["none"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert Seen("none", least=0.0).judge(seen, "watching/x").verdict == FAILS
    assert Seen("other", least=1.3).judge(seen, "watching/x").verdict == MISSING
    seen["watching/x"]["config"]["num_runs"] = 19
    assert Seen("size", least=1.0).judge(seen, "watching/x").verdict == OPEN


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, OPEN], OPEN),
        ([HOLDS, MISSING], OPEN),
        ([MISSING, MISSING], MISSING),
        ([HOLDS, MISSING, OPEN, FAILS], FAILS),
        ([], MISSING),
    ],
)
def test_a_claim_needs_all_of_its_checks(parts, whole):
    assert verdicts.together(parts) == whole


def test_a_section_tells_all_there_is(results, monkeypatch):
    """Numbers, what the paper prints, the command, and what there was less of."""
    checks = (Below("a-100", "ours", ("Adam", "SGD", "NAG")),)
    claim = Claim("x", "Ours is below.", FIRST, "figure 1", "l2l-fig4", checks)
    monkeypatch.setattr(keeping, "command", lambda figure: f"measure {figure['figure']}")
    monkeypatch.setattr(page, "CLAIMS", (claim,))
    text = page.page(results)
    summary = results["l2l-fig4"]["cases"]["a-100"]["rows"]["ours"]["loss"]["100"]
    assert f"- Holds: a-100: ours {summary['mean']:.3g} [{summary['low']:.3g}, " in text
    assert "the nearest of Adam, SGD; not measured: NAG." in text
    assert "- The paper: Adam 0.97 (a-100)." in text
    assert "- `measure l2l-fig4`: 24 runs; fewer than the 100 that the protocol asks for; " in text
    assert "rates tuned on 5 runs, where 20 are asked for; one seed of meta-training" in text
    of_method = dataclasses.replace(claim, checks=(Below("a-100", "method", ("Adam",)),))
    monkeypatch.setattr(page, "CLAIMS", (of_method,))
    assert "; intervals are over 3 seeds of meta-training as well." in page.page(results)
    assert re.search(r"\| Andrychowicz et al. 2016 +\| 1 +\| 0 +\| 0 +\| 0 ", text)
    assert re.search(r"\| Adam +\| 0.97 +\| \S+ \[\S+ \S+\] +\| the same", text)


def test_the_page_is_written_and_checked(tmp_path, capsys):
    docs = f"--docs={tmp_path}"
    assert in_process(program, docs, "--check") == 1
    assert "claims.md must be what docs/measured says" in capsys.readouterr().err
    assert in_process(program, docs) == 0
    assert "not measured" in (tmp_path / "claims.md").read_text()
    assert in_process(program, docs, "--check") == 0
    (tmp_path / "claims.md").write_text("holds")
    assert in_process(program, docs, "--check") == 1
