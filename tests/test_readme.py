"""The README's Python, run as it stands, in the order in which it stands there."""

import functools
import os
import pathlib
import re

import jax
import numpy as np
import pytest

import learned_opt
from learned_opt.evaluation import comparison

README = pathlib.Path(__file__).parents[1] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, with the file that the README's text loads."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("results/quadratic")
    opt = learned_opt.lstm(hidden_sizes=(2,))
    learned_opt.save("results/quadratic/optimizer.safetensors", opt, opt.init(jax.random.key(0)))
    return tmp_path


def test_an_optimizer_in_a_training_loop(folder):
    loop, _, _ = python_blocks()
    names = {}
    exec(loop, names)
    assert np.isfinite(names["value"])


@pytest.mark.parametrize("num_epochs", [2, pytest.param(None, marks=pytest.mark.thorough)])
def test_a_problem_of_your_own(folder, monkeypatch, num_epochs):
    """With two epochs of meta-training for the README's twenty, and then as it stands."""
    _, own_problem, compare = python_blocks()
    assert len([line for line in own_problem.splitlines() if line.strip()]) <= 20
    if num_epochs is not None:
        shorter = with_arguments(learned_opt.meta_train, num_epochs=num_epochs)
        monkeypatch.setattr(learned_opt, "meta_train", shorter)
    names = {}
    exec(own_problem, names)
    losses = names["run"].losses
    assert losses[-1] < 0.3 * losses[0]

    # All nine take half a minute to compile, and are tested elsewhere.
    only_adam = with_arguments(comparison.tune_all, names=("Adam",))
    monkeypatch.setattr(comparison, "tune_all", only_adam)
    printed = []
    names["print"] = printed.append
    exec(compare, names)
    assert "| mine " in printed[0]
    assert (folder / "results/mine/curves.png").exists()


def with_arguments(function, **changed):
    """The function with some of its arguments changed, whatever its caller says."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **{**kwargs, **changed})

    return wrapped
