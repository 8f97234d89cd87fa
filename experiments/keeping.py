"""What docs/measured keeps of the figures: reading it, and the command that measured it."""

import os
import re
from typing import Any

from experiments import papers
from learned_opt import _files

Kept = dict[str, Any]  # what docs/measured has of a figure

RESULTS = "measured"  # below docs


def docs_folder(docs: str) -> str:
    """The folder of the site's pages; raises FileNotFoundError where there is none."""
    if not os.path.isdir(docs):
        raise FileNotFoundError(
            f"there is no folder {docs}: run this at the root of the repository, or name it with "
            "--docs."
        )
    return docs


def read(folder: str) -> dict[str, Kept]:
    """What `numbers.collect` has kept in a folder, in the order of the figures."""
    paths = {name: os.path.join(folder, f"{name}.json") for name in papers.FIGURES}
    return {name: _files.read_json(path) for name, path in paths.items() if os.path.exists(path)}


def command(figure: Kept) -> str:
    """The command that measures a figure as it was measured."""
    name, config = figure["figure"], figure["config"]
    own = papers.FIGURES[name]
    given = [f"--figure={name}"]
    if config["dataset"] != "mnist":
        given.append(f"--dataset={config['dataset']}")
    for setting, default in (
        ("num_runs", own.num_runs),
        ("tune_runs", own.tune_runs),
        ("optimizers", own.optimizers),
        ("baselines", ",".join(own.baselines)),
        ("num_steps", 0),
        ("evaluation_seed", 0),
    ):
        if config[setting] != default:
            given.append(f"--{setting}={without_folders(config[setting])}")
    measured = list(figure["cases"])
    if len(measured) < len(own.cases):
        given.append(f"--cases={','.join(measured)}")
    return " ".join(["python -m experiments.reproduce", *given, "--data_dir=DIR"])


def without_folders(value: Any) -> str:
    """Files by their names alone: folders are those of a machine."""
    return re.sub(r"=[^,]*/", "=", str(value))
