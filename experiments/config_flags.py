"""A configuration is a frozen dataclass; every field becomes a flag of the program."""

import dataclasses
from typing import Any

from absl import flags

# The flags belong to the program that calls `define`: its --help lists them.
flags.disclaim_key_flags()

_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}


def field(default: Any, description: str) -> Any:
    """A field of a configuration with the description that --help shows."""
    return dataclasses.field(default=default, metadata={"help": description})


def define(config_class: type) -> None:
    """Defines a flag for each field of a dataclass, with the field's default."""
    for f in dataclasses.fields(config_class):
        _DEFINE[f.type](f.name, f.default, f.metadata["help"])


def read(config_class: type) -> Any:
    """The configuration that the command line asks for."""
    names = [f.name for f in dataclasses.fields(config_class)]
    values = {name: getattr(flags.FLAGS, name) for name in names}
    return config_class(**values)


def split(text: str) -> list[str]:
    """The parts of a list with commas; parts without a letter are left out."""
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part]
