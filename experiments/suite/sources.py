"""The suite's data: embedded ones without a network, or those of TensorFlow Datasets."""

import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import data
from learned_opt.data import tfds_source

# The printable characters of ASCII, the end of a line, and one symbol for all others.
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
VOCABULARY = len(CHARACTERS) + 1
NUM_BYTES = 1_000_000  # of the standard library's source
HELD_OUT_SHARE = 0.1  # of it
NUM_TEST = 2_000  # images that measures are taken on
COPIES = 10  # of each digit, where digits stand for CIFAR-10
SIDE = 16  # of those images
NOISE = 0.2
SHRINK = {"small": 2, "full": 1}  # the side of the square of pixels that becomes one


class Text(NamedTuple):
    """Symbols `[n]` from 0 to VOCABULARY - 1, to train on and held out."""

    train: jax.Array
    held_out: jax.Array


class Sources:
    """Loads data once, where a task asks for them.

    Args:
      edition: "small" halves the sides of images that are not embedded.
      data_dir: the TFDS directory, or None for embedded data: digits for "mnist", digits scattered
        over coloured images for "cifar10" (see `scattered`), and as text the source of Python's
        standard library.

    Raises:
      FileNotFoundError: if there is no such directory.
    """

    def __init__(self, edition: str, data_dir: str | None = None) -> None:
        if data_dir is not None and not os.path.isdir(os.path.expanduser(data_dir)):
            raise FileNotFoundError(
                f"there is no folder {data_dir}: check --data_dir, or leave it out for embedded "
                "data."
            )
        self._shrink = SHRINK[edition]
        self._data_dir = data_dir
        # Kept here and not by a decorator, which would keep this object too.
        self.images = functools.cache(self._images)
        self.text = functools.cache(self._text)

    def _images(self, name: str) -> data.Splits:
        """Training images, and the first `NUM_TEST` test images, of "mnist" or "cifar10"."""
        if self._data_dir is None:
            train, test = data.load("digits")
            if name == "cifar10":
                train, test = scattered(train, seed=0), scattered(test, seed=1)
        else:
            train, test = data.shrink(data.load(name, self._data_dir), self._shrink)
        few = data.Dataset(test.images[:NUM_TEST], test.labels[:NUM_TEST], test.num_classes)
        return data.Splits(_on_device(train), _on_device(few))

    def _text(self) -> Text:
        """Shakespeare, or the source of Python's standard library."""
        if self._data_dir is None:
            return _split(standard_library())
        train, held_out = (
            tfds_source.load_text("tiny_shakespeare", split, self._data_dir)
            for split in ("train", "test")
        )
        return Text(symbols(train), symbols(held_out))


def scattered(digits: data.Dataset, seed: int) -> data.Dataset:
    """Digits at random places of 16 x 16 pixels, in random colours, with noise, `COPIES` of each.

    Always the same for a seed. Networks do not learn them by heart as soon as plain digits.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(digits.labels, COPIES)
    small = np.repeat(digits.images, COPIES, axis=0)
    num_images, height, width, _ = small.shape
    images = rng.normal(0.5, NOISE, (num_images, SIDE, SIDE, 3)).astype(np.float32)
    colours = rng.uniform(-0.5, 0.5, (num_images, 1, 1, 3)).astype(np.float32)
    tops = rng.integers(0, SIDE - height + 1, num_images)
    lefts = rng.integers(0, SIDE - width + 1, num_images)
    for image, digit, colour, top, left in zip(images, small, colours, tops, lefts, strict=True):
        image[top : top + height, left : left + width] += colour * digit
    pixels = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    order = rng.permutation(num_images)
    return data.Dataset(pixels[order], labels[order], digits.num_classes)


def standard_library() -> str:
    """The first `NUM_BYTES` bytes of Python's standard library: its modules in their order."""
    folder = pathlib.Path(os.__file__).parent
    whole = b""
    for path in sorted(folder.glob("*.py")):
        whole += path.read_bytes()
        if len(whole) >= NUM_BYTES:
            break
    if len(whole) < NUM_BYTES:
        raise FileNotFoundError(
            f"the source of Python's standard library is not in {folder}: name a TFDS directory "
            "with --data_dir."
        )
    return whole[:NUM_BYTES].decode("utf-8", errors="replace")


def symbols(text: str) -> jax.Array:
    """The number of each character `[n]`."""
    table = {character: i for i, character in enumerate(CHARACTERS)}
    other = len(CHARACTERS)
    return jnp.asarray(np.array([table.get(character, other) for character in text], np.int32))


def _split(text: str) -> Text:
    middle = round(len(text) * (1 - HELD_OUT_SHARE))
    return Text(symbols(text[:middle]), symbols(text[middle:]))


def _on_device(dataset: data.Dataset) -> data.Dataset:
    return dataset._replace(images=jnp.asarray(dataset.images), labels=jnp.asarray(dataset.labels))
