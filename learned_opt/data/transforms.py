"""Data sets made of others."""

import numpy as np

from learned_opt import _checks
from learned_opt.data import base


def shrink(dataset, factor):
    """The data set with smaller images: the mean of every `factor` x `factor` square of pixels becomes one pixel.

    A network has fewer parameters on them, and an optimizer is meta-trained on it in less time.

    Args:
      dataset: `Dataset` or a pair, as in `as_dataset`, with images `[n, height, width]` or
        `[n, height, width, channels]`.
      factor: whole number that divides height and width.

    Returns:
      A `Dataset` with images `[n, height / factor, width / factor, ...]` of the same dtype; bytes are rounded to the
      nearest, halves to the even one.

    Raises:
      ValueError: for a factor that is not positive or does not divide height and width, or images without them.
    """
    dataset = base.as_dataset(dataset)
    factor = _checks.positive_int("factor", factor)
    if dataset.images.ndim not in (3, 4):
        raise ValueError(
            f"images must be [n, height, width] or [n, height, width, channels] to be shrunk, got shape "
            f"{dataset.images.shape}."
        )
    for name, size in zip(("height", "width"), dataset.images.shape[1:3], strict=True):
        _checks.divides("factor", factor, name, size)
    return dataset._replace(images=_mean_pooled(dataset.images, factor))


def _mean_pooled(images, factor):
    n, height, width, *channels = images.shape
    squares = images.reshape(n, height // factor, factor, width // factor, factor, *channels)
    means = squares.mean(
        (2, 4), dtype=np.float32
    )  # sums of bytes are exact in float32 up to factor 256
    return (means.round() if images.dtype == np.uint8 else means).astype(images.dtype)
