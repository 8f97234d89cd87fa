"""What docs/measured keeps of `experiments.watching`, and what the page of it has."""

import glob
import os
import shutil
from typing import Any

from learned_opt import _files
from learned_opt.evaluation import report

WATCHING = "watching"  # below docs/measured, and below results; also the page's name
PICTURES = ("histories", "proposals", "answers")


def collect(results: str, kept: str) -> list[str]:
    """Takes what the page needs; returns the names of what was watched.

    Args:
      results: the folder that has the results of all programs.
      kept: the folder that keeps what the pages need.
    """
    found = []
    for path in sorted(glob.glob(os.path.join(results, WATCHING, "*", "summary.json"))):
        summary = _files.read_json(path)
        name = summary["watched"]
        _files.write_json(os.path.join(kept, WATCHING, f"{name}.json"), summary)
        for picture in PICTURES:
            drawn = os.path.join(os.path.dirname(path), f"{picture}.png")
            shutil.copyfile(drawn, os.path.join(kept, WATCHING, f"{name}-{picture}.png"))
        found.append(name)
    return found


def read(kept: str) -> dict[str, dict[str, Any]]:
    """What `collect` has kept, by the name of the optimizer."""
    paths = sorted(glob.glob(os.path.join(kept, WATCHING, "*.json")))
    summaries = [_files.read_json(path) for path in paths]
    return {summary["watched"]: summary for summary in summaries}


def block(summary: dict[str, Any]) -> str:
    """What the page has of one optimizer: the command, the numbers, and the pictures."""
    name = summary["watched"]
    lines = [[number, report.interval(value)] for number, value in summary["numbers"].items()]
    table = report.markdown(["", "mean and 95 % interval"], lines)
    pictures = [
        f"![{name}: {picture}](measured/{WATCHING}/{name}-{picture}.png)" for picture in PICTURES
    ]
    command = f"    {summary['command']}"
    return "\n\n".join([command, f"{summary['title']}: {summary['legend']}", table, *pictures])
