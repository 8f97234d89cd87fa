"""The site: its reference has everything public, its pages lead on, and it builds."""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import learned_opt
from experiments import gallery, keeping, links, numbers, pages, papers, tables
from learned_opt import _files
from learned_opt.evaluation import cost, report

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
_ENTRY = re.compile(r"^\.\. auto(\w+):: ([\w.]+)", re.MULTILINE)


# The reference


def entries():
    """What the pages of the reference have: pairs of the kind of a directive and its name."""
    text = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    return _ENTRY.findall(text)


def found(name):
    """What a dotted name stands for."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last)
    except (ModuleNotFoundError, AttributeError):
        return importlib.import_module(name)


def documented():
    """All objects that have an entry; of a module, those that are its own."""
    objects = []
    for kind, name in entries():
        thing = found(name)
        objects += own_members(thing).values() if kind == "module" else [thing]
    return objects


def own_members(module):
    """The functions and classes of a module, those of other modules left out."""
    return {
        name: member
        for name, member in vars(module).items()
        if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__
    }


def public():
    """Every public name with what it stands for; modules are no entries of their own."""
    modules = [learned_opt, learned_opt.optimizers, learned_opt.estimators]
    modules += [learned_opt.optimizees, learned_opt.data]
    every = {f"{m.__name__}.{name}": getattr(m, name) for m in modules for name in m.__all__}
    for path in sorted((ROOT / "learned_opt" / "evaluation").glob("[a-z]*.py")):
        module = importlib.import_module(f"learned_opt.evaluation.{path.stem}")
        every.update({f"{module.__name__}.{name}": m for name, m in own_members(module).items()})
    for name, member in own_members(learned_opt.devices).items():
        every[f"learned_opt.devices.{name}"] = member
    return {name: thing for name, thing in every.items() if not inspect.ismodule(thing)}


def test_every_public_name_has_an_entry_in_the_reference():
    there = {id(thing) for thing in documented()}
    missing = [name for name, thing in public().items() if id(thing) not in there]
    assert not missing, f"write these into a page of docs/reference: {missing}"


def test_no_entry_is_written_twice():
    names = [name for _, name in entries()]
    assert len(names) == len(set(names)) > 80


# What pages say of the state


def test_the_page_of_the_state_says_what_it_takes():
    theta = {"w": jnp.zeros((40, 50))}
    optimizers = {
        "Adam": optax.adam(1e-3),
        "`lstm` with two layers of 20": learned_opt.lstm(),
        '`rnnprop("mnist")`': learned_opt.rnnprop("mnist"),
        "`lstm_gac`": learned_opt.lstm_gac(),
        "`ntm_lbfgs(history=30)`": learned_opt.ntm_lbfgs(history=30),
        "`general`": learned_opt.general(num_steps=10),
    }
    text = (DOCS / "why/state.md").read_text()
    for name, opt in optimizers.items():
        tx = opt
        if isinstance(opt, learned_opt.LearnedOptimizer):
            tx = opt, opt.init(jax.random.key(0))
        # A count of the steps is no parameter's.
        num_bytes = round(cost.state_bytes_per_parameter(tx, theta))
        assert f"| {name} | {num_bytes // 4} | {num_bytes} |" in text


# What pages say of the figures


def test_every_figure_stands_in_the_table_of_experiments():
    text = (DOCS / "experiments.md").read_text()
    missing = [name for name in papers.FIGURES if f"`{name}`" not in text]
    assert not missing


# Pages from elsewhere


def test_links_lead_from_where_a_page_is():
    text = (
        "[a](docs/general.md) [b](benchmarks/README.md#the-yardstick) [c](learned_opt/weights) "
        "![d](docs/update.png) [e](https://example.org/x) [f](setup.py)"
    )
    written = pages.with_links(text, "CHANGELOG.md", "docs/project/changes.md", str(ROOT))
    assert written == (
        "[a](../general.md) [b](costs.md#the-yardstick) c "
        "![d](../update.png) [e](https://example.org/x) f"
    )


def test_code_is_no_link():
    text = "`a[0](b)`\n\n    a[0](b)\n\n```python\na[0](b)\n```\n[x](y)\n"
    written = pages.with_links(text, "README.md", "README.md", str(ROOT))
    assert written == text.replace("[x](y)", "x")


def test_places_of_headings():
    text = 'to [it](#here)\n\n### <a id="here"></a>It is here\n'
    written = pages.prepared(text, "docs/claims.md", str(ROOT))
    assert written == "to [it](#here)\n\n(here)=\n### It is here\n"


def test_a_page_for_every_card_and_every_result():
    written = gallery.pages(str(DOCS))
    kept = keeping.read(str(DOCS / keeping.RESULTS))
    for name, figure in kept.items():
        text = written[f"docs/results/{name}.md"]
        assert keeping.command(figure) in text
        for picture in re.findall(r"!\[(.+)\]\((.*?)\)", text):
            assert (ROOT / "docs/results" / picture[1]).resolve().exists()
    overview = written.pop("docs/results/index.md")
    for path in written:
        assert pathlib.Path(path).stem in overview
    card = learned_opt.pretrained_card("general")["info"]["good_for"]
    assert card in pages._weights_page()


def test_pages_that_no_table_of_contents_has_stand_with_the_results(tmp_path):
    (tmp_path / "index.md").write_text("```{toctree}\n:hidden:\n\nsolving\n```\n")
    for name in ("solving", "claims", "something_new"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n")
    (overview,) = gallery.pages(str(tmp_path)).values()
    assert "../claims\n../something_new\n" in overview
    assert "../solving" not in overview


# Narrow tables


def cells(table):
    """The cells below the header of some tables, without the empty ones."""
    lines = [line for line in table.split("\n") if line.startswith("| ")]
    return {cell.strip() for line in lines for cell in line.strip("| ").split("|")} - {"", "-"}


@pytest.mark.parametrize("name", keeping.read(str(DOCS / keeping.RESULTS)))
def test_a_table_that_fits_a_page_leaves_nothing_out(name):
    figure = _files.read_json(str(DOCS / keeping.RESULTS / f"{name}.json"))
    axis, cases = figure["axis"], numbers.cases(figure)
    table = tables.fitting(axis, cases)
    assert max(map(len, table.split("\n"))) <= tables.WIDEST
    turned = {cell.removeprefix(f"{axis}: ") for cell in cells(table)}
    assert cells(tables.overview(axis, cases)) - {axis} <= turned | {axis}


def test_a_narrow_table_holds_everything_against_the_best_baseline():
    kept = str(DOCS / keeping.RESULTS)
    figure = _files.read_json(f"{kept}/l2l-fig4.json")
    lines = tables.narrow("steps", numbers.cases(figure), ["lstm-mnist"]).splitlines()
    _, case = numbers.cases(figure)[0]
    tuned = {name: row for name, row in case.items() if row["kind"] == "tuned"}
    best = min(tuned, key=lambda name: list(tuned[name]["loss"].values())[-1]["mean"])
    assert lines[2].split("|")[2].strip() == f"{best}, tuned"
    ours = report.interval(list(case["lstm-mnist"]["loss"].values())[-1])
    difference = case["lstm-mnist"]["against"][best]
    assert ours in lines[4]
    assert f"{difference['verdict']} by {abs(difference['mean']):.2g} [" in lines[4]


# The built site


def page(body):
    return f"<html><body>{body}</body></html>"


def test_what_is_broken_is_found(tmp_path):
    (tmp_path / "index.html").write_text(
        page(
            '<a href="a.html#there">a</a><a href="a.html#gone">a</a><a href="b.html">b</a>'
            '<img src="x.png"><script src="https://cdn.example.org/x.js"></script>'
            '<a href="https://example.org">fine</a>'
        )
    )
    (tmp_path / "a.html").write_text(page('<h1 id="there">A</h1><img src="y.png" alt="y">'))
    (tmp_path / "y.png").write_bytes(b"")
    (tmp_path / "alone.html").write_text(page("alone"))
    assert sorted(links.broken(str(tmp_path))) == [
        "alone.html: no link leads there",
        "index.html: a picture without alternative text: x.png",
        "index.html: a.html#gone leads to no place on that page",
        "index.html: b.html leads nowhere",
        "index.html: fetches https://cdn.example.org/x.js from elsewhere",
        "index.html: x.png leads nowhere",
    ]
    with pytest.raises(FileNotFoundError, match="build it with `make docs`"):
        links.broken(str(tmp_path / "nothing"))


@pytest.mark.thorough
def test_the_site_builds_without_a_warning_and_nothing_in_it_is_broken(tmp_path):
    pytest.importorskip("myst_nb", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run([*command, DOCS, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert links.broken(str(tmp_path)) == []
