"""Pictures from files, and crops of them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from learned_opt import _checks, _files

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SMALLEST_PART = 0.5  # of the smaller side of a photograph: the side of the smallest crop


def read_picture(path: str | os.PathLike, least: int = 1) -> np.ndarray:
    """Reads a picture.

    Args:
      path: a file in any format that pillow reads. Transparency is dropped.
      least: the smallest side that is of use.

    Returns:
      `[height, width, 3]`, uint8.

    Raises:
      FileNotFoundError: where there is no file.
      ValueError: for a file that is no picture, for a grey picture, also where it was saved with
        three channels, and for one that is too small.
      ImportError: without pillow.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no picture at {path}: check the path.")
    image = _image()
    try:
        with image.open(path) as opened:
            turned = _ops().exif_transpose(opened)
            pixels = np.asarray(turned.convert("RGB"))
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is no picture that can be read ({error}): save it as PNG or JPEG first."
        ) from error
    if (pixels == pixels[..., :1]).all():
        raise ValueError(
            f"{path} is grey, its channels are the same everywhere: choose a picture in colours."
        )
    if min(pixels.shape[:2]) < least:
        height, width = pixels.shape[:2]
        raise ValueError(
            f"{path} is {width} x {height}, and {least} x {least} pixels are needed: choose a "
            "larger picture, or a smaller size."
        )
    return pixels


def read_folder(folder: str | os.PathLike, least: int = 1) -> dict[str, np.ndarray]:
    """Reads all pictures of a folder, in the order of their names; see `read_picture`.

    Returns:
      Dict from the name of a file to its picture.

    Raises:
      FileNotFoundError: where there is no folder, or no picture in it.
    """
    folder = os.fspath(folder)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    names = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not names:
        raise FileNotFoundError(
            f"there are no pictures ({', '.join(SUFFIXES)}) in {folder}: check the path."
        )
    return {name: read_picture(os.path.join(folder, name), least) for name in names}


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """The picture with its smaller side `size`; what it shows stays as wide as it is high."""
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    return _scaled(picture, round(scale * width), round(scale * height))


def square(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture, `[size, size, 3]`."""
    side = min(picture.shape[:2])
    top = (picture.shape[0] - side) // 2
    left = (picture.shape[1] - side) // 2
    return _scaled(picture[top : top + side, left : left + side], size, size)


def crops(
    photographs: Sequence[np.ndarray],
    num: int,
    size: int,
    seed: int = 0,
) -> np.ndarray:
    """Squares of photographs, drawn at random: each photograph in turn, half of them mirrored.

    The side of a crop is from half the smaller side of the photograph, or `size` where that is
    more, up to all of it.

    Args:
      photographs: pictures, each at least `size` wide and high.
      num: how many crops.
      size: the side of a crop after it is resized.
      seed: of the draws.

    Returns:
      `[num, size, size, 3]`, uint8.

    Raises:
      ValueError: without photographs, or for one that is too small.
    """
    num, size = _checks.positive_int("num", num), _checks.positive_int("size", size)
    if not photographs:
        raise ValueError("photographs must be at least one picture, got none.")
    draws = np.random.default_rng(seed)
    found = np.empty((num, size, size, 3), np.uint8)
    for i in range(num):
        photograph = photographs[i % len(photographs)]
        largest = min(photograph.shape[:2])
        if largest < size:
            raise ValueError(f"photographs must be at least {size} wide and high, got {largest}.")
        smallest = max(size, round(_SMALLEST_PART * largest))
        side = draws.integers(smallest, largest + 1)
        top = draws.integers(photograph.shape[0] - side + 1)
        left = draws.integers(photograph.shape[1] - side + 1)
        crop = _scaled(photograph[top : top + side, left : left + side], size, size)
        found[i] = crop[:, ::-1] if draws.integers(2) else crop
    return found


def write_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Writes a picture `[height, width, 3]`, uint8, whole, in the format of its suffix."""
    made = _image().fromarray(np.asarray(picture, np.uint8))
    with _files.whole(path) as temporary:
        made.save(temporary)


def _scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    image = _image()
    if picture.shape[:2] == (height, width):
        return picture
    made = image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(made.resize((width, height), image.Resampling.LANCZOS))


def _image() -> Any:
    return _checks.extra("PIL.Image", "pillow", "reading and writing pictures")


def _ops() -> Any:
    return _checks.extra("PIL.ImageOps", "pillow", "reading and writing pictures")
