"""Settings of the whole suite, made before JAX starts.

The suite runs with four CPU devices and without implicit broadcasting between ranks, opens no
windows, and keeps compilation short. Workers, and processes that tests start, inherit the settings
that are environment variables.
"""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ.setdefault("MPLBACKEND", "Agg")

# Most of the suite's time is compilation, of programs that run once.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # The newer way to make loops takes twice as long to compile as the other. Later versions know
    # no other, and a flag that XLA does not know ends the process.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )
    # What one worker has compiled, the others and the processes that tests start read from a folder
    # that goes when the suite ends. To keep it for the next time, name a folder:
    # JAX_COMPILATION_CACHE_DIR=/some/folder make test. (JAX 0.12 once crashed while writing to it.)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="learned-opt-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
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

    The context is another one for jit's caches, so that nothing traced without the loops is used.
    """
    if not native.available():
        pytest.skip("the C++ loops were not built: there was no compiler")
    monkeypatch.setattr(native, "_num_devices", lambda: 1)
    with native._only_xla(None):
        yield
