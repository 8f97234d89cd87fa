"""Files appear whole or not at all."""

import json
import os

import pytest

from learned_opt import _files


def write_half_of(path):
    with _files.whole(path) as temporary, open(temporary, "w") as f:
        f.write("half")
        raise RuntimeError


def test_a_file_takes_its_name_only_when_all_is_well(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(RuntimeError):
        write_half_of(path)
    assert os.listdir(path.parent) == []
    _files.write_text(path, "whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]


def test_json_holds_numbers_that_are_not_finite_as_text(tmp_path):
    path = tmp_path / "x.json"
    _files.write_json(path, {"a": [1.5, float("inf"), float("nan")], 2: None})
    assert json.loads(path.read_text()) == {"a": [1.5, "inf", "nan"], "2": None}
    assert _files.read_json(path) == {"a": [1.5, "inf", "nan"], "2": None}
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"x\.json is truncated or is no JSON file"):
        _files.read_json(path)
