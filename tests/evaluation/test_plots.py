import matplotlib.colors
import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from learned_opt import _files
from learned_opt.evaluation import plots, statistics, style


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look into."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return figures


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def color(artist):
    return matplotlib.colors.to_hex(artist.get_color())


def falling(low, num_steps=10, num_runs=20, seed=0):
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, (num_runs, num_steps + 1))
    return np.geomspace(10, low, num_steps + 1) * noise


def test_curves_are_means_with_intervals(drawn, tmp_path):
    losses = {"theirs": falling(1.0), "ours": falling(0.1)}
    plots.curves(tmp_path / "x.png", losses, ["ours"], "Title", first_step=2)
    pixels = matplotlib.image.imread(tmp_path / "x.png")
    assert np.ptp(pixels[..., :3]) == 1  # not an empty page
    axes = visible(drawn[0])[0]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Title", "step", "loss")
    assert axes.get_yscale() == "log"
    assert axes.get_xlim() == (2, 10)
    for name, line in lines(axes).items():
        np.testing.assert_array_equal(line.get_xdata(), np.arange(2, 11))
        np.testing.assert_allclose(line.get_ydata(), losses[name].mean(axis=0)[2:])
    assert {text.get_text() for text in axes.texts} == {"ours", "theirs"}
    band = axes.collections[1].get_paths()[0].vertices
    at_the_end = band[band[:, 0] == 10, 1]
    expected = statistics.summarize(losses["ours"][:, 10])
    np.testing.assert_allclose([at_the_end.min(), at_the_end.max()], expected[1:3])


def test_the_best_rivals_have_colours_and_the_rest_is_grey(drawn, tmp_path):
    ends = {"Adam": 3.0, "SGD": 9.0, "Lion": 4.0, "BFGS": 1e-9, "ours": 2.0}
    losses = {name: falling(end, seed=i) for i, (name, end) in enumerate(ends.items())}
    plots.curves(tmp_path / "x.png", losses, ["ours"], "Title")
    axes = visible(drawn[0])[0]
    shown = lines(axes)
    colors = {name: color(line) for name, line in shown.items()}
    assert colors == {
        "Adam": style.RIVAL_COLORS[0].lower(),
        "Lion": style.RIVAL_COLORS[1].lower(),
        "SGD": style.GREY.lower(),
        "BFGS": style.GREY.lower(),  # a reference is no rival
        "ours": style.LEARNED_COLORS[0].lower(),
    }
    assert shown["ours"].get_linestyle() == "-"
    assert shown["Adam"].get_linestyle() == "--"
    assert shown["ours"].get_linewidth() > shown["Adam"].get_linewidth()
    labels = {text.get_text(): color(text) for text in axes.texts}
    assert labels == {name: colors[name] for name in ("Adam", "Lion", "ours")}
    assert drawn[0].get_supxlabel() == "grey: SGD, BFGS"


def test_seeds_of_one_training_are_one_line(drawn, tmp_path):
    names = ["ours:0@1/2", "ours:1@1/2", "other", "Adam"]
    losses = {name: falling(1.0 + i) for i, name in enumerate(names)}
    plots.curves(tmp_path / "x.png", losses, names[:3], "Title")
    shown = lines(visible(drawn[0])[0])
    assert set(shown) == {"ours@1/2", "other", "Adam"}
    both = np.stack([losses[name] for name in names[:2]])
    np.testing.assert_allclose(shown["ours@1/2"].get_ydata(), both.mean(axis=(0, 1)))


def test_a_second_panel_has_the_paired_ratio_where_curves_lie_together(drawn, tmp_path):
    """That of the geometric means, whose noise has gone since both have met the same."""
    theirs = falling(1.0)
    losses = {"ours": 0.9 * theirs, "Adam": theirs, "SGD": 2 * theirs}
    plots.curves(tmp_path / "x.png", losses, ["ours"], "Title")
    _, lower = visible(drawn[0])
    assert lower.get_ylabel() == "loss over\nAdam's"
    shown = lines(lower)
    np.testing.assert_allclose(shown["ours"].get_ydata(), 0.9)
    np.testing.assert_allclose(shown["SGD"].get_ydata(), 2.0)
    assert "Adam" not in shown
    far = {"ours": 0.1 * theirs, "Adam": theirs}
    plots.curves(tmp_path / "x.png", far, ["ours"], "Title")
    assert len(visible(drawn[1])) == 1


def test_a_picture_is_drawn_again_from_plain_data(drawn, tmp_path):
    """Through a file, with what diverged."""
    losses = {"ours": falling(1.0), "Adam": falling(1.1), "SGD": falling(2.0)}
    losses["SGD"][3, 5:] = np.inf
    shown = plots.panels(tmp_path / "x.png", [("A", losses, 3)], ["ours"])
    _files.write_json(tmp_path / "x.json", shown)
    plots.draw(tmp_path / "y.png", _files.read_json(tmp_path / "x.json"))
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


def test_the_axis_leaves_out_who_diverges_and_who_is_exact(drawn, tmp_path):
    """From the smallest mean over 1.15 to 1.5 times the median of the starts."""
    losses = {
        "ours": np.tile(np.geomspace(10, 0.1, 5), (3, 1)),
        "Adam": np.tile(np.geomspace(10, 1.0, 5), (3, 1)),
        "SGD": np.tile(np.geomspace(10, 1e9, 5), (3, 1)),
        "BFGS": np.tile(np.geomspace(10, 1e-20, 5), (3, 1)),
    }
    plots.curves(tmp_path / "x.png", losses, ["ours"], "Title")
    np.testing.assert_allclose(visible(drawn[0])[0].get_ylim(), (0.1 / 1.15, 15))


def test_a_curve_that_diverges_ends(drawn, tmp_path):
    losses = {"a": np.ones((3, 4)), "b": np.ones((3, 4))}
    losses["a"][0, 2:] = np.inf
    plots.curves(tmp_path / "x.png", losses, ["a"], "Title")
    axes = visible(drawn[0])[0]
    np.testing.assert_array_equal(lines(axes)["a"].get_ydata(), [1, 1, np.nan, np.nan])
    assert "a (diverged)" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_picture_of_nothing_but_divergence(tmp_path, names):
    losses = {name: np.full((3, 4), np.inf) for name in names}
    plots.curves(tmp_path / "x.png", losses, ["a"], "Title")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_long_curves_are_smoothed(drawn, tmp_path):
    """Over as many steps as make 200 points; at the ends over those that are there."""
    losses = falling(1.0, num_steps=999, num_runs=2)
    plots.curves(tmp_path / "x.png", {"a": losses}, [], "Title")
    axes = visible(drawn[0])[0]
    assert axes.get_ylabel() == "loss, mean over 5 steps"
    line = lines(axes)["a"]
    shown = line.get_ydata()
    mean = losses.mean(axis=0)
    np.testing.assert_array_equal(line.get_xdata(), [*range(0, 1000, 5), 999])
    np.testing.assert_allclose(shown[100], mean[498:503].mean())
    np.testing.assert_allclose(shown[0], mean[:3].mean())
    np.testing.assert_allclose(shown[-1], mean[-3:].mean())


def test_panels_share_colours(drawn, tmp_path):
    first = {"Adam": falling(1.0), "ours": falling(0.1)}
    second = {"ours": falling(5.0), "Adam": falling(0.1)}
    cases = [("First", first, 0), ("Second", second, 3)]
    plots.panels(tmp_path / "x.png", cases, ["ours"])
    left, right = visible(drawn[0])
    assert (left.get_title(), right.get_title()) == ("First", "Second")
    assert (left.get_xlim(), right.get_xlim()) == ((0, 10), (3, 10))
    for axes in (left, right):
        colors = {name: color(line) for name, line in lines(axes).items()}
        learned, rival = style.LEARNED_COLORS[0].lower(), style.RIVAL_COLORS[0].lower()
        assert colors == {"ours": learned, "Adam": rival}


def test_every_panel_shows_its_best_rival_in_colour(drawn, tmp_path):
    first = {"ours": falling(0.1), "Adam": falling(1.0), "SGD": falling(2.0), "Lion": falling(3.0)}
    second = {"ours": falling(0.1), "Adam": falling(3.0), "SGD": falling(2.0), "Lion": falling(1.0)}
    shown = plots.panels(tmp_path / "x.png", [("A", first, 0), ("B", second, 0)], ["ours"])
    assert shown["rivals"] == ["Adam", "Lion"]
    assert [panel["best"] for panel in shown["panels"]] == ["Adam", "Lion"]


def test_rates(drawn, tmp_path):
    rates, fewer = [1e-3, 1e-2, 1e-1], [1e-3, 1e-2, 1.4e-2]
    grids = {"SGD": (fewer, [4.0, 2.0, np.inf]), "Adam": (rates, [3.0, 1.0, 8.0])}
    levels = {"ours": 0.5, "lost": np.inf}
    plots.rates(tmp_path / "x.png", grids, levels, "Title", "accuracy")
    (axes,) = drawn[0].axes
    shown = lines(axes)
    assert set(shown) == {"SGD", "Adam", "ours (0.5)", "lost (inf)"}
    np.testing.assert_array_equal(shown["SGD"].get_ydata(), [4, 2, np.nan])
    np.testing.assert_array_equal(shown["Adam"].get_xdata(), rates)
    np.testing.assert_array_equal(shown["SGD"].get_xdata(), fewer)
    assert color(shown["Adam"]) == style.RIVAL_COLORS[0].lower()
    np.testing.assert_array_equal(shown["ours (0.5)"].get_ydata(), [0.5, 0.5])
    assert np.isnan(shown["lost (inf)"].get_ydata()).all()
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel()) == ("log", "log", "accuracy")
    np.testing.assert_allclose(axes.get_ylim(), (0.5 / 1.3, 2 * np.median([4, 2, 3, 1, 8])))


def test_rates_that_all_diverge(tmp_path):
    plots.rates(tmp_path / "x.png", {"SGD": ([0.1], [np.inf])}, {}, "Title")
    assert (tmp_path / "x.png").stat().st_size > 0


def summaries(**means):
    return {
        position: {"mean": mean, "low": mean / 2, "high": mean * 2}
        for position, mean in means.items()
    }


def test_overview_over_names(drawn, tmp_path):
    """Points side by side around each case; infinity leaves a gap."""
    series = {
        "ours": summaries(relu=1.0, elu=2.0),
        "Adam": summaries(relu=3.0, elu=float("inf")),
    }
    plots.overview(tmp_path / "x.png", {"A": series, "B": series}, ["ours"], "Title", "activation")
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("A", "B")
    assert (left.get_ylabel(), left.get_xlabel()) == ("final loss", "activation")
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["relu", "elu"]
    containers = {container.get_label(): container for container in left.containers}
    ours, theirs = (containers[name].lines[0] for name in ("ours", "Adam"))
    np.testing.assert_allclose(ours.get_xdata(), [-0.125, 0.875])
    np.testing.assert_allclose(theirs.get_xdata(), [0.125, 1.125])
    np.testing.assert_allclose(ours.get_ydata(), [1, 2])
    np.testing.assert_allclose(theirs.get_ydata(), [3, np.nan])
    assert ours.get_linestyle() == theirs.get_linestyle() == "None"
    bars = containers["ours"].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.5, 2], [1, 4]])


def test_overview_over_numbers(drawn, tmp_path):
    values = {n: {"mean": "1.0", "low": "0.5", "high": "2.0"} for n in (1, 4, 9)}  # as in JSON
    series = {"ours": values, "Adam": values}
    plots.overview(tmp_path / "x.png", {"A": series}, ["ours"], "Title", "layers")
    (axes,) = drawn[0].axes
    styles = {bar.get_label(): bar.lines[0].get_linestyle() for bar in axes.containers}
    assert styles == {"ours": "-", "Adam": "--"}
    np.testing.assert_allclose(axes.containers[0].lines[0].get_xdata(), [1, 4, 9])
    assert drawn[0].get_suptitle() == "Title"


def test_references_far_below_are_named_in_the_title(drawn, tmp_path):
    series = {
        "ours": summaries(relu=1.0),
        "Adam": summaries(relu=2.0),
        "BFGS": summaries(relu=1e-9),
    }
    plots.overview(tmp_path / "x.png", {"": series}, ["ours"], "Title", "activation")
    assert drawn[0].get_suptitle() == "Title\n(below 0.1: BFGS)"
    assert drawn[0].axes[0].get_ylim()[0] > 1e-3


def test_history(drawn, tmp_path):
    entries = [
        {"num_steps": steps, "meta_loss": loss, "validation_loss": 2 * loss}
        for steps, loss in ((100, 4.0), (100, np.inf), (200, 1.0))
    ]
    plots.history(tmp_path / "x.png", entries, "Training")
    (axes,) = drawn[0].axes
    shown = lines(axes)
    np.testing.assert_array_equal(shown["meta loss"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(shown["meta loss"].get_ydata(), [4, np.nan, 1])
    np.testing.assert_array_equal(shown["validation loss"].get_ydata(), [8, np.nan, 2])
    assert [text.get_text() for text in axes.texts] == ["200 steps"]
    (mark,) = (line for name, line in shown.items() if name.startswith("_"))
    assert mark.get_xdata() == [2.5, 2.5]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["meta loss", "validation loss"]
