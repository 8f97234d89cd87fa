"""Pictures from files, and crops of them."""

import numpy as np
import pytest
from PIL import Image

from learned_opt.data import pictures


def _saved(path, pixels, mode="RGB"):
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_comes_back_as_it_was_written(tmp_path):
    made = _noise(5, 7)
    pictures.write_picture(tmp_path / "a.png", made)
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "a.png"), made)


def test_transparency_is_dropped(tmp_path):
    made = _noise(4, 4)
    path = _saved(tmp_path / "a.png", made, "RGBA")
    np.testing.assert_array_equal(pictures.read_picture(path), made)


def test_what_is_no_picture_is_told_in_one_line(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    whole = _saved(tmp_path / "whole.png", _noise(40, 40)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("a.png", "half.png"):
        with pytest.raises(ValueError, match=f"{name} is no picture that can be read") as told:
            pictures.read_picture(tmp_path / name)
        assert "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match=r"no picture at .*b\.png"):
        pictures.read_picture(tmp_path / "b.png")


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_are_refused(mode, tmp_path):
    """In any mode, also where they were saved in colours."""
    path = _saved(tmp_path / "a.png", _noise(8, 8), mode)
    with pytest.raises(ValueError, match="is grey, its channels are the same everywhere"):
        pictures.read_picture(path)
    three = np.repeat(_noise(8, 8)[..., :1], 3, axis=-1)
    for name in ("three.png", "three.jpg"):
        path = _saved(tmp_path / name, three)
        with pytest.raises(ValueError, match=f"{name} is grey, .*: choose a picture in colours"):
            pictures.read_picture(path)
    three[0, 0, 0] ^= 1
    assert pictures.read_picture(_saved(tmp_path / "colour.png", three)).shape == (8, 8, 3)


def test_small_pictures_are_refused(tmp_path):
    path = _saved(tmp_path / "a.png", _noise(8, 20))
    with pytest.raises(ValueError, match="is 20 x 8, and 9 x 9 pixels are needed"):
        pictures.read_picture(path, least=9)
    with pytest.raises(FileNotFoundError, match="no pictures"):
        pictures.read_folder(tmp_path / "empty")


def test_sizes():
    made = _noise(30, 50)
    assert pictures.resized(made, 15).shape == (15, 25, 3)
    assert pictures.square(made, 10).shape == (10, 10, 3)
    np.testing.assert_array_equal(pictures.square(made, 30), made[:, 10:40])


def test_crops_are_parts_of_their_photographs():
    """Where a crop is as large as the photograph, it is that, or its mirror image."""
    first, second = _noise(20, 20, 1), _noise(20, 20, 2)
    found = pictures.crops([first, second], 12, 20, seed=0)
    for i, crop in enumerate(found):
        photograph = (first, second)[i % 2]
        mirrored = photograph[:, ::-1]
        assert np.array_equal(crop, photograph) or np.array_equal(crop, mirrored)
    assert len(np.unique(found.reshape(12, -1), axis=0)) == 4
    np.testing.assert_array_equal(found, pictures.crops([first, second], 12, 20, seed=0))
    with pytest.raises(ValueError, match="at least 21 wide and high, got 20"):
        pictures.crops([first], 1, 21)
