"""Learned optimizers that come with the package: beside this file, as `learned_opt.save` writes them."""

import os

from learned_opt import _checks, optimizers, saving

_FOLDER = os.path.dirname(__file__)
PRETRAINED = tuple(
    sorted(
        name.removesuffix(saving.SUFFIX)
        for name in os.listdir(_FOLDER)
        if name.endswith(saving.SUFFIX)
    )
)


def pretrained(name, *, state_dtype=None):
    """A learned optimizer with weights that come with the package, as an optax transformation.

    Args:
      name: one of `learned_opt.PRETRAINED`; their cards say what each was trained on, measured at, and is good for.
      state_dtype: dtype of the state between steps, such as "bfloat16" for half the memory; None for the optimizer's
        own, float32.

    Returns:
      An `optax.GradientTransformationExtraArgs`: it stands wherever `optax.adam(...)` stands.

    Raises:
      ValueError: for an unknown name or dtype, and for 16 bits where they do not hold the optimizer's averages.

    Example:
      >>> tx = learned_opt.pretrained("rnnprop-mnist")
      >>> state = tx.init(params)
    """
    opt, phi = load_pretrained(name)
    if state_dtype is not None:
        opt = optimizers.from_spec(
            {**opt.spec, "args": {**opt.spec["args"], "state_dtype": state_dtype}}
        )
    return opt.transform(phi)


def load_pretrained(name):
    """The optimizer and its weights behind `pretrained`, to train on from, or to save elsewhere.

    Returns:
      `(opt, phi)`, as from `learned_opt.load`; arguments and errors as in `pretrained`.
    """
    return saving.load(_path(name))


def pretrained_card(name):
    """The card of `pretrained(name)` as a dict: configuration, seed, commit, curve, measurements, what it is for."""
    return saving.read_card(_path(name))


def _path(name):
    return os.path.join(_FOLDER, _checks.choice("name", name, PRETRAINED) + saving.SUFFIX)
