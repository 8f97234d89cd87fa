"""Learned optimizers as files: weights in safetensors, a JSON card beside them. Nothing is ever unpickled.

The safetensors file stands by itself: its header holds the optimizer's spec and a digest of the weights. The card
repeats the spec and the digest for people, and carries whatever else is to be known (training, measurements).
"""

import contextlib
import hashlib
import json
import os

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


def save(path, opt, phi, info=None):
    """Writes an optimizer: `path` (ending in .safetensors) and its card (the same name, ending in .json).

    Args:
      path: where to; the suffix is added if it is missing.
      opt: the `LearnedOptimizer`.
      phi: its weights.
      info: plain data for the card, such as how the weights were trained; numbers that are not finite become strings.

    Raises:
      ValueError: if the optimizer cannot be rebuilt from plain data, phi is of another architecture or not finite, or
        `info` is no plain data.
    """
    base.check_optimizer("opt", opt)
    path = _weights_path(path)
    spec = _plain("opt.spec", opt.spec)
    _check_rebuildable(spec)
    _checks.same_tree("phi", phi, "the weights of opt", jax.eval_shape(opt.init, jax.random.key(0)))
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named_leaves(phi)}
    for name, array in arrays.items():
        if not np.all(np.isfinite(array.astype(np.float32))):
            raise ValueError(f"phi is not finite at {name}.")
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
        with contextlib.suppress(
            FileNotFoundError
        ):  # weights without a card are whole, with another's they are not
            os.unlink(card_path(path))
    _files.write_json(card_path(path), card)


def load(path, label_fn=None, **settings):
    """Reads an optimizer that `save` has written, or the papers' TensorFlow 1 code (an `.l2l` file).

    Which of the two a file is, its contents tell. Of the TensorFlow files arrays are read and nothing in them is run.
    They do not hold what their network was trained with, which is taken to be what that code had; see
    `old_formats.read`.

    Args:
      path: the file; the suffix .safetensors may be missing. A card beside such a file is checked against it.
      label_fn: the labelling function of a partitioned optimizer that was built with a function.
      **settings: for TensorFlow files, arguments of `lstm` or `rnnprop` that differ from what that code had: `preset`,
        `preprocess_p`, `output_scale`, `betas`, `epsilon`, `state_dtype`.

    Returns:
      `(opt, phi)`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is truncated, changed, of a newer format, or neither of this library nor such a TensorFlow
        file; if the card is another's; or if the settings do not fit the file.

    Example:
      >>> opt, phi = learned_opt.load("cw.l2l", preset="mnist")
    """
    path = _existing_path(path)
    if old_formats.is_old(path):
        return old_formats.read(path, **settings)
    if settings:
        raise ValueError(
            f"{path} was not written by the TensorFlow code, and takes no {', '.join(sorted(settings))}: "
            "leave that out."
        )
    header, arrays = _read_weights(path)
    _check_version(path, header)
    if header.get("sha256") != _digest(header.get("spec"), arrays):
        raise ValueError(
            f"{path} was changed after it was written: its contents do not match their digest."
        )
    card = read_card(path)
    if card is not None and any(card.get(k) != header[k] for k in ("spec", "sha256")):
        raise ValueError(
            f"{card_path(path)} does not belong to {path}: one of the two was changed or replaced."
        )
    opt = optimizers.from_spec(header["spec"], label_fn)
    expected = jax.eval_shape(opt.init, jax.random.key(0))
    treedef = jax.tree.structure(expected)
    names = [name for name, _ in _named_leaves(expected)]
    if set(names) != set(arrays):
        raise ValueError(
            f"{path} does not hold the weights of its optimizer: "
            f"{sorted(set(names) ^ set(arrays))} are missing or too many."
        )
    phi = treedef.unflatten([jnp.asarray(arrays[name]) for name in names])
    _checks.same_tree(f"the weights in {path}", phi, "its optimizer", expected)
    return opt, phi


def read_card(path):
    """The card of a saved optimizer as a dict, or None where there is none.

    Raises:
      ValueError: if it is no card, or of a newer format.
    """
    path = card_path(_weights_path(path))
    if not os.path.exists(path):
        return None
    card = _files.read_json(path)
    _check_version(path, card)
    return card


def card_path(path):
    """Where the card of a weights file is."""
    return os.fspath(path).removesuffix(SUFFIX) + ".json"


def _weights_path(path):
    path = os.path.expanduser(os.fspath(path))
    return path if path.endswith(SUFFIX) else path.removesuffix(".json") + SUFFIX


def _existing_path(path):
    """The path of a weights file, or the very path if only that is there: old files have any suffix."""
    with_suffix, path = _weights_path(path), os.path.expanduser(os.fspath(path))
    is_other = os.path.isfile(path) and not path.endswith(".json")
    return path if is_other and not os.path.exists(with_suffix) else with_suffix


def _read_weights(path):
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="np") as f:
            header = json.loads((f.metadata() or {}).get("learned_opt", "null"))
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or is no safetensors file, nor of an old format: {error}."
        ) from error
    if not isinstance(header, dict):
        raise ValueError(
            f"{path} was not written by learned_opt.save: it has no description of an optimizer."
        )
    return header, arrays


def _check_version(path, header):
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by learned_opt.save.")
    version = header.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{path} has no valid format version: {version!r}.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than {FORMAT_VERSION}, the newest this "
            "learned_opt reads: upgrade learned_opt."
        )


def _named_leaves(tree):
    return [
        (_checks.leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _check_rebuildable(spec):
    if spec["name"] not in (*optimizers.ARCHITECTURES, "partition"):
        raise ValueError(
            f"an optimizer made by {spec['name']!r} holds functions and cannot be saved; "
            f"those that can: {', '.join(sorted(optimizers.ARCHITECTURES))}, partition."
        )
    if spec["name"] == "partition":
        for part in spec["args"]["optimizers"].values():
            _check_rebuildable(part)


def _digest(spec, arrays):
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _plain(name, value):
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain data that JSON can hold: {error}.") from error
