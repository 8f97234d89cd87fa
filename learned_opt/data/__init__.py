"""Classification data: one embedded set, others through TensorFlow Datasets."""

from learned_opt import _checks
from learned_opt.data import digits, tfds_source
from learned_opt.data.base import Dataset, Splits, as_dataset
from learned_opt.data.transforms import shrink

DATASETS = ("digits", *tfds_source.NAMES)


def load(name="digits", data_dir=None):
    """Loads a data set.

    Args:
      name: "digits" (scikit-learn's bundled 8 x 8 handwritten digits, no network needed), or "mnist",
        "fashion_mnist", "cifar10" through TensorFlow Datasets, without TensorFlow.
      data_dir: the TFDS directory; None for TFDS's own default. Not used for "digits".

    Returns:
      `Splits(train, test)` of `Dataset`.

    Raises:
      ValueError: for an unknown name.
      FileNotFoundError: for a data set that is not there; says where it was looked for and how to get it.
    """
    _checks.choice("data set", name, DATASETS)
    return digits.load() if name == "digits" else tfds_source.load(name, data_dir)


__all__ = ["DATASETS", "Dataset", "Splits", "as_dataset", "load", "shrink"]
