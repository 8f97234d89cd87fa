"""Learned optimizers as files: weights in safetensors, a JSON card beside them.

Nothing is ever unpickled. The safetensors file stands by itself: its header holds the spec of the
optimizer and a digest of the weights. The card repeats the spec and the digest for people, and
carries whatever else is to be known (training, measurements).
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from learned_opt import _checks, _files, old_formats, optimizers
from learned_opt.optimizers import base

FORMAT = "learned_opt optimizer"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"

_WRITE_ANEW = "write it anew with learned_opt.save."


def save(
    path: str | os.PathLike,
    opt: base.LearnedOptimizer,
    phi: base.Phi,
    info: dict | None = None,
) -> None:
    """Writes an optimizer: `path` (ending in .safetensors) and its card (ending in .json).

    An architecture of your own is saved as well, if its `spec` is plain data with a name of its
    own. `load` takes the function that builds it.

    Args:
      path: where to; the suffix is added if it is missing.
      opt: the `LearnedOptimizer`.
      phi: its weights.
      info: plain data for the card, such as how the weights were trained. Numbers that are not
        finite become strings.

    Raises:
      ValueError: if the optimizer cannot be rebuilt from plain data, if its spec builds another
        one, if phi is of another architecture or not finite, or if `info` is no plain data.

    Example:
      >>> import jax, learned_opt, os, tempfile
      >>> opt = learned_opt.lstm("mnist")
      >>> path = os.path.join(tempfile.mkdtemp(), "mine.safetensors")
      >>> learned_opt.save(path, opt, opt.init(jax.random.key(0)))
      >>> learned_opt.load(path)[0] == opt
      True
    """
    base.check_optimizer("opt", opt)
    path = _weights_path(path)
    _check_rebuildable(opt)
    spec = _plain("opt.spec", opt.spec)
    base.check_phi(phi, "opt", jax.eval_shape(opt.init, jax.random.key(0)))
    arrays = _named_arrays(phi)
    for name, array in arrays.items():
        if not np.all(np.isfinite(array.astype(np.float32))):
            raise ValueError(
                f"phi is not finite at {name}: save weights from before that, such as the best of "
                "a training, result.phi."
            )
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spec": spec,
        "sha256": _digest(spec, arrays),
    }
    card = {
        **header,
        "weights": os.path.basename(path),
        "num_weights": sum(a.size for a in arrays.values()),
        "info": _plain("info", _files.portable(info or {})),
    }
    with _files.whole(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata={"learned_opt": json.dumps(header)})
        # Weights without a card are whole. Weights with the card of others are not.
        _files.remove(card_path(path))
    _files.write_json(card_path(path), card)


def load(
    path: str | os.PathLike,
    label_fn: Callable | None = None,
    architectures: dict[str, Callable[..., base.LearnedOptimizer]] | None = None,
    **settings: Any,
) -> tuple[base.LearnedOptimizer, base.Phi]:
    """Reads an optimizer that `save` has written, or the papers' TensorFlow 1 code (`.l2l` files).

    The contents of a file tell which of the two it is. Of a TensorFlow file arrays are read and
    nothing in it is run. It does not hold what its network was trained with, which is taken to be
    what that code had; see `old_formats.read`.

    Args:
      path: the file; the suffix .safetensors may be missing. A card beside such a file is checked
        against it.
      label_fn: the labelling function of a partitioned optimizer that was built with a function.
      architectures: architectures of your own, by the name in their specs: `build(**args)` returns
        the optimizer. They may stand inside partitions, too.
      **settings: for TensorFlow files, arguments of `lstm` or `rnnprop` that differ from what that
        code had: `preset`, `preprocess_p`, `output_scale`, `betas`, `epsilon`, `state_dtype`.

    Returns:
      `(opt, phi)`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is truncated, changed, of a newer format, or neither of this library nor
        such a TensorFlow file; if its architecture is not known; if the card is another's; or if
        the settings do not fit the file.

    Example:
      >>> opt, phi = learned_opt.load("cw.l2l", preset="mnist")  # doctest: +SKIP
      >>> opt, phi = learned_opt.load("mine", architectures={"mine": build})  # doctest: +SKIP
    """
    path = _existing_path(path)
    if old_formats.is_old(path):
        return old_formats.read(path, **settings)
    if settings:
        raise ValueError(
            f"{path} was not written by the TensorFlow code, and takes no "
            f"{', '.join(sorted(settings))}: leave that out."
        )
    header, arrays = _read_weights(path)
    _check_version(path, header)
    if header.get("sha256") != _digest(header.get("spec"), arrays):
        raise ValueError(
            f"{path} was changed after it was written, its contents do not match their digest: "
            "take an unchanged copy."
        )
    _check_card(path, header)
    opt = optimizers.from_spec(header["spec"], label_fn, architectures)
    return opt, _weights_of(path, opt, arrays)


def read_card(path: str | os.PathLike) -> dict | None:
    """The card of a saved optimizer, or None where there is none.

    Raises:
      ValueError: if it is no card, or of a newer format.
    """
    path = card_path(_weights_path(path))
    if not _files.is_seen(path):
        return None
    card = _files.read_json(path)
    _check_version(path, card)
    return card


def digest(spec: Any, phi: base.Phi) -> str:
    """What identifies weights: a SHA-256 of an optimizer's spec and of its arrays.

    It is the one that `save` writes. Names, dtypes, shapes and bits of the arrays count.

    Args:
      spec: plain data, such as `opt.spec`, or None.
      phi: a pytree of arrays.

    Returns:
      64 hexadecimal digits.
    """
    return _digest(spec, _named_arrays(phi))


def card_path(path: str | os.PathLike) -> str:
    """Where the card of a weights file is."""
    return os.fspath(path).removesuffix(SUFFIX) + ".json"


def _weights_path(path):
    path = os.path.expanduser(os.fspath(path))
    if path.endswith(SUFFIX):
        return path
    return path.removesuffix(".json") + SUFFIX


def _existing_path(path):
    """The path of a weights file, or `path` itself if only that is there.

    Old files have any suffix.
    """
    with_suffix = _weights_path(path)
    path = os.path.expanduser(os.fspath(path))
    is_other = os.path.isfile(path) and not path.endswith(".json")
    if is_other and not _files.is_seen(with_suffix):
        return path
    return with_suffix


def _read_weights(path):
    if not _files.is_seen(path):
        raise FileNotFoundError(
            f"there is no file {path}: check the path, or write one with learned_opt.save."
        )
    try:
        with _files.here(path) as there:
            with safetensors.safe_open(there, framework="np") as f:
                header = json.loads((f.metadata() or {}).get("learned_opt", "null"))
            arrays = safetensors.numpy.load_file(there)
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or is no safetensors file, nor of an old format ({error}): take "
            "a whole copy, or another file."
        ) from error
    if not isinstance(header, dict):
        raise ValueError(
            f"{path} was not written by learned_opt.save, as it has no description of an "
            "optimizer: give one that was."
        )
    return header, arrays


def _check_version(path, header):
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by learned_opt.save: give a file that was.")
    version = header.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{path} has no valid format version: {version!r}; {_WRITE_ANEW}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than {FORMAT_VERSION}, the newest this "
            "learned_opt reads: upgrade learned_opt."
        )


def _check_card(path, header):
    card = read_card(path)
    if card is None:
        return
    if any(card.get(field) != header[field] for field in ("spec", "sha256")):
        raise ValueError(
            f"{card_path(path)} does not belong to {path}, one of the two was changed or replaced: "
            "remove the card, or take two that were written together."
        )


def _weights_of(path, opt, arrays):
    """The weights of an optimizer from the arrays of its file."""
    expected = jax.eval_shape(opt.init, jax.random.key(0))
    names = _names(expected)
    if set(names) != set(arrays):
        different = sorted(set(names) ^ set(arrays))
        raise ValueError(
            f"{path} does not hold the weights of its optimizer, {_checks.shown(different)} are "
            f"missing or too many: {_WRITE_ANEW}"
        )
    leaves = [jnp.asarray(arrays[name]) for name in names]
    phi = jax.tree.structure(expected).unflatten(leaves)
    _checks.same_tree(f"the weights in {path}", phi, "its optimizer", expected, _WRITE_ANEW)
    return phi


def _names(tree):
    """The names of a tree's leaves in a file; raises ValueError if two are the same."""
    names = [_checks.leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two leaves of phi have the name {name!r}: rename one of them.")
    return names


def _named_arrays(tree):
    arrays = [np.asarray(leaf, order="C") for leaf in jax.tree.leaves(tree)]
    return dict(zip(_names(tree), arrays, strict=True))


def _check_rebuildable(opt):
    """Raises ValueError unless the spec of an optimizer builds this optimizer.

    What an architecture of the user's own builds cannot be known here.
    """
    if opt.spec is None:
        raise ValueError(
            "opt cannot be saved, as its spec is None: it holds functions that no file can hold. "
            "Give an architecture of your own a spec, learned_opt.from_rule(rule, init, "
            "spec={'name': 'mine', 'args': {...}})."
        )
    if opt.parts is not None:
        for part in opt.parts.optimizers.values():
            _check_part(part)
        return
    name = opt.spec.get("name")
    if not isinstance(name, str) or not isinstance(opt.spec.get("args"), dict):
        raise ValueError(
            f"opt.spec must be {{'name': str, 'args': dict}} to be saved, got {opt.spec!r}."
        )
    known = (*optimizers.ARCHITECTURES, optimizers.PARTITION)
    if name in known and optimizers.from_spec(opt.spec).transform != opt.transform:
        raise ValueError(
            f"opt.spec has the name {name!r}, and what it builds is another optimizer: give an "
            "architecture of your own a name of its own."
        )


def _check_part(part):
    _check_rebuildable(part)
    has_function = part.parts is not None and part.spec["args"]["label_fn"] is None
    if has_function:
        raise ValueError(
            "a partitioned optimizer inside another one cannot be saved with a labelling function: "
            "give it a dict {pattern: label}."
        )


def _digest(spec, arrays):
    """See `digest`; `arrays` by name."""
    found = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name}:{array.dtype}:{array.shape};".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _plain(name, value):
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain data that JSON can hold: {error}.") from error
