"""Neural art: its pictures, the program for one's own, and figure 9."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

import learned_opt
from experiments import art, painting, plans, style, triples
from experiments.learned import Places
from learned_opt.data import pictures
from learned_opt.optimizees import style_transfer
from tests.experiments.programs import in_process

SMALL = ("--size=16", "--steps=2")


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def optimizer(tmp_path_factory):
    opt = learned_opt.lstm("neural-art", hidden_sizes=(1,))
    path = tmp_path_factory.mktemp("optimizer") / "tiny.safetensors"
    learned_opt.save(path, opt, opt.init(jax.random.key(0)))
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """Two pictures, and where the result is to go."""
    for i, (name, shape) in enumerate({"content": (20, 30), "style": (40, 24)}.items()):
        pictures.write_picture(tmp_path / f"{name}.png", _noise(*shape, seed=i))
    return {name: str(tmp_path / f"{name}.png") for name in ("content", "style", "out")}


def _flags(pair, **changes):
    return [f"--{name}={value}" for name, value in {**pair, **changes}.items()]


def test_two_pictures_become_one(pair, optimizer, capsys):
    assert in_process(style, *_flags(pair, optimizer=optimizer), *SMALL) == 0
    painted = pictures.read_picture(pair["out"])
    assert painted.shape == (16, 24, 3)
    shown = capsys.readouterr()
    assert "2 steps of tiny, features of random filters" in shown.out
    assert "2/2" in shown.err


def test_what_was_stopped_goes_on(pair, optimizer, tmp_path, monkeypatch, capsys):
    """To the same bits, and not with another seed."""
    begin, out, made = painting.begin, tmp_path / "out.png", []

    def painted(stop=None, **changes):
        """How many steps a run makes that is stopped after some."""
        made.clear()

        def counted(*args):
            course, advance = begin(*args)

            def one(course):
                if course.step == stop:
                    raise KeyboardInterrupt
                made.append(course.step)
                return advance(course)

            return course, one

        monkeypatch.setattr(painting, "begin", counted)
        given = _flags(pair, optimizer=optimizer, size=16, steps=4, **changes)
        assert bool(in_process(style, *given)) == (stop is not None)
        return len(made)

    assert painted() == 4
    whole = out.read_bytes()
    out.unlink()
    assert painted(stop=1) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert not out.exists()
    assert painted(seed=1) == 4
    assert out.read_bytes() != whole
    assert painted(stop=3) == 3
    assert painted() == 1
    assert out.read_bytes() == whole
    assert not (tmp_path / f"out.png{style.UNFINISHED}").exists()


def test_a_course_is_kept_once_a_minute(pair, optimizer, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(painting, "_write", lambda path, identity, course: kept.append(course.step))
    monkeypatch.setattr(painting, "SECONDS", 0.0)
    assert in_process(style, *_flags(pair, optimizer=optimizer), *SMALL) == 0
    assert kept == [1, 2]


def test_bad_input_is_one_line_and_leaves_nothing(pair, optimizer, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    grey = np.repeat(_noise(20, 20)[..., :1], 3, axis=-1)
    pictures.write_picture(tmp_path / "grey.png", grey)
    np.savez(tmp_path / "features.npz", **{"block1_conv1/kernel": np.zeros((3, 3, 3, 64))})
    wrong = [
        ({"content": str(tmp_path / "text.png")}, "is no picture that can be read"),
        ({"style": str(tmp_path / "missing.png")}, "there is no picture at"),
        ({"content": str(tmp_path / "grey.png")}, "is grey, its channels are the same"),
        ({"size": 21}, "21 x 21 pixels are needed"),
        ({"features": str(tmp_path / "features.npz")}, "lacks block1_conv1/bias"),
        ({"style_layers": "random7=1"}, "unknown layer 'random7'"),
        ({"style_layers": "random1"}, "--style_layers must be NAME=VALUE"),
        ({"out": str(tmp_path / "out.jpg")}, "--out must end in .png"),
        ({"steps": 0}, "--steps must be a whole number"),
        ({"start": "black"}, "unknown --start 'black'"),
    ]
    before = sorted(os.listdir(tmp_path))
    for changes, message in wrong:
        given = _flags(pair, **{"optimizer": optimizer, "size": 16, "steps": 2, **changes})
        assert in_process(style, *given) == 1
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_embedded_has_every_photograph_once(tmp_path):
    source = art.embedded()
    every = [photograph for found in source.photographs.values() for photograph in found]
    assert len(every) == 3
    assert len({photograph.tobytes() for photograph in every}) == 3
    assert not np.array_equal(source.styles["train"], source.styles["test"])
    for drawn in source.styles.values():
        assert drawn.shape == (art.STYLE_SIZE, art.STYLE_SIZE, 3)
    made = art.family(source, "test", "test", size=32, pool=2)
    drawn = jax.eval_shape(made.family.sample, jax.random.key(0))
    assert drawn.theta.shape == (32, 32, 3)
    assert art.load(str(tmp_path)).about == art.EMBEDDED  # it has no neural_art
    with pytest.raises(FileNotFoundError, match="there is no folder /no/such: check --data_dir"):
        art.load("/no/such")


@pytest.fixture
def folder(tmp_path):
    """A folder of one's own, with a tiny piece of VGG-19 that has other layers as content."""
    own = tmp_path / art.FOLDER
    for i, split in enumerate(art.SPLITS):
        (own / "content" / split).mkdir(parents=True)
        pictures.write_picture(own / "content" / split / "a.png", _noise(20, 20, i))
    (own / "style").mkdir()
    for i, name in enumerate(art.STYLES):
        pictures.write_picture(own / "style" / f"{name}.png", _noise(128, 130, 10 + i))
    return own


def test_a_folder_that_lacks_something_is_told(folder, monkeypatch):
    data_dir = str(folder.parent)
    with pytest.raises(FileNotFoundError, match=r"one file .*features\.\*, got none"):
        art.load(data_dir)
    (folder / "features.npz").write_bytes(b"")
    net = art.embedded().net
    monkeypatch.setattr(art.feature_files, "read_features", lambda path: net)
    assert art.load(data_dir).about == "random filters, 1 + 1 + 1 photographs"
    shutil.copy(folder / "content" / "train" / "a.png", folder / "content" / "test" / "b.png")
    with pytest.raises(ValueError, match="in one split alone, got one in train and test"):
        art.load(data_dir)
    shutil.rmtree(folder / "content" / "validation")
    with pytest.raises(FileNotFoundError, match=r"no pictures .*validation"):
        art.load(data_dir)


def test_a_figure_says_what_it_is_made_of(optimizer, folder):
    config = plans.Config(optimizers=f"mine={optimizer}")

    def planned(data_dir):
        return plans.plan("l2l-fig8", config, Places("unused", data_dir, False))

    embedded, own = planned(None), planned(str(folder.parent))
    assert art.EMBEDDED in embedded.figure.title
    assert all(art.EMBEDDED in case.title for case in embedded.cases)
    assert art.EMBEDDED not in own.figure.title
    assert {case.folder for case in own.cases}.isdisjoint(case.folder for case in embedded.cases)
    assert own.cases[3].baselines_of(["SGD", "Adam"]) == ["Adam"]
    assert (own.cases[0].runs_of(100), own.cases[3].runs_of(100)) == (100, 20)
    assert own.cases[0].tune_last == 1


def test_what_is_embedded_has_an_edition_of_minutes(optimizer, folder):
    """Unless somebody asks for all of it; what is given on the command line stays."""
    config = plans.Config(optimizers=f"mine={optimizer}")

    def planned(data_dir=None, config=config, **options):
        return plans.plan("l2l-fig8", config, Places("unused", data_dir, False), **options)

    short, whole, own = planned(), planned(in_full=True), planned(str(folder.parent))
    assert [plan.is_embedded for plan in (short, whole, own)] == [True, False, False]
    assert plans.EDITION in short.figure.title
    assert plans.EDITION not in whole.figure.title
    assert (short.config.num_runs, short.config.tune_runs) == (20, 10)
    assert short.config.baselines == "NAG,Adam,AdamW-cosine"
    assert (whole.config.num_runs, whole.config.baselines) == (
        own.config.num_runs,
        own.config.baselines,
    )
    assert list(short.transformations(4)) == ["mine", "L-BFGS"]
    given = planned(config=dataclasses.replace(config, num_runs=3, baselines="SGD"))
    assert (given.config.num_runs, given.config.baselines) == (3, "SGD")
    assert plans.shown(given) == (
        "l2l-fig8 on what is embedded, in an edition that takes minutes: 3 runs, rates tuned on "
        "10; baselines SGD. --in_full makes the whole figure."
    )


@pytest.mark.thorough
def test_figure_9_stands_beside_adam_in_the_same_time(optimizer, tmp_path, monkeypatch, capsys):
    source = art.embedded()
    made = art.family(source, "test", size=16, pool=2)
    monkeypatch.setattr(triples.art, "family", lambda source, **settings: made)
    given = [
        f"--optimizer={optimizer}",
        f"--workdir={tmp_path / 'work'}",
        f"--tuned_dir={tmp_path / 'tuned'}",
        "--num=2",
        "--tune_runs=1",
        "--rounds=1",
    ]
    assert in_process(triples, *given) == 0
    first = capsys.readouterr().out
    assert art.EMBEDDED in first
    assert (tmp_path / "work" / "triples.png").stat().st_size > 0
    assert in_process(triples, *given) == 0
    assert capsys.readouterr().out == first
    weights = style_transfer.WEIGHTS
    assert f"style x {weights.style:g}" in first
