"""What a data set is here."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array


class Dataset(NamedTuple):
    """Classification data.

    Attributes:
      images: `[n, ...]`, uint8 (read as [0, 1]) or floating point (read as it is).
      labels: `[n]`, integers in [0, num_classes).
      num_classes: the number of classes.
    """

    images: Array
    labels: Array
    num_classes: int


class Splits(NamedTuple):
    """A data set's training and test examples."""

    train: Dataset
    test: Dataset


def as_dataset(value: Any) -> Dataset:
    """A `Dataset` from a `Dataset` or from a pair `(images, labels)` of arrays.

    Args:
      value: a `Dataset`, or a pair of images `[n, ...]` and labels `[n]`. The number of classes of
        a pair is the largest label plus one.

    Returns:
      A `Dataset` with labels of dtype int32. Images of dtype float64 become float32.

    Raises:
      ValueError: unless images and labels are as many, not none, and labels whole numbers from 0
        upwards.

    Example:
      >>> import numpy as np
      >>> from learned_opt import data
      >>> data.as_dataset((np.zeros((3, 8, 8)), [0, 2, 1])).num_classes
      3
    """
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise ValueError(
            "dataset must be a Dataset or a pair (images, labels) of arrays, got "
            f"{type(value).__name__}: learned_opt.data.load reads one by its name."
        )
    images = _as_array(value[0])
    labels = _as_array(value[1])
    _check_shapes(images, labels)
    _check_whole(labels)
    largest = int(labels.max())
    num_classes = int(value[2]) if len(value) == 3 else largest + 1
    if largest >= num_classes:
        raise ValueError(
            f"labels must be below num_classes={num_classes}, got {largest}: give more classes."
        )
    return Dataset(_as_pixels(images), labels.astype(np.int32), num_classes)


def _as_array(value: Any) -> Array:
    if isinstance(value, jax.Array):
        return value
    return np.asarray(value)


def _check_shapes(images: Array, labels: Array) -> None:
    are_batches = images.ndim >= 2 and labels.ndim == 1
    if not are_batches or len(images) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"dataset must have images [n, ...] and labels [n], got shapes {images.shape} and "
            f"{labels.shape}."
        )


def _check_whole(labels: Array) -> None:
    if not np.issubdtype(labels.dtype, np.integer) or int(labels.min()) < 0:
        raise ValueError(
            f"labels must be whole numbers from 0 upwards, got {labels.dtype}, the smallest "
            f"{labels.min()}: number the classes from 0."
        )


def _as_pixels(images: Array) -> Array:
    dtype = images.dtype
    if dtype == np.float64:
        return images.astype(np.float32)
    if dtype != np.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"images must be uint8 or floating point, got {dtype}.")
    return images
