"""Architectures of learned optimizers, and the registry that rebuilds one from its spec."""

from learned_opt import _checks
from learned_opt.optimizers.base import LearnedOptimizer, LearnedTransformation, Seen
from learned_opt.optimizers.communicating import TreeRule
from learned_opt.optimizers.coordinatewise import CoordinateRule
from learned_opt.optimizers.hand_designed import from_optax
from learned_opt.optimizers.lstm import lstm
from learned_opt.optimizers.lstm_gac import lstm_gac
from learned_opt.optimizers.ntm import ntm_bfgs, ntm_lbfgs
from learned_opt.optimizers.partition import partition
from learned_opt.optimizers.rnnprop import rnnprop
from learned_opt.optimizers.rules import from_rule
from learned_opt.optimizers.small_fc_lopt import small_fc_lopt
from learned_opt.optimizers.tensorwise import TensorRule

# The next architecture goes here: its name in a spec, and the function that builds it.
ARCHITECTURES = {
    "lstm": lstm,
    "lstm_gac": lstm_gac,
    "ntm_bfgs": ntm_bfgs,
    "ntm_lbfgs": ntm_lbfgs,
    "rnnprop": rnnprop,
    "small_fc_lopt": small_fc_lopt,
}


def from_spec(spec, label_fn=None):
    """Rebuilds an optimizer from its `spec`.

    Args:
      spec: `{"name": str, "args": dict}`.
      label_fn: the labelling function of a partitioned optimizer that was built with a function.

    Raises:
      ValueError: for a name that is not known or arguments that the architecture does not take.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("args"), dict):
        raise ValueError(f"a spec must be {{'name': ..., 'args': {{...}}}}, got {spec!r}.")
    name, args = spec.get("name"), dict(spec["args"])
    if name == "partition":
        return _partition_from_spec(args, label_fn)
    build = ARCHITECTURES[_checks.choice("architecture", name, [*ARCHITECTURES, "partition"])]
    try:
        return build(**args)
    except TypeError as error:
        raise ValueError(
            f"the architecture {name!r} does not take these arguments: {error}."
        ) from error


def _partition_from_spec(args, label_fn):
    label_fn = label_fn or args.get("label_fn")
    if label_fn is None:
        raise ValueError(
            "this partitioned optimizer was built with a labelling function, which no file can "
            "hold: hand it over again, load(path, label_fn=...)."
        )
    parts = args.get("optimizers")
    if isinstance(parts, dict):
        parts = {label: from_spec(spec) for label, spec in parts.items()}
    return partition(parts, label_fn)


__all__ = [
    "ARCHITECTURES",
    "CoordinateRule",
    "LearnedOptimizer",
    "LearnedTransformation",
    "Seen",
    "TensorRule",
    "TreeRule",
    "from_optax",
    "from_rule",
    "from_spec",
    "lstm",
    "lstm_gac",
    "ntm_bfgs",
    "ntm_lbfgs",
    "partition",
    "rnnprop",
    "small_fc_lopt",
]
