"""What optimizers cost, from the tables of the benchmarks that benchmarks/README.md keeps.

A benchmark prints its table, and the page has it as it was printed. What other pages say of costs
is read from there, so that no number is written twice.
"""

import os

from learned_opt.evaluation import report

PAGE = os.path.join("benchmarks", "README.md")  # from the root of the repository

Line = dict[str, str]  # of a table: what stands in each of its columns

_ADAM = {"optimizer": "adam", "coordinates": "15,910"}
# How it is called, and the line of the table of updates that it has.
_BESIDE_ADAM = {
    "`lstm-mnist`": {**_ADAM, "optimizer": "lstm"},
    '`lstm-mnist`, `state_dtype="bfloat16"`': {**_ADAM, "optimizer": "lstm-bf16"},
    "`rnnprop-mnist`, `rnnprop-long`": {**_ADAM, "optimizer": "rnnprop"},
}
_MATRICES = ("1 x 1000 x 1000", "16 x 250 x 250", "256 x 62 x 62")
_STATE = "state B/param"
# Networks of some sizes, in parameters.
_SIZES = {
    "15,910 (the paper's MNIST network)": 15_910,
    "1 million": 1_000_000,
    "25 million (a ResNet-50)": 25_000_000,
}


def read(path: str) -> list[Line]:
    """The lines of all tables of a page, in their order; none where there is no page."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        rows = [_cells(line) if line.startswith("|") else None for line in f]
    lines: list[Line] = []
    header: list[str] | None = None
    for row in rows:
        if row is None:
            header = None
        elif header is None:
            header = row
        elif not all(set(cell) <= set("-: ") for cell in row):
            lines.append(dict(zip(header, row, strict=True)))
    return lines


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def cell(
    lines: list[Line],
    column: str,
    **where: str,
) -> str:
    """What stands in a column of the first line that has these words in other columns.

    Raises:
      ValueError: where no table has such a line.
    """
    for line in lines:
        if column in line and all(line.get(name) == value for name, value in where.items()):
            return line[column]
    shown = ", ".join(f"{name} {value}" for name, value in where.items())
    raise ValueError(f"{PAGE} must have a table with a column {column!r} and a line with {shown}.")


def number(text: str) -> float:
    """The first number of a cell: of "4.56 (4.50 - 4.60)" the median."""
    return float(text.split()[0].replace(",", ""))


def table(lines: list[Line]) -> str:
    """State and time of an update, a line an optimizer."""
    adam = f"{number(cell(lines, _STATE, **_ADAM)):g} bytes"
    rows = [["Adam", adam, ""]]
    for name, where in _BESIDE_ADAM.items():
        state = f"{number(cell(lines, _STATE, **where)):g} bytes"
        time = cell(lines, "time / adam", **where)
        rows.append([name, state, f"{time} times Adam's"])
    for matrices in _MATRICES:
        where = {"optimizer": "general", "matrices": matrices}
        state = f"{number(cell(lines, _STATE, **where)):g} bytes"
        time = cell(lines, "time / muon", **where)
        rows.append([f"`general`, {matrices}", state, f"{time} times Muon's"])
    return report.markdown(["optimizer", "state a parameter", "an update"], rows)


def memory(lines: list[Line]) -> str:
    """The state for networks of some sizes."""
    bytes_of = {
        "Adam": number(cell(lines, _STATE, **_ADAM)),
        "LSTM": number(cell(lines, _STATE, **{**_ADAM, "optimizer": "lstm"})),
        "LSTM, bfloat16": number(cell(lines, _STATE, **{**_ADAM, "optimizer": "lstm-bf16"})),
        "general": number(cell(lines, _STATE, optimizer="general", matrices=_MATRICES[0])),
    }
    rows = []
    for name, size in _SIZES.items():
        rows.append([name, *(_shown(size * per_parameter) for per_parameter in bytes_of.values())])
    return report.markdown(["parameters", *bytes_of], rows)


def _shown(num_bytes: float) -> str:
    """Two digits, in MiB or GiB."""
    unit, name = (2**30, "GiB") if num_bytes >= 1000 * 2**20 else (2**20, "MiB")
    return f"{float(f'{num_bytes / unit:.2g}'):g} {name}"
