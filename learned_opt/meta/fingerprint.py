"""What tells one meta-training from another: a work directory belongs to one."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.optimizees import base


def of(opt, problem, key):
    """Plain data that identify optimizer, problem and key.

    A function is known by its name, a dataclass by its fields, and bound arrays by their contents. That two functions
    of one name differ inside cannot be seen.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    _, theta, _ = jax.eval_shape(base.begin, problem, jax.random.key(0))
    return {"optimizer": opt.spec, "key": np.asarray(key).tolist(), "theta": _shapes(theta),
            "problem": {name: _function(f) for name, f in zip(problem._fields, problem, strict=True)}}


def _function(partial):
    f = partial.func
    name = repr(f) if dataclasses.is_dataclass(f) else getattr(f, "__qualname__", type(f).__name__)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(partial):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return {"name": name, "data": digest.hexdigest()[:16]}


def _shapes(tree):
    return {jax.tree_util.keystr(path): [str(x.dtype), *x.shape]
            for path, x in jax.tree_util.tree_leaves_with_path(tree)}
