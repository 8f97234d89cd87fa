"""Looks for what is broken in the built site, without a network.

Links that lead to no page, to no place on a page or to no file; anything that a page would fetch
from elsewhere; pictures without alternative text; pages that no link leads to. `make docs` runs it:

    python -m experiments.links docs/_build/html
"""

import html.parser
import os
import sys
import urllib.parse
from typing import NamedTuple

_SKIPPED = ("_static", "_sources", "_images", "_downloads", "_sphinx_design_static")
# What a browser fetches by itself; a link to elsewhere is followed by people only.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
_NOT_FETCHED = ("canonical", "author", "license", "next", "prev", "search", "index", "top")


class Read(NamedTuple):
    """What a page has that can be broken.

    Attributes:
      links: where it leads, as it stands there.
      fetched: what a browser fetches for it.
      places: the names of its places, which links lead to.
      unnamed: pictures without alternative text.
    """

    links: list[str]
    fetched: list[str]
    places: set[str]
    unnamed: list[str]


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.read = Read([], [], set(), [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.read.places.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "a" and given.get("href"):
            self.read.links.append(given["href"])
        if tag == "img" and not given.get("alt", "").strip():
            self.read.unnamed.append(given.get("src", "?"))
        fetched = given.get(_FETCHED.get(tag, ""), "")
        if fetched and given.get("rel") not in _NOT_FETCHED:
            self.read.fetched.append(fetched)


def broken(folder: str) -> list[str]:
    """What is broken in a site, a line each.

    Args:
      folder: where the site was built.

    Raises:
      FileNotFoundError: where there is no site.
    """
    if not os.path.exists(os.path.join(folder, "index.html")):
        raise FileNotFoundError(f"{folder} has no site: build it with `make docs`.")
    pages = {path: _read(os.path.join(folder, path)) for path in _pages(folder)}
    lines, reached = [], {"index.html", "search.html", "genindex.html", "py-modindex.html"}
    for page, read in pages.items():
        lines += [f"{page}: a picture without alternative text: {src}" for src in read.unnamed]
        for target in read.fetched:
            if _is_elsewhere(target):
                lines.append(f"{page}: fetches {target} from elsewhere")
        for target in (*read.links, *read.fetched):
            if _is_elsewhere(target) or target.startswith("data:"):
                continue
            there, place = _resolved(page, target)
            if there != page:
                reached.add(there)
            if not os.path.exists(os.path.join(folder, there)):
                lines.append(f"{page}: {target} leads nowhere")
            elif place and there in pages and place not in pages[there].places:
                lines.append(f"{page}: {target} leads to no place on that page")
    lines += [f"{page}: no link leads there" for page in pages if page not in reached]
    return lines


def _pages(folder: str) -> list[str]:
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        inside = os.path.relpath(where, folder)
        names = [os.path.normpath(os.path.join(inside, name)) for name in sorted(files)]
        found += [name for name in names if name.endswith(".html")]
    return found


def _read(path: str) -> Read:
    reader = _Reader()
    with open(path, encoding="utf-8") as f:
        reader.feed(f.read())
    return reader.read


def _is_elsewhere(target: str) -> bool:
    return target.startswith("//") or urllib.parse.urlsplit(target).scheme in (
        "http",
        "https",
        "mailto",
    )


def _resolved(page: str, target: str) -> tuple[str, str]:
    """The file that a link leads to, and the place in it."""
    parts = urllib.parse.urlsplit(target)
    path = urllib.parse.unquote(parts.path)
    there = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    return there, urllib.parse.unquote(parts.fragment)


if __name__ == "__main__":
    try:
        found = broken(sys.argv[1] if len(sys.argv) > 1 else "docs/_build/html")
    except FileNotFoundError as error:
        sys.exit(str(error))
    print("\n".join(found) if found else "No link is broken.")
    sys.exit(bool(found))
