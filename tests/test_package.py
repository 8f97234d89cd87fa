import os
import subprocess
import sys

import learned_opt


def run(code):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout


def test_importing_needs_none_of_the_extras():
    heavy = [
        "absl.app",
        "flax",
        "matplotlib",
        "orbax",
        "sklearn",
        "tensorflow",
        "tensorflow_datasets",
        "chex",
    ]
    out = run(f"import sys, learned_opt; print([m for m in {heavy} if m in sys.modules])")
    assert out.strip() == "[]"


def test_the_public_names_are_there():
    for name in learned_opt.__all__:
        assert getattr(learned_opt, name) is not None


def test_the_library_imports_nothing_above_it():
    out = run(
        "import sys, pkgutil, importlib, learned_opt\n"
        "for m in pkgutil.walk_packages(learned_opt.__path__, 'learned_opt.'): importlib.import_module(m.name)\n"
        "print([m for m in ('experiments', 'benchmarks', 'tests') if m in sys.modules])"
    )
    assert out.strip() == "[]"
