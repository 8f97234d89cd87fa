"""Sparse recovery in few steps: a whole run on a small dictionary, and what an error is."""

import jax
import numpy as np
import pytest

from experiments import recovery
from learned_opt import _files
from tests.experiments.programs import in_process


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(recovery, "ROWS", 60)
    monkeypatch.setattr(recovery, "COLUMNS", 100)
    monkeypatch.setattr(recovery, "DENSITY", 0.15)  # no code is all zeros
    monkeypatch.setattr(recovery, "NUM_UPDATES", 200)
    monkeypatch.setattr(recovery, "PENALTIES", (0.01, 0.1))


@pytest.mark.thorough
def test_learned_numbers_are_better_than_tuned_ones(tmp_path, capsys):
    given = ("--num_steps=4", "--num_signals=50", f"--workdir={tmp_path}")
    assert in_process(recovery, *given) == 0
    assert "LISTA, published, 16 layers" in capsys.readouterr().out
    rows = _files.read_json(tmp_path / "summary.json")["rows"]
    learned, tuned = rows["ADMM, its numbers learned"], rows["ADMM, tuned"]
    assert learned["mean"] < tuned["mean"] - 1
    assert rows["FISTA"]["mean"] < rows["ISTA"]["mean"] < 0
    for row in rows.values():
        assert row["low"] < row["mean"] < row["high"]


def test_the_error_of_a_code_is_relative_and_squared():
    code = np.array([[3.0, 4.0]])
    instances = recovery.Coded(jax.numpy.zeros((1, 1)), code)
    error = recovery.errors(lambda signals: np.array([[3.0, 4.5]]), instances)
    np.testing.assert_allclose(error, [0.25 / 25])


def test_what_a_user_gets_wrong(capsys):
    assert in_process(recovery, "--num_steps=0") == 1
    assert "num_steps must be a whole number of at least 1, got 0" in capsys.readouterr().err
