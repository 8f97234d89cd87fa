"""What tells one optimizer, one family or one function from another.

A function is known by what it computes, its jaxpr, and the arrays that it holds by their contents.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.optimizees import base
from learned_opt.optimizers.base import LearnedOptimizer


def of_arrays(tree: Any, text: str = "") -> str:
    """What identifies the contents of a tree of arrays, and a text beside them."""
    digest = hashlib.sha256(text.encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def of_function(function: Callable, *args: Any) -> str:
    """What identifies a function of arrays; `args` are arrays or their shapes."""
    closed = jax.make_jaxpr(function)(*args)
    text = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))  # addresses differ between runs
    # A plain function is a leaf itself, known by its jaxpr: as an array it would be its address.
    held = [leaf for leaf in jax.tree.leaves(function) if not callable(leaf)]
    return of_arrays([*closed.consts, *held], text)


def of_transformation(tx: optax.GradientTransformation, params: Any) -> str:
    """What identifies an optax transformation of parameters (arrays or shapes)."""
    update = jax.tree_util.Partial(lambda g, state: tx.update(g, state, g))
    return of_function(update, params, jax.eval_shape(tx.init, params))


def of_optimizer(opt: LearnedOptimizer, theta: Any) -> Any:
    """An optimizer's spec, or what identifies its update of `theta` where it has none."""
    if opt.spec is not None:
        return opt.spec
    phi = jax.eval_shape(opt.init, jax.random.key(0))

    def update(
        phi: Any,
        g: Any,
        state: Any,
    ) -> Any:
        return opt.transform(phi).update(g, state, g)

    state = jax.eval_shape(lambda phi, theta: opt.transform(phi).init(theta), phi, theta)
    return of_function(update, phi, theta, state)


def of_family(family: base.Family) -> dict:
    """Plain data that identify a family of problems."""
    problem = jax.eval_shape(base.begin, family, jax.random.key(0))
    instance, theta, key, statistics = problem
    arguments = {
        "sample": (key,),
        "init": (key, instance),
        "statistics": (key, instance),
        "loss": (theta, instance, key, statistics),
        "held_out": (theta, instance, key, statistics),
    }
    digests = {
        name: of_function(getattr(family, name), *args)
        for name, args in arguments.items()
        if getattr(family, name) is not None
    }
    return {"theta": shapes_of(theta), **digests}


def of_key(key: jax.Array) -> list:
    """A random key as plain data."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return np.asarray(key).tolist()


def shapes_of(tree: Any) -> dict:
    """Dtype and shape of every leaf of a tree of arrays or shapes, as plain data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [str(x.dtype), *x.shape] for path, x in leaves}
