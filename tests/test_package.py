"""The package as a whole: what it imports, what is public, and which versions it names."""

import configparser
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import learned_opt

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [module.name for module in pkgutil.walk_packages(learned_opt.__path__, "learned_opt.")]
# What checks and builds the code is not what the code runs with.
TOOLS = {"build", "mypy", "pre-commit", "ruff"}


def run(code):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


# Imports


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


def test_the_library_imports_nothing_above_it():
    out = run(
        "import importlib, sys\n"
        f"for name in {MODULES}:\n"
        "    importlib.import_module(name)\n"
        "above = ('experiments', 'benchmarks', 'tests')\n"
        "print([name for name in above if name in sys.modules])"
    )
    assert out.strip() == "[]"


# Public names


def test_the_public_names_are_there():
    for name in learned_opt.__all__:
        assert getattr(learned_opt, name) is not None


@pytest.mark.parametrize("module", ["learned_opt", *MODULES])
def test_public_functions_are_annotated(module):
    lacking = []
    for name, function in public_functions(importlib.import_module(module)):
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls"):
                lacking.append(f"{name}({parameter.name})")
        if signature.return_annotation is signature.empty:
            lacking.append(f"{name} -> ")
    assert not lacking


def public_functions(module):
    """The module's own functions without an underscore, and such methods of its public classes."""
    for name, member in vars(module).items():
        if name.startswith("_"):
            continue
        member = inspect.unwrap(member) if callable(member) else member
        if getattr(member, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(member) and member.__name__ != "<lambda>":
            yield name, member
        elif inspect.isclass(member):
            yield from public_methods(member)


def public_methods(kind):
    for name, member in vars(kind).items():
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member) and not name.startswith("_"):
            yield f"{kind.__name__}.{name}", member


# Versions


def minimum_versions():
    """The oldest supported version of every package that setup.cfg names, apart from tools."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    named = [config["options"]["install_requires"]]
    named += [extras[name] for name in ("experiments", "slurm", "dev")]
    found = re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join(named), re.MULTILINE)
    return {name: version for name, version in found if name not in TOOLS}


def test_the_oldest_versions_are_those_of_setup_cfg():
    """`make test-oldest` runs with the versions that the package says it needs."""
    text = (ROOT / "requirements" / "oldest.txt").read_text()
    tried = dict(re.findall(r"^([\w-]+)==([\w.]+)$", text, re.MULTILINE))
    needed = minimum_versions()
    assert len(needed) > 10
    assert tried == {**needed, "jaxlib": needed["jax"]}


def test_the_loops_are_built_against_the_oldest_jaxlib():
    """Every newer jaxlib accepts a library that was built against an older one."""
    assert f'"jaxlib=={minimum_versions()["jax"]};' in (ROOT / "pyproject.toml").read_text()


# Wheels


@pytest.mark.thorough
def test_a_wheel_without_the_loops_carries_no_platform(tmp_path):
    """Where there is no compiler."""
    pytest.importorskip("setuptools.command.bdist_wheel", reason="a build needs setuptools 77")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("*.library", "__pycache__")
    shutil.copytree(ROOT / "learned_opt", tmp_path / "learned_opt", ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    env = {**os.environ, "CC": "false", "CXX": "false"}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == f"learned_opt-{learned_opt.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "learned_opt/weights/general.safetensors" in names
    assert not [name for name in names if name.endswith(".library") or ".data/" in name]


def test_the_version_is_one():
    """The package's, and that of the citation."""
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {learned_opt.__version__}\n" in citation
    assert f"version = {{{learned_opt.__version__}}}" in (ROOT / "docs" / "citing.md").read_text()
