"""The one thing that setup.cfg cannot say: the inner loops in C++, left out where there is no compiler for them."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildLibrary(build_ext):
    """Builds a plain library, which XLA calls: it is no Python module and needs none of Python's headers."""

    def get_ext_filename(self, fullname):
        """The library's path in the package."""
        return fullname.replace(".", "/") + ".library"


setup(
    cmdclass={"build_ext": BuildLibrary},
    ext_modules=[
        Extension(
            "learned_opt.native.lstm",
            sources=["learned_opt/native/src/lstm.cc"],
            depends=[
                f"learned_opt/native/src/{name}.h"
                for name in ("lstm_block", "workers", "xla_ffi_c_api")
            ],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-Wno-psabi",
                "-Wno-maybe-uninitialized",
            ],
            language="c++",
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
