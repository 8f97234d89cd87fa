"""What a result was made with."""

import hashlib
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


def program() -> dict[str, str | None]:
    """Versions and the library's code, which all processes of one program must have alike."""
    packages = (*PACKAGES, "safetensors", "orbax-checkpoint")
    versions = {name: _version(name) for name in packages}
    digest = hashlib.sha256()
    folder = ROOT / "learned_opt"
    programs = [] if _is_installed() else [ROOT / "experiments", ROOT / "benchmarks"]
    for root in (folder, *programs):
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return {
        "python": platform.python_version(),
        **versions,
        "code": digest.hexdigest()[:16],
        "C++ loops": str(native.available()),
        "backend": jax.default_backend(),
        "XLA_FLAGS": _without_devices(os.environ.get("XLA_FLAGS", "")),
    }


def _is_installed() -> bool:
    """Whether the library is a package among others, and no checkout."""
    return not (ROOT / "experiments").is_dir()


def _without_devices(xla_flags: str) -> str:
    """XLA's flags, but for how many devices a CPU is divided into."""
    flags = [f for f in xla_flags.split() if "host_platform_device_count" not in f]
    return " ".join(flags)


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
