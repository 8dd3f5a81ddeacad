"""The paper's table 1: methods by datasets."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tinyllm import paper
from tinyllm.evaluation.statistics import relative_gain
from tinyllm.reporting.labels import METHODS, seeds_text
from tinyllm.reporting.paired import Pair
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import notes
from tinyllm.reporting.tables.effects import minimum_effects, minimum_effects_note
from tinyllm.reporting.tables.grid import (
    Column,
    Row,
    cell_of,
    columns_of,
    grid_of,
    mark_best,
    own_notes,
    pairs_of,
    row_of,
    rows_of,
    teachers_of,
)
from tinyllm.runs import TEACHER


def table1(study: Study) -> list[Table]:
    """One for each student: teachers, the majority class, methods, TinyLLM's gains, then variants and controls.

    Returns:
        `table1_<student>`, the paper's students first; `table1_teachers` where only teachers were asked. Bold is
        decided among the student's rows alone.
    """
    if study.students:
        return [_of_student(study, student) for student in study.students]
    return [_of_teachers(study)] if len(study.runs) else []


def _of_teachers(study: Study) -> Table:
    columns = columns_of(study.runs)
    grid = grid_of(study, teachers_of(study, study.runs["dataset"]), columns)
    majority = _majority(study.runs, grid.columns)
    lines = [line for line in (*grid.lines(), majority) if _has_value(line)]
    shared = [
        notes.ACCURACY[study.metric],
        notes.INTERVALS,
        *([notes.TOTALS] if grid.has_total else []),
        *([notes.MAJORITY] if _has_value(majority) else []),
    ]
    title = "Table 1: teachers"
    return Table("table1_teachers", title, grid.header, tuple(lines), shared_notes=tuple(shared), in_terminal=True)


def _of_student(study: Study, student: str) -> Table:
    every = rows_of(study, student)
    methods = [row for row in every if row.plain and row.method in METHODS]
    # The paper's ablations stand in table 2.
    others = [row for row in every if row not in methods and row.ablation not in paper.ABLATIONS]
    own = study.runs[(study.runs["student"] == student) & (study.runs["method"] != TEACHER)]
    grid = grid_of(study, [*methods, *others], columns_of(own, student))
    mark_best(study, grid)

    datasets = {dataset for column in grid.columns for dataset in column.datasets}
    teachers = [_line(r.label, [cell_of(study, r, c) for c in grid.columns]) for r in teachers_of(study, datasets)]
    gains = []
    for key, (label, baseline) in paper.GAINS.items():
        first, second = row_of(study, student, "tinyllm"), row_of(study, student, baseline)
        gains.append(_line(label, [_gain(study, first, second, key, column) for column in grid.columns]))
    lines = grid.lines()
    split = sum(row in methods for row in grid.rows)
    majority = _majority(own, grid.columns)
    lines = [line for line in (*teachers, majority, *lines[:split], *gains, *lines[split:]) if _has_value(line)]
    shared = [
        notes.ACCURACY[study.metric],
        notes.INTERVALS,
        *([notes.TOTALS] if grid.has_total else []),
        *([notes.MAJORITY] if _has_value(majority) else []),
        notes.BOLD,
        *([notes.GAINS] if any(map(_has_value, gains)) else []),
        notes.TESTS,
        notes.MINIMUM_EFFECT,
        study.selection,
    ]
    return Table(
        f"table1_{student}",
        f"Table 1: methods, student {student}",
        grid.header,
        tuple(lines),
        (
            *own_notes(study, student, grid),
            minimum_effects_note(minimum_effects(study, grid.rows, grid.columns)),
        ),
        tuple(shared),
        in_terminal=True,
    )


def _line(label: str, cells: list[Cell]) -> tuple[Cell, ...]:
    return (Cell(text=label), *cells)


def _majority(runs: pd.DataFrame, columns: Sequence[Column]) -> tuple[Cell, ...]:
    """Accuracy of the majority class by dataset, the mean over the runs; missing where it is not known."""
    cells = []
    for column in columns:
        known = runs.loc[runs["dataset"] == column.datasets[0], "majority"].dropna()
        whole = not column.total and not column.subset
        cells.append(Cell(float(known.mean())) if whole and len(known) else Cell())
    return _line("Majority class", cells)


def _has_value(line: tuple[Cell, ...]) -> bool:
    return any(cell.value is not None for cell in line[1:])


def _gain(study: Study, first: Row, second: Row, key: str, column: Column) -> Cell:
    reported = paper.reported(first.student, key, column.in_paper)
    pairs: list[Pair] = pairs_of(study, first, second, column)
    if pairs and (found := relative_gain(*study.averages(pairs))):
        seeds = seeds_text(seed for pair in pairs for seed, _ in pair.seeds)
        return Cell(found.mean, found.low, found.high, paper=reported, note=f"seeds {seeds}")
    ours, theirs = (cell_of(study, row, column).value for row in (first, second))
    if ours is None or not theirs:
        return Cell(paper=reported)
    return Cell(ours / theirs - 1, paper=reported, note="no common predictions: without an interval")
