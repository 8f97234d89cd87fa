"""The pages of numbers are what the results say."""

import pathlib
import re

import pytest

from experiments import costs, keeping, numbers, papers, sentences
from learned_opt import _files
from tests.experiments.programs import in_process

ROOT = pathlib.Path(__file__).parents[2]
DOCS, README = ROOT / "docs", ROOT / "README.md"


def test_no_page_is_old():
    """Also: nothing in a written page was changed by hand."""
    assert numbers.stale(str(DOCS), str(README)) == []


# Figures whose lives are so long that rates are tuned on fewer runs; their pages say so.
TUNED_ON_FEW = {"l2l-fig7": 5, "cifar-others": 5}


def test_a_table_that_claims_something_has_twenty_runs():
    for figure in keeping.read(str(DOCS / keeping.RESULTS)).values():
        assert figure["config"]["num_runs"] >= 20, figure["figure"]
        least = TUNED_ON_FEW.get(figure["figure"], 20)
        assert figure["config"]["tune_runs"] >= least, figure["figure"]


def test_every_picture_is_there():
    """Of the page and of the README."""
    for path in (DOCS / "numbers.md", DOCS / "older_numbers.md", README):
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
            assert (path.parent / picture).exists(), picture


def test_every_command_names_a_figure_and_no_folder():
    for figure in keeping.read(str(DOCS / keeping.RESULTS)).values():
        command = keeping.command(figure)
        name = re.search(r"--figure=([\w-]+)", command)[1]
        assert name in papers.FIGURES
        assert "/" not in command


@pytest.fixture
def site(tmp_path):
    """A folder of results with one figure, and pages that are still empty."""
    rng = range(30)
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "interquartile_mean": 0.5, "diverged": 0.0}
    difference = {"mean": -0.1, "low": -0.2, "high": -0.05, "lower": 0.9, "num_runs": 30}

    def row(kind, **others):
        return {
            "kind": kind,
            "runs": 30,
            "learning_rate": None,
            "tuned": None,
            "diverged": 0.0,
            "paper": None,
            "loss": {"10": interval, "100": interval},
            "against": {},
            **others,
        }

    rows = {
        "Adam": row(
            "tuned",
            learning_rate=0.01,
            tuned={"rates": [0.01], "grid": [1.0], "runs": [30], "tied": [0.01, 0.0141]},
        ),
        "lstm-mnist": row(
            "learned", paper=0.24, against={"Adam": {**difference, "verdict": "below"}}
        ),
    }
    about = {
        "heading": "base MLP, 100 steps",
        "place": "100",
        "panel": "",
        "final": None,
        "label": "final loss",
        "num_steps": 100,
        "tune_last": 5,
    }
    summary = {
        "figure": "l2l-fig4",
        "title": "The base MLP (2016)",
        "axis": "steps",
        "cases": {"mlp-100": rows},
        "about": {"mlp-100": about},
        "trainings": {"mlp-100": {}},
    }
    config = {
        "dataset": "mnist",
        "optimizers": "lstm-mnist=/somewhere/lstm-mnist.safetensors",
        "baselines": "Adam",
        "num_runs": 30,
        "tune_runs": len(rng),
        "num_steps": 0,
        "evaluation_seed": 0,
    }
    environment = {"versions": {"jax": "1", "optax": "2"}, "device": "cpu"}
    folder = tmp_path / "results" / "l2l-fig4"
    _files.write_json(folder / "summary.json", summary)
    _files.write_json(folder / "config.json", {"config": config, "environment": environment})
    (folder / "curves.png").write_bytes(b"a picture")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- numbers: l2l-fig4 -->\n<!-- end -->\nafter\n")
    return tmp_path


def test_pages_are_written_and_checked(site, capsys):
    given = [f"--results={site / 'results'}", f"--docs={site / 'docs'}"]
    assert in_process(numbers, *given) == 0
    page = (site / "docs" / "numbers.md").read_text()
    assert "--figure=l2l-fig4 --num_runs=30 --tune_runs=30" in page
    assert "--cases=mlp-100 --data_dir=DIR" in page  # that of 200 steps was not measured
    assert "lstm-mnist=lstm-mnist.safetensors" in page
    assert "Adam 0.01 [0.01, 0.0141]" in page
    assert "below Adam (the best tuned baseline) by 0.1 [0.05, 0.2]" in page
    assert "![The base MLP (2016): curves](measured/l2l-fig4-curves.png)" in page
    assert "overview" not in page
    assert (site / "docs/measured/l2l-fig4-curves.png").read_bytes() == b"a picture"
    readme = (site / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "0.5 [0.4, 0.6] (paper 0.24)" in readme
    assert in_process(numbers, "--check", *given) == 0
    (site / "README.md").write_text(readme.replace("0.24", "0.23"))
    assert in_process(numbers, "--check", *given) == 1
    assert "README.md must be what docs/measured says" in capsys.readouterr().err


def test_a_table_of_nothing(site, capsys):
    (site / "README.md").write_text("<!-- numbers: l2l-fig5 -->\n<!-- end -->\n")
    assert in_process(numbers, f"--results={site / 'results'}", f"--docs={site / 'docs'}") == 1
    assert "unknown figure 'l2l-fig5'" in capsys.readouterr().err


# Sentences, and what the benchmarks say


@pytest.mark.parametrize("sentence", sentences.SENTENCES, ids=lambda sentence: sentence.words[:40])
def test_every_sentence_is_on_its_page(sentence):
    """Where it is not, its words were changed there, and have to be in experiments/sentences.py."""
    found = sentences.pattern(sentence).findall((ROOT / sentence.page).read_text())
    assert len(found) == 1


def test_numbers_of_a_sentence_are_written_anew(monkeypatch):
    numbers_of = {"a": "1.5 [1, 2]", "b": "-3"}
    sentence = sentences.Sentence("page.md", "from {a} down to {b}.", lambda _: numbers_of)
    monkeypatch.setattr(sentences, "SENTENCES", (sentence,))
    measured = sentences.Measured({}, [], [])
    text = "It goes from 0.25 [0.2,\n0.3] down\nto 1,000. Then 7."
    written = sentences.written("page.md", text, measured)
    assert written == "It goes from 1.5 [1, 2] down\nto -3. Then 7."
    assert sentences.written("page.md", written, measured) == written
    assert sentences.written("other.md", text, measured) == text


def test_tables_of_benchmarks_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n| a | b |\n|---|---|\n| x | 1,234 (1 - 2) |\n| y | - |\n\n| b |\n|--|\n| 5 |\n"
    )
    lines = costs.read(page)
    assert lines == [{"a": "x", "b": "1,234 (1 - 2)"}, {"a": "y", "b": "-"}, {"b": "5"}]
    assert costs.number(costs.cell(lines, "b", a="x")) == 1234
    with pytest.raises(ValueError, match="must have a table with a column 'b' and a line with a z"):
        costs.cell(lines, "b", a="z")


def test_memory_is_that_of_the_state():
    """A million parameters of 8, 320, 160 and 16 bytes, in units of 2^20."""
    table = costs.memory(costs.read(ROOT / costs.PAGE))
    (line,) = [line for line in table.splitlines() if line.startswith("| 1 million")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["1 million", "7.6 MiB", "310 MiB", "150 MiB", "15 MiB"]
