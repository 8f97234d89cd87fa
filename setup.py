"""What setup.cfg cannot say: the inner loops in C++.

They are compiled against the headers that jaxlib ships. pip builds in an environment of its own
and installs what pyproject.toml names there: among it the oldest jaxlib that the package supports,
since newer ones load a library that was built against it. `pip install --no-build-isolation` builds
against the jaxlib that is installed already, so install jaxlib (and setuptools) first; the library
then works with that jaxlib and newer ones.

Building is optional. Without a compiler or without the headers the package is installed all the
same, and XLA's own loops do the work. A wheel says in its name which of the two it is: one with the
library carries its platform, one without is for any.
"""

import importlib.util
import os
import runpy

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = "learned_opt/native"
LIBRARY = "learned_opt.native.lstm"


class BuildLibrary(build_ext):
    """Builds a plain library that XLA calls. It is no Python module and needs no Python headers."""

    def get_ext_filename(self, fullname):
        """The path of the library in the package."""
        return fullname.replace(".", "/") + ".library"

    def build_extension(self, ext):
        """Compiles the library, or fails with the reason where there are no headers for it."""
        include = jaxlib_headers()
        if include is None:
            raise CompileError("jaxlib's headers are missing: install jaxlib before learned-opt")
        # System headers, so that only warnings about our own sources are shown.
        ext.extra_compile_args += ["-isystem", include]
        super().build_extension(ext)


class BuildWheel(bdist_wheel):
    """Builds a wheel, and looks whether the library came out before it gives it a name."""

    def run(self):
        """Builds the wheel; without a library it is one of a package without extensions."""
        if not self.skip_build:
            self.run_command("build")
        folder = self.get_finalized_command("build").build_lib
        if not os.path.exists(os.path.join(folder, *LIBRARY.split(".")) + ".library"):
            self.distribution.ext_modules = None
            self.root_is_pure = True
        super().run()

    def get_tag(self):
        """The tags of the wheel: XLA calls the library, so it needs no particular Python."""
        _, _, platform = super().get_tag()
        return "py3", "none", platform


def jaxlib_headers():
    """The directory of the headers in jaxlib, as `jax.ffi.include_dir()` gives it, or None.

    This works without jax, which is not among the requirements of a build.
    """
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        return None
    include = os.path.join(spec.submodule_search_locations[0], "include")
    found = os.path.exists(os.path.join(include, "xla", "ffi", "api", "ffi.h"))
    return include if found else None


def interface():
    """The number of the library's interface; importing learned_opt would need jax."""
    root = os.path.dirname(os.path.abspath(__file__))
    return runpy.run_path(os.path.join(root, NATIVE, "_interface.py"))["INTERFACE"]


library = Extension(
    LIBRARY,
    sources=[
        f"{NATIVE}/src/lstm.cc",
        f"{NATIVE}/src/general.cc",
        f"{NATIVE}/src/orthogonal.cc",
    ],
    depends=[
        f"{NATIVE}/_interface.py",
        f"{NATIVE}/src/calls.h",
        f"{NATIVE}/src/general_block.h",
        f"{NATIVE}/src/instruction_sets.h",
        f"{NATIVE}/src/lstm_block.h",
        f"{NATIVE}/src/orthogonal_block.h",
        f"{NATIVE}/src/vectors.h",
        f"{NATIVE}/src/workers.h",
    ],
    define_macros=[("LEARNED_OPT_INTERFACE", str(interface()))],
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-Wno-psabi", "-Wno-maybe-uninitialized"],
    language="c++",
    optional=True,
)

setup(
    cmdclass={"bdist_wheel": BuildWheel, "build_ext": BuildLibrary},
    ext_modules=[library],
)
