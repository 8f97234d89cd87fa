"""What programs print fits a terminal, and says what it leaves out."""

import pathlib

import pytest

from experiments import terminal

DEMO = (pathlib.Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
FIRST = ["loss at 100", "rate", "diverged", "step", "bytes"]


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_of_the_demonstration_fits(width):
    start = DEMO.index("| optimizer ")
    table = DEMO[start : DEMO.index("\n\n", start)]
    assert max(map(len, table.split("\n"))) > 140
    lines = terminal.fitted(table, width, FIRST).split("\n")
    assert max(map(len, lines)) <= width
    rows = [cells(line) for line in lines if line.startswith("|")]
    header, whole = rows[0], cells(table.split("\n")[0])
    assert header[0] == "optimizer"
    first_row = dict(zip(header, rows[2], strict=True))
    assert first_row["loss at 100"] == "0.15 [0.115, 0.203]"
    note = " ".join(line for line in lines if not line.startswith("|"))
    gone = note.removeprefix("(Not shown: ").removesuffix(".)").split(", ")
    assert sorted(header + gone) == sorted(whole)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_lines_break_between_words_and_commands_do_not():
    text = "- " + "word " * 30 + "\n    python -m " + "x" * 100 + "\n\n| a |\n|---|\n| 1 |"
    lines = terminal.fitted(text, 40).split("\n")
    assert lines[0] == "- word word word word word word word"
    assert lines[1].startswith("  word")
    assert "    python -m " + "x" * 100 in lines
    assert lines[-3:] == ["| a |", "|---|", "| 1 |"]


def test_nothing_is_left_out_where_there_is_no_terminal(monkeypatch):
    text = "| a | b |\n|---|---|\n| " + "1" * 200 + " | 2 |"
    assert terminal.shown(text) == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal.shown("word " * 30).count("\n") == 2


def test_help_fits_and_its_commands_can_be_copied():
    text = (
        "What it does.\n\n" + "word " * 20 + "\n" + "word " * 20 + "\n\n"
        "  a name   " + "what it is " * 10 + "\n           and so on\n\nExamples:\n\n"
        "    python -m experiments.train --recipe=lstm-quadratic\n"
        "        --set=a=1\n        --set=b=2"
    )
    lines = terminal.help_text(text, 60).split("\n")
    assert max(map(len, lines)) <= 60
    assert "           what it is" in "\n".join(lines)
    assert "it is and so" in " ".join(" ".join(lines).split())
    command = [
        "    python -m experiments.train --recipe=lstm-quadratic \\",
        "        --set=a=1 \\",
        "        --set=b=2",
    ]
    assert lines[-4:] == [*command, ""]


def test_a_long_command_in_help_breaks_before_its_flags():
    command = 'python -m a --one=1 --two=\'{"x": 2, "y": 3}\' --three=3'
    shown = terminal.help_text(f"What it does.\n\n    {command}\n    # a remark, {'long ' * 9}", 40)
    lines = shown.split("\n")
    assert lines[2:5] == [
        "    python -m a --one=1 \\",
        '        --two=\'{"x": 2, "y": 3}\' \\',
        "        --three=3",
    ]
    assert all(line.startswith("    ") for line in lines[5:-1])
