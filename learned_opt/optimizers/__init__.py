"""Architectures of learned optimizers, and the registry that rebuilds one from its spec."""

import inspect
from collections.abc import Callable
from typing import Any

from learned_opt import _checks
from learned_opt.optimizers.base import (
    LearnedOptimizer,
    LearnedTransformation,
    Seen,
    check_optimizer,
)
from learned_opt.optimizers.communicating import TreeRule
from learned_opt.optimizers.coordinatewise import CoordinateRule
from learned_opt.optimizers.general import general
from learned_opt.optimizers.hand_designed import from_optax
from learned_opt.optimizers.lstm import lstm
from learned_opt.optimizers.lstm_gac import lstm_gac
from learned_opt.optimizers.ntm import ntm_bfgs, ntm_lbfgs
from learned_opt.optimizers.partition import partition
from learned_opt.optimizers.preconditioned import preconditioned
from learned_opt.optimizers.rnnprop import rnnprop
from learned_opt.optimizers.rules import from_rule
from learned_opt.optimizers.safeguard import SafeguardState, safeguard
from learned_opt.optimizers.small_fc_lopt import small_fc_lopt
from learned_opt.optimizers.tensorwise import TensorRule

#: Name in a spec, and the function that builds the optimizer. The next architecture goes here.
ARCHITECTURES: dict[str, Callable[..., LearnedOptimizer]] = {
    "general": general,
    "lstm": lstm,
    "lstm_gac": lstm_gac,
    "ntm_bfgs": ntm_bfgs,
    "ntm_lbfgs": ntm_lbfgs,
    "preconditioned": preconditioned,
    "rnnprop": rnnprop,
    "small_fc_lopt": small_fc_lopt,
}
PARTITION = "partition"  # the name in the spec of a partitioned optimizer


def from_spec(
    spec: dict,
    label_fn: Callable | None = None,
    architectures: dict[str, Callable[..., LearnedOptimizer]] | None = None,
) -> LearnedOptimizer:
    """Rebuilds an optimizer from its `spec`.

    Args:
      spec: `{"name": str, "args": dict}`.
      label_fn: the labelling function of a partitioned optimizer that was built with a function.
      architectures: architectures of your own, by the name in their specs: `build(**args)` returns
        the optimizer.

    Raises:
      ValueError: for a name that is not known, or arguments that the architecture does not take.

    Example:
      >>> import learned_opt
      >>> opt = learned_opt.lstm("mnist")
      >>> learned_opt.optimizers.from_spec(opt.spec) == opt
      True
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("args"), dict):
        raise ValueError(f"a spec must be {{'name': ..., 'args': {{...}}}}, got {spec!r}.")
    architectures = architectures or {}
    _check_names(architectures)
    name, args = spec.get("name"), dict(spec["args"])
    if name == PARTITION:
        return _partition_from_spec(args, label_fn, architectures)
    build = _architecture(name, {**ARCHITECTURES, **architectures})
    check_arguments(name, build, args)
    try:
        opt = build(**args)
    except TypeError as error:
        raise ValueError(
            f"the architecture {name!r} cannot be built with {_checks.shown(args)}: {error}."
        ) from error
    check_optimizer(f"architectures[{name!r}](...)", opt)
    return opt


def check_arguments(
    name: Any,
    build: Callable[..., LearnedOptimizer],
    args: dict,
) -> None:
    """Raises ValueError for an argument that the architecture does not take."""
    parameters = inspect.signature(build).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in args:
        if argument not in parameters:
            raise ValueError(
                f"the architecture {name!r} takes no argument {argument!r}: leave it out. It takes "
                f"{', '.join(parameters)}."
            )


def _check_names(architectures):
    """Raises ValueError if an architecture of the user's own has the name of one of these."""
    for name in architectures:
        if name in (*ARCHITECTURES, PARTITION):
            raise ValueError(
                f"architectures must not have the name {name!r}, which is one of the library's: "
                "give yours a name of its own."
            )


def _architecture(name, known):
    try:
        return known[_checks.choice("architecture", name, [*known, PARTITION])]
    except ValueError as error:
        raise ValueError(
            f"{error} Hand over an architecture of your own: architectures={{{name!r}: build}}."
        ) from None


def _partition_from_spec(args, label_fn, architectures):
    label_fn = label_fn or args.get("label_fn")
    if label_fn is None:
        raise ValueError(
            "this partitioned optimizer was built with a labelling function, which no file can "
            "hold: hand it over again, load(path, label_fn=...)."
        )
    parts = args.get("optimizers")
    if isinstance(parts, dict):
        parts = {
            label: from_spec(spec, architectures=architectures) for label, spec in parts.items()
        }
    return partition(parts, label_fn)


__all__ = [
    "ARCHITECTURES",
    "CoordinateRule",
    "LearnedOptimizer",
    "LearnedTransformation",
    "SafeguardState",
    "Seen",
    "TensorRule",
    "TreeRule",
    "from_optax",
    "from_rule",
    "from_spec",
    "general",
    "lstm",
    "lstm_gac",
    "ntm_bfgs",
    "ntm_lbfgs",
    "partition",
    "preconditioned",
    "rnnprop",
    "safeguard",
    "small_fc_lopt",
]
