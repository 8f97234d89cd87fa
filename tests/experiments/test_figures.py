"""The papers' figures on the embedded digits, so small that they take seconds."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from experiments import (
    art,
    families,
    figures,
    held_out,
    inverse_time,
    learned,
    numbers,
    papers,
    plans,
    reproduce,
    summaries,
    tables,
    training,
)
from experiments.families import FamilySpec
from learned_opt import data, optimizees
from learned_opt.evaluation import baselines, comparison, cost, report, statistics
from learned_opt.meta import evaluating
from learned_opt.meta.unrolling import Run
from learned_opt.optimizees import base
from tests.experiments.programs import in_process, program

TINY = plans.Config(dataset="digits", baselines="SGD,Adam", num_runs=3, tune_runs=1, num_steps=4)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where all recipes are, as if they had been trained, with weights at random."""
    folder = tmp_path_factory.mktemp("train")
    kinds = {
        "lstm": learned_opt.lstm(hidden_sizes=(1,)),
        "rnnprop": learned_opt.rnnprop(hidden_sizes=(1,)),
    }
    names = set()
    for figure in papers.FIGURES.values():
        names.update(re.split("[@+]", name)[0] for name in figure.optimizers.split(","))
    for name in names:
        recipe, _, seed = name.partition(":")
        opt = kinds["lstm" if "lstm" in name else "rnnprop"]
        for i, file in enumerate(("optimizer", "snapshots/100", "snapshots/200", "snapshots/300")):
            learned_opt.save(
                folder / learned.folder(recipe, int(seed or 0)) / file,
                opt,
                opt.init(jax.random.key(i)),
            )
    return learned.Places(str(folder), None, False)


@pytest.fixture
def measured(monkeypatch):
    """Figures whose measurements are made up.

    What is around them is tested on all cases in little time.
    """
    calls = []

    def tune_all(problem, key, num_steps, num_runs, names, path, measure, last):
        del problem, key, num_runs, path, measure
        calls.append(("tune", num_steps, last))
        rates, grid = np.geomspace(1e-6, 1, 30), np.linspace(1, 9, 30)
        runs, tied = np.full(30, 20), (0.1,)
        return {
            name: baselines.Tuned(
                name, 0.1, 1.0, baselines.baseline(name, 0.1, num_steps), rates, grid, runs, tied
            )
            for name in names
        }

    def compare(transformations, problem, key, num_steps, num_runs, *, tuned, measure, costs, path):
        del problem, key, path
        calls.append(("compare", num_steps))
        curves = {}
        for i, name in enumerate([*tuned, *transformations]):
            # Far above the two baselines, so that a few seeds are enough for a verdict.
            level = i + 1.0 if i < 2 else 30.0 + i
            curve = level * np.linspace(2, 1, num_steps + 1)
            curves[name] = curve * np.ones((num_runs, 1))
        curves[next(iter(transformations))][0, -1] = np.inf
        measures = {}
        if measure:
            measures = {name: dict.fromkeys(measure, c[:, -1]) for name, c in curves.items()}
        kinds = {name: comparison.kind_of(tx) for name, tx in transformations.items()}
        timed = {name: cost.Cost(1.0, 0.5, 8.0) for name in curves}
        return comparison.Comparison(
            curves=curves,
            tuned=tuned,
            measures=measures,
            costs=timed if costs else {},
            kinds={**dict.fromkeys(tuned, "tuned"), **kinds},
        )

    monkeypatch.setattr(comparison, "tune_all", tune_all)
    monkeypatch.setattr(comparison, "compare", compare)
    short = {name: dataclasses.replace(f, cases=f.cases[:2]) for name, f in papers.FIGURES.items()}
    monkeypatch.setattr(papers, "FIGURES", short)
    return calls


# One figure of each kind: with seeds and references, a grid of panels, a measure as the final loss,
# snapshots beside printed numbers. The others are the second tier.
SHORT_LIST = ("l2l-v1-fig4", "l2l-fig6", "rnnprop-fig2", "rnnprop-table4")
FIGURES = [
    pytest.param(name, marks=() if name in SHORT_LIST else pytest.mark.thorough)
    for name in papers.FIGURES
]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_ends_in_tables_and_pictures(name, measured, places, tmp_path, capsys):
    plan = plans.plan(name, TINY, places)
    figures.run(plan, tmp_path / "work", tmp_path / "tuned")
    shown = capsys.readouterr().out
    assert (tmp_path / "work" / "table.md").read_text() in shown
    summary = json.loads((tmp_path / "work" / "summary.json").read_text())
    config = json.loads((tmp_path / "work" / "config.json").read_text())
    assert set(config["config"]["weights"]) == set(plan.found)
    assert config["environment"]["versions"]["jax"] == jax.__version__
    assert len(summary["cases"]) == len(plan.cases)
    for case in plan.cases:
        folder = f"{case.name}-{case.num_steps}"
        rows = summary["cases"][folder]
        for file in (
            "curves.npz",
            "finals.npz",
            "curves.png",
            "rates.png",
            "table.md",
            "summary.json",
        ):
            assert (tmp_path / "work" / folder / file).stat().st_size > 0
        tuned = case.baselines_of(["SGD", "Adam"])
        assert list(rows) == [*tuned, *plan.transformations(case.num_steps)]
        assert rows["Adam"]["paper"] == case.paper.get("Adam")
        table = (tmp_path / "work" / folder / "table.md").read_text()
        assert ("test accuracy" in table) == case.family.builder.has_minibatches
        assert {rows[name]["kind"] for name in plan.found} == {"learned"}
    assert "no verdict from 3 runs, 20 are needed" in shown
    has_seeds = any(":" in name for name in plan.found)
    assert ("above SGD by " if has_seeds else "above SGD (the best tuned baseline) by ") in shown
    assert "33 % diverged" in shown
    assert ("- Training " in shown) == has_seeds


def test_seeds_of_a_training_meet_everything_else():
    """Each rival of a claim is held against all seeds at once, not only the best of them."""
    noise = np.random.default_rng(0).normal(size=20)
    levels = {"a": 0.1, "a:1": 0.2, "a:2": 0.3, "b": 0.5, "c": 0.4, "c:1": 0.6, "c:2": 0.7}
    levels |= {"SGD": 1.0, "Adam": 0.9, "frozen": 2.0}
    values = {name: level + 0.01 * noise for name, level in levels.items()}
    kinds = {"SGD": "tuned", "Adam": "tuned", "frozen": "given"}
    rows = {}
    for name, losses in values.items():
        loss = {"4": statistics.summarize(losses)._asdict()}
        rows[name] = {"kind": kinds.get(name, "learned"), "loss": loss}
    found = summaries.trainings(report.Report(rows, {}, values))
    assert list(found) == ["a", "c"]
    assert set(found["a"]["against"]) == {"b", "c", "SGD", "Adam", "frozen"}
    for other in ("b", "SGD", "Adam", "frozen"):
        np.testing.assert_allclose(found["a"]["against"][other]["mean"], 0.2 - levels[other])
    assert found["a"]["against"]["SGD"]["num_runs"] == 20
    text = tables.training("a", found["a"], ["Adam", "frozen", "c"])
    assert re.search("below Adam by .*; below frozen by .*; (below|no difference to) c", text)
    assert "SGD" not in text


def test_what_is_done_is_not_measured_again(measured, places, tmp_path, capsys):
    plan = plans.plan("l2l-fig5", TINY, places)
    figures.run(plan, tmp_path / "work", tmp_path / "tuned")
    shown = capsys.readouterr().out
    assert measured == [("tune", 4, 1), ("compare", 4)] * 2
    (tmp_path / "work" / "overview.png").unlink()
    figures.run(plan, tmp_path / "work", tmp_path / "tuned")
    assert capsys.readouterr().out == shown
    assert (tmp_path / "work" / "overview.png").exists()
    assert len(measured) == 4


def test_the_papers_numbers_stand_beside_ours():
    table = {case.position: case.paper for case in papers.FIGURES["rnnprop-table2"].cases}
    assert table["ELU"] == {"Adam": 0.26, "lstm": 13.51, "rnnprop": 0.24}
    sigmoid, relu = (case.paper for case in papers.FIGURES["rnnprop-table4"].cases)
    assert sigmoid["ablation-no-convex@2/3"] == 0.32
    assert relu["ablation-rnnprop@1"] == 0.27


def cases_by_name():
    known = {}
    for figure in papers.FIGURES.values():
        for case in figure.cases:
            # One name is one family, whose baselines are tuned once.
            assert known.setdefault(case.name, case).family == case.family
    return known


def test_cases_of_one_name_are_one_family():
    assert len(cases_by_name()) > 30


@pytest.mark.thorough
def test_every_case_is_a_family():
    """Shapes alone: nothing is compiled."""
    digits, photographs = data.load("digits"), art.embedded()
    for name, case in cases_by_name().items():
        is_of_pictures = case.family.builder.of_pictures
        subject, measures = case.build(photographs if is_of_pictures else digits)
        family = base.as_family(subject.family)
        problem = jax.eval_shape(base.begin, family, KEY)
        loss, _ = jax.eval_shape(
            family.loss, problem.theta_0, problem.instance, KEY, problem.statistics
        )
        assert loss.shape == (), name
        run = Run(jnp.zeros(3), problem.theta_0, problem.statistics)
        for measure in measures.values():
            bound = evaluating.as_measure({"it": measure})
            assert jax.eval_shape(bound, run, problem)["it"].shape == ()


def test_a_curve_on_held_out_data_has_the_gradient_of_the_training_loss():
    train, test = data.load("digits")
    family = optimizees.mlp(train, width=2, batch_size=4, held_out=test)
    theta = family.init(KEY, ())

    @jax.jit
    def everything(theta):
        shown = held_out.shown(family)
        return (
            jax.value_and_grad(shown.loss)(theta, (), KEY),
            (family.held_out(theta, (), KEY), jax.grad(family.loss)(theta, (), KEY)),
        )

    jax.tree.map(np.testing.assert_array_equal, *everything(theta))
    with pytest.raises(ValueError, match="needs a family that has some"):
        held_out.shown(optimizees.mlp(train))


def test_a_table_of_measures_stands_where_several_are_judged():
    summary = {"mean": 0.5, "low": 0.4, "high": 0.6}
    row = {"measure": {"test loss": summary, "training loss": {**summary, "mean": 0.45}}}
    assert tables.measures({"mine": row}) == ""
    text = tables.measures({"mine": {**row, "also": {}}, "Adam": row})
    assert "| optimizer | test loss      | training loss   |" in text
    assert "| mine      | 0.5 [0.4, 0.6] | 0.45 [0.4, 0.6] |" in text


def test_digits_stand_in_for_cifar10_where_a_case_says_so(places):
    config = dataclasses.replace(TINY, dataset="digits")
    cases = plans.plan("l2l-fig7", config, places).cases
    assert [case.dataset_for("digits") for case in cases] == ["digits"] * 3
    assert [case.dataset_for("mnist") for case in cases] == ["cifar10"] * 3
    subject, measures = cases[2].build(data.load("digits"))
    assert (subject.splits.train.num_classes, subject.splits.train.images.shape[1]) == (2, 8)
    assert {"test loss", "test loss over the run", "training loss"} < set(measures)
    assert len(plans.plan("rnnprop-fig7", config, places).cases) == 2


def test_figures_on_digits_in_minutes(tmp_path):
    """From a clone, where nothing is trained: of the learned ones those that ship."""
    places = learned.Places(str(tmp_path), None, False)
    for name in ("l2l-fig7", "cifar-others"):
        plan = plans.plan(name, plans.Config(dataset="digits"), places)
        assert plan.is_embedded
        assert list(plan.found) == ["lstm-cifar10"]
        assert set(plan.config.baselines.split(",")) <= {"Adam", "NAG"}
    with pytest.raises(FileNotFoundError, match="'lstm-cifar10-sub' is not trained yet"):
        plans.plan("l2l-fig7", plans.Config(dataset="digits"), places, in_full=True)
    assert not plans.plan("l2l-fig4", plans.Config(dataset="digits"), places).is_embedded


def test_an_embedded_edition_is_not_kept_as_the_figure(measured, places, tmp_path):
    plan = plans.plan("l2l-fig7", TINY, places)
    figures.run(plan, tmp_path / "results" / "work", tmp_path / "tuned")
    config = json.loads((tmp_path / "results" / "work" / "config.json").read_text())
    assert config["config"]["edition"] == plans.EDITION
    assert numbers.collect(str(tmp_path / "results"), str(tmp_path / "kept")) == []


def test_the_base_mlp_is_that_of_the_library():
    """A name means one family, however a case comes to it."""
    digits = data.load("digits")
    theta = optimizees.mlp("digits").init(KEY, ())
    for spec in (FamilySpec("mlp"), FamilySpec("mlp", {"activation": "sigmoid", "width": 20})):
        subject = spec.build(digits)
        loss = subject.family.loss(theta, (), KEY)
        assert loss == optimizees.mlp("digits").loss(theta, (), KEY)


def test_the_loss_on_all_data_is_that_of_one_batch_of_all():
    digits = data.load("digits").train
    # More than are read at once.
    digits = digits._replace(images=digits.images[:1_003], labels=digits.labels[:1_003])
    subject = FamilySpec("mlp").build(data.Splits(digits, digits))
    measures = subject.measures(all_data=True)
    theta = subject.family.init(KEY, ())
    logits = subject.network.apply({"params": theta}, digits.images)
    chosen = jax.nn.log_softmax(logits)[np.arange(1_003), digits.labels]
    np.testing.assert_allclose(measures[families.ALL_DATA](theta), -chosen.mean(), rtol=1e-5)
    right = np.mean(np.argmax(logits, -1) == digits.labels)
    np.testing.assert_allclose(measures[families.ACCURACY](theta), right, rtol=1e-6)


def test_theta_of_a_wrapped_family_is_no_network_s():
    """Nothing is measured by the network where theta has other scales, or more in it."""
    digits = data.load("digits")
    assert FamilySpec("mlp", scaling=3.0).build(digits).measures() == {}
    assert FamilySpec("mlp", convex=True).build(digits).measures() == {}


@pytest.mark.thorough
def test_from_the_command_line_interrupted_and_resumed(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "evaluating", Interrupting(comparison.evaluating, after=1))
    config = dataclasses.replace(
        TINY, optimizers="lstm-mnist", num_steps=2, baselines="Adam", num_runs=2
    )
    plan = plans.plan("rnnprop-fig3", config, places)
    work, tuned = tmp_path / "work", tmp_path / "tuned"
    with pytest.raises(KeyboardInterrupt):
        figures.run(plan, work, tuned)
    assert [file.name for file in (work / "mlp-all-data-2" / "runs").iterdir()] == [
        "lstm-mnist.npz"
    ]
    kept = (work / "mlp-all-data-2" / "runs" / "lstm-mnist.npz").stat().st_mtime_ns
    assert kept

    flags = [
        "--figure=rnnprop-fig3",
        "--dataset=digits",
        "--optimizers=lstm-mnist",
        "--num_steps=2",
        "--baselines=Adam",
        "--num_runs=2",
        "--tune_runs=1",
        f"--train_dir={places.train_dir}",
        f"--tuned_dir={tuned}",
        f"--workdir={work}",
    ]
    done = program("reproduce", *flags)
    assert done.returncode == 0, done.stderr
    assert "| lstm-mnist " in done.stdout
    assert "evaluating: 100%" in done.stderr
    assert not (work / "mlp-all-data-2" / "runs").exists()
    rows = json.loads((work / "mlp-all-data-2" / "summary.json").read_text())
    assert set(rows["Adam"]["measure"]) == {families.ALL_DATA, families.ACCURACY}
    assert min(rows["Adam"]["tuned"]["grid"]) < rows["Adam"]["loss"]["1"]["mean"]

    assert in_process(reproduce, *flags, "--evaluation_seed=1") == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "belongs to a run with evaluation_seed=0, not 1" in last_line


class Interrupting:
    """The module, until so many optimizers are evaluated."""

    def __init__(self, module, after):
        self._module, self._left = module, after

    def __getattr__(self, name):
        return getattr(self._module, name)

    def evaluate_with(self, *args):
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        return self._module.evaluate_with(*args)


# A life takes seconds there: fewer runs to tune on, and no rivals whose constants are fixed.
LONG_LIVES = ("l2l-fig7", "cifar-others")


def test_what_was_taught_stands_beside_its_teacher(places):
    """And beside the part of it that nothing was learned for, and beside frozen rivals."""
    plan = plans.plan("long-others", TINY, places)
    names = list(plan.transformations(4))
    assert names == [
        "rnnprop-long",
        *baselines.FROZEN,
        "its teacher",
        "Adam, 0.02 / (1 + t / 1500)",
    ]
    swept = plans.plan("rnnprop-fig3", TINY, places).transformations(4)
    assert "Adam at 0.004" in swept
    for name, figure in papers.FIGURES.items():
        assert figure.num_runs >= 20
        if name in LONG_LIVES:
            continue
        assert figure.frozen == tuple(baselines.FROZEN)
        assert figure.tune_runs >= 20


def test_weights_with_a_state_of_another_dtype(places):
    found = learned.find("rnnprop-mnist+bfloat16", places)
    assert found.opt.spec["args"]["state_dtype"] == "bfloat16"
    assert found.name == "rnnprop-mnist+bfloat16"
    assert found.note == "comes with the library, state in bfloat16"
    assert learned.without_seed("a:2@1/3") == "a@1/3"


def test_the_frozen_constants_are_chosen_by_their_losses():
    """So short that all that counts is to begin fast."""
    found = inverse_time.choose("digits", None, num_runs=2, steps=(4, 20))
    first, _ = inverse_time.pairs()[found.best]
    assert first >= 0.032
    assert len(found.rates) == len(inverse_time.pairs())


def test_where_a_name_leads(places, tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(1,))
    path = str(tmp_path / "mine.safetensors")
    learned_opt.save(path, opt, opt.init(jax.random.key(9)))
    found = learned.find_all(
        [path, f"ours={path}", "lstm-mnist", "rnnprop-mnist@1/3", "rnnprop-mnist@0.9"], places
    )
    assert list(found) == ["mine", "ours", "lstm-mnist", "rnnprop-mnist@1/3", "rnnprop-mnist@0.9"]
    assert found["mine"].digest == found["ours"].digest != found["lstm-mnist"].digest
    assert found["rnnprop-mnist@1/3"].note == "100 horizons"
    assert found["rnnprop-mnist@0.9"].note == "300 horizons"


def test_what_is_not_trained_is_trained_or_told(tmp_path, monkeypatch):
    places = learned.Places(str(tmp_path), "data", False)
    with pytest.raises(
        FileNotFoundError,
        match="python -m experiments.train --recipe=ablation-lstm --seed=2 "
        f"--data_dir=data --workdir={tmp_path}/ablation-lstm-seed2 trains it, "
        "and so does experiments.reproduce with --train",
    ):
        learned.find("ablation-lstm:2", places)
    with pytest.raises(
        ValueError,
        match="the seed of 'ablation-lstm:x' must be a whole number, as in ablation-lstm:1",
    ):
        learned.find("ablation-lstm:x", places)
    with pytest.raises(
        ValueError, match=r"unknown optimizer 'ablation-lst'. Did you mean 'ablation-lstm'"
    ):
        learned.find("ablation-lst", places)

    def run_recipe(name, data_dir, workdir, seed):
        assert (name, data_dir, seed) == ("ablation-lstm", "data", 0)
        opt = learned_opt.lstm(hidden_sizes=(1,))
        learned_opt.save(f"{workdir}/optimizer", opt, opt.init(KEY))

    monkeypatch.setattr(training, "run_recipe", run_recipe)
    assert learned.find("ablation-lstm", places._replace(train=True)).name == "ablation-lstm"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rnnprop-table5", {}, "unknown figure 'rnnprop-table5'. Did you mean 'rnnprop-table"),
        ("l2l-fig4", {"dataset": "mnst"}, "unknown data set 'mnst'. Did you mean 'mnist'"),
        ("l2l-fig4", {"baselines": "Adm"}, "unknown baseline 'Adm'. Did you mean 'Adam'"),
        ("l2l-fig4", {"num_runs": -1}, "num_runs must be a whole number of at least 1, got -1"),
        ("l2l-fig4", {"optimizers": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        (
            "l2l-fig4",
            {"optimizers": "lstm-mnist,lstm-mnist"},
            "two optimizers are called 'lstm-mnist'",
        ),
        (
            "l2l-fig4",
            {"optimizers": "lstm-mnist@x"},
            "the fraction of 'lstm-mnist@x' must be like 1/3 or 0.5",
        ),
    ],
)
def test_what_is_wrong_is_told_beforehand(name, settings, message, places):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace(".", r"\.")):
        plans.plan(name, dataclasses.replace(TINY, **settings), places)


def test_a_case_that_is_not_there(places):
    with pytest.raises(ValueError, match=r"unknown case 'mlp-100'.* Known: 'mlp-4', 'mlp-8'"):
        plans.plan("l2l-fig4", TINY, places, ["mlp-100"])
