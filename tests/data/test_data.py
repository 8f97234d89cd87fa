"""The embedded data set, data of one's own, and TFDS without TensorFlow."""

import importlib.abc
import socket
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import data
from learned_opt.data import tfds_source

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 1)).astype(np.uint8)
LABELS = np.array([3, 0, 4, 1, 9, 2, 6, 5, 3])
NUM_TRAIN = 6


def test_digits():
    train, test = data.load("digits")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert train.num_classes == test.num_classes == 10
    for split in (train, test):
        assert split.images.dtype == np.float32
        assert split.labels.dtype == np.int32
        assert split.images.min() == 0.0
        assert split.images.max() == 1.0
        assert set(split.labels) == set(range(10))
        assert np.bincount(split.labels).min() > 0.06 * len(split.labels)


def test_digits_are_all_of_scikit_learns_and_split_without_overlap():
    from sklearn import datasets

    bunch = datasets.load_digits()
    train, test = data.load()

    def rows(images, labels):
        pixels = np.round(16 * images.reshape(-1, 64)).astype(np.uint8)
        return sorted(zip(map(bytes, pixels), labels.tolist(), strict=True))

    images = np.concatenate([train.images, test.images])
    ours = rows(images, np.concatenate([train.labels, test.labels]))
    assert ours == rows(bunch.images / 16, bunch.target)
    assert not {image for image, _ in rows(*train[:2])} & {image for image, _ in rows(*test[:2])}


def test_digits_are_split_in_the_same_way_each_time():
    np.testing.assert_array_equal(data.load().test.labels, data.load().test.labels)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 2), np.float64), [0, 2, 1]),
        (jnp.zeros((3, 2)), jnp.array([0, 2, 1])),
        ([[0.0, 0.0]] * 3, (0, 2, 1)),
        (np.zeros((3, 2, 2), np.uint8), np.array([0, 2, 1], np.uint8)),
    ],
)
def test_pairs_of_arrays_are_data_sets(images, labels):
    got = data.as_dataset((images, labels))
    assert isinstance(got, data.Dataset)
    assert got.num_classes == 3
    assert got.images.dtype in (np.float32, np.uint8)
    assert got.labels.dtype == np.int32
    np.testing.assert_array_equal(got.labels, [0, 2, 1])


def test_a_data_set_keeps_its_number_of_classes():
    ten = data.Dataset(np.zeros((2, 2), np.float32), np.array([0, 1]), 10)
    assert data.as_dataset(ten).num_classes == 10


def test_training_data_by_name_or_as_they_are():
    np.testing.assert_array_equal(data.training_data("digits").images, data.load().train.images)
    pair = (np.zeros((2, 2)), [0, 1])
    assert data.training_data(pair).num_classes == 2
    with pytest.raises(ValueError, match=r"unknown data set 'digts'. Did you mean 'digits'"):
        data.training_data("digts")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("digits", r"must be a Dataset or a pair \(images, labels\) of arrays, got str"),
        ((np.zeros((2, 2)),), r"must be a Dataset or a pair"),
        ((np.zeros((2, 2)), np.zeros(3, int)), r"got shapes \(2, 2\) and \(3,\)"),
        ((np.zeros(2), np.zeros(2, int)), r"got shapes \(2,\) and \(2,\)"),
        ((np.zeros((0, 2)), np.zeros(0, int)), r"got shapes \(0, 2\) and \(0,\)"),
        ((np.zeros((2, 2)), np.zeros((2, 1), int)), r"got shapes \(2, 2\) and \(2, 1\)"),
        (
            (np.zeros((2, 2)), np.array([0.0, 1.0])),
            "labels must be whole numbers from 0 upwards, got float64",
        ),
        (
            (np.zeros((2, 2)), np.array([0, -1])),
            "labels must be whole numbers from 0 upwards, got int64, the smallest -1",
        ),
        ((np.zeros((2, 2)), np.array([0, 5]), 5), "labels must be below num_classes=5, got 5"),
        (
            (np.zeros((2, 2), np.int32), np.array([0, 1])),
            "images must be uint8 or floating point, got int32",
        ),
        (
            (np.zeros((2, 2), np.complex64), np.array([0, 1])),
            "images must be uint8 or floating point, got complex64",
        ),
    ],
)
def test_bad_data(value, message):
    with pytest.raises(ValueError, match=message):
        data.as_dataset(value)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_shrunk_images_are_the_means_of_squares(channels):
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 4, *channels)).astype(np.uint8)
    got = data.shrink(data.Dataset(images, np.arange(5), 7), 2)
    assert got.images.shape == (5, 3, 2, *channels)
    assert got.images.dtype == np.uint8
    want = np.array(
        [
            [
                [np.round(image[i : i + 2, j : j + 2].mean((0, 1))) for j in (0, 2)]
                for i in (0, 2, 4)
            ]
            for image in images.astype(np.float64)
        ]
    )
    np.testing.assert_array_equal(got.images, want)
    np.testing.assert_array_equal(got.labels, np.arange(5))
    assert got.num_classes == 7


def test_literal_values_of_shrunk_images():
    pixels = np.array([[[0, 1, 255, 255], [1, 1, 255, 254], [0, 1, 2, 3], [0, 1, 4, 5]]], np.uint8)
    np.testing.assert_array_equal(
        data.shrink((pixels, np.array([0])), 2).images, [[[1, 255], [0, 4]]]
    )
    np.testing.assert_array_equal(
        data.shrink((np.full((2, 28, 28), 255, np.uint8), np.array([0, 1])), 28).images,
        np.full((2, 1, 1), 255),
    )


def test_both_splits_are_shrunk():
    splits = data.load("digits")
    got = data.shrink(splits, 4)
    assert isinstance(got, data.Splits)
    for shrunk, whole in zip(got, splits, strict=True):
        np.testing.assert_array_equal(shrunk.images, data.shrink(whole, 4).images)
        assert shrunk.images.shape == (len(whole.labels), 2, 2, 1)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_shrunk_floats_are_not_rounded(array, dtype):
    images = array(np.array([[[0.0, 0.5], [0.25, 0.0]]], dtype))
    got = data.shrink((images, np.array([0])), 2).images
    assert isinstance(got, type(images))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, [[[0.1875]]])
    np.testing.assert_array_equal(data.shrink((images, np.array([0])), 1).images, images)


@pytest.mark.parametrize(
    ("shape", "factor", "message"),
    [
        ((2, 28, 28, 1), 0, "factor must be a whole number of at least 1, got 0"),
        ((2, 28, 28, 1), 2.0, "factor must be a whole number of at least 1, got 2.0"),
        ((2, 28, 28, 1), True, "factor must be a whole number of at least 1, got True"),
        ((2, 28, 28, 1), 3, "factor must divide height=28, got 3; the nearest that do: 2, 4"),
        ((2, 28, 20), 7, "factor must divide width=20, got 7; the nearest that do: 4, 5"),
        ((2, 784), 2, r"images must be .* to be shrunk, got shape \(2, 784\)"),
    ],
)
def test_bad_shrinking(shape, factor, message):
    with pytest.raises(ValueError, match=message):
        data.shrink((np.zeros(shape, np.uint8), np.array([0, 1])), factor)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'. Did you mean 'cifar10'"):
        data.load("cifar")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda folder: None,
        lambda folder: folder.mkdir(),
        lambda folder: (folder / "3.0.1").mkdir(parents=True),
        lambda folder: folder.write_text(""),
    ],
    ids=["nothing", "empty", "version-without-data", "a-file"],
)
def test_a_missing_data_set_says_where_and_how(tmp_path, name, prepare):
    prepare(tmp_path / name)
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(name), str(tmp_path), "--data_dir", f"tfds build {name}"):
        assert part in message


def test_the_environment_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        data.load("mnist")


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """A directory with nine examples of "mnist", written by TFDS itself, without TensorFlow."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(28, 28, 1)),
                        "label": tfds.features.ClassLabel(num_classes=10),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {
                "train": self._generate_examples(range(NUM_TRAIN)),
                "test": self._generate_examples(range(NUM_TRAIN, len(LABELS))),
            }

        def _generate_examples(self, indices):
            for i in indices:
                yield i, {"image": Image.fromarray(IMAGES[i, ..., 0]), "label": int(LABELS[i])}

    folder = tmp_path_factory.mktemp("tfds")
    Mnist(data_dir=folder).download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    return folder


class NoTensorFlow(importlib.abc.MetaPathFinder):
    """Finds no TensorFlow, also where it is installed."""

    def find_spec(self, fullname, path, target=None):
        del path, target
        if fullname == "tensorflow":
            raise ModuleNotFoundError("no TensorFlow in this test", name=fullname)


@pytest.fixture
def offline(monkeypatch):
    """No TensorFlow to be imported, and no network."""

    def refuse(*args):
        raise AssertionError(f"the network was asked for {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(), *sys.meta_path])


def test_tfds_without_tensorflow_and_network(tfds_directory, offline):
    splits = data.load("mnist", tfds_directory)
    assert "tensorflow" not in sys.modules
    where = {"train": slice(0, NUM_TRAIN), "test": slice(NUM_TRAIN, None)}
    for name, split in splits._asdict().items():
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.num_classes == 10
        want = sorted(
            (int(label), image.tobytes())
            for label, image in zip(LABELS[where[name]], IMAGES[where[name]], strict=True)
        )
        got = sorted(
            (int(label), image.tobytes())
            for label, image in zip(split.labels, split.images, strict=True)
        )
        assert got == want


def test_text_from_tfds(tmp_path):
    import tensorflow_datasets as tfds

    class Letters(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "letters"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": iter([(0, {"text": "To be, or not"})])}

        def _generate_examples(self):
            raise NotImplementedError

    Letters(data_dir=tmp_path).download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    assert tfds_source.load_text("letters", "train", tmp_path) == "To be, or not"
    with pytest.raises(FileNotFoundError, match="tfds build tiny_shakespeare"):
        tfds_source.load_text("tiny_shakespeare", "train", tmp_path)


def test_tfds_reads_the_newest_version(tfds_directory, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "3.0.1").symlink_to(tfds_directory / "mnist" / "3.0.1")
    for older in ("2.10.0", "3.0.0"):
        (tmp_path / "mnist" / older).mkdir()
        (tmp_path / "mnist" / older / "dataset_info.json").write_text("{}")
    assert len(data.load("mnist", tmp_path).train.labels) == NUM_TRAIN


def test_tfds_data_are_data_for_a_network(tfds_directory):
    problem = learned_opt.optimizees.mlp(data.load("mnist", tfds_directory).train, batch_size=2)
    assert problem.loss.args[0].shape == (NUM_TRAIN, 28, 28, 1)


def test_labels_are_kept_and_numbered_in_their_order():
    train, test = data.load("digits")
    kept = data.with_labels(data.Splits(train, test), (8, 3))
    for got, whole in zip(kept, (train, test), strict=True):
        is_kept = (whole.labels == 8) | (whole.labels == 3)
        np.testing.assert_array_equal(got.images, whole.images[is_kept])
        np.testing.assert_array_equal(got.labels, (whole.labels[is_kept] == 3).astype(np.int32))
        assert got.num_classes == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((3, 11), r"labels must be among those of the data, \[0, 1, .* 9\], got \[11\]\."),
        ((3,), r"labels must be two or more, each once, got \[3\]\."),
        ((3, 3), r"labels must be two or more, each once, got \[3, 3\]\."),
        ((3, -1), "labels must be a whole number of at least 0, got -1"),
    ],
)
def test_labels_that_are_not_there(labels, message):
    with pytest.raises(ValueError, match=message):
        data.with_labels(data.load("digits"), labels)
