"""Labels that do not lie on each other, plain ticks, and colours that can be told apart."""

import itertools

import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest
import scipy.optimize

from learned_opt.evaluation import style

# Machado, Oliveira, Fernandes 2009: what a colour is to somebody without one kind of cone.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "none": np.eye(3),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_can_be_told_apart(kind):
    """Red and green of the old cycle cannot: they are nearer than the threshold."""

    def seen(color):
        linear = np.array(matplotlib.colors.to_rgb(color)) ** 2.2
        return np.clip(BLINDNESS[kind] @ linear, 0, 1) ** (1 / 2.2)

    colors = (*style.LEARNED_COLORS, *style.RIVAL_COLORS)
    for one, other in itertools.combinations(colors, 2):
        assert np.linalg.norm(seen(one) - seen(other)) > 0.15, (one, other)


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_moved_apart_as_little_as_it_takes(seed):
    """Against a quadratic program."""
    rng = np.random.default_rng(seed)
    places, heights = rng.uniform(0, 1, 6), rng.uniform(0.05, 0.2, 6)
    moved = np.array(style.spread(places, heights))
    order = np.argsort(places)
    gaps = (heights[order][1:] + heights[order][:-1]) / 2
    assert (np.diff(moved[order]) > gaps - 1e-12).all()
    best = scipy.optimize.minimize(
        lambda x: np.sum((x - places) ** 2),
        places,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: np.diff(x[order]) - gaps},
    )
    np.testing.assert_allclose(moved, best.x, atol=1e-4)


def test_few_labels_stay_where_they_are():
    assert style.spread([0.1, 0.9], [0.1, 0.1]) == [0.1, 0.9]
    assert style.spread([], []) == []


@pytest.mark.parametrize("limits", [(0.2, 0.45), (0.07, 0.2), (0.1, 300), (1e-9, 1), (0.9, 1.1)])
def test_ticks_are_plain_and_have_room(limits):
    figure = matplotlib.figure.Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(yscale="log", ylim=limits)
    style.plain_ticks(axes.yaxis)
    figure.canvas.draw()
    ticks = [tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]]
    texts = [text.get_text() for text in axes.get_yticklabels() if text.get_text()]
    assert 3 <= len(ticks) <= 14
    np.testing.assert_allclose([float(text.replace(",", "")) for text in texts], ticks)
    assert not any("$" in text for text in texts)
    assert len(axes.yaxis.get_minorticklocs()) == 0


def test_colours_come_round_with_another_line():
    names = [f"x{i}" for i in range(7)]
    look = style.styles([*names, "a", "b", "c"], names, ["b", "a"])
    first, again = look["x0"], look["x5"]
    assert first.color == again.color
    assert first.line["linestyle"] != again.line["linestyle"]
    assert first.marker != again.marker
    assert look["b"].color == style.RIVAL_COLORS[0]
    assert not look["c"].is_named
