"""The paper's table 2: TinyLLM's ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from tinyllm import paper
from tinyllm.evaluation.statistics import Difference
from tinyllm.reporting.study import Study, corrected
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes
from tinyllm.reporting.tables.effects import minimum_effects, minimum_effects_note, minimum_effects_of
from tinyllm.reporting.tables.grid import (
    Grid,
    Row,
    columns_of,
    grid_of,
    mark_best,
    own_notes,
    row_of,
    rows_of,
)
from tinyllm.reporting.whole import Whole


def table2(study: Study) -> list[Table]:
    """For every student that has an ablation: accuracies, and differences from TinyLLM where they can be tested.

    Returns:
        `table2_<student>` and `table2_<student>_differences`.
    """
    tables: list[Table] = []
    for student in study.students:
        ablated = [row for row in rows_of(study, student) if row.method == "tinyllm" and row.ablation != "none"]
        if ablated:
            tables += _of_student(study, student, ablated)
    return tables


def _of_student(study: Study, student: str, ablated: Sequence[Row]) -> list[Table]:
    in_paper = [row for row in ablated if row.ablation in paper.ABLATIONS and not row.variant]
    tinyllm = row_of(study, student, "tinyllm")
    rows = [*in_paper, *(row for row in ablated if row not in in_paper), tinyllm]
    columns = [column for column in columns_of(pd.concat([row.runs for row in rows]), student) if not column.total]
    grid = grid_of(study, rows, columns)
    mark_best(study, grid)
    accuracies = Table(
        f"table2_{student}",
        f"Table 2: ablations, student {student}",
        grid.header,
        tuple(grid.lines()),
        (
            *own_notes(study, student, grid),
            *_dropped_teachers(grid.rows),
            minimum_effects_note(minimum_effects(study, grid.rows, grid.columns)),
        ),
        (
            notes.ACCURACY[study.metric],
            notes.INTERVALS,
            notes.BOLD,
            notes.TESTS,
            notes.MINIMUM_EFFECT,
            study.selection,
        ),
        in_terminal=True,
    )
    whole = Whole(study, student)
    differences = _differences(study, student, grid, whole)
    return [replace(accuracies, notes=(*accuracies.notes, *whole.refusals())), *differences]


def _differences(study: Study, student: str, grid: Grid, whole: Whole) -> list[Table]:
    ablated = [row for row in grid.rows if not row.plain]
    tests, tested = [], []
    for i, row in enumerate(ablated):
        for j, column in enumerate(grid.columns):
            runs = whole.of(row.on(column.datasets[0]), row.label)
            if runs is not None and (pair := study.pair(row.on(column.datasets[0]), runs, column.subset)) is not None:
                tests.append((i, j, [pair]))
                tested.append(
                    (row_of(study, student, "tinyllm", variant=str(runs["variant"].iloc[0])), row, column, [pair])
                )
    if not tests:
        return []
    raw = study.differences([pairs for _, _, pairs in tests])
    found = {(i, j): one for (i, j, _), one in zip(tests, corrected(raw), strict=True)}
    tested_rows = sorted({i for i, _ in found})
    tested_columns = sorted({j for _, j in found})
    names = [grid.columns[j].name for j in tested_columns]
    table = Table(
        f"table2_{student}_differences",
        f"Table 2: ablations minus TinyLLM in points, student {student}",
        ("Ablation", *(text for name in names for text in (name, f"p, {name}"))),
        tuple(
            (
                Cell(text=ablated[i].label),
                *(cell for j in tested_columns for cell in _difference_cells(found.get((i, j)))),
            )
            for i in tested_rows
        ),
        (
            "Difference: ablation minus TinyLLM, on the seeds and questions that both have, with the 95% confidence "
            f"interval of the paired test. p: of that test, after Holm's correction over the {len(tests)} tests of "
            "this table.",
            *whole.notes(),
            *_dropped_teachers(grid.rows),
            minimum_effects_note(minimum_effects_of(study, tested)),
        ),
        (notes.TESTS, notes.MINIMUM_EFFECT, study.selection),
    )
    return [table]


def _dropped_teachers(rows: Sequence[Row]) -> list[str]:
    """Which teachers the ablations without a teacher dropped: sets name them differently."""
    parts = []
    for row in rows:
        dropped = {teacher for text in row.runs["dropped"] for teacher in text.split("+") if teacher}
        if dropped:
            parts.append(f"{row.label}: {', '.join(sorted(dropped))}")
    return [f"Teachers left out: {'; '.join(parts)}."] if parts else []


def _difference_cells(found: Difference | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(), Cell()
    return Cell(found.mean, found.low, found.high), Cell(text=notes.p_text(found.p))
