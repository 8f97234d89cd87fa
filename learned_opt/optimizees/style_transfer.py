"""Neural art: pictures with the content of one picture and the style of another (Gatys et al.)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from learned_opt import _checks
from learned_opt.optimizees import starting
from learned_opt.optimizees.base import Optimizee, Problem
from learned_opt.optimizees.feature_networks import FeatureNetwork, Features, Weights, features

# theta is (pixel - 127.5) / 64: a photograph's colours scatter by about one.
MIDDLE = 127.5
UNIT = 64.0
STARTS = ("noise", "content")
LEAST_SIZE = 16


class Content(NamedTuple):
    """An instance: a content picture, and what its features are.

    Attributes:
      theta: the picture as theta, `[height, width, 3]`.
      targets: the features of the content layers, in their order.
      scales: the mean square of each of them.
    """

    theta: jax.Array
    targets: tuple[jax.Array, ...]
    scales: tuple[jax.Array, ...]


class Terms(NamedTuple):
    """The terms of the loss, without their weights, or the weights themselves.

    Attributes:
      content: the mean squared distance to the content's features, over their mean square.
      style: the squared distance of the Gram matrices, over that of the style's own from zero.
      smoothness: the mean squared difference of neighbouring pixels of theta.
    """

    content: Any
    style: Any
    smoothness: Any


# Chosen by eye with tuned Adam, on pictures of 64 x 64.
WEIGHTS = Terms(content=1.0, style=3.0, smoothness=0.05)


def to_theta(pixels: Any) -> jax.Array:
    """Pixels from 0 to 255 as theta."""
    return (jnp.asarray(pixels, jnp.float32) - MIDDLE) / UNIT


def to_pixels(theta: Any) -> np.ndarray:
    """theta as a picture, uint8; what lies outside of black and white is cut off."""
    pixels = MIDDLE + UNIT * np.asarray(theta, np.float32)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


class Art(NamedTuple):
    """A family with its terms apart.

    Attributes:
      family: the `Optimizee`.
      terms: `terms(theta, instance) -> Terms`.
    """

    family: Optimizee
    terms: Partial

    def measures(self) -> dict[str, Partial]:
        """Each term of theta_T by name, for `learned_opt.compare`."""
        return {name: Partial(_Term(name), self.terms) for name in Terms._fields}


def neural_art(
    pictures: Any,
    style: Any,
    net: Features,
    weights: Terms = WEIGHTS,
    start: str = "noise",
) -> Art:
    """f(theta) = content + style + smoothness, each with its weight; theta is a picture.

    The terms are relative, so that their weights mean the same for all networks: the content term
    is the mean squared distance between features of theta and of the content, over the mean square
    of the latter, averaged over content layers with their weights. The style term is the squared
    distance between Gram matrices (channels by channels, mean over places) of theta and of the
    style, over the squared norm of the latter, averaged over style layers. The smoothness term is
    the mean squared difference of neighbouring pixels.

    Args:
      pictures: content pictures `[n, height, width, 3]`, uint8; each problem draws one of them.
      style: the style `[height, width, 3]`, uint8, of any size.
      net: which features are content and style, see `feature_networks.random_features` and
        `feature_files.read_features`.
      weights: of the terms.
      start: "noise" for Gaussian noise as dark and bright as photographs are (Gatys et al.), or
        "content" for the content picture.

    Returns:
      `Art` with the family. theta is `[height, width, 3]`, in units of 64 grey levels, 0 in the
      middle; an instance is a `Content`. Statistics of the style, pictures and the weights of the
      network are bound arrays.

    Raises:
      ValueError: for pictures of another kind, or settings that are not possible.

    Source:
      Gatys, Ecker, Bethge 2015, arXiv 1508.06576; Andrychowicz et al. 2016, section 3.4.

    Example:
      >>> import numpy as np
      >>> from learned_opt.optimizees import feature_networks, style_transfer
      >>> pictures = np.zeros((2, 16, 16, 3), np.uint8)
      >>> net = feature_networks.random_features(2)
      >>> art = style_transfer.neural_art(pictures, pictures[0] + 200, net)
      >>> art.family.loss.func.weights.content
      1.0
    """
    pictures = _pictures("pictures", pictures, 4)
    style = _pictures("style", style, 3)
    _checks.choice("start", start, STARTS)
    for name, value in weights._asdict().items():
        _checks.not_negative_float(f"weights.{name}", value)
    content_shares, style_shares = _shares("content", net.content), _shares("style", net.style)
    network = net.network.up_to([*net.style, *net.content])
    layers = _Layers(network, content_shares, style_shares)
    statistics = jax.jit(layers.style_statistics)(net.weights, to_theta(style))
    terms = Partial(_TermsOf(layers), net.weights, statistics)
    family = starting.optimizee(
        Partial(_Sample(layers), net.weights, jnp.asarray(pictures)),
        _Init(start),
        Partial(_Loss(_TermsOf(layers), weights), net.weights, statistics),
    )
    return Art(family, terms)


def _pictures(name: str, value: Any, num_axes: int) -> np.ndarray:
    value = np.asarray(value)
    is_right = value.ndim == num_axes and value.shape[-1] == 3 and value.dtype == np.uint8
    if not is_right or not value.size or min(value.shape[-3:-1]) < LEAST_SIZE:
        wanted = "[n, height, width, 3]" if num_axes == 4 else "[height, width, 3]"
        raise ValueError(
            f"{name} must be {wanted}, uint8, at least {LEAST_SIZE} high and wide, got "
            f"{value.dtype}{list(value.shape)}."
        )
    return value


def _shares(term: str, layers: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Layers with their shares, which add up to one."""
    if not layers:
        raise ValueError(f"the {term} term needs at least one layer, got none.")
    for name, weight in layers.items():
        _checks.positive_float(f"the weight of {name} in the {term} term", weight)
    total = sum(layers.values())
    return tuple((name, weight / total) for name, weight in layers.items())


def gram(x: jax.Array) -> jax.Array:
    """The Gram matrix `[channels, channels]` of features, the mean over places."""
    rows = x.reshape(-1, x.shape[-1])
    return rows.T @ rows / rows.shape[0]


@dataclasses.dataclass(frozen=True)
class _Layers:
    """What is read of a network.

    Attributes:
      network: the network.
      content: pairs of a layer and its share.
      style: the same.
    """

    network: FeatureNetwork
    content: tuple[tuple[str, float], ...]
    style: tuple[tuple[str, float], ...]

    def features(self, weights: Weights, theta: jax.Array) -> dict[str, jax.Array]:
        """All features of theta."""
        return features(self.network, weights, MIDDLE + UNIT * theta)

    def style_statistics(self, weights: Weights, theta: jax.Array) -> tuple:
        """The Gram matrices of the style, and the squared norm of each."""
        found = self.features(weights, theta)
        grams = tuple(gram(found[name]) for name, _ in self.style)
        return grams, tuple(jnp.sum(jnp.square(g)) for g in grams)


@dataclasses.dataclass(frozen=True)
class _Sample:
    layers: _Layers

    def __call__(self, weights: Weights, pictures: jax.Array, key: jax.Array) -> Content:
        """Returns the instance of a picture that is drawn."""
        index = jax.random.randint(key, (), 0, pictures.shape[0])
        theta = to_theta(pictures[index])
        found = self.layers.features(weights, theta)
        targets = tuple(found[name] for name, _ in self.layers.content)
        return Content(theta, targets, tuple(jnp.mean(jnp.square(x)) for x in targets))


@dataclasses.dataclass(frozen=True)
class _Init:
    start: str

    def __call__(self, key: jax.Array, instance: Content) -> jax.Array:
        """Returns theta_0."""
        if self.start == "content":
            return instance.theta
        return jax.random.normal(key, instance.theta.shape)


@dataclasses.dataclass(frozen=True)
class _TermsOf:
    layers: _Layers

    def __call__(
        self,
        weights: Weights,
        statistics: tuple,
        theta: jax.Array,
        instance: Content,
    ) -> Terms:
        """Returns the terms."""
        layers = self.layers
        found = layers.features(weights, theta)
        grams, norms = statistics
        content = jnp.zeros(())
        for i, (name, share) in enumerate(layers.content):
            distance = jnp.mean(jnp.square(found[name] - instance.targets[i]))
            content += share * distance / instance.scales[i]
        style = jnp.zeros(())
        for i, (name, share) in enumerate(layers.style):
            style += share * jnp.sum(jnp.square(gram(found[name]) - grams[i])) / norms[i]
        return Terms(content, style, _smoothness(theta))


def _smoothness(theta: jax.Array) -> jax.Array:
    down = jnp.mean(jnp.square(theta[1:] - theta[:-1]))
    right = jnp.mean(jnp.square(theta[:, 1:] - theta[:, :-1]))
    return down + right


@dataclasses.dataclass(frozen=True)
class _Loss:
    terms_of: _TermsOf
    weights: Terms

    def __call__(
        self,
        network_weights: Weights,
        statistics: tuple,
        theta: jax.Array,
        instance: Content,
        key: jax.Array,
    ) -> jax.Array:
        """Returns f(theta)."""
        del key
        terms = self.terms_of(network_weights, statistics, theta, instance)
        return sum(weight * term for weight, term in zip(self.weights, terms, strict=True))


@dataclasses.dataclass(frozen=True)
class _Term:
    """A measure of a run: one term of theta_T."""

    name: str
    of_run = True

    def __call__(self, terms: Partial, run: Any, problem: Problem) -> jax.Array:
        """Returns the term."""
        return getattr(terms(run.theta, problem.instance), self.name)
