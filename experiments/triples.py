"""Pictures in the style of others: by a learned optimizer, and by tuned Adam in the same time.

Andrychowicz et al. 2016, figure 9: content, result and style, at the training style and size, and
at twice the size with a new style. Beside each stands what Adam makes of the same start. Adam has
its tuned rate of figure 8, and as many steps as fit into the time of the learned optimizer's; both
are timed in turns. --workdir receives config.json, triples.png, table.md (the terms of the loss
apart) and summary.json. What is finished is kept: the same command goes on after it was stopped.

Examples:

    python -m experiments.triples                       # embedded pictures, random filters
    python -m experiments.triples --data_dir=DIR        # pictures and features of DIR/neural_art
"""

import os
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

import learned_opt
from experiments import art, learned, main, measuring, papers
from experiments.cases import Case
from learned_opt import _checks, _files
from learned_opt.evaluation import comparison, report, timing
from learned_opt.meta.unrolling import Transformation
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees import style_transfer
from learned_opt.optimizees.style_transfer import Art, Terms

RIVAL = "Adam"
SHOWN = ("content", "result", "style", RIVAL)
PARTS = ("content", "style", "smoothness", "loss")
_KEY = 1  # folded into the key of evaluation: these runs are none of figure 8's


def cases(embedded: bool) -> list[Case]:
    """The problems of figure 9: those of figure 8, for as many steps as were trained for."""
    every = papers.art_cases(embedded)
    return [case for case in every if case.num_steps == every[0].num_steps]


def measure(
    made: Art,
    ours: Transformation,
    rival: Transformation,
    key: jax.Array,
    num: int,
    num_steps: int,
    rounds: int,
) -> dict[str, Any]:
    """Both optimizers on the same problems.

    Args:
      made: the family and its terms.
      ours: the learned optimizer.
      rival: the other one.
      key: draws the problems.
      num: how many.
      num_steps: of the learned optimizer.
      rounds: how often both are timed.

    Returns:
      Dict of `steps`, those of the rival; `pictures`, dict from "content", "result" and the rival
      to `[num, height, width, 3]`; `terms`, dict from "ours" and "rival" to dicts from a term to
      `[num]`.
    """

    def run(tx: Transformation, key: jax.Array, steps: int) -> Any:
        return learned_opt.unroll(tx, made.family, key, steps)

    keys = list(jax.random.split(key, num))
    programs = {
        "ours": lambda: run(ours, keys[0], num_steps),
        "rival": lambda: run(rival, keys[0], num_steps),
    }
    seconds = timing.interleaved(programs, rounds, "timing")
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["rival"])
    steps = max(1, round(ratio * num_steps))
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in ("content", "result", RIVAL)}
    terms: dict[str, dict[str, list[float]]] = {}
    family = optimizee_base.as_family(made.family)
    for one in tqdm.tqdm(keys, "painting", unit="picture"):
        problem = optimizee_base.begin(family, one)
        pictures["content"].append(style_transfer.to_pixels(problem.instance.theta))
        for who, shown, tx, count in (
            ("ours", "result", ours, num_steps),
            ("rival", RIVAL, rival, steps),
        ):
            done = run(tx, one, count)
            pictures[shown].append(style_transfer.to_pixels(done.theta))
            found = made.terms(done.theta, problem.instance)
            values = {**found._asdict(), "loss": done.losses[-1]}
            kept = terms.setdefault(who, {name: [] for name in PARTS})
            for name, value in values.items():
                kept[name].append(float(value))
    return {
        "steps": steps,
        "pictures": {name: np.stack(shown) for name, shown in pictures.items()},
        "terms": terms,
    }


def table(done: Mapping[str, Mapping[str, Any]], name: str, num_steps: int) -> str:
    """The terms of the loss of each case, means over its pictures, as Markdown.

    Args:
      done: dict from a case's title to what `measure` gave.
      name: of the learned optimizer.
      num_steps: of it.
    """
    weights = style_transfer.WEIGHTS
    header = ["problem", "optimizer", "steps"]
    header += [f"{term} x {weight:g}" for term, weight in weights._asdict().items()]
    lines = []
    for title, found in done.items():
        for who, shown, steps in (("ours", name, num_steps), ("rival", RIVAL, found["steps"])):
            means = {part: np.mean(values) for part, values in found["terms"][who].items()}
            weighted = [getattr(weights, part) * means[part] for part in Terms._fields]
            cells = [f"{value:.3g}" for value in (*weighted, means["loss"])]
            lines.append([title, shown, str(steps), *cells])
    return report.markdown([*header, "loss"], lines)


def draw(
    path: str,
    done: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, np.ndarray],
    name: str,
    title: str,
) -> None:
    """Draws the pictures of all cases side by side, a row a problem.

    Args:
      path: of the PNG.
      done: dict from a case's title to what `measure` gave.
      styles: dict from a case's title to its style.
      name: of the learned optimizer.
      title: of the whole picture.
    """
    matplotlib_figure = _checks.extra("matplotlib.figure", "matplotlib", "a picture")
    num = len(next(iter(done.values()))["pictures"]["content"])
    size = 1.25
    figure = matplotlib_figure.Figure(
        figsize=(size * len(SHOWN) * len(done), size * num + 0.7), layout="constrained"
    )
    blocks = figure.subfigures(1, len(done), squeeze=False)[0]
    for block, (case, found) in zip(blocks, done.items(), strict=True):
        block.suptitle(case, fontsize="small")
        axes = block.subplots(num, len(SHOWN), squeeze=False)
        shown = {**found["pictures"], "style": np.stack([styles[case]] * num)}
        heads = {"result": name, RIVAL: f"{RIVAL}, {found['steps']} steps"}
        for j, column in enumerate(SHOWN):
            axes[0, j].set_title(heads.get(column, column), fontsize="x-small")
            for i in range(num):
                axes[i, j].imshow(shown[column][i], interpolation="nearest")
                axes[i, j].set_axis_off()
    figure.suptitle(title, fontsize="small")
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=110)


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("optimizer", "neural-art", "A learned optimizer: a name, or NAME=PATH.")
    flags.DEFINE_string(
        "data_dir",
        None,
        "The folder that has neural_art/, see experiments/art.py; left out for embedded pictures.",
    )
    flags.DEFINE_string("workdir", "results/l2l-fig9", "Where results go.")
    flags.DEFINE_string("train_dir", "results/train", "Where experiments.train has left results.")
    flags.DEFINE_string("tuned_dir", "results/tuned", "Where tuned baselines are kept.")
    flags.DEFINE_integer("num", 3, "How many pictures of each problem.")
    flags.DEFINE_integer("tune_runs", 20, "Problems on which Adam's rate is tuned.")
    flags.DEFINE_integer("rounds", 5, "How often both optimizers are timed.")
    flags.DEFINE_integer("evaluation_seed", 0, "Seed of the problems.")


def run() -> None:
    """Makes the pictures that the command line asks for."""
    given = flags.FLAGS
    num = _checks.positive_int("--num", given.num)
    rounds = _checks.positive_int("--rounds", given.rounds)
    tune_runs = _checks.positive_int("--tune_runs", given.tune_runs)
    workdir = os.path.expanduser(given.workdir)
    found = learned.find(given.optimizer, learned.Places(given.train_dir, given.data_dir, False))
    source = art.load(given.data_dir)
    config = {"num": num, "evaluation_seed": given.evaluation_seed, "tune_runs": tune_runs}
    measuring.claim(workdir, {**config, "weights": found.digest, "pictures": source.about})
    evaluation_key, tune_key = measuring.keys(given.evaluation_seed)
    done, styles = {}, {}
    chosen = cases(not art.has_folder(given.data_dir))
    for case in chosen:
        made = art.family(source, **case.family.arguments)
        kept = os.path.join(workdir, f"{case.name}.npz")
        measured = _read(kept)
        if measured is None:
            tuned = comparison.tune_all(
                made.family,
                jax.random.fold_in(tune_key, case.num_steps),
                case.num_steps,
                tune_runs,
                [RIVAL],
                os.path.expanduser(given.tuned_dir),
            )
            key = jax.random.fold_in(evaluation_key, _KEY)
            ours = found.opt, found.phi
            rival = tuned[RIVAL].tx
            measured = measure(made, ours, rival, key, num, case.num_steps, rounds)
            _write(kept, measured)
        done[case.title] = measured
        styles[case.title] = source.styles[case.family.arguments.get("style", "train")]
    num_steps = chosen[0].num_steps
    title = f"Neural art: {source.about}; {RIVAL} in the time of {num_steps} steps of {found.name}"
    text = f"## {title}\n\n{table(done, found.name, num_steps)}\n"
    draw(os.path.join(workdir, "triples.png"), done, styles, found.name, title)
    _files.write_text(os.path.join(workdir, "table.md"), text)
    summary = {case: {key: of[key] for key in ("steps", "terms")} for case, of in done.items()}
    _files.write_json(os.path.join(workdir, "summary.json"), summary)
    print(f"\n{text}\nEverything is in {workdir}.")


def _write(path: str, measured: dict[str, Any]) -> None:
    arrays = {f"pictures {name}": shown for name, shown in measured["pictures"].items()}
    for who, terms in measured["terms"].items():
        for name, values in terms.items():
            arrays[f"{who} {name}"] = np.asarray(values)
    with _files.whole(path) as temporary:
        np.savez_compressed(temporary, steps=measured["steps"], **arrays)


def _read(path: str) -> dict[str, Any] | None:
    """What `_write` has written, or None where it is not there."""
    if not os.path.exists(path):
        return None
    with np.load(path) as arrays:
        pictures = {name: arrays[f"pictures {name}"] for name in ("content", "result", RIVAL)}
        terms = {
            who: {t: arrays[f"{who} {t}"].tolist() for t in PARTS} for who in ("ours", "rival")
        }
        return {"steps": int(arrays["steps"]), "pictures": pictures, "terms": terms}


if __name__ == "__main__":
    define_flags()
    main.run(run)
