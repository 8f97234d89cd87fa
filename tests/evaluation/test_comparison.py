import jax
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.evaluation import baselines, comparison
from learned_opt.optimizers import base as optimizer_base

PROBLEM = learned_opt.optimizees.quadratic(3)
KEY = jax.random.key(6)


def sgd(learning_rate, num_steps):
    del num_steps
    return optax.sgd(learning_rate)


def test_all_are_measured_on_the_same_problems(compared):
    first = [curve[:, 0] for curve in compared.curves.values()]
    for other in first[1:]:
        np.testing.assert_allclose(first[0], other, rtol=1e-6)
    assert set(compared.tuned) == {"SGD", "Adam"}
    assert compared.measures["ours"].shape == (5,)
    assert set(compared.costs) == set(compared.curves)


def test_curves_are_those_of_evaluate(compared):
    _, run_key, _ = jax.random.split(KEY, 3)
    expected = learned_opt.evaluate(optax.sgd(1e-3), PROBLEM, run_key, 6, 5)
    np.testing.assert_allclose(compared.curves["theirs"], expected, rtol=1e-6)


def test_who_is_learned_tuned_and_given(compared):
    assert compared.kinds == {"ours": "learned", "theirs": "given", "SGD": "tuned", "Adam": "tuned"}
    opt = learned_opt.lstm(hidden_sizes=(3,))
    assert comparison.kind_of(optimizer_base.LearnedTransformation(*optax.sgd(0.1))) == "learned"
    assert comparison.kind_of((opt, opt.init(KEY))) == "learned"
    assert comparison.kind_of(optax.adam(0.1)) == "given"
    assert comparison.kind_of((learned_opt.from_optax(optax.adam(0.1)), {})) == "given"
    assert comparison.kind_of(baselines.REFERENCES["BFGS"](3)) == "given"


def test_a_transformation_of_a_learned_optimizer_is_learned():
    opt = learned_opt.lstm(hidden_sizes=(3,))
    assert comparison.kind_of(opt.transform(opt.init(KEY))) == "learned"


def test_baselines_of_ones_own():
    """Named ones of the library, and functions; only what is asked for is tuned."""
    arguments = {}, PROBLEM, KEY, 4, 3
    own = comparison.compare(*arguments, baselines={"mine": sgd}, progress_bar=False)
    named = comparison.compare(*arguments, baselines=["SGD"], progress_bar=False)
    assert own.kinds == {"mine": "tuned"}
    assert own.tuned["mine"].learning_rate == named.tuned["SGD"].learning_rate
    np.testing.assert_array_equal(own.curves["mine"], named.curves["SGD"])


def test_what_is_tuned_is_kept(tmp_path, monkeypatch):
    arguments = PROBLEM, KEY, 20, 3, {"mine": sgd}, tmp_path, False
    first = comparison.tune_all(*arguments)["mine"]
    monkeypatch.delattr(baselines, "tune")  # nothing is tuned again
    again = comparison.tune_all(*arguments)["mine"]
    assert first[:3] == again[:3]
    assert again.name == "mine"
    assert first.tied == again.tied
    for name in ("rates", "grid", "runs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.isinf(again.grid[-1])  # infinity survives the file
    for found in (first, again):
        losses = learned_opt.evaluate(found.tx, PROBLEM, KEY, 20, 3)
        np.testing.assert_allclose(losses[:, -1].mean(), first.final_loss, rtol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"problem": learned_opt.optimizees.quadratic(2)},
        {"key": jax.random.key(7)},
        {"num_steps": 3},
        {"num_runs": 3},
        {"last": 2},
        {"measure": lambda theta: theta[0]},
        {"names": {"SGD": lambda rate, num_steps: optax.sgd(2 * rate)}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_is_tuned_is_kept_by_what_it_depends_on(tmp_path, monkeypatch, changed):
    """A name is not enough: another problem, measure or meaning of the name is tuned anew."""
    calls = []

    def tune(build, problem, key, num_steps, num_runs, **options):
        calls.append(num_steps)
        one = np.ones(1)
        return baselines.Tuned("", 0.1, 1.0, build(0.1, 1), one, one, one, (0.1,))

    monkeypatch.setattr(baselines, "tune", tune)
    arguments = {
        "problem": PROBLEM,
        "key": KEY,
        "num_steps": 2,
        "num_runs": 2,
        "names": {"SGD": sgd},
        "path": tmp_path,
        "progress_bar": False,
    }
    for _ in range(2):
        comparison.tune_all(**arguments)
    assert len(calls) == 1
    comparison.tune_all(**{**arguments, **changed})
    assert len(calls) == 2


def test_runs_are_kept(tmp_path):
    one = np.ones(1)
    tuned = {"SGD": baselines.Tuned("SGD", 0.1, 1.0, optax.sgd(0.01), one, one, one, (0.1,))}
    arguments = PROBLEM, KEY, 3, 4
    measure = {"last": lambda theta: theta[-1], "first accuracy": lambda theta: theta[0]}
    settings = {"tuned": tuned, "measure": measure, "progress_bar": False, "path": tmp_path}
    first = comparison.compare({"a/b": optax.sgd(0.1)}, *arguments, **settings)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["SGD.npz", "a%2Fb.npz"]
    (tmp_path / "a%2Fb.npz").write_bytes(b"PK")  # damaged: this one is run again
    written = (tmp_path / "SGD.npz").stat().st_mtime_ns
    again = comparison.compare({"a/b": optax.sgd(0.1)}, *arguments, **settings)
    assert (tmp_path / "SGD.npz").stat().st_mtime_ns == written
    both = (first.curves, first.measures), (again.curves, again.measures)
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_costs():
    compared = comparison.compare(
        {"ours": optax.sgd(0.1)}, PROBLEM, KEY, 2, 2, tuned={}, costs=False
    )
    assert compared.costs == {}


@pytest.mark.parametrize(
    ("transformations", "settings", "message"),
    [
        ([optax.sgd(0.1)], {}, "transformations must be a dict, got list: name each"),
        ({"x": learned_opt.lstm()}, {}, r"transformations\['x'\] must be an optax"),
        ({"SGD": optax.sgd(0.1)}, {}, "must not have a baseline's name, got 'SGD'"),
        ({"mine": optax.sgd(0.1)}, {"baselines": {"mine": sgd}}, "a baseline's name, got 'mine'"),
        ({}, {"baselines": ["Adm"]}, "Did you mean 'Adam'"),
        ({}, {"baselines": ["Adam"], "tuned": {}}, "give one"),
        ({}, {"num_runs": 0}, "num_runs must be .* got 0"),
        ({}, {"tune_runs": 0}, "tune_runs must be .* got 0"),
    ],
)
def test_bad_input(transformations, settings, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(transformations, PROBLEM, KEY, 2, **settings)
