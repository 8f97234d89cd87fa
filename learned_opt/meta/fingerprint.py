"""What tells one meta-training from another: a work directory belongs to one."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.optimizees import base


def of(opt, problem, key):
    """Plain data that identify optimizer, problem and key.

    A function is known by what it computes, its jaxpr, and the arrays that it holds by their contents.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    instance, theta, step_key = jax.eval_shape(base.begin, problem, jax.random.key(0))
    arguments = {
        "sample": (step_key,),
        "init": (step_key, instance),
        "loss": (theta, instance, step_key),
    }
    return {
        "optimizer": opt.spec,
        "key": np.asarray(key).tolist(),
        "theta": _shapes(theta),
        "problem": {
            name: _digest(getattr(problem, name), *args) for name, args in arguments.items()
        },
    }


def of_transformation(tx, problem, key):
    """What identifies an optax transformation on a problem's parameters."""
    theta = jax.eval_shape(base.begin, problem, key).theta_0
    update = jax.tree_util.Partial(lambda g, state: tx.update(g, state, g))
    return _digest(update, theta, jax.eval_shape(tx.init, theta))


def of_arrays(tree, text=""):
    """What identifies the contents of a tree of arrays, and a text beside them."""
    digest = hashlib.sha256(text.encode())
    for array in map(np.asarray, jax.tree.leaves(tree)):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _digest(function, *args):
    closed = jax.make_jaxpr(function)(*args)
    text = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))  # addresses differ between runs
    return of_arrays([*closed.consts, *jax.tree.leaves(function)], text)


def _shapes(tree):
    return {
        jax.tree_util.keystr(path): [str(x.dtype), *x.shape]
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
