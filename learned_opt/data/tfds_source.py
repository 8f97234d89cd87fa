"""Data sets through TensorFlow Datasets, read without TensorFlow."""

import os

import numpy as np
import tqdm

from learned_opt import _checks
from learned_opt.data import base

NAMES = ("mnist", "fashion_mnist", "cifar10")


def load(name, data_dir=None):
    """Reads both splits of a prepared TFDS data set; see `learned_opt.data.load`."""
    tfds = _checks.extra("tensorflow_datasets", "tensorflow-datasets", f"the data set {name!r}")
    _checks.extra(
        "array_record", "array-record", f"the data set {name!r}"
    )  # TFDS imports it only when it reads
    where = os.path.expanduser(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    )
    try:
        builder = tfds.builder_from_directory(_prepared_directory(where, name))
        return base.Splits(*(_read(builder, name, split) for split in ("train", "test")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"the data set {name!r} is not in {where}. Either point --data_dir (data_dir=) at a TFDS directory that "
            f"has it, or prepare it once on a machine with a network: pip install tensorflow-datasets tensorflow && "
            f"tfds build {name} --data_dir={where} --file_format=array_record."
        ) from error


def _prepared_directory(data_dir, name):
    """The newest prepared version `data_dir/name/1.2.3`."""
    folder = os.path.join(data_dir, name)
    versions = [
        v
        for v in os.listdir(folder)
        if os.path.isfile(os.path.join(folder, v, "dataset_info.json"))
    ]
    if not versions:
        raise FileNotFoundError(folder)
    return os.path.join(folder, max(versions, key=_version_key))


def _version_key(version):
    return [int(n) if n.isdigit() else -1 for n in version.split(".")]


def _read(builder, name, split):
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise ValueError(
            f"the data set {name!r} in {builder.data_dir} is stored in a format that cannot be read "
            f"without TensorFlow: prepare it again with --file_format=array_record."
        ) from error
    shape = builder.info.features["image"].shape
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for i, example in enumerate(
        tqdm.tqdm(source, f"reading {name}/{split}", leave=False, disable=None)
    ):
        images[i], labels[i] = example["image"], example["label"]
    return base.Dataset(images, labels, builder.info.features["label"].num_classes)
