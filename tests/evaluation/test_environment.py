import json
import os
import platform
import subprocess

import jax
import numpy as np
import pytest

from learned_opt import native
from learned_opt.evaluation import environment


def test_record():
    record = environment.record()
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert set(record["versions"]) == {"python", *environment.PACKAGES}
    assert record["backend"] == jax.default_backend()
    assert record["num_devices"] == jax.device_count()
    assert 1 <= record["cpu_cores"] <= os.cpu_count()
    assert record["native"] == native.available()
    assert json.loads(json.dumps(record)) == record


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    versions = environment.record()["versions"]
    assert versions["no-such-package"] is None
    assert versions["numpy"] == np.__version__


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and that commit."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    git = ["git", "-C", str(tmp_path), *identity]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "First"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return tmp_path, head.stdout.strip()


def test_the_commit_is_that_of_the_checkout(repository, monkeypatch):
    root, commit = repository
    monkeypatch.setattr(environment, "ROOT", root)
    assert environment.record()["commit"] == commit


def test_a_repository_around_an_installation_has_no_part(repository, monkeypatch):
    root, _ = repository
    inside = root / "site-packages"
    inside.mkdir()
    monkeypatch.setattr(environment, "ROOT", inside)
    assert environment.record()["commit"] is None


def test_without_git_there_is_no_commit(repository, monkeypatch):
    root, _ = repository
    monkeypatch.setattr(environment, "ROOT", root)
    monkeypatch.setenv("PATH", str(root))
    assert environment.record()["commit"] is None
