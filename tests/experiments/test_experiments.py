"""The studies as a user runs them, with settings so small that they take seconds."""

import json

import jax
import numpy as np
import pytest

import learned_opt
from experiments import main, mnist, quadratic, reproduce, ship, train
from learned_opt import saving
from tests.experiments.programs import in_process, program

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
QUADRATIC = [*TINY, "--learning_rate=search"]
MNIST = [*TINY, "--baselines=Adam", "--coordinates=50"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "quadratic",
            ["figure 4", "--workdir", "--seed", "Meta-learning rate of Adam, or 'search'"],
        ),
        ("mnist", ["figure 4", "--dataset", "--num_runs"]),
        ("train", ["rnnprop-cnn", "--recipe", "--data_dir"]),
        ("reproduce", ["rnnprop-table2", "--figure", "--cases"]),
        ("ship", ["--recipe", "--measured"]),
        ("thousands", ["--family", "--num_instances"]),
        ("suite", ["--tasks", "--tune_runs", "schedule-free", "long-transformer"]),
    ],
)
def test_help(name, parts):
    shown = program(name, "--help").stdout
    assert "Example" in shown
    for part in parts:
        assert part in shown


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study in a process of its own: where its files are, and the process."""
    workdir = tmp_path_factory.mktemp("quadratic")
    process = program("quadratic", *QUADRATIC, f"--workdir={workdir}")
    assert process.returncode == 0, process.stderr
    return workdir, process


def test_a_study_leaves_its_files(done):
    workdir, process = done
    for file in (
        "optimizer.safetensors",
        "optimizer.json",
        "summary.json",
        "curves.npz",
        "curves.png",
        "table.md",
        "config.json",
    ):
        assert (workdir / file).stat().st_size > 0
    assert (workdir / "table.md").read_text() in process.stdout
    assert "learned_opt.load" in process.stdout
    assert "best baseline" in process.stderr
    opt, phi = learned_opt.load(workdir / "optimizer.safetensors")
    assert jax.tree.structure(phi) == jax.tree.structure(opt.init(jax.random.key(0)))
    rows = json.loads((workdir / "summary.json").read_text())
    assert {name: row["kind"] for name, row in rows.items()} == {
        "LSTM": "learned",
        "SGD": "tuned",
        "Adam": "tuned",
    }
    with np.load(workdir / "curves.npz") as curves:
        assert rows["LSTM"]["loss"]["4"]["mean"] == curves["LSTM"][:, 4].mean()
        assert curves["Adam"].shape == (3, 5)


def test_a_study_s_card_is_written_from_its_recipe(done):
    workdir, _ = done
    info = saving.read_card(workdir / "optimizer")["info"]
    assert info["trained_on"] == "random quadratics in 10 dimensions, 2 at once"
    assert (info["architecture"], info["horizons"], info["window"]) == ("lstm", [4], 2)
    assert info["config"]["learning_rate"] == "search"
    assert 1e-4 < info["meta_learning_rate"] < 3e-2


def test_a_study_that_is_done_is_drawn_again(done, capsys):
    workdir, process = done
    before = (workdir / "optimizer.safetensors").read_bytes()
    (workdir / "curves.png").unlink()
    assert in_process(quadratic, *QUADRATIC, f"--workdir={workdir}") == 0
    assert capsys.readouterr().out == process.stdout
    assert (workdir / "curves.png").exists()
    assert (workdir / "optimizer.safetensors").read_bytes() == before


def test_a_work_directory_of_other_settings_is_refused(done, capsys):
    workdir, _ = done
    assert in_process(quadratic, *QUADRATIC, f"--workdir={workdir}", "--seed=1") == 1
    assert "belongs to a run with seed=0, not 1" in capsys.readouterr().err.splitlines()[-1]


def check_mnist(workdir):
    assert "test accuracy" in (workdir / "table.md").read_text()
    with np.load(workdir / "curves-8.npz") as curves:
        assert curves["LSTM"].shape == (3, 9)
    settings = json.loads((workdir / "meta_training" / "meta_train.json").read_text())
    assert settings["estimator"]["coordinates"] == 50
    assert saving.read_card(workdir / "optimizer")["info"]["trained_on"].startswith("digits, a per")


@pytest.mark.thorough
def test_mnist_on_digits(tmp_path):
    assert in_process(mnist, *MNIST, f"--workdir={tmp_path}") == 0
    check_mnist(tmp_path)


@pytest.mark.thorough
def test_mnist_on_digits_from_the_command_line(tmp_path):
    done = program("mnist", *MNIST, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    check_mnist(tmp_path)


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (quadratic, ["--dim=0"], "dim must be a whole number of at least 1, got 0"),
        (
            quadratic,
            ["--learning_rate=fast"],
            "learning_rate must be a number above 0 or 'search', got 'fast'",
        ),
        (quadratic, ["--baselines=SGD,Adm"], "unknown baseline 'Adm'. Did you mean 'Adam'?"),
        (quadratic, ["--baselines="], "--baselines must name at least one, got none"),
        (quadratic, ["--patience=-1"], "patience must be a whole number of at least 0, got -1"),
        (quadratic, ["--window=7"], "window must divide num_steps=100, got 7"),
        (
            mnist,
            ["--dataset=mnist", "--data_dir=nowhere"],
            "the data set 'mnist' is not in nowhere",
        ),
        (
            train,
            ["--recipe=lstm-quadratic", "--set=family.arguments.dimm=3"],
            "unknown argument of the family 'quadratic': 'dimm'. Did you mean 'dim'?",
        ),
        (
            train,
            ["--recipe=neural-art", "--data_dir=nowhere"],
            "there is no folder nowhere: check --data_dir",
        ),
        (train, ["--recipe=lstm-mnis"], "unknown recipe 'lstm-mnis'. Did you mean 'lstm-mnist'?"),
        (
            train,
            ["--recipe=lstm-mnist", "--dataset=digits", "--num_epochs=0"],
            "num_epochs must be a whole number of at least 1, got 0",
        ),
        (
            reproduce,
            ["--figure=l2l-fig4", "--optimizers=lstm-small", "--dataset=digits"],
            "'lstm-small' is not trained yet: python -m experiments.train --recipe=lstm-small",
        ),
        (
            reproduce,
            ["--figure=l2l-fig4", "--optimizers=mine=nowhere/a", "--dataset=digits"],
            "there is no file nowhere/a.safetensors: check the path",
        ),
        (ship, ["--recipe=lstm-small"], "the recipe 'lstm-small' must say what it is good for"),
        (
            ship,
            ["--recipe=lstm-mnist", "--measured=nowhere", "--cards_only"],
            "there is no folder nowhere: run this at the root",
        ),
        (
            train,
            ["--recipe=lstm-quadratic", "--set=arguments.hidden=3"],
            "the architecture 'lstm' takes no argument 'hidden': leave it out. It takes preset",
        ),
        (
            train,
            ["--recipe=lstm-quadratic", "--set=family=quadratic"],
            "family of a recipe has settings of its own: change one of them, as in family.kind=",
        ),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(module, flags, message, tmp_path, capsys):
    assert in_process(module, *flags, f"--workdir={tmp_path / 'work'}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "work").exists()


def test_an_argument_without_a_name_is_told(tmp_path):
    done = program("mnist", "digits", f"--workdir={tmp_path / 'work'}")
    assert done.returncode != 0
    assert "unexpected argument 'digits'" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()


def test_an_error_that_is_no_user_s_is_not_hidden(monkeypatch):
    def broken():
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(main.app, "run", lambda guarded: guarded(["program"]))
    with pytest.raises(KeyError):
        main.run(broken)
