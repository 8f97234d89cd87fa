"""When learning a solver pays: tables and verdicts of what `experiments.racing` measured."""

from typing import Any

from experiments import racing, solvers
from experiments.racing import GUARDED, OURS, STARTED, WITHIN
from learned_opt.evaluation import plots, report

Rows = dict[str, dict[str, Any]]
Training = dict[str, float]  # seconds of learning: "start", "optimizer" and, if any, "numbers"
LEVEL = 0.05  # times that differ by less are as good as the same, from run to run
FIRST = ("solved", "times the learned", "paid back after")  # columns, where not all have a place


def section(summary: dict[str, Any]) -> str:
    """What is said of one family: what it is, the table, and the verdict.

    Args:
      summary: what `experiments.thousands` writes.
    """
    training, rows = summary["training"], summary["rows"]
    heading = f"**{summary['about']}** (`--family={summary['family']}`)"
    parts = [
        f"{heading}: {how_measured(summary)} {summary['why']}",
        table(rows, training),
        verdict(summary["family"], rows, training),
    ]
    return "\n\n".join(parts)


def how_measured(summary: dict[str, Any]) -> str:
    """How many instances, and how long the learning took."""
    names = {
        "start": "the start",
        "optimizer": "the steps",
        "numbers": "the numbers of the expert's method",
    }
    training = summary["training"]
    parts = [
        f"{training[part]:.0f} s for {name}" for part, name in names.items() if part in training
    ]
    learning = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{summary['num_instances']:,} fresh instances. Learning took {learning}."


def kept_as(family: str, architecture: str) -> str:
    """The name of a run's folder and of its file in docs/measured."""
    return family if architecture == solvers.PRECONDITIONED else f"{family}-{architecture}"


def architectures(summaries: list[dict[str, Any]]) -> str:
    """What learned steps of each architecture are worth behind the start, a line for each.

    Args:
      summaries: what `experiments.thousands` writes, of several families and architectures.
    """
    lines = []
    for summary in summaries:
        rows = summary["rows"]
        row, best = rows[OURS], best_rival(rows)
        beside = _times(row["seconds"] / rows[best]["seconds"]) if best else ""
        steps, share = str(row["effort"]), f"{100 * row['share']:.1f} %"
        name = summary.get("architecture", solvers.PRECONDITIONED)
        lines.append([summary["family"], name, steps, share, f"{1e6 * row['seconds']:.3g}", beside])
    header = [
        "family",
        "architecture",
        "steps",
        "solved",
        "us an instance",
        "times the best rival",
    ]
    return report.markdown(header, lines)


def draw(path: str, summary: dict[str, Any]) -> None:
    """Draws total time over the number of instances.

    Args:
      path: of the PNG.
      summary: what `experiments.thousands` writes.
    """
    shown = {name: row["seconds"] for name, row in summary["rows"].items() if row["solved"]}
    training = {
        name: seconds_of(summary["rows"], name, summary["training"])
        for name in shown
        if racing.is_learned(name)
    }
    plots.totals(path, shown, training, summary["about"])


def ours(rows: Rows) -> str:
    """The quickest of what is accurate enough and has something learned."""
    solved = [name for name, row in rows.items() if racing.is_learned(name) and row["solved"]]
    return min(solved, key=lambda name: rows[name]["seconds"], default=OURS)


def seconds_of(
    rows: Rows,
    name: str,
    training: Training,
) -> float:
    """How long the learning took of what this method needs."""
    if name.startswith(WITHIN):
        return training["numbers"]
    needs_start_alone = name.startswith(STARTED) or (name == OURS and rows[name]["effort"] == 0)
    return training["start"] + (0.0 if needs_start_alone else training["optimizer"])


def pays_after(
    rows: Rows,
    name: str,
    training: Training,
) -> float:
    """After how many instances the learning has paid for itself against a rival; inf for never.

    Args:
      rows: from `racing.measure`.
      name: of the rival, which is accurate enough.
      training: seconds of learning, by part.
    """
    own = ours(rows)
    saved = rows[name]["seconds"] - rows[own]["seconds"]
    pays = rows[own]["solved"] and saved > 0
    return seconds_of(rows, own, training) / saved if pays else float("inf")


def best_rival(rows: Rows) -> str | None:
    """The quickest rival that is accurate enough."""
    solved = {n: row["seconds"] for n, row in rows.items() if row["is_rival"] and row["solved"]}
    return min(solved, key=solved.__getitem__, default=None)


def table(rows: Rows, training: Training) -> str:
    """The rows as Markdown, those first that are accurate enough, from quick to slow."""
    ordered = sorted(rows, key=lambda name: (not rows[name]["solved"], rows[name]["seconds"]))
    unit = rows[ours(rows)]["seconds"]
    lines = []
    for name in ordered:
        row = rows[name]
        times = f"{1e6 * row['seconds']:.3g}", _times(row["seconds"] / unit)
        solved = f"{100 * row['share']:.1f} %"
        lines.append([name, str(row["effort"]), solved, *times, _pays(rows, name, training)])
    header = [
        "method",
        "effort",
        "solved",
        "us an instance",
        "times the learned",
        "paid back after",
    ]
    return report.markdown(header, lines)


def _count(count: float) -> str:
    """A number of instances, to two digits: times vary by more than that says."""
    return f"{float(f'{count:.2g}'):,.0f}"


def _times(ratio: float) -> str:
    """Two digits, and no power of ten for what is large."""
    return f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:,.0f}"


def _pays(
    rows: Rows,
    name: str,
    training: Training,
) -> str:
    if not rows[name]["is_rival"]:
        return ""
    if not rows[name]["solved"]:
        return "-"
    count = pays_after(rows, name, training)
    return "never" if count == float("inf") else _count(count)


def _best_share(rows: Rows) -> float:
    """The percentage of the instances that learned steps solve, guarded or not."""
    return 100 * max(rows[kind]["share"] for kind in (OURS, GUARDED) if kind in rows)


def verdict(
    name: str,
    rows: Rows,
    training: Training,
) -> str:
    """One plain sentence on a family.

    Args:
      name: of the family.
      rows: from `racing.measure`.
      training: seconds of learning, by part.
    """
    own, best = ours(rows), best_rival(rows)
    if not rows[own]["solved"]:
        share = _best_share(rows)
        others = f"the quickest rival that is: {best}" if best else "no rival is either"
        return f"{name}: the learned solver is not accurate enough ({share:.0f} %); {others}."
    if best is None:
        return f"{name}: the learned solver alone is accurate enough."
    ratio = rows[best]["seconds"] / rows[own]["seconds"]
    if abs(ratio - 1) < LEVEL:
        return f"{name}: the learned solver ({own}) and {best}, the best rival, are equally fast."
    if ratio <= 1:
        times = _times(1 / ratio)
        return f"{name}: {best} wins, {times} times as fast as the learned solver ({own})."
    count = pays_after(rows, best, training)
    return (
        f"{name}: the learned solver ({own}) is {ratio:.2g} times as fast as {best}, the best "
        f"rival; its learning has paid for itself after {_count(count)} instances."
    )


def in_short(summary: dict[str, Any]) -> list[str]:
    """A family, its quickest accurate rival, and how the learned solver stands beside that one.

    Args:
      summary: what `experiments.thousands` writes.
    """
    rows, training = summary["rows"], summary["training"]
    own, best = ours(rows), best_rival(rows)
    family = f"{summary['family']}: {summary['about']}"
    if not rows[own]["solved"]:
        share = _best_share(rows)
        return [family, best or "none", f"not accurate enough ({share:.0f} %)"]
    if best is None:
        return [family, "none", "alone accurate enough"]
    ratio = rows[best]["seconds"] / rows[own]["seconds"]
    if abs(ratio - 1) < LEVEL:
        return [family, best, "equally fast"]
    if ratio <= 1:
        return [family, best, f"takes {_times(1 / ratio)} times as long"]
    count = pays_after(rows, best, training)
    return [family, best, f"{ratio:.2g} times as fast, paid back after {_count(count)}"]
