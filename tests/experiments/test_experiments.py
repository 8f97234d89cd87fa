"""The programs as a user runs them, with settings so small that they take seconds."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import learned_opt

TINY = [
    "--num_steps=4",
    "--window=2",
    "--num_problems=2",
    "--num_epochs=2",
    "--episodes_per_epoch=2",
    "--num_validation=2",
    "--tune_runs=2",
    "--num_runs=3",
    "--baselines=SGD,Adam",
]


def program(name, *flags):
    command = [sys.executable, "-m", f"experiments.{name}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["quadratic", "mnist"])
def test_help(name):
    shown = program(name, "--help").stdout
    for part in (
        "figure 4",
        "--workdir",
        "--seed",
        "Meta-learning rate of Adam, or 'search'",
        "--num_runs",
    ):
        assert part in shown


def test_quadratic_runs_resumes_and_redraws(tmp_path):
    flags = [*TINY, f"--workdir={tmp_path}", "--learning_rate=search"]
    first = program("quadratic", *flags)
    assert first.returncode == 0, first.stderr
    for file in (
        "optimizer.safetensors",
        "optimizer.json",
        "summary.json",
        "curves.npz",
        "curves.png",
        "table.md",
        "config.json",
    ):
        assert (tmp_path / file).stat().st_size > 0
    assert (tmp_path / "table.md").read_text() in first.stdout
    assert "learned_opt.load" in first.stdout

    opt, phi = learned_opt.load(tmp_path / "optimizer.safetensors")
    assert jax.tree.structure(phi) == jax.tree.structure(opt.init(jax.random.key(0)))
    rows = json.loads((tmp_path / "summary.json").read_text())
    with np.load(tmp_path / "curves.npz") as curves:
        assert rows["LSTM"]["loss"]["4"]["mean"] == curves["LSTM"][:, 4].mean()
        assert curves["Adam"].shape == (3, 5)

    (tmp_path / "curves.png").unlink()
    before = (tmp_path / "optimizer.safetensors").read_bytes()
    second = program("quadratic", *flags)
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "curves.png").exists()
    assert (tmp_path / "optimizer.safetensors").read_bytes() == before
    assert second.stdout == first.stdout

    other = program("quadratic", *flags, "--seed=1")
    assert other.returncode != 0
    assert "belongs to a run with seed=0, not 1" in other.stderr.splitlines()[-1]


def test_mnist_on_digits(tmp_path):
    done = program("mnist", *TINY, "--baselines=Adam", "--coordinates=50", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in (tmp_path / "table.md").read_text()
    with np.load(tmp_path / "curves-8.npz") as curves:
        assert curves["LSTM"].shape == (3, 9)
    assert (
        json.loads((tmp_path / "meta_training" / "meta_train.json").read_text())["coordinates"]
        == 50
    )


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("quadratic", ["--dim=0"], "dim must be a whole number of at least 1, got 0"),
        (
            "quadratic",
            ["--learning_rate=fast"],
            "learning_rate must be a number above 0 or 'search', got 'fast'",
        ),
        ("quadratic", ["--baselines=SGD,Adm"], "unknown baseline 'Adm'. Did you mean 'Adam'?"),
        (
            "mnist",
            ["--dataset=mnist", "--data_dir=nowhere"],
            "the data set 'mnist' is not in nowhere",
        ),
        ("mnist", ["digits"], "unexpected argument 'digits'"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(name, flags, message, tmp_path):
    done = program(name, f"--workdir={tmp_path / 'work'}", *flags)
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()
