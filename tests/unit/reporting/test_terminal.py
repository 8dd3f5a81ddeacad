"""The main tables in the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from tinyllm.paper import DATASETS
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.terminal import print_tables


def table(columns: int = 2, **fields: Any) -> Table:
    cells = tuple(Cell(0.612, 0.58, 0.643, paper=0.494, best=j == 0) for j in range(columns))
    rows = (
        (Cell(text="Full fine-tuning [trainer.max_epochs=18, trainer.valid_every=4.5] <b> & [red]"), *cells),
        (Cell(text="Δ_FF α"), *(Cell(-0.05) for _ in range(columns))),
        (Cell(text="PINTO"), Cell(), *(Cell(1.0, 0.9, 1.0) for _ in range(columns - 1))),
    )
    given = {"title": "Table 1", "columns": ("Method", *DATASETS, "Total")[: columns + 1], "rows": rows}
    return Table("table1", **({**given, "in_terminal": True} | fields))


def printed(capsys: pytest.CaptureFixture[str], *tables: Table) -> str:
    print_tables(tables)
    return capsys.readouterr().out


def test_two_datasets_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.rstrip() for line in printed(capsys, table()).splitlines()]
    assert [line for line in lines if line.strip("─ ")] == [
        "Table 1",
        "Method                                                   obqa                         arc",
        "Full fine-tuning                   61.2* [58.0, 64.3] (49.40)   61.2 [58.0, 64.3] (49.40)",
        "[trainer.max_epochs=18,",
        "trainer.valid_every=4.5] <b> &",
        "[red]",
        "Δ_FF α                                                   -5.0                        -5.0",
        "PINTO                                                       –         100.0 [90.0, 100.0]",
        "Percent [95% confidence interval] (the paper's number) * significantly better than the second best",
    ]


@pytest.mark.parametrize(
    ("columns", "interval", "paper"), [(1, True, True), (2, True, True), (3, True, False), (7, False, False)]
)
def test_what_does_not_fit_a_hundred_characters_is_left_out(
    capsys: pytest.CaptureFixture[str], columns: int, interval: bool, paper: bool
) -> None:
    text = printed(capsys, table(columns))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("61.2") == columns
    assert ("[58.0, 64.3]" in text, "[95%" in text) == (interval, interval)
    assert ("(49.40)" in text, "the paper" in text) == (paper, paper)


def test_columns_that_do_not_fit_are_continued_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyllm.reporting.terminal._WIDTH", 50)
    text = printed(capsys, table(7))
    heads = [line.split() for line in text.splitlines() if line.startswith("Method")]
    assert heads == [["Method", *DATASETS[:3]], ["Method", *DATASETS[3:5]], ["Method", DATASETS[5], "Total"]]
    assert text.count("Table 1 (continued)\n") == 2 and text.count("PINTO") == 3 and "…" not in text
    assert max(map(len, text.splitlines())) <= 50


def test_a_file_gets_the_same_whatever_the_window(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = printed(capsys, table(3))
    for name, value in (("COLUMNS", "40"), ("LINES", "5"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    assert printed(capsys, table(3)) == before
    assert "\x1b" not in before


def test_only_main_tables_with_rows_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, table(in_terminal=False), table(rows=())) == ""


def verdicts(**fields: Any) -> Table:
    rows = (
        (
            Cell(text="A is above B"),
            Cell(text="small"),
            Cell(0.1, 0.05, 0.15),
            Cell(text="holds", mark="holds"),
            Cell(text="x"),
        ),
        (Cell(text="A is above B"), Cell(text="large"), Cell(-0.1, -0.2, -0.1), Cell(text="not shown"), Cell(text="y")),
        (Cell(text="A is above C"), Cell(text="small"), Cell(0.3, 0.2, 0.4), Cell(text="holds"), Cell(text="z")),
        (Cell(text="A is above D"), Cell(text="small"), Cell(), Cell(text="not run"), Cell(text="w")),
    )
    given = {"columns": ("claim", "student", "ours", "verdict", "remarks"), "rows": rows, "in_terminal": True}
    return Table("claims", **({"title": "Claims"} | given | fields))


def test_rows_and_columns_for_files_stay_out(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, verdicts(terminal_rows=3, files_only=("remarks",)))
    assert text.count("A is above") == 3 and "remarks" not in text and "1 more" in text


def test_a_table_is_split_by_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, verdicts(split_by="student", terminal_rows=3)).splitlines()
    (small,) = [i for i, line in enumerate(lines) if line.startswith("Claims, small")]
    (large,) = [i for i, line in enumerate(lines) if line.startswith("Claims, large")]
    first = [line.split()[3] for line in lines[small:large] if line.startswith("A is above")]
    assert small < large and first == ["B", "C"]
    assert not any("student" in line for line in lines)


def test_marks_are_colours_where_there_are_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32mholds" in printed(capsys, verdicts())
