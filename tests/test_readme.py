"""The Python of the README and of docs, run as it stands, in the order in which it stands there."""

import functools
import os
import pathlib
import re

import jax
import numpy as np
import pytest

import learned_opt
from learned_opt.evaluation import comparison

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
# Python in the README and in pages, and the cells of tutorials, whose settings come first.
_BLOCKS = re.compile(
    r"```(?:python|\{code-cell\} python)\n(?:---\n.*?^---\n)?(.*?)```", re.DOTALL | re.MULTILINE
)


def python_blocks(page=README):
    return _BLOCKS.findall(page.read_text())


def cells(name):
    """The cells of a tutorial that show no picture: that is a notebook's part."""
    blocks = python_blocks(DOCS / "tutorials" / f"{name}.md")
    return [block for block in blocks if "Image" not in block]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, with the file that a page's text loads."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("results/quadratic")
    opt = learned_opt.lstm(hidden_sizes=(2,))
    learned_opt.save("results/quadratic/optimizer.safetensors", opt, opt.init(jax.random.key(0)))
    return tmp_path


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert "    make test " in README.read_text()
    for name in learned_opt.PRETRAINED:
        assert f'| `"{name}"' in README.read_text(), "every optimizer that ships has a line"


def test_ten_lines(folder):
    (loop,) = python_blocks()
    names = {}
    exec(loop, names)
    first = names["loss"](np_like(names["params"]))
    assert names["value"] < 0.5 * first


def np_like(params):
    """Where the README's loop begins."""
    return {"w": np.full_like(params["w"], 0.5) + np.eye(3, dtype=np.float32)}


def test_an_optimizer_in_training_loops(folder):
    plain, flax, *_ = python_blocks(DOCS / "start" / "first.md")
    for loop in (plain, flax):
        names = {}
        exec(loop, names)
        assert np.isfinite(names["value"])
    assert names["value"] < 1.0  # it begins at the loss of guessing, log 10


def test_what_an_optimizer_does(folder):
    exec(cells("watching")[0], {})
    assert (folder / "histories.png").exists()
    assert (folder / "proposals.png").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("num_epochs", [2, None])
def test_a_problem_of_your_own(folder, monkeypatch, num_epochs):
    """With two epochs of meta-training for the tutorial's twenty, and then as it stands."""
    family, training, running, compare = cells("problem")
    if num_epochs is not None:
        shorter = with_arguments(learned_opt.meta_train, num_epochs=num_epochs)
        monkeypatch.setattr(learned_opt, "meta_train", shorter)
    names = {}
    for cell in (family, training, running):
        exec(cell, names)
    losses = names["run"].losses
    assert losses[-1] < 0.3 * losses[0]

    only_adam = with_arguments(comparison.tune_all, names=("Adam",))
    monkeypatch.setattr(comparison, "tune_all", only_adam)
    printed = []
    names["print"] = printed.append
    exec(compare, names)
    assert "- mine: " in printed[0]
    assert "| mine " in names["table"]
    assert (folder / "results/mine/curves.png").exists()


def with_arguments(function, **changed):
    """The function with some of its arguments changed, whatever its caller says."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **{**kwargs, **changed})

    return wrapped


@pytest.mark.thorough
@pytest.mark.parametrize("shortened", [True, False])
def test_a_solver_for_a_family(folder, monkeypatch, shortened):
    """With less training than the page's, and then as it stands."""
    block, own_method = python_blocks(DOCS / "solving.md")
    if shortened:
        short_start = with_arguments(learned_opt.learn_start, num_updates=100)
        short_training = with_arguments(learned_opt.meta_train, num_epochs=1, episodes_per_epoch=2)
        short_method = with_arguments(learned_opt.learn_method, num_updates=200)
        monkeypatch.setattr(learned_opt, "learn_start", short_start)
        monkeypatch.setattr(learned_opt, "learn_method", short_method)
        monkeypatch.setattr(learned_opt, "meta_train", short_training)
    names = {}
    exec(block, names)
    solution = names["solution"]
    assert solution.found.all()
    theta = np.stack([names["amplitude"], names["rate"]], -1)[20_000:, 0]
    error = np.median(np.abs(solution.theta - theta))
    assert error < (0.5 if shortened else 0.02)
    assert (folder / "decay.safetensors").exists()
    assert (folder / "decay-start.safetensors").exists()
    exec(own_method, names)
    error = np.median(np.abs(np.exp(names["theta"]) - theta))
    assert error < (0.5 if shortened else 0.02)
