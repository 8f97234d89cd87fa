"""Data sets made of others, and images as networks read them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks
from learned_opt.data.base import Array, Dataset, Splits, as_dataset


def as_float(images: jax.Array) -> jax.Array:
    """Images as a network reads them: bytes become [0, 1], others stay as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images


def shrink(dataset: Any, factor: int) -> Any:
    """The data set with smaller images: the mean of a square of pixels becomes one pixel.

    A network has fewer parameters on them, and an optimizer is meta-trained on it in less time.

    Args:
      dataset: a `Dataset` or a pair, see `as_dataset`, with images `[n, height, width]` or
        `[n, height, width, channels]`; or `Splits` of them.
      factor: the sides of a square, a whole number that divides height and width.

    Returns:
      A `Dataset` with images `[n, height / factor, width / factor, ...]` of the same dtype; bytes
      are rounded to the nearest, halves to the even one. `Splits` where `Splits` are given.

    Raises:
      ValueError: for a factor that is not positive or does not divide height and width, or images
        without them.

    Example:
      >>> from learned_opt import data
      >>> data.shrink(data.load("digits"), 2).test.images.shape
      (360, 4, 4, 1)
    """
    if isinstance(dataset, Splits):
        return Splits(shrink(dataset.train, factor), shrink(dataset.test, factor))
    dataset = as_dataset(dataset)
    factor = _checks.positive_int("factor", factor)
    shape = dataset.images.shape
    if len(shape) not in (3, 4):
        raise ValueError(
            "images must be [n, height, width] or [n, height, width, channels] to be shrunk, got "
            f"shape {shape}."
        )
    _checks.divides("factor", factor, "height", shape[1])
    _checks.divides("factor", factor, "width", shape[2])
    return dataset._replace(images=_mean_pooled(dataset.images, factor))


def with_labels(dataset: Any, labels: Sequence[int]) -> Any:
    """The examples that have one of these labels, numbered anew from 0 in the order given.

    Args:
      dataset: a `Dataset` or a pair, see `as_dataset`; or `Splits` of them.
      labels: the labels to keep, each once.

    Returns:
      A `Dataset` of `len(labels)` classes; `Splits` where `Splits` are given.

    Raises:
      ValueError: for fewer than two labels, one that stands there twice, or one of which the data
        have no example.

    Example:
      >>> from learned_opt import data
      >>> train, test = data.with_labels(data.load("digits"), (3, 8))
      >>> sorted(set(test.labels.tolist())), test.num_classes
      ([0, 1], 2)
    """
    if isinstance(dataset, Splits):
        return Splits(with_labels(dataset.train, labels), with_labels(dataset.test, labels))
    dataset = as_dataset(dataset)
    labels = [_checks.positive_int("labels", label, minimum=0) for label in labels]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be two or more, each once, got {labels}.")
    found = np.asarray(dataset.labels)
    there = np.unique(found).tolist()
    missing = sorted(set(labels) - set(there))
    if missing:
        raise ValueError(f"labels must be among those of the data, {there}, got {missing}.")
    kept = np.isin(found, labels)
    numbers = np.zeros(max(there) + 1, np.int32)
    numbers[labels] = np.arange(len(labels))
    return Dataset(dataset.images[kept], numbers[found[kept]], len(labels))


def _mean_pooled(images: Array, factor: int) -> Array:
    num_images, height, width, *channels = images.shape
    rows = height // factor
    columns = width // factor
    squares = images.reshape(num_images, rows, factor, columns, factor, *channels)
    # Sums of bytes are exact in float32 up to factor 256.
    means = squares.mean((2, 4), dtype=np.float32)
    if images.dtype == np.uint8:
        means = means.round()
    return means.astype(images.dtype)
