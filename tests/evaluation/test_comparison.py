import jax
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.evaluation import baselines, comparison, cost, plots, report

PROBLEM = learned_opt.optimizees.quadratic(3)
KEY = jax.random.key(6)


@pytest.fixture(scope="module")
def compared():
    tuned = {
        name: baselines.tune(name, PROBLEM, KEY, 6, 4, (0.01, 0.1)) for name in ("SGD", "Adam")
    }
    opt = learned_opt.lstm(hidden_sizes=(3,))
    return comparison.compare(
        {"ours": opt.transform(opt.init(KEY))},
        PROBLEM,
        KEY,
        6,
        5,
        tuned=tuned,
        measure=lambda theta: theta[0],
        progress_bar=False,
    )


def test_all_are_measured_on_the_same_problems(compared):
    first = [curve[:, 0] for curve in compared.curves.values()]
    np.testing.assert_allclose(first[0], first[1], rtol=1e-6)
    np.testing.assert_allclose(first[0], first[2], rtol=1e-6)
    assert set(compared.learning_rates) == {"SGD", "Adam"}
    assert compared.measures["ours"].shape == (5,)


def test_report_holds_what_was_measured(compared, tmp_path):
    rows = report.summary(compared, (2, 6))
    text = report.write(tmp_path, rows, compared.curves, "Title", "first coordinate")
    assert rows["ours"]["loss"]["6"]["mean"] == compared.curves["ours"][:, 6].mean()
    assert rows["Adam"]["update_over_adam"] == 1
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == sorted(
        compared.curves, key=lambda name: compared.curves[name][:, -1].mean()
    )
    assert f"{compared.curves['SGD'][:, 2].mean():.3g} [" in text
    assert (tmp_path / "table.md").read_text() == text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    again_rows, again_curves = report.read(tmp_path)
    assert again_rows == rows
    np.testing.assert_array_equal(again_curves["ours"], compared.curves["ours"])
    assert report.read(tmp_path, "-200") is None


def test_several_measures_are_kept_with_the_runs_and_told(tmp_path):
    tuned = {"SGD": baselines.Tuned("SGD", 0.1, 1.0, optax.sgd(0.01), np.ones(1))}
    arguments = PROBLEM, KEY, 3, 4
    measure = {"last": lambda theta: theta[-1], "first accuracy": lambda theta: theta[0]}
    first = comparison.compare(
        {}, *arguments, tuned=tuned, measure=measure, progress_bar=False, path=tmp_path
    )
    assert [file.name for file in tmp_path.iterdir()] == ["SGD.npz"]
    again = comparison.compare(
        {}, *arguments, tuned=tuned, measure=measure, progress_bar=False, path=tmp_path
    )
    for a, b in zip(jax.tree.leaves(first[:3]), jax.tree.leaves(again[:3]), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = report.summary(first, (3,))
    assert rows["SGD"]["measure"]["last"]["mean"] == first.measures["SGD"]["last"].mean()
    table = report.table(rows, ("last", "first accuracy"), {"paper": {"SGD": "0.31"}})
    assert "| paper | diverged | last" in table
    assert "| 0.31 " in table


def test_the_middle_half_is_told_where_a_mean_is_moved():
    losses = {
        "a": np.ones((8, 2)),
        "b": np.where(np.arange(8)[:, None] == 0, np.inf, np.ones((8, 2))),
    }
    measured = comparison.Comparison(
        losses, {}, {}, dict.fromkeys(losses, cost.Cost(1.0, 1.0, 0.0))
    )
    assert report.middles(report.summary(measured, (1,))) == {"middle half": {"a": "1", "b": "1"}}
    assert report.middles({"a": report.summary(measured, (1,))["a"]}) == {}


def test_a_run_that_diverged_is_told(compared, tmp_path):
    curves = {
        **compared.curves,
        "SGD": np.where(np.arange(5)[:, None] == 0, np.inf, compared.curves["SGD"]),
    }
    rows = report.summary(compared._replace(curves=curves), (6,))
    assert rows["SGD"]["diverged"] == 0.2
    text = report.write(tmp_path, rows, curves, "Title", "first coordinate")
    assert "20 %" in text
    assert (
        report.table(report.read(tmp_path)[0], "first coordinate") in text
    )  # infinity survives the file


def test_a_picture_of_nothing_but_divergence(tmp_path):
    plots.curves(
        tmp_path / "x.png", {"a": np.full((3, 4), np.inf), "b": np.ones((3, 4))}, ["a"], "Title"
    )
    assert (tmp_path / "x.png").exists()


def test_state_bytes():
    theta = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    opt = learned_opt.lstm()
    assert cost.state_bytes_per_parameter(opt.transform(opt.init(KEY)), theta) == 320
    assert cost.state_bytes_per_parameter(optax.trace(0.9), theta) == 4


def test_cost_tells_a_dear_optimizer_from_a_cheap_one():
    problem = learned_opt.Optimizee(
        lambda key: (),
        lambda key, i: jax.numpy.ones(20_000),
        lambda theta, i, key: jax.numpy.sum(theta**2),
    )
    opt = learned_opt.lstm()
    costs = cost.measure(
        {"lstm": opt.transform(opt.init(KEY)), "sgd": optax.sgd(0.1)}, problem, KEY, num_rounds=3
    )
    assert costs["lstm"].update > 3 * costs["sgd"].update
    assert costs["lstm"].step > costs["sgd"].step


def test_a_baselines_name_is_taken(compared):
    del compared
    tuned = {"SGD": baselines.Tuned("SGD", 0.1, 1.0, optax.sgd(0.1), np.ones(1))}
    with pytest.raises(ValueError, match="must not have a baseline's name, got 'SGD'"):
        comparison.compare({"SGD": optax.sgd(0.1)}, PROBLEM, KEY, 2, 2, tuned=tuned)


def test_steps_beyond_the_horizon(compared):
    with pytest.raises(ValueError, match="steps must not lie beyond the horizon 6, got 7"):
        report.summary(compared, (7,))


def test_a_damaged_report_is_made_again(compared, tmp_path):
    report.write(
        tmp_path, report.summary(compared, (6,)), compared.curves, "Title", "first coordinate"
    )
    (tmp_path / "curves.npz").write_bytes(b"PK")
    assert report.read(tmp_path) is None
