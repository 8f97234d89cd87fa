"""The embedded default: scikit-learn's handwritten digits, which need no network."""

import numpy as np

from learned_opt import _checks
from learned_opt.data.base import Dataset, Splits

NUM_CLASSES = 10
NUM_TEST = 360
SPLIT_SEED = 0


def load() -> Splits:
    """1,437 training and 360 test images of 8 x 8 pixels, with values in [0, 1].

    They are split at random, always in the same way.

    Source:
      E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998; bundled with
      scikit-learn.
    """
    datasets = _checks.extra("sklearn.datasets", "scikit-learn", "the data set 'digits'")
    bunch = datasets.load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.target))
    pixels = (bunch.images / 16).astype(np.float32)
    images = pixels[order, :, :, None]
    labels = bunch.target.astype(np.int32)[order]
    train = Dataset(images[NUM_TEST:], labels[NUM_TEST:], NUM_CLASSES)
    test = Dataset(images[:NUM_TEST], labels[:NUM_TEST], NUM_CLASSES)
    return Splits(train, test)
