"""What a result was made with."""

import importlib.metadata
import os
import platform
import subprocess

import jax

from learned_opt import native

PACKAGES = ("learned-opt", "jax", "jaxlib", "flax", "optax", "numpy")


def record():
    """Versions, device and commit, as JSON can hold them."""
    device = jax.devices()[0]
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "cpu_cores": _cores(),
        "machine": platform.machine(),
        "native": native.available(),
        "commit": _commit(),
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _commit():
    """The commit of this checkout, or None outside one."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.exists(
        os.path.join(root, ".git")
    ):  # else another project's repository around it would answer
        return None
    try:
        done = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
