"""The README's Python, run as it stands, in the order in which it stands there."""

import functools
import os
import pathlib
import re

import jax
import numpy as np

import learned_opt
from learned_opt.evaluation import comparison

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("results/quadratic")
    opt = learned_opt.lstm()
    learned_opt.save("results/quadratic/optimizer.safetensors", opt, opt.init(jax.random.key(0)))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    loop, own_problem, compare = blocks
    assert len(own_problem.strip().splitlines()) <= 20

    names = {}
    exec(loop, names)
    assert np.isfinite(names["value"])

    names = {}
    exec(own_problem, names)
    losses = names["run"].losses
    assert losses[-1] < 0.3 * losses[0]

    # All nine take half a minute to compile, and are tested elsewhere.
    two = functools.partial(comparison.tune_all, names=("SGD", "Adam"))
    monkeypatch.setattr(comparison, "tune_all", two)
    names["print"] = lambda text: names.update(text=text)
    exec(compare, names)
    assert "| mine " in names["text"]
    assert (tmp_path / "results/mine/curves.png").exists()
