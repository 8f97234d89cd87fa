import numpy as np
import pytest

from learned_opt.evaluation import baselines, comparison, cost, report, statistics


def made_up(kinds, losses, measures=None):
    """A comparison in which all cost the same."""
    costs = dict.fromkeys(losses, cost.Cost(2.0, 1.0, 8.0))
    rates = np.array([0.0625, 0.125, 0.25])
    grid, runs, tied = np.ones(3), np.full(3, 20), (0.0625, 0.125)
    tuned = {
        name: baselines.Tuned(name, 0.125, 1.0, None, rates, grid, runs, tied)
        for name, kind in kinds.items()
        if kind == "tuned"
    }
    return comparison.Comparison(losses, tuned, measures or {}, costs, kinds)


def cells(table):
    """A Markdown table as a dict from an optimizer's name to a dict from header to text."""
    lines = [line.strip("|").split("|") for line in table.strip().splitlines()]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_summary_holds_what_was_measured(compared):
    rows = report.summary(compared, (2, 6))
    losses = compared.curves["ours"]
    assert rows["ours"]["loss"]["6"]["mean"] == losses[:, 6].mean()
    assert rows["ours"]["loss"]["2"]["interquartile_mean"] == np.sort(losses[:, 2])[1:4].mean()
    assert rows["ours"]["measure"]["mean"] == compared.measures["ours"].mean()
    assert rows["ours"]["step_seconds"] == compared.costs["ours"].step
    ratio = compared.costs["SGD"].update / compared.costs["Adam"].update
    assert rows["SGD"]["update_over_adam"] == ratio
    assert rows["Adam"]["update_over_adam"] == rows["Adam"]["step_over_adam"] == 1
    assert rows["SGD"]["learning_rate"] == compared.tuned["SGD"].learning_rate
    assert rows["SGD"]["tuned"]["rates"] == list(compared.tuned["SGD"].rates)
    assert rows["ours"]["runs"] == 5
    assert rows["ours"]["learning_rate"] is None
    assert {name: row["kind"] for name, row in rows.items()} == compared.kinds
    assert report.learned(rows) == ["ours"]


def test_only_what_has_weights_is_called_learned():
    kinds = {"a": "learned", "b": "tuned", "c": "given", "BFGS": "given"}
    losses = {name: np.full((2, 3), i + 1.0) for i, name in enumerate(kinds)}
    table = cells(report.table(report.summary(made_up(kinds, losses), (2,))))
    rates = {name: row["rate"] for name, row in table.items()}
    assert rates == {"a": "learned", "b": "0.125 [0.0625, 0.125]", "c": "as given", "BFGS": "-"}
    assert table["a"]["step"] == "-"  # without Adam nothing is in its units


def test_the_table_has_the_smallest_loss_first():
    kinds = {"a": "given", "b": "given", "c": "given"}
    losses = {
        "a": np.array([[3.0, 2.0], [3.0, 4.0]]),
        "b": np.array([[3.0, 1.0], [3.0, 1.5]]),
        "c": np.array([[3.0, 1.0], [3.0, np.nan]]),
    }
    accuracy = {"a": np.array([0.5, 0.25]), "b": np.array([0.9, 0.9]), "c": np.array([0.0, 0.0])}
    measures = {name: {"accuracy": x, "x": 10 * x} for name, x in accuracy.items()}
    rows = report.summary(made_up(kinds, losses, measures), (0, 1))
    extra = {"paper": {"b": "0.31"}}
    text = report.table(rows, ("accuracy", "x"), extra)
    table = cells(text)
    assert list(table) == ["b", "a", "c"]
    assert list(table["a"]) == [
        *("optimizer", "rate", "loss at 0", "loss at 1", "paper", "diverged", "accuracy", "x"),
        *("step", "update", "bytes"),
    ]
    assert table["a"]["loss at 1"] == report.interval(rows["a"]["loss"]["1"])
    assert table["a"]["accuracy"].startswith("0.3750 [")
    assert table["a"]["x"].startswith("3.75 [")
    assert table["a"]["bytes"] == "8"
    assert [table[name]["paper"] for name in table] == ["0.31", "", ""]
    assert [table[name]["diverged"] for name in table] == ["0 %", "0 %", "50 %"]
    by_measure = report.table(rows, ("accuracy", "x"), final="x")
    assert list(cells(by_measure)) == ["c", "a", "b"]
    assert len({len(line) for line in text.strip().splitlines()}) == 1  # aligned


def test_the_middle_half_is_told_where_a_mean_is_moved():
    kinds = {"a": "given", "b": "given"}
    first_diverged = np.where(np.arange(8)[:, None] == 0, np.inf, np.ones((8, 2)))
    rows = report.summary(made_up(kinds, {"a": np.ones((8, 2)), "b": first_diverged}), (1,))
    assert report.middles(rows) == {"middle half": {"a": "1", "b": "1"}}
    assert report.middles({"a": rows["a"]}) == {}


@pytest.mark.parametrize(("outliers", "told"), [(1, False), (10, True)])
def test_a_middle_half_outside_its_interval_is_told(outliers, told):
    """From one outlier in a hundred nothing follows of the mean; ten are more than chance."""
    losses = np.random.default_rng(0).uniform(0.9, 1.1, (100, 1))
    losses[:outliers] += 1e6
    rows = report.summary(made_up({"a": "given"}, {"a": losses}), (0,))
    assert rows["a"]["loss"]["0"]["interquartile_mean"] == pytest.approx(1, abs=0.05)
    assert bool(report.middles(rows)) == told


def test_verdicts_are_of_pairs():
    """All four have the same problems; unpaired intervals would tell nothing apart."""
    rng = np.random.default_rng(0)
    hardness = rng.lognormal(size=(30, 1))
    kinds = {"ours": "learned", "Adam": "tuned", "NAG": "tuned", "teacher": "given"}
    shift = {"ours": 0.0, "Adam": 0.02, "NAG": -0.01, "teacher": 0.0}
    losses = {name: hardness + by + 0.005 * rng.normal(size=(30, 1)) for name, by in shift.items()}
    rows = report.summary(made_up(kinds, losses), (0,))
    text = report.verdicts(rows)
    assert "above NAG (the best tuned baseline) by 0.01" in text
    assert "below Adam by 0.019 [" in text
    assert "no difference to teacher: " in text
    expected = statistics.paired(losses["ours"][:, 0], losses["Adam"][:, 0])
    assert rows["ours"]["against"]["Adam"]["low"] == expected.low
    assert rows["Adam"]["against"] == {}
    assert "teacher" in rows["ours"]["against"]


def test_few_runs_are_no_verdict():
    """A table that claims something has twenty runs or more."""
    losses = {"ours": np.ones((19, 1)), "Adam": 1 + np.arange(19.0)[:, None]}
    rows = report.summary(made_up({"ours": "learned", "Adam": "tuned"}, losses), (0,))
    assert "no verdict from 19 runs, 20 are needed" in report.verdicts(rows)


def test_without_costs_or_rivals(compared):
    alone = compared._replace(costs={}, curves={"ours": compared.curves["ours"]})
    rows = report.summary(alone, (6,))
    assert cells(report.table(rows, "x"))["ours"]["bytes"] == "-"
    assert report.verdict(rows, "ours").endswith("compared with none.")


def test_files_hold_the_report(compared, tmp_path):
    rows = report.summary(compared, (2, 6))
    text = report.write(tmp_path, rows, compared.curves, "Title", "first coordinate")
    assert "mean of 5 runs" in text
    assert (tmp_path / "table.md").read_text() == text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    again_rows, again_curves, finals = report.read(tmp_path)
    np.testing.assert_array_equal(finals["ours"], compared.curves["ours"][:, -1])
    assert again_rows == rows
    assert again_curves.keys() == compared.curves.keys()
    np.testing.assert_array_equal(again_curves["ours"], compared.curves["ours"])
    assert report.read(tmp_path, "-200") is None
    report.write(tmp_path, rows, compared.curves, "Title", "first coordinate", suffix="-200")
    assert report.read(tmp_path, "-200").rows == rows


def test_learned_ones_are_drawn_solid(compared, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        report.plots, "curves", lambda path, losses, learned, *_: drawn.update(learned=learned)
    )
    report.write(tmp_path, report.summary(compared, (6,)), compared.curves, "Title", "measure")
    assert drawn["learned"] == ["ours"]


def test_infinity_survives_the_files(compared, tmp_path):
    diverged = np.where(np.arange(5)[:, None] == 0, np.inf, compared.curves["SGD"])
    curves = {**compared.curves, "SGD": diverged}
    rows = report.summary(compared._replace(curves=curves), (6,))
    assert rows["SGD"]["diverged"] == 0.2
    text = report.write(tmp_path, rows, curves, "Title", "first coordinate")
    assert cells(text.split("\n\n")[0])["SGD"]["diverged"] == "20 %"
    again = report.read(tmp_path).rows
    assert report.table(again, "first coordinate") in text


@pytest.mark.parametrize("file", ["curves.npz", "finals.npz", "summary.json"])
def test_a_damaged_report_is_none(compared, tmp_path, file):
    rows = report.summary(compared, (6,))
    report.write(tmp_path, rows, compared.curves, "Title", "first coordinate")
    (tmp_path / file).write_bytes(b"PK")
    assert report.read(tmp_path) is None


def test_steps_beyond_the_horizon(compared):
    with pytest.raises(ValueError, match="steps must not lie beyond the horizon 6, got 7"):
        report.summary(compared, (7,))
