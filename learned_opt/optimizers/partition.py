"""One learned optimizer for each kind of parameter (Andrychowicz et al. 2016, section 3.3)."""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

import jax
import optax

from learned_opt import _checks
from learned_opt.optimizers import base


def partition(
    optimizers: dict[str, base.LearnedOptimizer], label_fn: Callable[[Any], Any] | dict[str, str]
) -> base.LearnedOptimizer:
    """Gives the parameters of each label to an optimizer of their own, with weights of its own.

    Args:
      optimizers: the `LearnedOptimizer` of each label; labels are strings.
      label_fn: who gets which label. Either plain data `{pattern: label}`: the patterns have shell
        wildcards and are tried in their order on the path of each parameter (`layers/0/kernel`).
        Or a function from the parameters to a tree of labels, which has the structure of the
        parameters or a prefix of it, as in `optax.partition`. Plain data goes into the file that
        `learned_opt.save` writes. A function does not: `learned_opt.load` takes it again.

    Returns:
      A `LearnedOptimizer` with weights `{label: phi}`.

    Raises:
      ValueError: for labels that name no optimizer, now or when parameters are first seen.

    Example:
      >>> import learned_opt
      >>> opt = learned_opt.partition(
      ...     {"slow": learned_opt.lstm("mnist"), "fast": learned_opt.rnnprop()},
      ...     {"*bias": "fast", "*": "slow"},
      ... )
    """
    _check_optimizers(optimizers)
    if isinstance(label_fn, dict):
        for label in label_fn.values():
            _checks.choice("label", label, optimizers)
        label_params: Callable[[Any], Any] = _LabelByPattern(tuple(label_fn.items()))
    elif callable(label_fn):
        label_params = label_fn
    else:
        raise ValueError(
            f"label_fn must be a function of the parameters or a dict {{pattern: label}}, "
            f"got {type(label_fn).__name__}."
        )
    labels = tuple(sorted(optimizers))
    items = tuple((label, optimizers[label]) for label in labels)
    checked_labels = _CheckedLabels(label_params, labels)
    return base.LearnedOptimizer(
        base.CheckedInit(base.bind(_init, items)),
        base.bind(_transform, items, checked_labels),
        False,
        _spec(optimizers, label_fn),
        base.Parts(dict(optimizers), checked_labels),
    )


def _check_optimizers(optimizers):
    if not isinstance(optimizers, dict) or not optimizers:
        raise ValueError(
            f"optimizers must be a dict with at least one label, got {_checks.shown(optimizers)}."
        )
    for label, opt in optimizers.items():
        if not isinstance(label, str):
            raise ValueError(f"labels must be strings, got {label!r}.")
        base.check_optimizer(f"optimizers[{label!r}]", opt)


def _spec(optimizers, label_fn):
    """Plain data, or None if one of the optimizers cannot be rebuilt."""
    specs = {label: opt.spec for label, opt in optimizers.items()}
    if None in specs.values():
        return None
    patterns = dict(label_fn) if isinstance(label_fn, dict) else None
    return {"name": "partition", "args": {"optimizers": specs, "label_fn": patterns}}


def _init(items, key):
    keys = jax.random.split(key, len(items))
    return {label: opt.init(k) for k, (label, opt) in zip(keys, items, strict=True)}


def _transform(items, label_params, phi):
    labels = [label for label, _ in items]
    if not isinstance(phi, dict) or set(phi) != set(labels):
        have = sorted(phi) if isinstance(phi, dict) else type(phi).__name__
        raise ValueError(
            f"phi must have the weights of {labels}, got {have}: opt.init(key) makes such a dict."
        )
    tx = {label: opt.transform(phi[label]) for label, opt in items}
    inner = optax.partition(tx, label_params)

    def update_fn(updates, state, params=None, **extra_args):
        if params is not None:
            base.check_alike("gradients", updates, "the parameters", params)
        return inner.update(updates, state, params, **extra_args)

    is_learned = any(isinstance(part, base.LearnedTransformation) for part in tx.values())
    if is_learned:
        return base.LearnedTransformation(inner.init, update_fn)
    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


@dataclasses.dataclass(frozen=True)
class _CheckedLabels:
    """`label_fn(params) -> labels`, of which each must be one of `labels`."""

    label_fn: Callable[[Any], Any]
    labels: tuple

    def __call__(self, params):
        found = self.label_fn(params)
        for label in jax.tree.leaves(found):
            _checks.choice("label", label, self.labels)
        return found


@dataclasses.dataclass(frozen=True)
class _LabelByPattern:
    """The label of each parameter is that of the first pattern that matches its path."""

    patterns: tuple  # of (pattern, label)

    def __call__(self, params):
        return jax.tree_util.tree_map_with_path(self._of_leaf, params)

    def _of_leaf(self, path, leaf):
        del leaf
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, label in self.patterns:
            if fnmatch.fnmatchcase(place, pattern):
                return label
        patterns = ", ".join(repr(pattern) for pattern, _ in self.patterns)
        raise ValueError(
            f"no pattern matches the parameter {place!r}; patterns: {patterns}. "
            "Add '*' as the last one to catch the rest."
        )
