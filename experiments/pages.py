"""Pages of the site that stand elsewhere in the repository, or are made of results.

`docs/conf.py` calls `write` before the site is built. The cards of the weights become
docs/weights/NAME.md, the changes, the map, the rules of contributing and the page of costs become
docs/project/NAME.md, and `gallery` writes docs/results. Git ignores these folders: what they have
is written from its source each time. Links between files of the repository become links between
pages; one to a file that is no page becomes its bare text.
"""

import os
import re
import shutil

from experiments import gallery
from learned_opt import _files, weights

WEIGHTS = "docs/weights"
PROJECT = "docs/project"
# Files of the repository that are pages of the site.
MOVED = {
    "README.md": "docs/index.md",
    "CHANGELOG.md": f"{PROJECT}/changes.md",
    "CONTRIBUTING.md": f"{PROJECT}/contributing.md",
    "WORKSPACE.md": f"{PROJECT}/map.md",
    "benchmarks/README.md": f"{PROJECT}/costs.md",
}
# Blocks of code, lines of code, words of code; or a link with its parts.
_CODE_OR_LINK = re.compile(
    r"^```.*?^```|^ {4}[^\n]*|`[^`\n]*`|(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)
_PLACE = re.compile(r'^(#+) <a id="([\w-]+)"></a>(.*)$', re.MULTILINE)
_WEIGHTS_HEAD = """\
# Weights that ship

Each page is the card that lies beside the weights: what they are good for and what not, how they
were trained, and what was measured of them. [When to use which](../start/choosing.md) compares
them. `learned_opt.pretrained_card(NAME)` gives the same, and the curve of the training, as a dict.

"""


def write(root: str) -> None:
    """Writes all pages that are not kept in docs.

    Args:
      root: the folder of the repository.
    """
    for folder in (WEIGHTS, PROJECT, gallery.FOLDER):
        shutil.rmtree(os.path.join(root, folder), ignore_errors=True)
    for source, page in _moved().items():
        if source != "README.md":
            with open(os.path.join(root, source), encoding="utf-8") as f:
                text = with_links(f.read(), source, page, root)
            _files.write_text(os.path.join(root, page), text)
    _files.write_text(os.path.join(root, WEIGHTS, "index.md"), _weights_page())
    for page, text in gallery.pages(os.path.join(root, "docs")).items():
        _files.write_text(os.path.join(root, page), text)


def _moved() -> dict[str, str]:
    cards = {f"learned_opt/weights/{name}.md": f"{WEIGHTS}/{name}.md" for name in _names()}
    return {**MOVED, **cards}


def _names() -> tuple[str, ...]:
    return weights.PRETRAINED


def _weights_page() -> str:
    lines = [_WEIGHTS_HEAD + "| weights | good for |", "|---|---|"]
    for name in _names():
        good_for = weights.pretrained_card(name)["info"]["good_for"]
        lines.append(f"| [{name}]({name}.md) | {good_for} |")
    tree = ["", "```{toctree}", ":hidden:", "", *_names(), "```", ""]
    return "\n".join([*lines, *tree])


def with_links(
    text: str,
    source: str,
    page: str,
    root: str,
) -> str:
    """A text whose links to files lead on from where its page is.

    Args:
      text: Markdown.
      source: the path of the text in the repository.
      page: the path of its page.
      root: the folder of the repository.

    Returns:
      The text. A link to a folder, or to a file that is no page, has become its bare text. Code is
      left as it is.
    """
    moved = _moved()

    def replaced(found: re.Match) -> str:
        mark, label, target, anchor = found.groups()
        if target is None or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        path = moved.get(path, path)
        is_page = path in moved.values() or path.startswith("docs/")
        if not is_page or os.path.isdir(os.path.join(root, path)):
            return label
        there = os.path.relpath(path, os.path.dirname(page))
        return f"{mark}[{label}]({there}{anchor or ''})"

    return _CODE_OR_LINK.sub(replaced, text)


def prepared(text: str, page: str, root: str) -> str:
    """A page of docs as the site's builder reads it.

    Its links are those of `with_links`. A heading with a place of its own, `<a id="place"></a>`,
    which GitHub knows, has a target in front of it, which the builder knows.

    Args:
      text: of the page.
      page: its path in the repository.
      root: the folder of the repository.
    """
    return _PLACE.sub(r"(\2)=\n\1 \3", with_links(text, page, page, root))
