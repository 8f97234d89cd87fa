"""Settings of the whole suite, made before JAX starts: four host devices, strict ranks, no windows."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the suite's time is compilation, of programs that run once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

from learned_opt import native

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """64-bit JAX within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def native_loops(monkeypatch):
    """The C++ loops within one test: the suite's four devices keep them from it otherwise.

    What JAX has traced before stays as it is: such a test needs optimizers and jitted functions of its own.
    """
    if not native.available():
        pytest.skip("the C++ loops were not built: there was no compiler")
    monkeypatch.setattr(native, "_num_devices", lambda: 1)
