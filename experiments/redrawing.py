"""Draws pictures again from what docs/measured keeps."""

import glob
import json
import os
from typing import Any

import tqdm

from experiments import keeping, papers, payback, summaries, tables
from experiments.suite import pictures
from learned_opt import _files
from learned_opt.evaluation import plots

DRAWN = "drawn"  # below docs/measured: what the pictures of curves show
DIGITS = 4  # more than a picture shows


def keep(workdir: str, kept: str, name: str) -> None:
    """Keeps what a picture of curves shows, which is small, from a figure's work directory."""
    path = os.path.join(workdir, "curves.json")
    if os.path.exists(path):
        shown = json.dumps(_short(_files.read_json(path)), separators=(",", ":"))
        _files.write_text(os.path.join(kept, DRAWN, f"{name}.json"), f"{shown}\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def run(kept: str) -> None:
    """Draws all pictures again that can be.

    Of a figure that was measured before curves were kept only the final losses can be.

    Args:
      kept: the folder that keeps the figures, the families and the suite.
    """
    _figures(kept)
    for picture in glob.glob(os.path.join(kept, "thousands", "*.png")):
        summary = _files.read_json(f"{os.path.splitext(picture)[0]}.json")
        payback.draw(picture, summary)
    for path in glob.glob(os.path.join(kept, "suite", "*", "summary.json")):
        summary, folder = _files.read_json(path), os.path.dirname(path)
        pictures.draw_ratios(os.path.join(folder, "ratios.png"), summary["tasks"])
        pictures.draw_shares(os.path.join(folder, "shares.png"), summary["over_all"])


def _figures(kept: str) -> None:
    figures = keeping.read(kept)
    for name, measured in tqdm.tqdm(figures.items(), desc="drawing", unit="figure"):
        figure = papers.FIGURES[name]
        cases = {case.folder: case for case in figure.cases}
        rows = {}
        for folder, of_case in measured["cases"].items():
            case = cases[folder]
            rows[case] = tables.with_trainings(of_case["rows"], of_case["trainings"], case.measure)
        summaries.draw_overview(os.path.join(kept, f"{name}-overview.png"), figure, rows)
        path = os.path.join(kept, DRAWN, f"{name}.json")
        if os.path.exists(path):
            plots.draw(os.path.join(kept, f"{name}-curves.png"), _files.read_json(path))
