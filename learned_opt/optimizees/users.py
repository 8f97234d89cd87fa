"""A model for each user: small regularised logistic regressions that have much in common."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from learned_opt import _checks, data
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee

SIDE = 8  # of an image
NUM_PIXELS = SIDE**2
NUM_CLASSES = 10
# How far the writing of one user is from that of another.
STRETCH, SLANT, SHIFT, CONTRAST = 0.1, 0.25, 0.5, 0.1
WRONG_LABELS = 0.05


class User(NamedTuple):
    """An instance: images `x` `[num_images, 64]` and labels `y` `[num_images]`, -1 or 1."""

    x: jax.Array
    y: jax.Array


def personal_classifiers(
    num_images: int = 40,
    l2: float | None = None,
    individuality: float = 0.5,
    split: str = "train",
) -> Optimizee:
    """Which digits a user likes: a logistic regression for each.

    The loss is `f(w, b) = mean log(1 + exp(-y (w x + b))) + l2/2 (|w|^2 + b^2)`.

    Each user has an own way of writing: all images go through one random map that stretches,
    slants and shifts them and changes their contrast. Each user likes some digits and not others:
    d is liked if trend_d + individuality * Gaussian > 0, where the trend is that of all users. One
    label in twenty is wrong. Pixels have the training images' mean subtracted and are divided by
    one number, their mean standard deviation.

    The bias is penalized with the weights, so that there is one solution also for a user who likes
    all digits.

    Args:
      num_images: how many labelled images a user has.
      l2: the penalty; None for 1 / num_images, which is scikit-learn's default C = 1.
      individuality: how much users differ in what they like, from 0 for not at all.
      split: the images that users draw from, "train" or "test".

    Returns:
      An `Optimizee` with theta `[65]`, the weights and then the bias, which starts at zero.

    Raises:
      ValueError: for a size, a penalty or a split that is not possible.

    Example:
      >>> import jax, learned_opt
      >>> from learned_opt.optimizees import users
      >>> family = users.personal_classifiers()
      >>> instance = family.sample(jax.random.key(0))
      >>> instance.x.shape, instance.y.shape
      ((40, 64), (40,))
    """
    num_images = _checks.positive_int("num_images", num_images)
    l2 = _checks.positive_float("l2", 1 / num_images if l2 is None else l2)
    individuality = _checks.not_negative_float("individuality", individuality)
    images = _images(_checks.choice("split", split, ("train", "test")))
    _check_number(num_images, len(images.labels))
    return starting.optimizee(
        Partial(_Sample(num_images, individuality), images),
        starting.VectorInit(NUM_PIXELS + 1, 0.0),
        _Loss(l2),
    )


class _Images(NamedTuple):
    """What users draw from: pixels in [0, 1], and how they are standardized."""

    pixels: jax.Array  # [images, 64]
    labels: jax.Array  # [images]
    mean: jax.Array  # [64]
    scale: jax.Array
    trend: jax.Array  # [10]


def _images(split: str) -> _Images:
    splits = data.load("digits")
    train = jnp.asarray(splits.train.images).reshape(-1, NUM_PIXELS)
    drawn = getattr(splits, split)
    # Six digits are liked by most users and four by few.
    trend = np.random.default_rng(0).permutation(np.linspace(-1.0, 1.5, NUM_CLASSES))
    return _Images(
        jnp.asarray(drawn.images).reshape(-1, NUM_PIXELS),
        jnp.asarray(drawn.labels),
        jnp.mean(train, axis=0),
        jnp.mean(jnp.std(train, axis=0)),
        jnp.asarray(trend, jnp.float32),
    )


def _check_number(num_images: int, num_available: int) -> None:
    if num_images > num_available:
        raise ValueError(f"num_images must be at most {num_available}, got {num_images}.")


@dataclasses.dataclass(frozen=True)
class _Sample:
    num_images: int
    individuality: float

    def __call__(self, images: _Images, key: jax.Array) -> User:
        which_key, writing_key, taste_key, wrong_key = jax.random.split(key, 4)
        available = len(images.labels)
        which = jax.random.choice(which_key, available, (self.num_images,), replace=False)
        written = images.pixels[which] @ _writing(writing_key).T
        x = (written - images.mean[None]) / images.scale
        own = self.individuality * jax.random.normal(taste_key, (NUM_CLASSES,))
        likes = (images.trend + own > 0)[images.labels[which]]
        wrong = jax.random.bernoulli(wrong_key, WRONG_LABELS, (self.num_images,))
        return User(x, jnp.where(likes ^ wrong, 1.0, -1.0))


def _writing(key: jax.Array) -> jax.Array:
    """A user's map of images `[64, 64]`: an affine map with bilinear interpolation."""
    draws = jax.random.normal(key, (7,))
    scales = jnp.array([[STRETCH, STRETCH], [SLANT, STRETCH]])
    matrix = jnp.eye(2) + scales * draws[:4].reshape(2, 2)
    axis = jnp.arange(SIDE) - (SIDE - 1) / 2
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij")).reshape(2, NUM_PIXELS)
    sources = matrix @ grid + SHIFT * draws[4:6, None] + (SIDE - 1) / 2
    rows, columns = map(_nearness, sources)
    together = rows[:, :, None] * columns[:, None, :]
    return jnp.exp(CONTRAST * draws[6]) * together.reshape(NUM_PIXELS, NUM_PIXELS)


def _nearness(sources: jax.Array) -> jax.Array:
    """How much of each of the eight rows a place takes, `[places, 8]`."""
    distances = jnp.abs(sources[:, None] - jnp.arange(SIDE, dtype=sources.dtype)[None])
    return jnp.maximum(0.0, 1.0 - distances)


@dataclasses.dataclass(frozen=True)
class _Loss:
    l2: float

    def __call__(
        self,
        theta: jax.Array,
        instance: User,
        key: Any,
    ) -> jax.Array:
        del key  # no minibatches
        margins = instance.y * (instance.x @ theta[:-1] + theta[-1])
        penalty = self.l2 / 2 * jnp.sum(jnp.square(theta))
        return jnp.mean(jax.nn.softplus(-margins)) + penalty
