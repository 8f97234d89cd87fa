"""Learned solvers against their rivals: what is counted, and a whole run on a tiny family."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import learned_opt
from experiments import payback, racing, rivals, solvers, thousands
from experiments.rivals.base import Refinement, Rival, Task, Unrolled
from learned_opt import _files, optimizees
from tests.experiments.programs import in_process

TRAINING = {"start": 15.0, "optimizer": 45.0}


def row(seconds, solved=True, is_rival=True, share=1.0):
    return {
        "effort": 1,
        "share": share,
        "gap": 0.5,
        "solved": solved,
        "seconds": seconds,
        "is_rival": is_rival,
    }


@pytest.fixture
def rows():
    return {
        racing.OURS: row(2e-6, is_rival=False),
        racing.GUARDED: row(3e-6, is_rival=False),
        "quick": row(1e-6, solved=False, share=0.4),
        "slow": row(8e-6),
        "slower": row(20e-6),
    }


def test_when_learning_has_paid_for_itself(rows):
    """60 seconds of learning at 6 us an instance: ten million."""
    assert payback.best_rival(rows) == "slow"
    assert payback.pays_after(rows, "slow", TRAINING) == pytest.approx(1e7)
    text = payback.verdict("mine", rows, TRAINING)
    assert "is 4 times as fast as slow" in text
    assert "after 10,000,000 instances" in text


def test_what_a_method_needs_is_what_it_pays_for(rows):
    training = {**TRAINING, "numbers": 5.0}
    rows[f"{racing.WITHIN} slow"] = row(1.5e-6, is_rival=False)
    assert payback.ours(rows) == f"{racing.WITHIN} slow"
    assert payback.pays_after(rows, "slow", training) == pytest.approx(5 / 6.5e-6)
    assert payback.seconds_of(rows, racing.OURS, training) == 60


def test_where_a_classical_method_wins_it_says_so(rows):
    rows["slow"]["seconds"] = 1e-6
    assert payback.pays_after(rows, "slow", TRAINING) == float("inf")
    assert payback.verdict("mine", rows, TRAINING) == (
        "mine: slow wins, 2 times as fast as the learned solver (learned)."
    )
    assert "never" in payback.table(rows, TRAINING)


def test_times_that_differ_by_little_are_level(rows):
    rows["slow"]["seconds"] = 2.05e-6
    expected = "mine: the learned solver (learned) and slow, the best rival, are equally fast."
    assert payback.verdict("mine", rows, TRAINING) == expected


def test_a_guarded_solver_stands_for_one_that_is_not_accurate_enough(rows):
    rows[racing.OURS].update(solved=False, share=0.7)
    assert payback.ours(rows) == racing.GUARDED
    rows[racing.GUARDED].update(solved=False, share=0.8)
    assert payback.verdict("mine", rows, TRAINING) == (
        "mine: the learned solver is not accurate enough (80 %); the quickest rival that is: slow."
    )


def _newton(effort):
    del effort

    def solve(instances):
        return jax.vmap(lambda q: jax.numpy.linalg.solve(q.w, q.y))(instances)

    return solve


def _newton_from(effort):
    solve = _newton(effort)
    return lambda instances, theta: solve(instances)


def _inverted():
    """Theta as a matrix times y, which is learned; it begins as the unit matrix."""
    return Unrolled(
        "inverse",
        1,
        lambda key: {"matrix": jax.numpy.eye(3)},
        lambda numbers, instance: numbers["matrix"] @ instance.y,
        lambda numbers: lambda instances: instances.y @ numbers["matrix"].T,
    )


def _nothing(effort):
    def solve(instances):
        return np.full(instances.y.shape, float(effort))

    return solve


def _objective(answers, instances):
    w, y = (np.asarray(x, np.float64) for x in instances)
    return np.sum((np.einsum("nij,nj->ni", w, answers) - y) ** 2, 1)


@pytest.fixture
def tiny(monkeypatch):
    """Quadratics of one W: a step with a matrix solves them, as does a linear start."""
    shared = optimizees.quadratic(3).sample(jax.random.key(0))
    family = optimizees.quadratic(3)._replace(
        sample=lambda key: shared._replace(y=jax.random.normal(key, (3,)))
    )
    task = Task(
        family=family,
        fresh=family,
        objective=_objective,
        reference=lambda instances: np.zeros(len(instances.y)),
        rivals=(Rival("direct", (1,), _newton), Rival("none", (1, 2), _nothing)),
        tolerance=1e-3,
        scale=np.ones_like,
        why="For a test.",
        refinement=Refinement("direct", (1,), _newton_from),
        unrolled=_inverted(),
    )
    recipe = solvers.SolverRecipe(
        rate=0.01,
        fallback_rate=0.01,
        num_steps=2,
        hidden_sizes=(),
        start_updates=20,
        start_problems=8,
        num_epochs=1,
        episodes_per_epoch=2,
        num_problems=4,
        unrolled_updates=500,
        unrolled_problems=16,
        unrolled_rate=0.1,
    )
    monkeypatch.setitem(rivals.TASKS, "tiny", "a tiny family")
    monkeypatch.setitem(solvers.RECIPES, "tiny", recipe)
    monkeypatch.setattr(rivals, "build", lambda name: task)
    return task


@pytest.mark.thorough
def test_a_family_from_learning_to_the_table(tiny, tmp_path, capsys, monkeypatch):
    """And once more: nothing is learned twice, and times of learning are not forgotten."""
    given = ("--family=tiny", "--num_instances=32", f"--workdir={tmp_path}")
    assert in_process(thousands, *given) == 0
    assert "a tiny family" in capsys.readouterr().out
    summary = _files.read_json(tmp_path / "summary.json")
    found = summary["rows"]
    assert found["direct"]["solved"]
    assert not found["none"]["solved"]
    assert found[f"{racing.STARTED} direct"]["solved"]
    assert not found[f"{racing.STARTED} direct"]["is_rival"]
    assert found[racing.OURS]["solved"]  # mean curvature is the curvature here
    assert (tmp_path / "totals.png").stat().st_size > 1_000
    inverse = found[f"{racing.WITHIN} inverse"]
    assert inverse["solved"]
    assert not inverse["is_rival"]
    monkeypatch.setattr(learned_opt, "learn_start", None)
    monkeypatch.setattr(learned_opt, "learn_method", None)
    monkeypatch.setattr(learned_opt, "meta_train", None)
    assert in_process(thousands, *given) == 0
    assert _files.read_json(tmp_path / "summary.json")["training"] == summary["training"]
    assert in_process(thousands, *given, "--methods=none") == 0
    summary = _files.read_json(tmp_path / "summary.json")
    assert list(summary["rows"]) == [racing.OURS, "none"]
    assert in_process(thousands, *given, "--methods=directly") == 1
    assert "unknown method 'directly'. Did you mean 'direct'" in capsys.readouterr().err
    assert in_process(thousands, *given, "--seed=1") == 1
    assert "belongs to a run with seed=0, not 1: choose another" in capsys.readouterr().err


@pytest.mark.thorough
def test_another_architecture_goes_on_from_the_start(tiny, tmp_path, monkeypatch):
    small = {"hidden_sizes": (2,), "num_averaged": 1}
    build = functools.partial(learned_opt.lstm_gac, "mnist", **small)
    monkeypatch.setitem(solvers.ARCHITECTURES, "lstm_gac", build)
    recipe = dataclasses.replace(solvers.RECIPES["tiny"], architecture="lstm_gac")
    learned = solvers.learn(tiny, recipe, 0, str(tmp_path))
    assert learned.opt.spec["name"] == "lstm_gac"
    assert payback.kept_as("tiny", "lstm_gac") == "tiny-lstm_gac"
    again = solvers.learn(tiny, recipe, 0, str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again.phi, learned.phi)
    jax.tree.map(np.testing.assert_array_equal, again.numbers, learned.numbers)


def test_what_a_user_gets_wrong(capsys):
    assert in_process(thousands, "--family=curve") == 1
    assert "unknown family 'curve'. Did you mean 'curves'" in capsys.readouterr().err
    assert in_process(thousands, "--family=curves", "--num_instances=0") == 1
    assert "num_instances must be a whole number of at least 1" in capsys.readouterr().err
