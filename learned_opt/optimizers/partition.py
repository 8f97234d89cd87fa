"""One learned optimizer for each kind of parameter (Andrychowicz et al. 2016, section 3.3)."""

import fnmatch

import jax
import optax

from learned_opt import _checks
from learned_opt.optimizers import base


def partition(optimizers, label_fn):
    """Gives each label's parameters to an optimizer of their own, with weights of its own.

    Args:
      optimizers: dict from label (a string) to `LearnedOptimizer`.
      label_fn: a function from the parameters to a tree of labels (the parameters' structure or a prefix of it, as in
        `optax.partition`); or plain data, `{pattern: label}`, matched in its order against each parameter's path
        (`layers/0/kernel`) with shell wildcards. Plain data goes into the file that `learned_opt.save` writes; a
        function does not, and is handed to `learned_opt.load` again.

    Returns:
      A `LearnedOptimizer` with weights `{label: phi}`.

    Raises:
      ValueError: for labels that name no optimizer, now or when parameters are first seen.
    """
    if not isinstance(optimizers, dict) or not optimizers:
        raise ValueError(f"optimizers must be a dict with at least one label, got {optimizers!r}.")
    for label, opt in optimizers.items():
        if not isinstance(label, str):
            raise ValueError(f"labels must be strings, got {label!r}.")
        base.check_optimizer(f"optimizers[{label!r}]", opt)
    if isinstance(label_fn, dict):
        patterns = dict(label_fn)
        for label in patterns.values():
            _checks.choice("label", label, optimizers)
        label_params = _label_by_pattern(patterns)
    elif callable(label_fn):
        patterns, label_params = None, label_fn
    else:
        raise ValueError(
            f"label_fn must be a function of the parameters or a dict {{pattern: label}}, "
            f"got {type(label_fn).__name__}."
        )

    def checked_labels(params):
        labels = label_params(params)
        for label in jax.tree.leaves(labels):
            _checks.choice("label", label, optimizers)
        return labels

    def init(key):
        base.check_init_key(key)
        keys = jax.random.split(key, len(optimizers))
        return {
            label: opt.init(k)
            for k, (label, opt) in zip(keys, sorted(optimizers.items()), strict=True)
        }

    def transform(phi):
        if not isinstance(phi, dict) or set(phi) != set(optimizers):
            have = sorted(phi) if isinstance(phi, dict) else type(phi).__name__
            raise ValueError(f"phi must have the weights of {sorted(optimizers)}, got {have}.")
        tx = {label: opt.transform(phi[label]) for label, opt in optimizers.items()}
        inner = optax.partition(tx, checked_labels)

        def update_fn(updates, state, params=None, **extra_args):
            if params is not None:
                _checks.same_tree("gradients", updates, "the parameters", params)
            return inner.update(updates, state, params, **extra_args)

        return optax.GradientTransformationExtraArgs(inner.init, update_fn)

    spec = {
        "name": "partition",
        "args": {
            "optimizers": {label: opt.spec for label, opt in optimizers.items()},
            "label_fn": patterns,
        },
    }
    return base.LearnedOptimizer(
        init, transform, False, spec, base.Parts(dict(optimizers), checked_labels)
    )


def _label_by_pattern(patterns):
    def of_leaf(path, leaf):
        del leaf
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, label in patterns.items():
            if fnmatch.fnmatchcase(place, pattern):
                return label
        raise ValueError(
            f"no pattern matches the parameter {place!r}; patterns: {', '.join(map(repr, patterns))}. "
            "Add '*' as the last one to catch the rest."
        )

    return lambda params: jax.tree_util.tree_map_with_path(of_leaf, params)
