"""Files appear whole or not at all."""

import json
import os
import pathlib

import chex
import jax
import pytest

import learned_opt
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


@pytest.mark.parametrize("path", ["file", "file/folder"])
def test_a_file_in_the_way_of_a_folder_is_told(tmp_path, path):
    (tmp_path / "file").write_text("x")
    message = f"the folder .*{path} cannot be made, there is a file in its way: choose another"
    for make in (_files.make_folder, lambda folder: _files.write_text(folder / "x.txt", "")):
        with pytest.raises(OSError, match=message):
            make(tmp_path / path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.json: check the path"):
        _files.read_json(tmp_path / "x.json")
    assert os.listdir(tmp_path) == ["file"]


# Buckets


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """What stands in the place of a bucket: `epath` with a local folder behind gs://."""
    epath = pytest.importorskip("etils.epath")

    def local(path):
        return epath.Path(tmp_path) / str(path).removeprefix("gs://")

    monkeypatch.setattr(_files, "_remote", local)
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_files_in_a_bucket_appear_when_they_are_whole(bucket):
    _files.make_folder("gs://bucket/run")
    path = "gs://bucket/run/numbers.json"
    assert not _files.exists(path)
    with pytest.raises(RuntimeError):
        write_half_of(path)
    assert not _files.exists(path)
    _files.write_json(path, {"a": 1})
    assert _files.read_json(path) == {"a": 1}
    with _files.here(path) as there:
        assert there.endswith(".json")
        assert (bucket / "run/numbers.json").read_bytes() == pathlib.Path(there).read_bytes()
    _files.remove(path)
    _files.remove(path)  # it is not there already
    _files.remove_folder("gs://bucket/run")
    assert not (bucket / "run").exists()


def test_an_optimizer_is_saved_into_a_bucket_and_loaded_from_it(bucket):
    opt = learned_opt.lstm(hidden_sizes=(2,))
    phi = opt.init(jax.random.key(0))
    learned_opt.save("gs://bucket/mine", opt, phi, {"seed": 1})
    assert sorted(path.name for path in bucket.iterdir()) == ["mine.json", "mine.safetensors"]
    same, weights = learned_opt.load("gs://bucket/mine")
    assert same == opt
    chex.assert_trees_all_equal(weights, phi)


def test_paths_of_buckets_stay_as_they_are():
    assert _files.absolute("gs://bucket/a") == "gs://bucket/a"
    assert _files.absolute("a") == os.path.abspath("a")
    assert _files.is_remote("s3://bucket")
    assert not _files.is_remote("/tmp/a")
