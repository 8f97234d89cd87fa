"""Fits what programs print to the width of a terminal.

Programs write whole tables into files. On a terminal that is narrower than a table some of its
columns stay away, and a line says which; text and long cells are broken between words. Where the
output goes into a file or another program nothing is left out.
"""

import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from learned_opt.evaluation import report

WIDEST_CELL = 26  # characters of a cell, in a table that is too wide
_GOING_ON = "        --"  # a line with which a command goes on
_NAME = re.compile(r"  +\S.*?  +(?=\S)")  # "name   what it is", indented


def shown(text: str, first: Iterable[str] = ()) -> str:
    """A text as it is printed; see `fitted`."""
    if not sys.stdout.isatty():
        return text
    width, _ = shutil.get_terminal_size()
    return fitted(text, width, first)


def fitted(
    text: str,
    width: int,
    first: Iterable[str] = (),
) -> str:
    """A text whose tables and lines are no wider than a terminal.

    Args:
      text: lines, and tables in Markdown. Lines that begin with four spaces are commands, and stay.
      width: of the terminal, in characters.
      first: columns that are to stay before others, in this order. The first column of a table
        always stays; after these the others do from left to right.

    Returns:
      The text.
    """
    lines: list[str] = []
    table: list[str] = []
    for line in [*text.split("\n"), None]:
        if line is not None and line.startswith("|"):
            table.append(line)
            continue
        if table:
            lines += _fitted_table(table, width, list(first))
            table = []
        if line is not None:
            lines += _fitted_line(line, width)
    return "\n".join(lines)


def _fitted_table(
    table: list[str],
    width: int,
    first: Sequence[str],
) -> list[str]:
    if max(map(len, table)) <= width:
        return table
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    rows = [line for row in rows for line in _broken(row)]
    widths = [max(map(len, column)) + 3 for column in zip(header, *rows, strict=True)]
    others = [name for name in header[1:] if name not in first]
    wanted = [name for name in first if name in header[1:]] + others
    kept, left = {0}, width - 1 - widths[0]
    for name in wanted:
        column = header.index(name)
        if widths[column] <= left:
            kept.add(column)
            left -= widths[column]
    chosen = [[row[i] for i in sorted(kept)] for row in (header, *rows)]
    lines = report.markdown(chosen[0], chosen[1:]).split("\n")
    missing = [name for i, name in enumerate(header) if i not in kept]
    if missing:
        lines += textwrap.wrap(f"(Not shown: {', '.join(missing)}.)", width)
    return lines


def _broken(row: list[str]) -> list[list[str]]:
    """A row as several lines, where one of its cells is long."""
    parts = [textwrap.wrap(cell, WIDEST_CELL, break_on_hyphens=False) or [""] for cell in row]
    return [list(line) for line in itertools.zip_longest(*parts, fillvalue="")]


def _fitted_line(line: str, width: int) -> list[str]:
    if len(line) <= width or line.startswith("    "):
        return [line]
    indent = "  " if line.startswith("- ") else ""
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)


def help_text(text: str, width: int) -> str:
    """What --help says of a program, no wider than a terminal.

    Paragraphs are filled. In indented lines, "name   what it is" hangs below itself, and a command
    that goes on in lines beginning with "--" can be copied.

    Args:
      text: the docstring of a program.
      width: of the terminal.
    """
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        if not any(line.startswith(" ") for line in lines):
            found.append(textwrap.fill(" ".join(lines), width, break_on_hyphens=False))
            continue
        lines = _joined(lines)
        ends = [*lines[1:], ""]
        shown = []
        for line, after in zip(lines, ends, strict=True):
            is_command = "python -m" in line or line.startswith(_GOING_ON)
            goes_on = is_command and after.startswith(_GOING_ON)
            shown += _command(line, width, goes_on) if is_command else _hanging(line, width)
        found.append("\n".join(shown))
    return "\n\n".join(found).rstrip("\n") + "\n"


def _command(
    line: str,
    width: int,
    goes_on: bool,
) -> list[str]:
    """A line of a command that can be copied, broken before its flags where it is too long."""
    if "#" in line:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    first, *given = re.split(r" +(?=--)", line.strip().removesuffix("\\").rstrip())
    lines = [indent + first]
    for flag in given:
        if len(f"{lines[-1]} {flag} \\") <= width:
            lines[-1] += f" {flag}"
        else:
            lines.append(" " * len(_GOING_ON.removesuffix("--")) + flag)
    ends = [" \\"] * (len(lines) - 1) + [" \\" if goes_on else ""]
    return [line + end for line, end in zip(lines, ends, strict=True)]


def _joined(lines: list[str]) -> list[str]:
    """Lines of which each begins with a name, where a line without one goes on from the last."""
    found: list[str] = []
    for line in lines:
        name = _NAME.match(found[-1]) if found else None
        if name and line.startswith(" " * len(name[0])):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return found


def _hanging(line: str, width: int) -> list[str]:
    """An indented line; what is too long goes on below where its explanation begins."""
    if len(line) <= width:
        return [line]
    name = _NAME.match(line)
    indent = " " * (len(name[0]) if name else len(line) - len(line.lstrip()))
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)


def fit_help() -> None:
    """Fits the help of the program that runs to the terminal; before absl reads its flags."""
    program = sys.modules["__main__"]
    if program.__doc__:
        width, _ = shutil.get_terminal_size()
        program.__doc__ = help_text(program.__doc__, width)
