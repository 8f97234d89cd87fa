"""What a result was made with."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from learned_opt import native

PACKAGES = ("learned-opt", "jax", "jaxlib", "flax", "optax", "numpy")
ROOT = pathlib.Path(__file__).parents[2]  # of the checkout, where there is one


def record() -> dict[str, Any]:
    """Versions, device and commit, as JSON can hold them.

    A package that is not installed has None as its version. The commit is None outside a checkout.
    """
    device = jax.devices()[0]
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions.update({name: _version(name) for name in PACKAGES})
    return {
        "versions": versions,
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "cpu_cores": _cores(),
        "machine": platform.machine(),
        "native": native.available(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _commit() -> str | None:
    # Git would answer for another project's repository around this folder.
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
