"""The main tables for the terminal: as much of each cell as fits the width."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.writers import numeric_columns, shown

_WIDTH = 100
"""Characters of a line where the output is no terminal: what a file or a log gets does not depend on a window."""
_UNLIMITED = 10_000
_LABEL_WIDTH = 32
_LEGEND = {
    "interval": "[95% confidence interval]",
    "paper": "(the paper's number)",
    "*": "* significantly better than the second best",
}


def print_tables(tables: Sequence[Table]) -> None:
    """Print to standard output those tables that are meant for the terminal, with one line on how to read them."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    used: set[str] = set()
    for table in tables:
        if not (table.in_terminal and table.rows):
            continue
        for parts in (("interval", "paper"), ("interval",), ()):
            grid = _grid(table, parts)
            if console.measure(grid, options=console.options.update(max_width=_UNLIMITED)).maximum <= console.width:
                break
        console.print(Text(table.title, style="bold"))
        console.print(grid)
        console.print()
        cells = [shown(cell, table) for row in table.rows for cell in row]
        used |= {"*"} if any(cell.best for row in table.rows for cell in row) else set()
        used |= {part for part in parts if any(getattr(cell, part) for cell in cells)}
    legend = [text for part, text in _LEGEND.items() if part in used]
    if used:
        console.print(Text(" ".join(["Percent", *legend])))


def _grid(table: Table, parts: Sequence[str]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for j, (column, numbers) in enumerate(zip(table.columns, numeric_columns(table), strict=True)):
        grid.add_column(
            Text(column),
            justify="right" if numbers else "left",
            no_wrap=j > 0,
            max_width=_LABEL_WIDTH if j == 0 else None,
        )
    for row in table.rows:
        grid.add_row(*(_text(cell, table, parts) for cell in row))
    return grid


def _text(cell: Cell, table: Table, parts: Sequence[str]) -> Text:
    found = shown(cell, table)
    text = Text(f"{found.value}*" if cell.best else found.value, style="bold" if cell.best else "")
    for part in parts:
        if extra := getattr(found, part):
            text.append(f" {extra}", style="not bold dim")
    return text
