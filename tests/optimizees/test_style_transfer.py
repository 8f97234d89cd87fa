"""The terms of neural art against NumPy, and the family as optimizers see it."""

import jax
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.meta import evaluating
from learned_opt.optimizees import feature_networks, style_transfer
from learned_opt.optimizees.style_transfer import Terms

DRAWS = np.random.default_rng(0)
PICTURES = DRAWS.integers(0, 256, (3, 16, 16, 3), np.uint8)
STYLE = DRAWS.integers(0, 256, (16, 20, 3), np.uint8)
NET = feature_networks.random_features(4)._replace(
    style={"random1": 3.0, "random2": 1.0}, content={"random2": 2.0, "random3": 2.0}
)
WEIGHTS = Terms(1.0, 3.0, 0.5)
KEY = jax.random.key(0)
FEATURES = jax.jit(feature_networks.features, static_argnums=0)
BOTH = jax.jit(
    lambda terms, loss, theta, instance: (terms(theta, instance), loss(theta, instance, KEY))
)
SAMPLE = jax.jit(lambda family, key: family.sample(key))


@pytest.fixture(scope="module")
def art():
    return style_transfer.neural_art(PICTURES, STYLE, NET, WEIGHTS)


def _features(pixels):
    found = FEATURES(NET.network, NET.weights, np.float32(pixels))
    return {name: np.asarray(x, np.float64) for name, x in found.items()}


def _gram(x):
    return np.einsum("hwi,hwj->ij", x, x) / (x.shape[0] * x.shape[1])


def test_terms_are_what_they_say(art):
    instance = SAMPLE(art.family, KEY)
    theta = np.asarray(art.family.init(jax.random.key(1), instance), np.float64)
    made = _features(127.5 + 64 * theta)
    content = _features(style_transfer.to_pixels(instance.theta))
    style = _features(STYLE)
    terms, loss = BOTH(art.terms, art.family.loss, np.float32(theta), instance)
    expected = np.mean(
        [
            ((made[name] - content[name]) ** 2).mean() / (content[name] ** 2).mean()
            for name in ("random2", "random3")
        ]
    )
    np.testing.assert_allclose(terms.content, expected, rtol=1e-4)
    relative = {}
    for name in NET.style:
        target = _gram(style[name])
        relative[name] = ((_gram(made[name]) - target) ** 2).sum() / (target**2).sum()
    expected = 0.75 * relative["random1"] + 0.25 * relative["random2"]
    np.testing.assert_allclose(terms.style, expected, rtol=1e-4)
    expected = (np.diff(theta, axis=0) ** 2).mean() + (np.diff(theta, axis=1) ** 2).mean()
    np.testing.assert_allclose(terms.smoothness, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, np.dot(WEIGHTS, terms), rtol=1e-5)


def test_an_instance_is_a_picture_with_its_features(art):
    instances = [SAMPLE(art.family, key) for key in jax.random.split(KEY, 20)]
    drawn = {style_transfer.to_pixels(instance.theta).tobytes() for instance in instances}
    assert drawn == {picture.tobytes() for picture in PICTURES}
    terms, _ = BOTH(art.terms, art.family.loss, instances[0].theta, instances[0])
    np.testing.assert_allclose(terms.content, 0, atol=1e-10)


def test_the_style_itself_has_no_style_term():
    made = style_transfer.neural_art(PICTURES, PICTURES[0], NET, WEIGHTS)
    instance = SAMPLE(made.family, KEY)
    terms = jax.jit(made.terms)(style_transfer.to_theta(PICTURES[0]), instance)
    assert float(terms.style) < 1e-10


def test_starts(art):
    instance = SAMPLE(art.family, KEY)
    noise = art.family.init(KEY, instance)
    assert 0.9 < float(noise.std()) < 1.1
    from_content = style_transfer.neural_art(PICTURES, STYLE, NET, start="content")
    theta = from_content.family.init(KEY, instance)
    np.testing.assert_array_equal(theta, instance.theta)


def test_optimizers_run_on_it_and_terms_are_measured(art):
    losses, measured = evaluating.evaluate_with(
        art.measures(), optax.adam(0.1), art.family, KEY, 10, 2
    )
    assert (losses[:, -1] < 0.7 * losses[:, 0]).all()
    total = sum(weight * measured[name] for name, weight in WEIGHTS._asdict().items())
    np.testing.assert_allclose(total, losses[:, -1], rtol=1e-4)


def test_every_weight_of_an_optimizer_learns_from_it(art):
    opt = learned_opt.lstm("neural-art", hidden_sizes=(2,))
    phi = opt.init(KEY)
    _, gradient = learned_opt.meta_gradient(opt, phi, art.family, KEY, 4)
    assert all(float(abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_what_is_wrong_is_told():
    cases = [
        ({"pictures": PICTURES[0]}, r"pictures must be \[n, height, width, 3\], uint8"),
        ({"pictures": PICTURES / 255}, "got float64"),
        ({"style": STYLE[:8]}, "at least 16 high and wide"),
        ({"start": "nois"}, "unknown start 'nois'. Did you mean 'noise'"),
        ({"weights": Terms(-1.0, 1.0, 1.0)}, "weights.content"),
        ({"net": NET._replace(style={})}, "the style term needs at least one layer"),
        ({"net": NET._replace(style={"random9": 1.0})}, "unknown layer 'random9'"),
        ({"net": NET._replace(content={"random1": 0.0})}, "the weight of random1 in the content"),
    ]
    for changes, match in cases:
        arguments = {"pictures": PICTURES, "style": STYLE, "net": NET, **changes}
        with pytest.raises(ValueError, match=match):
            style_transfer.neural_art(**arguments)
