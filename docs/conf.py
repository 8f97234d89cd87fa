"""How Sphinx builds the site: `make docs`.

Pages that stand elsewhere in the repository, and those of results, are written by
`experiments.pages` before anything is read. Tutorials are run, and kept in a cache until their text
changes. Nothing that a page shows comes from a network.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

# Tutorials are run in processes of their own, which take this over.
os.environ["PYTHONPATH"] = ROOT
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TQDM_DISABLE", "1")  # bars are drawn on terminals
# Most of the time of a short training is compilation, which this about halves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
compiled = os.path.join(ROOT, "docs", "_build", "compiled")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)

from docutils import nodes  # noqa: E402

import learned_opt  # noqa: E402
from experiments import pages  # noqa: E402

pages.write(ROOT)

project = "learned_opt"
author = "the learned_opt contributors"
project_copyright = author
version = release = learned_opt.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
# "measured" has data, and tables that pages of their own lead to.
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb"}
highlight_language = "text"  # indented blocks are commands
default_role = "py:obj"
nitpicky = False

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_cache_path = os.path.join(ROOT, "docs", "_build", "executed")
nb_execution_in_temp = True
nb_execution_timeout = 1_800  # of a cell; machines may be busy
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

autoclass_content = "class"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]

html_theme = "sphinx_book_theme"
html_title = "learned_opt"
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # dark or light, as the reader's system has it
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "pygments_light_style": "a11y-light",
    "pygments_dark_style": "a11y-dark",
}


LONGEST_NUMBERS = 48  # characters of a cell that is a number with its interval


def setup(app):
    """Lets pages lead to files of the repository, and fits tables to a page."""

    def prepare(app, name, source):
        source[0] = pages.prepared(source[0], f"docs/{name}.md", ROOT)

    def mark_prose(app, tree):
        """Tables of words are broken into lines, those of numbers are not."""
        for table in tree.findall(nodes.table):
            cells = [entry.astext() for entry in table.findall(nodes.entry)]
            if max(map(len, cells)) > LONGEST_NUMBERS:
                table["classes"].append("prose")

    app.connect("source-read", prepare)
    app.connect("doctree-read", mark_prose)
