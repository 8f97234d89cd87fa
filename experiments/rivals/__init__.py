"""Families that are solved thousands of times, and what an expert would solve them with."""

import importlib

from experiments.rivals.base import Task
from learned_opt import _checks

# The next family goes here: its name, and the module whose `task()` builds it.
TASKS = {
    "curves": "bi-exponential decay, four parameters, as in diffusion MRI",
    "sparse": "sparse coding with a fixed dictionary (LASSO)",
    "control": "a pendulum's swing-up, planned again at every step",
    "users": "a small logistic regression for each user",
}


def build(name: str) -> Task:
    """The task of a family; raises ValueError for an unknown name."""
    _checks.choice("family", name, TASKS)
    return importlib.import_module(f"experiments.rivals.{name}").task()
