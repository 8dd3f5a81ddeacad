"""Tables -> Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tinyllm.reporting.table import Cell, Table
from tinyllm.shown import file_name, one_line, spreadsheet, visible

MISSING = "–"
_PERCENT = 100.0


def markdown(table: Table, *, alone: bool = True) -> str:
    """Heading, a pipe table and the notes as a list.

    Args:
        table: what is written.
        alone: with the shared notes; a report says them once for all tables.
    """
    head = [escape_markdown(column) for column in table.columns]
    marks = ["---:" if numbers else "---" for numbers in numeric_columns(table)]
    lines = [f"## {escape_markdown(table.title)}", "", _row(head), _row(marks)]
    lines += [_row([_in_markdown(cell, table) for cell in row]) for row in table.rows]
    if notes := _all_notes(table) if alone else table.notes:
        lines += ["", markdown_list(notes)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""A `table` environment for `\usepackage{booktabs}`, with all its notes; all text is escaped."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape_latex(table.title)}}}",
        rf"\label{{tab:{file_name(table.name)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if numbers else 'l' for numbers in numeric_columns(table))}}}",
        r"\toprule",
        _latex_row([_escape_latex(column) for column in table.columns]),
        r"\midrule",
        *(_latex_row([_in_latex(cell, table) for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if notes := _all_notes(table):
        lines += ["", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [f"{_escape_latex(note)}" + r"\par" for note in notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """A line a row with six decimals; after a column its `low`, `high` and `paper` where it has them.

    Numbers are shares of 1 where the table shows percent. A missing cell is empty.
    """
    head: list[str] = []
    fields: list[tuple[int, str]] = []
    for j, column in enumerate(table.columns):
        cells = [row[j] for row in table.rows]
        for field in ("value", "low", "high", "paper"):
            if field == "value" or any(getattr(cell, field) is not None for cell in cells):
                head.append(spreadsheet(column if field == "value" else f"{column} {field}"))
                fields.append((j, field))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in table.rows:
        writer.writerow([_plain(row[j], field) for j, field in fields])
    return buffer.getvalue()


def write(table: Table, folder: Path) -> list[Path]:
    """Write `<name>.md`, `<name>.tex` and `<name>.csv`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending, text in (("md", markdown(table)), ("tex", latex(table)), ("csv", to_csv(table))):
        path = folder / f"{file_name(table.name)}.{ending}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


PAPER_NOTE = "In parentheses: the paper's numbers."


def _all_notes(table: Table) -> list[str]:
    """Those of the table, then those that it shares with others: a file of one table is read by itself."""
    return [*table.notes, *([PAPER_NOTE] if table.has_paper else []), *table.shared_notes]


def markdown_list(lines: Sequence[str]) -> str:
    """A line of text each, escaped."""
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def numeric_columns(table: Table) -> list[bool]:
    """By column, whether it is aligned to the right: numbers and p values, but not the labels of the rows."""
    texts = [[row[j].text for row in table.rows] for j in range(len(table.columns))]
    return [
        j > 0 and all(text is None or text[:1] in ("<", *"0123456789") for text in column)
        for j, column in enumerate(texts)
    ]


def _plain(cell: Cell, field: str) -> str:
    if field == "value" and cell.text is not None:
        return spreadsheet(cell.text)
    value = getattr(cell, field)
    return "" if value is None else f"{value:.6f}"


def _number(value: float, table: Table, digits: int = 1) -> str:
    if table.percent:
        shown = f"{_PERCENT * value:.{digits}f}"
        return shown.removeprefix("-") if float(shown) == 0 else shown
    return f"{value:g}"


class Shown(NamedTuple):
    """A cell as text; each part empty where there is none."""

    value: str
    interval: str
    """In square brackets."""
    paper: str
    """The paper's number, in parentheses."""


def shown(cell: Cell, table: Table) -> Shown:
    """A cell of a table as text, without markup."""
    if cell.text is not None:
        return Shown(cell.text, "", "")
    value = MISSING if cell.value is None else _number(cell.value, table)
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{_number(cell.low, table)}, {_number(cell.high, table)}]"
    return Shown(value, interval, "" if cell.paper is None else f"({_number(cell.paper, table, digits=2)})")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _in_markdown(cell: Cell, table: Table) -> str:
    value, interval, paper = shown(cell, table)
    value = escape_markdown(value)
    parts = [f"**{value}**" if cell.best else value, interval, paper]
    return " ".join(part for part in parts if part)


def escape_markdown(text: str) -> str:
    """One line of text in which nothing is markup or ends a cell: names of runs come from users."""
    text = visible(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|*`[]~$":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _in_latex(cell: Cell, table: Table) -> str:
    value, interval, paper = (_escape_latex(part) for part in shown(cell, table))
    parts = [
        rf"\textbf{{{value}}}" if cell.best else value,
        rf"{{\scriptsize {interval}}}" if interval else "",
        rf"{{\scriptsize {paper}}}" if paper else "",
    ]
    return " ".join(part for part in parts if part)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "–": "--",
    "Δ": r"$\Delta$", "α": r"$\alpha$", "·": r"$\cdot$", "×": r"$\times$", "[": "{[}", "]": "{]}",
}  # fmt: skip
"""Square brackets in braces: after a line break, LaTeX would take them for an option."""


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))
