"""Learned optimizers that come with the package: beside this file, as `learned_opt.save` writes."""

import os
from typing import Any

import optax

from learned_opt import _checks, optimizers, saving
from learned_opt.optimizers import base

_FOLDER = os.path.dirname(__file__)


def _names():
    """The names of the weights files in this folder."""
    files = [name for name in os.listdir(_FOLDER) if name.endswith(saving.SUFFIX)]
    return tuple(sorted(name.removesuffix(saving.SUFFIX) for name in files))


#: The names of all weights that come with the package.
PRETRAINED = _names()


def pretrained(
    name: str,
    *,
    state_dtype: Any = None,
    **settings: Any,
) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer with weights that come with the package, as an optax transformation.

    Args:
      name: one of `learned_opt.PRETRAINED`. Their cards say what each was trained on, measured at,
        and is good for.
      state_dtype: dtype of the state between steps, such as "bfloat16" for half the memory. None is
        the optimizer's own, float32.
      **settings: other arguments of the architecture that leave its weights as they are: of
        "general" the `num_steps` of the run, and `schedule`, `scale`, `weight_decay`, `embedding`.

    Returns:
      An `optax.GradientTransformationExtraArgs`. It goes wherever `optax.adam(...)` goes.

    Raises:
      ValueError: for an unknown name, dtype or setting, and for 16 bits where they do not hold the
        averages of the optimizer.

    Example:
      >>> import jax.numpy as jnp, learned_opt
      >>> tx = learned_opt.pretrained("rnnprop-mnist")
      >>> state = tx.init({"w": jnp.ones((2, 3))})
    """
    opt, phi = load_pretrained(name)
    if state_dtype is not None:
        settings["state_dtype"] = state_dtype
    if settings:
        spec = opt.spec or {}  # what is loaded has one
        opt = optimizers.from_spec({**spec, "args": {**spec["args"], **settings}})
    return opt.transform(phi)


def load_pretrained(name: str) -> tuple[base.LearnedOptimizer, base.Phi]:
    """The optimizer and its weights behind `pretrained`, to train on from, or to save elsewhere.

    Returns:
      `(opt, phi)`, as from `learned_opt.load`. Arguments and errors are those of `pretrained`.
    """
    return saving.load(_path(name))


def pretrained_card(name: str) -> dict:
    """The card of `pretrained(name)`.

    It has the configuration, the seed, the commit, the curve and the measurements, and says what
    the weights are for.
    """
    return saving.read_card(_path(name)) or {}


def _path(name):
    return os.path.join(_FOLDER, _checks.choice("weights", name, PRETRAINED) + saving.SUFFIX)
