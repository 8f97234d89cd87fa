"""Pictures and features for neural art: what is embedded, or a folder of a user's own.

A folder of one's own is DATA_DIR/neural_art:

    content/train/, content/validation/, content/test/    photographs, none of them in two folders
    style/train.jpg, style/test.jpg                       the styles (any format)
    features.npz or features.safetensors                  a network, see `feature_files.LAYOUTS`

Where there is no such folder, what is embedded is taken: the two photographs that come with
scikit-learn for training and test, one that comes with matplotlib for validation, drawn patterns as
styles, and a convolutional network of random filters.
"""

import glob
import os
from typing import Any, NamedTuple

import numpy as np

from learned_opt import _checks, _fingerprint, data
from learned_opt.data import pictures
from learned_opt.optimizees import feature_files, feature_networks, style_transfer
from learned_opt.optimizees.feature_networks import Features

DATASET = "pictures"
FOLDER = "neural_art"
SPLITS = ("train", "validation", "test")
STYLES = ("train", "test")
EMBEDDED = "embedded pictures, random filters"
STYLE_SIZE = 128  # the side of a style, whatever the size of the content


class Source(NamedTuple):
    """What families of neural art are made of.

    Attributes:
      about: what it is, in a few words.
      photographs: dict from a split to its content pictures.
      styles: dict from "train" and "test" to a style.
      net: the features.
    """

    about: str
    photographs: dict[str, list[np.ndarray]]
    styles: dict[str, np.ndarray]
    net: Features


def load_any(dataset: str, data_dir: str | None) -> Any:
    """A data set: the pictures of neural art, or `data.Splits` of any other."""
    return load(data_dir) if dataset == DATASET else data.load(dataset, data_dir)


def has_folder(data_dir: str | None) -> bool:
    """Whether there is a folder of one's own."""
    return bool(data_dir) and os.path.isdir(_folder(data_dir))


def load(data_dir: str | None) -> Source:
    """The folder of one's own, or what is embedded where there is none.

    Raises:
      FileNotFoundError: for a folder that is not there, or lacks something.
      ValueError: for files that are not what they should be, or a photograph in two splits.
    """
    if data_dir and not os.path.isdir(os.path.expanduser(data_dir)):
        raise FileNotFoundError(
            f"there is no folder {data_dir}: check --data_dir, or leave it out for embedded "
            "pictures."
        )
    if not has_folder(data_dir):
        return embedded()
    folder = _folder(data_dir)
    net = feature_files.read_features(_only(os.path.join(folder, "features.*")))
    photographs = {}
    for split in SPLITS:
        read = pictures.read_folder(os.path.join(folder, "content", split))
        photographs[split] = list(read.values())
    _check_apart(photographs)
    styles = {}
    for name in STYLES:
        path = _only(os.path.join(folder, "style", f"{name}.*"))
        styles[name] = pictures.square(pictures.read_picture(path, STYLE_SIZE), STYLE_SIZE)
    counts = " + ".join(str(len(photographs[split])) for split in SPLITS)
    return Source(f"{net.network.about}, {counts} photographs", photographs, styles, net)


def embedded() -> Source:
    """What needs no file."""
    samples = _checks.extra("sklearn.datasets", "scikit-learn", "the embedded photographs")
    cbook = _checks.extra("matplotlib.cbook", "matplotlib", "the embedded photographs")
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        validation = pictures.read_picture(file.name)
    photographs = {
        "train": [np.asarray(samples.load_sample_image("flower.jpg"))],
        "validation": [validation],
        "test": [np.asarray(samples.load_sample_image("china.jpg"))],
    }
    styles = {"train": waves(STYLE_SIZE), "test": cells(STYLE_SIZE)}
    return Source(EMBEDDED, photographs, styles, feature_networks.random_features(16))


def family(
    source: Source,
    split: str = "train",
    style: str = "train",
    size: int = 64,
    pool: int = 1_000,
    start: str = "noise",
) -> style_transfer.Art:
    """A family of neural art.

    Args:
      source: pictures and features.
      split: whose photographs are content.
      style: which of the styles.
      size: the side of a content picture.
      pool: how many crops of the photographs there are; each problem draws one of them.
      start: see `style_transfer.neural_art`.

    Raises:
      ValueError: for settings that are not possible.
    """
    photographs = source.photographs[_checks.choice("split", split, SPLITS)]
    drawn = source.styles[_checks.choice("style", style, STYLES)]
    contents = pictures.crops(photographs, pool, size, seed=SPLITS.index(split))
    return style_transfer.neural_art(contents, drawn, source.net, start=start)


def waves(size: int) -> np.ndarray:
    """A drawn style: bent stripes in blue and yellow, `[size, size, 3]`."""
    y, x = np.mgrid[:size, :size] / size
    phase = 14 * y + 2.5 * np.sin(7 * x) + 1.5 * np.sin(11 * (x + y))
    share = (0.5 + 0.5 * np.sin(2 * np.pi * phase / 2))[..., None]
    blue, yellow = np.array([20, 40, 130]), np.array([250, 210, 60])
    return np.round(share * yellow + (1 - share) * blue).astype(np.uint8)


def cells(size: int) -> np.ndarray:
    """A drawn style: cells in four colours with dark borders, `[size, size, 3]`."""
    draws = np.random.default_rng(0)
    centres = draws.uniform(size=(60, 2))
    colours = np.array([[200, 50, 40], [240, 160, 60], [60, 130, 90], [235, 225, 200]])
    chosen = colours[draws.integers(len(colours), size=len(centres))]
    y, x = np.mgrid[:size, :size] / size
    squares = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    nearest, second = np.sort(np.sqrt(squares), axis=-1)[..., :2].transpose(2, 0, 1)
    is_border = (second - nearest < 0.015)[..., None]
    dark = np.array([25, 20, 30])
    return np.where(is_border, dark, chosen[squares.argmin(-1)]).astype(np.uint8)


def _folder(data_dir: str | None) -> str:
    return os.path.join(os.path.expanduser(data_dir or ""), FOLDER)


def _only(pattern: str) -> str:
    """The one file of a pattern."""
    found = sorted(glob.glob(pattern))
    if len(found) != 1:
        names = ", ".join(map(os.path.basename, found)) or "none"
        raise FileNotFoundError(f"there must be one file {pattern}, got {names}.")
    return found[0]


def _check_apart(photographs: dict[str, list[np.ndarray]]) -> None:
    """Raises ValueError for a photograph in two splits, also one that was saved twice."""
    seen: dict[str, str] = {}
    for split, found in photographs.items():
        for photograph in found:
            digest = _fingerprint.of_arrays(photograph, "")
            if seen.setdefault(digest, split) != split:
                raise ValueError(
                    f"a photograph must be in one split alone, got one in {seen[digest]} and "
                    f"{split}: remove it from one of these folders."
                )
