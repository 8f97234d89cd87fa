"""Data sets through TensorFlow Datasets, read without TensorFlow."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tqdm

from learned_opt import _checks
from learned_opt.data.base import Dataset, Splits

NAMES = ("mnist", "fashion_mnist", "cifar10")
DEFAULT_DIRECTORY = "~/tensorflow_datasets"


def load(name: str, data_dir: str | os.PathLike | None = None) -> Splits:
    """Reads both splits of a prepared data set; see `learned_opt.data.load`."""

    def read(builder: Any) -> Splits:
        return Splits(_read(builder, name, "train"), _read(builder, name, "test"))

    return _from_prepared(name, data_dir, read)


def load_text(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
) -> str:
    """The text of one split of a prepared data set of texts, such as "tiny_shakespeare".

    Args:
      name: of the data set.
      split: of it, such as "train".
      data_dir: see `learned_opt.data.load`.

    Returns:
      All its examples, one after the other.

    Raises:
      FileNotFoundError: for a data set that is not there; says where it was looked for and how to
        get it.
    """

    def read(builder: Any) -> str:
        texts = (example["text"] for example in _source(builder, name, split))
        return "".join(text if isinstance(text, str) else text.decode() for text in texts)

    return _from_prepared(name, data_dir, read)


def _from_prepared(
    name: str,
    data_dir: str | os.PathLike | None,
    read: Callable[[Any], Any],
) -> Any:
    """What `read` makes of the builder of a prepared data set."""
    purpose = f"the data set {name!r}"
    tfds = _checks.extra("tensorflow_datasets", "tensorflow-datasets", purpose)
    # TensorFlow Datasets imports it only when it reads.
    _checks.extra("array_record", "array-record", purpose)
    where = _directory(data_dir)
    try:
        return read(tfds.builder_from_directory(_newest_version(where, name)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"the data set {name!r} is not in {where}. Either point --data_dir (data_dir=) at a "
            "TFDS directory that has it, or prepare it once on a machine with a network: pip "
            f"install tensorflow-datasets tensorflow && tfds build {name} --data_dir={where} "
            "--file_format=array_record."
        ) from error


def _directory(data_dir: str | os.PathLike | None) -> str:
    directory = data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DIRECTORY
    return os.path.expanduser(directory)


def _newest_version(data_dir: str, name: str) -> str:
    """The folder of the newest prepared version, `data_dir/name/1.2.3`."""
    folder = os.path.join(data_dir, name)
    versions = [version for version in os.listdir(folder) if _is_prepared(folder, version)]
    if not versions:
        raise FileNotFoundError(folder)
    return os.path.join(folder, max(versions, key=_version_key))


def _is_prepared(folder: str, version: str) -> bool:
    return os.path.isfile(os.path.join(folder, version, "dataset_info.json"))


def _version_key(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def _source(
    builder: Any,
    name: str,
    split: str,
) -> Any:
    """The examples of a split."""
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise ValueError(
            f"the data set {name!r} in {builder.data_dir} is stored in a format that cannot be "
            "read without TensorFlow: prepare it again with --file_format=array_record."
        ) from error


def _read(
    builder: Any,
    name: str,
    split: str,
) -> Dataset:
    source = _source(builder, name, split)
    features = builder.info.features
    images = np.empty((len(source), *features["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    examples = tqdm.tqdm(source, f"reading {name}/{split}", leave=False, disable=None)
    for i, example in enumerate(examples):
        images[i] = example["image"]
        labels[i] = example["label"]
    return Dataset(images, labels, features["label"].num_classes)
