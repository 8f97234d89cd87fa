"""Argument checks: every message names the argument, its value and what would be right."""

import contextlib
import difflib
import importlib
import numbers

import jax
import jax.numpy as jnp
import numpy as np


def positive_int(name, value, minimum=1):
    """Returns `value` as an int; raises ValueError unless it is a whole number of at least `minimum`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}.")
    return int(value)


def positive_float(name, value):
    """Returns `value` as a float; raises ValueError unless finite and above zero. Traced values pass unchecked."""
    if isinstance(value, jax.core.Tracer):
        return value
    scalar = isinstance(
        value, (numbers.Real, np.ndarray, np.generic, jax.Array)
    ) and not isinstance(value, bool)
    if not scalar or np.ndim(value) or not np.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")
    return float(value)


def sizes(name, value):
    """Returns `value`, one size or several, as a tuple; raises ValueError unless all are positive whole numbers."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not values:
        raise ValueError(f"{name} must name at least one layer, got ().")
    return tuple(positive_int(name, size) for size in values)


def state_dtype(value):
    """Returns the dtype's name, or None for None; raises ValueError for a dtype in which no state is kept."""
    if value is None:
        return None
    with contextlib.suppress(TypeError):
        value = jnp.dtype(value).name
    return choice("state_dtype", value, ["float32", "bfloat16", "float16", "float64"])


def choice(name, value, known):
    """Returns `value`; raises ValueError naming the nearest of `known` unless it is one of them."""
    known = list(known)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), [str(k) for k in known], n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {name} {value!r}.{hint} Known: {', '.join(map(repr, known))}.")


def boolean(name, value):
    """Returns `value`; raises ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return value


def instance_of(name, value, kind, remedy):
    """Raises ValueError with the remedy unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} must be {_article(kind.__name__)}, got {type(value).__name__}: {remedy}"
        )


def random_key(key):
    """Raises ValueError unless `key` is a single random key."""
    kind = getattr(key, "dtype", None)
    typed = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key)
    legacy = kind == jnp.uint32
    if not isinstance(key, jax.Array) or not (typed or legacy) or key.ndim != (0 if typed else 1):
        raise ValueError(
            f"key must be a random key, got {key!r}: make one with jax.random.key(seed)."
        )


def divides(name, value, whole_name, whole):
    """Raises ValueError unless `value` divides `whole`; the message names the nearest divisors."""
    if whole % value:
        divisors = [d for d in range(1, whole + 1) if whole % d == 0]
        near = sorted(divisors, key=lambda d: abs(d - value))[:2]
        raise ValueError(
            f"{name} must divide {whole_name}={whole}, got {value}; "
            f"the nearest that do: {', '.join(map(str, sorted(near)))}."
        )


def extra(module, package, purpose):
    """Imports a module that only some uses of the library need; says what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}.") from error


def leaf_name(path):
    """A leaf's place in its tree, for messages: `params/dense/kernel`, or `the only leaf`."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"


def real_floating_tree(name, tree):
    """Raises ValueError naming the first leaf of `tree` that is not an array of a real floating dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        dtype = (
            jnp.result_type(leaf) if dtype is None and isinstance(leaf, numbers.Number) else dtype
        )
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name} must be real floating-point arrays, got {dtype or type(leaf).__name__} at "
                f"{leaf_name(path)}; keep such leaves out, for example with optax.masked."
            )


def same_tree(name, tree, reference_name, reference):
    """Raises ValueError naming the first difference in structure or shapes between two trees of arrays.

    `reference` may hold `jax.ShapeDtypeStruct`s.
    """
    got = _shapes(tree)
    want = _shapes(reference)
    for place in (p for p in want if p not in got):
        raise ValueError(f"{name} lack the leaf {_joined(place)} of {reference_name}.")
    for place in (p for p in got if p not in want):
        raise ValueError(f"{name} have the leaf {_joined(place)}, which {reference_name} lack.")
    for place, shape in got.items():
        if shape != want[place]:
            raise ValueError(
                f"{name} at {_joined(place)} have shape {shape}, but {reference_name} have {want[place]}."
            )


def _shapes(tree):
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _joined(place):
    return "/".join(place) or "the only leaf"


def _article(word):
    return f"{'an' if word[0] in 'AEIOUaeiou' else 'a'} {word}"
