"""The embedded default: scikit-learn's handwritten digits, which need no network."""

import numpy as np

from learned_opt import _checks
from learned_opt.data import base

NUM_TEST = 360
SPLIT_SEED = 0


def load():
    """1,437 training and 360 test images of 8 x 8 pixels, with values in [0, 1], split at random once and for all.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998; bundled with scikit-learn.
    """
    bunch = _checks.extra("sklearn.datasets", "scikit-learn", "the data set 'digits'").load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.target))
    images = (bunch.images / 16).astype(np.float32)[..., None][order]
    labels = bunch.target.astype(np.int32)[order]
    return base.Splits(
        base.Dataset(images[NUM_TEST:], labels[NUM_TEST:], 10),
        base.Dataset(images[:NUM_TEST], labels[:NUM_TEST], 10),
    )
