"""Writes the page of claims, docs/claims.md, from what docs/measured keeps.

Each claim of the papers is data: where the paper has it, which figure of experiments.reproduce (or
which optimizer of experiments.watching) decides it, and by which comparison. Verdicts follow from
paired intervals by rule. What nobody has measured is said with the command that would.
experiments.numbers writes this page too, with the pages of numbers.

Examples:

    python -m experiments.claims
    python -m experiments.claims --check        # whether the page is what docs/measured says
"""

import os

from absl import flags

from experiments import keeping, main
from experiments.claims import page
from learned_opt import _files


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("docs", "docs", "The folder of the page.")
    flags.DEFINE_bool("check", False, "Whether to write nothing, and to fail if the page is old.")


def run() -> None:
    """Writes the page, or checks it."""
    docs = keeping.docs_folder(flags.FLAGS.docs)
    results = page.read(os.path.join(docs, keeping.RESULTS))
    path = os.path.join(docs, page.PAGE)
    text = page.page(results)
    if flags.FLAGS.check:
        if not os.path.exists(path) or _files.read_bytes(path).decode() != text:
            raise ValueError(
                f"{path} must be what docs/measured says: python -m experiments.claims writes it "
                "anew."
            )
        print(f"{path} is what docs/measured says.")
        return
    _files.write_text(path, text)
    print(f"{len(page.CLAIMS)} claims are judged from {len(results)} results, in {path}.")


if __name__ == "__main__":
    define_flags()
    main.run(run)
