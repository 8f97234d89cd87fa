"""The examples in docstrings run as they stand, each by itself: what it uses it imports."""

import doctest
import importlib
import pkgutil

import pytest

import learned_opt

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST


def examples():
    """All docstrings of the library that have examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(learned_opt.__path__, "learned_opt.")]
    for name in ["learned_opt", *names]:
        module = importlib.import_module(name)
        for example in finder.find(module, name, globs={}):
            if example.examples:
                yield pytest.param(example, id=example.name)


@pytest.mark.parametrize("example", examples())
def test_example(tmp_path, monkeypatch, example):
    monkeypatch.chdir(tmp_path)
    said = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)


def test_a_wrong_example_is_found(tmp_path):
    parser = doctest.DocTestParser()
    wrong = parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    said = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(wrong, out=said.append)
    assert "Expected:\n    3\nGot:\n    2" in "".join(said)
