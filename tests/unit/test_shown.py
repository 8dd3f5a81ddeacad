"""Texts that would command a terminal or a spreadsheet are shown as they are."""

from __future__ import annotations

import csv
import io
import logging

import pytest
from markdown_it import MarkdownIt

from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.terminal import print_tables
from tinyllm.reporting.writers import latex, markdown, to_csv
from tinyllm.shown import log_visibly, one_line, spreadsheet, visible

CLEAR, TITLE, REVERSE = "\x1b[2J", "\x1b]0;owned\x07", "\u202e"
EVIL = f"a{CLEAR}b{TITLE}\r\x9bc{REVERSE}"


def silent(text: str) -> bool:
    """Whether nothing of it is a command to a terminal."""
    return all(ord(sign) >= 32 and sign not in "\x7f\x9b\u202e" for sign in text if sign not in "\n\t")


def test_what_would_be_a_command_is_written_out() -> None:
    assert visible(EVIL) == r"a\x1b[2Jb\x1b]0;owned\x07\r\x9bc\u202e"
    assert visible("é 日本 👩‍🔬 a\tb\nc") == "é 日本 👩‍🔬 a\tb\nc" and visible("\ud83d") == r"\ud83d"
    assert one_line("a\nerror: b\x1b") == r"a error: b\x1b"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_a_formula_is_no_formula_in_a_spreadsheet(text: str) -> None:
    assert spreadsheet(text) == f"'{text}" and spreadsheet("a=1") == "a=1" and spreadsheet("<0.001") == "<0.001"


TABLE = Table(
    "t",
    f"Title {EVIL} [x](http://y) <b> |",
    (f"Method{CLEAR}", "=cmd()"),
    ((Cell(text="=HYPERLINK(0)"), Cell(0.5)), (Cell(text=f"![i](http://x) | $x$ ~~s~~ {EVIL}\n\n# head"), Cell(-0.5))),
    (f"note {EVIL}",),
    in_terminal=True,
)


def test_tables_of_evil_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([TABLE], f"in short {EVIL}")
    printed = capsys.readouterr().out
    assert silent(printed) and r"\x1b[2J" in printed
    text = markdown(TABLE)
    shown = MarkdownIt().enable("table").enable("strikethrough").render(text)
    assert silent(text) and not any(tag in shown for tag in ("<a ", "<img", "<b>", "<s>", "<h1>")), shown
    assert shown.count("<td>") + shown.count("<td style") == 4 and "[x](http://y) &lt;b&gt; |" in shown
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and all(line.replace("\\|", "").count("|") == 3 for line in rows)
    source = latex(TABLE)
    assert silent(source) and "\n\n#" not in source and r"\$x\$" in source
    cells = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert cells[0][1] == "'=cmd()" and cells[1] == ["'=HYPERLINK(0)", "0.500000"] and cells[2][1] == "-0.500000"


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        log_visibly(force=True)
        logging.getLogger("some.model").warning("it wrote %s", EVIL)
        err = capsys.readouterr().err
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert silent(err) and r"it wrote a\x1b[2Jb" in err
