"""A table for people: cells with intervals, what stands under it, and nothing of how it was computed."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """The best of its column, and not tied with the second by the table's test: shown in bold."""
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
    notes: tuple[str, ...] = field(default=())
    """Lines under the table: what intervals are, which test, which choice, the smallest difference that would show."""
    percent: bool = True
    """Numbers are shares of 1, shown in percent."""
