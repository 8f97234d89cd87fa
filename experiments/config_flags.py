"""A configuration is a frozen dataclass; every field becomes a flag of the program."""

import dataclasses

from absl import flags

flags.disclaim_key_flags()  # the flags belong to the program that calls `define`: its --help lists them

_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}


def field(default, description):
    """A field of a configuration with the description that --help shows."""
    return dataclasses.field(default=default, metadata={"help": description})


def define(config_class):
    """Defines a flag for each field of a dataclass, with the field's default."""
    for f in dataclasses.fields(config_class):
        _DEFINE[f.type](f.name, f.default, f.metadata["help"])


def read(config_class):
    """The configuration that the command line asks for."""
    return config_class(
        **{f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(config_class)}
    )
