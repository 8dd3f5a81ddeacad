"""The main tables for the terminal: as much of each cell as fits the width."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.writers import numeric_columns, shown
from tinyllm.shown import visible

_WIDTH = 100
"""Characters of a line where the output is no terminal: what a file or a log gets does not depend on a window."""
_UNLIMITED = 10_000
_MOST_FIRST = (("interval", "paper"), ("interval",), ())
"""Parts of a cell beside its value, as far as they fit."""
_LABEL_WIDTHS = (32, 24)
"""Of the first column: the narrower one where a table doesn't fit otherwise."""
_CONTINUED = " (continued)"
_STYLES = {"holds": "green", "contradicted": "red", "not-shown": "yellow", "not-run": "dim"}
"""By `Cell.mark`."""
_LEGEND = {
    "interval": "[95% confidence interval]",
    "paper": "(the paper's number)",
    "*": "* significantly better than the second best",
}


def print_tables(tables: Sequence[Table], in_short: str = "") -> None:
    """Print to standard output those tables that are meant for the terminal, with one line on how to read them.

    Args:
        tables: all of a report's.
        in_short: what they say, printed after them.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    used: set[str] = set()
    whole = [part for table in tables if table.in_terminal for part in _for_terminal(table)]
    for table, parts, grid in (fitting for part in whole for fitting in _fitting(part, console)):
        console.print(Text(visible(table.title), style="bold"))
        console.print(grid)
        console.print()
        cells = [shown(cell, table) for row in table.rows for cell in row]
        used |= {"*"} if any(cell.best for row in table.rows for cell in row) else set()
        used |= {part for part in parts if any(getattr(cell, part) for cell in cells)}
    legend = [text for part, text in _LEGEND.items() if part in used]
    if used:
        console.print(Text(" ".join(["Percent", *legend])))
    if in_short:
        console.print(Text(f"\n{visible(in_short)}\n", style="bold"))


def _fitting(
    table: Table, console: Console, choices: Sequence[Sequence[str]] = _MOST_FIRST
) -> Iterator[tuple[Table, Sequence[str], Grid]]:
    """The table with the first of the choices that fits the width; where none does, its columns in several tables."""
    for parts, label_width in product(choices, _LABEL_WIDTHS):
        grid = _grid(table, parts, label_width)
        width = console.measure(grid, options=console.options.update(max_width=_UNLIMITED)).maximum
        if width <= console.width:
            break
    if width <= console.width or len(table.columns) < 3:
        yield table, parts, grid
        return
    middle = (len(table.columns) + 1) // 2
    continued = f"{table.title.removesuffix(_CONTINUED)}{_CONTINUED}"
    for first, last, title in ((1, middle, table.title), (middle, len(table.columns), continued)):
        columns, rows = (table.columns[0], *table.columns[first:last]), [(r[0], *r[first:last]) for r in table.rows]
        yield from _fitting(replace(table, title=title, columns=columns, rows=tuple(rows)), console, [()])


def _for_terminal(table: Table) -> list[Table]:
    """Without the columns and the rows that the terminal leaves out, and split where a column asks for it."""
    rows = table.rows[: table.terminal_rows]
    parts: dict[str, list[tuple[Cell, ...]]] = {}
    for row in rows:
        value = row[table.columns.index(table.split_by)].text if table.split_by in table.columns else None
        parts.setdefault(f", {value}" if value else "", []).append(row)
    more = len(table.rows) - len(rows)
    titles = [f"{table.title}{value}" for value in parts]
    if titles and more:
        titles[-1] += f" ({more} more lines in the report)"
    return [_part(table, title, part) for title, part in zip(titles, parts.values(), strict=True)]


def _part(table: Table, title: str, rows: list[tuple[Cell, ...]]) -> Table:
    left_out = (*table.files_only, table.split_by)
    kept = [
        j
        for j, column in enumerate(table.columns)
        if column not in left_out and (not table.split_by or not all(row[j].missing for row in rows))
    ]
    return replace(
        table,
        title=title,
        columns=tuple(table.columns[j] for j in kept),
        rows=tuple(tuple(row[j] for j in kept) for row in rows),
    )


def _grid(table: Table, parts: Sequence[str], label_width: int) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for j, (column, numbers) in enumerate(zip(table.columns, numeric_columns(table), strict=True)):
        grid.add_column(
            Text(visible(column)),
            justify="right" if numbers else "left",
            no_wrap=j > 0,
            max_width=label_width if j == 0 else None,
        )
    for row in table.rows:
        grid.add_row(*(_text(cell, table, parts) for cell in row))
    return grid


def _text(cell: Cell, table: Table, parts: Sequence[str]) -> Text:
    found = shown(cell, table)
    style = "bold" if cell.best else _STYLES.get(cell.mark, "")
    value = visible(found.value)
    text = Text(f"{value}*" if cell.best else value, style=style)
    for part in parts:
        if extra := getattr(found, part):
            text.append(f" {extra}", style="not bold dim")
    return text
