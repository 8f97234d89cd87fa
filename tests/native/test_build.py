"""What the library is built with."""

import configparser
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]


def test_the_library_is_built_against_the_oldest_jaxlib_that_is_supported():
    """Newer ones load it, and an older one would refuse a library of a newer one."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    requirements = config["options"]["install_requires"].split("\n")
    (oldest,) = [line.removeprefix("jax>=") for line in requirements if line.startswith("jax>=")]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    of_jaxlib = [requirement for requirement in build if requirement.startswith("jaxlib")]
    assert of_jaxlib
    for requirement in of_jaxlib:
        version, _, _ = requirement.partition(";")
        assert version in (f"jaxlib=={oldest}", f"jaxlib>={oldest}")
