"""A table for people: cells with intervals, and the notes under it; nothing of how it was computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. A number is shown in percent where the table says so; without value and text the cell is missing."""

    value: float | None = None
    """Share of 1 (accuracy, relative gain) or a plain number."""
    low: float | None = None
    high: float | None = None
    """95% interval, in the unit of `value`."""
    paper: float | None = None
    """The paper's number for this cell, in the unit of `value`; None where it has none."""
    text: str | None = None
    """Shown in place of a number."""
    best: bool = False
    """The best of its column, and significantly better than the second best: shown in bold."""
    mark: str = ""
    """A word that the page and the terminal show as a colour: `holds`, `contradicted`, `not-shown`, `not-run`."""
    note: str = ""
    """Why it is as it is, shown on demand (a tooltip): seeds, n, the chosen α."""

    @property
    def missing(self) -> bool:
        return self.value is None and self.text is None


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; `rows` are as long as `columns`."""

    name: str
    """File name without its ending: `table1`."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """Lines under the table, true of it alone: seeds, settings, the minimum detectable effect."""
    shared_notes: tuple[str, ...] = ()
    """What tables of this kind have in common: how intervals, tests and choices are made. A report says them once; a
    file of one table ends with them, for it is read by itself."""
    percent: bool = True
    """Numbers are shares of 1, shown in percent."""
    in_terminal: bool = False
    """`tinyllm report` prints it too."""
    terminal_rows: int | None = None
    """Rows that the terminal shows, from the first on; None for all."""
    files_only: tuple[str, ...] = ()
    """Columns that the terminal leaves out."""
    split_by: str = ""
    """Column by which the terminal shows tables of their own, one for each of its values; empty for none."""
    collapsed: bool = False
    """The page shows it on demand."""

    @property
    def has_paper(self) -> bool:
        """Some cell has a number of the paper."""
        return any(cell.paper is not None for row in self.rows for cell in row)


def shared_notes(tables: Sequence[Table]) -> list[str]:
    """The shared notes of several tables, each once."""
    return list(dict.fromkeys(note for table in tables for note in table.shared_notes))
