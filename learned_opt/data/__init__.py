"""Classification data: one embedded set, others through TensorFlow Datasets."""

import os
from typing import Any

from learned_opt import _checks
from learned_opt.data import digits, tfds_source
from learned_opt.data.base import Dataset, Splits, as_dataset
from learned_opt.data.transforms import shrink, with_labels

#: The names that `load` knows.
DATASETS = ("digits", *tfds_source.NAMES)


def load(name: str = "digits", data_dir: str | os.PathLike | None = None) -> Splits:
    """Loads a data set.

    Args:
      name: "digits" (scikit-learn's bundled 8 x 8 handwritten digits, no network needed), or
        "mnist", "fashion_mnist", "cifar10" through TensorFlow Datasets, without TensorFlow.
      data_dir: the directory of TensorFlow Datasets; None for its own default. Not used for
        "digits".

    Returns:
      `Splits(train, test)` of `Dataset`.

    Raises:
      ValueError: for an unknown name.
      FileNotFoundError: for a data set that is not there; says where it was looked for and how to
        get it.

    Example:
      >>> from learned_opt import data
      >>> train, test = data.load("digits")
      >>> train.images.shape, test.images.shape
      ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    _checks.choice("data set", name, DATASETS)
    if name == "digits":
        return digits.load()
    return tfds_source.load(name, data_dir)


def training_data(value: Any) -> Dataset:
    """The examples to train on: the training split of a named data set, or data as they are.

    Args:
      value: a name, see `load`, or data, see `as_dataset`.

    Returns:
      A `Dataset`.

    Raises:
      ValueError: for an unknown name, or data that are no classification data.
    """
    if isinstance(value, str):
        return load(value).train
    return as_dataset(value)


__all__ = [
    "DATASETS",
    "Dataset",
    "Splits",
    "as_dataset",
    "load",
    "shrink",
    "training_data",
    "with_labels",
]
