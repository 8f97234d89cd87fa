"""A configuration is a frozen dataclass; every field becomes a flag of the program."""

import dataclasses
import json
from collections.abc import Iterable
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


def define_required(name: str, description: str) -> None:
    """Defines a flag for a text that has to be given."""
    flags.DEFINE_string(name, None, description)
    message = f"it has to be given: --{name}=..; --help tells what it takes."
    flags.register_validator(name, lambda value: value is not None, message)


def json_object(name: str, text: str) -> dict[str, Any]:
    """The dict that a flag's text says as JSON; raises ValueError for anything else."""
    found = plain(text)
    if not isinstance(found, dict):
        raise ValueError(f'--{name} must be a JSON object such as {{"dim": 5}}, got {text!r}.')
    return found


def read(config_class: type) -> Any:
    """The configuration that the command line asks for."""
    names = [f.name for f in dataclasses.fields(config_class)]
    values = {name: getattr(flags.FLAGS, name) for name in names}
    return config_class(**values)


def split(text: str) -> list[str]:
    """The parts of a list with commas; parts without a letter are left out."""
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part]


def settings(flag: str, texts: Iterable[str]) -> dict[str, Any]:
    """The settings that a flag with many values gives, each as NAME=VALUE.

    Args:
      flag: its name, for messages.
      texts: its values.

    Raises:
      ValueError: for a text without a name, and for a name that comes twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, value = setting(flag, text)
        if name in found:
            raise ValueError(f"--{flag} has {name!r} twice: give each name once.")
        found[name] = plain(value)
    return found


def setting(flag: str, text: str) -> tuple[str, str]:
    """The name and the text behind it of NAME=TEXT."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise ValueError(f"--{flag} must be NAME=VALUE, got {text!r}.")
    return name.strip(), value.strip()


def plain(text: str) -> Any:
    """What a text says as JSON: a number, true, null, a list; any other text stays what it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
