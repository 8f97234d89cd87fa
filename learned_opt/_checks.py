"""Argument checks. Every message names the argument, its value, and what would be right."""

import contextlib
import difflib
import importlib
import numbers
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_STATE_DTYPES = ("float32", "bfloat16", "float16", "float64")
_LONGEST = 100  # characters of a value in a message


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and not longer than that can be read.

    Example:
      >>> import numpy as np
      >>> from learned_opt import _checks
      >>> _checks.shown(np.eye(2))
      'array([[1., 0.], [0., 1.]])'
    """
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"{value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    if isinstance(value, str) or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} ..."


def positive_int(
    name: str,
    value: Any,
    minimum: int = 1,
) -> int:
    """Returns `value` as an int; raises ValueError unless it is whole and at least `minimum`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < minimum:
        raise ValueError(
            f"{name} must be a whole number of at least {minimum}, got {shown(value)}."
        )
    return int(value)


def positive_float(name: str, value: Any) -> Any:
    """Returns `value` as a float; raises ValueError unless it is finite and above zero.

    Inside a traced function the value is not known: a tracer is returned unchecked.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    if not _is_scalar(value) or not np.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {shown(value)}.")
    return float(value)


def not_negative_float(name: str, value: Any) -> Any:
    """Returns `value` as a float; raises ValueError unless it is zero or finite and above.

    Inside a traced function the value is not known: a tracer is returned unchecked.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    if not _is_scalar(value) or not np.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be 0 or a finite number above it, got {shown(value)}.")
    return float(value)


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """Returns one size or several as a tuple; raises ValueError unless all are positive ints."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not values:
        raise ValueError(f"{name} must name at least one layer, got ().")
    return tuple(positive_int(name, size) for size in values)


def state_dtype(value: Any) -> str | None:
    """Returns the name of the dtype; raises ValueError for one that no state is kept in.

    None stays None.
    """
    if value is None:
        return None
    # What is no dtype at all stays as it is, and is refused by name.
    with contextlib.suppress(TypeError):
        value = jnp.dtype(value).name
    return choice("state_dtype", value, _STATE_DTYPES)


def choice(
    name: str,
    value: Any,
    known: Iterable,
) -> Any:
    """Returns `value`; raises ValueError that names the nearest of `known` unless it is one of
    them.

    Example:
      >>> from learned_opt import _checks
      >>> _checks.choice("method", "autodif", ["adjoint", "autodiff"])
      Traceback (most recent call last):
        ...
      ValueError: unknown method 'autodif'. Did you mean 'autodiff'? Known: 'adjoint', 'autodiff'.
    """
    known = list(dict.fromkeys(known))
    if value in known:
        return value
    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {name} {shown(value)}.{hint} Known: {', '.join(map(repr, known))}.")


def boolean(name: str, value: Any) -> bool:
    """Returns `value`; raises ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}.")
    return value


def instance_of(
    name: str,
    value: Any,
    kind: type,
    remedy: str,
) -> None:
    """Raises ValueError with the remedy unless `value` is a `kind`."""
    if isinstance(value, kind):
        return
    wanted = _with_article(kind.__name__)
    raise ValueError(f"{name} must be {wanted}, got {type(value).__name__}: {remedy}")


def random_key(key: Any) -> None:
    """Raises ValueError unless `key` is one random key, typed or of the old kind (two uint32)."""
    if not _is_random_key(key):
        raise ValueError(
            f"key must be a random key, got {shown(key)}: make one with jax.random.key(seed)."
        )


def divides(
    name: str,
    value: int,
    whole_name: str,
    whole: int,
) -> None:
    """Raises ValueError unless `value` divides `whole`; the message names the nearest divisors."""
    if whole % value == 0:
        return
    divisors = [candidate for candidate in range(1, whole + 1) if whole % candidate == 0]
    divisors.sort(key=lambda divisor: abs(divisor - value))
    nearest = sorted(divisors[:2])
    raise ValueError(
        f"{name} must divide {whole_name}={whole}, got {value}; "
        f"the nearest that do: {', '.join(map(str, nearest))}."
    )


def extra(
    module: str,
    package: str,
    purpose: str,
) -> ModuleType:
    """Imports a module that only some uses of the library need.

    Args:
      module: what to import.
      package: what to install where the module is missing.
      purpose: what needs it, the first words of the message.

    Raises:
      ImportError: if it cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}.") from error


def leaf_name(path: tuple) -> str:
    """Names a leaf's place in its tree, for messages: `params/dense/kernel`, or `the only leaf`."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"


def real_floating_tree(name: str, tree: Any) -> None:
    """Raises ValueError that names the first leaf of `tree` without a real floating dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = _dtype(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name} must be real floating-point arrays, got {dtype or type(leaf).__name__} at "
                f"{leaf_name(path)}; keep such leaves out, for example with optax.masked."
            )


def same_tree(
    name: str,
    tree: Any,
    reference_name: str,
    reference: Any,
    remedy: str,
) -> None:
    """Raises ValueError that names the first difference in structure or shapes between two trees of
    arrays.

    Args:
      name: what `tree` is, for the message.
      tree: the tree to check.
      reference_name: what `reference` is, for the message.
      reference: the tree as it should be; it may hold `jax.ShapeDtypeStruct`s.
      remedy: what to do then, the last words of the message.

    Raises:
      ValueError: if `tree` lacks a leaf, has one too many, or has one of another shape.
    """
    got = _shapes(tree)
    want = _shapes(reference)
    for place in want:
        if place not in got:
            raise ValueError(f"{name} lack the leaf {_joined(place)} of {reference_name}: {remedy}")
    for place in got:
        if place not in want:
            raise ValueError(
                f"{name} have the leaf {_joined(place)}, which {reference_name} lack: {remedy}"
            )
    for place, shape in got.items():
        if shape != want[place]:
            raise ValueError(
                f"{name} at {_joined(place)} have shape {shape}, but {reference_name} have "
                f"{want[place]}: {remedy}"
            )


def _is_scalar(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    is_number = isinstance(value, (numbers.Real, np.ndarray, np.generic, jax.Array))
    return is_number and np.ndim(value) == 0


def _is_random_key(key: Any) -> bool:
    if not isinstance(key, jax.Array):
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.ndim == 0
    return key.dtype == jnp.uint32 and key.ndim == 1


def _dtype(leaf: Any) -> Any:
    """The dtype of an array or of a Python number, None for everything else."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and isinstance(leaf, numbers.Number):
        return jnp.result_type(leaf)
    return dtype


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every leaf by its place, a tuple of names."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        shapes[place] = jnp.shape(leaf)
    return shapes


def _joined(place: tuple[str, ...]) -> str:
    return "/".join(place) or "the only leaf"


def _with_article(word: str) -> str:
    article = "an" if word[0] in "AEIOUaeiou" else "a"
    return f"{article} {word}"
