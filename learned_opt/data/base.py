"""What a data set is here."""

from typing import NamedTuple

import jax
import numpy as np


class Dataset(NamedTuple):
    """Classification data.

    Attributes:
      images: `[n, ...]`, uint8 (read as [0, 1]) or floating point (read as it is).
      labels: `[n]`, integers in [0, num_classes).
      num_classes: number of classes.
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    num_classes: int


class Splits(NamedTuple):
    """A data set's training and test examples."""

    train: Dataset
    test: Dataset


def as_dataset(value):
    """A `Dataset` from a `Dataset` or from a pair `(images, labels)` of arrays.

    Raises:
      ValueError: unless images and labels are as many, not none, and labels whole numbers from 0 upwards.
    """
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise ValueError(
            f"dataset must be a Dataset or a pair (images, labels) of arrays, got {type(value).__name__}."
        )
    images, labels, *classes = value
    images, labels = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (images, labels))
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"dataset must have images [n, ...] and labels [n], got shapes {images.shape} and "
            f"{labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer) or int(labels.min()) < 0:
        raise ValueError(
            f"labels must be whole numbers from 0 upwards, got {labels.dtype} from {labels.min()}."
        )
    num_classes = int(classes[0]) if classes else int(labels.max()) + 1
    if int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be below num_classes={num_classes}, got {labels.max()}.")
    if images.dtype == np.float64:
        images = images.astype(np.float32)
    elif images.dtype != np.uint8 and not jax.numpy.issubdtype(images.dtype, jax.numpy.floating):
        raise ValueError(f"images must be uint8 or floating point, got {images.dtype}.")
    return Dataset(images, labels.astype(np.int32), num_classes)
