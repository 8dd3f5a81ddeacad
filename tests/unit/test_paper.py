"""The paper's tables against their own arithmetic, and against its text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinyllm.paper import ABLATIONS, DATASETS, METHODS, STUDENTS, TEACHERS, paper_first, reported, table1, table2

ROUNDED = 0.0051
"""Half of the last digit printed."""
TOTALS_THAT_DO_NOT_ADD_UP = {("flan_t5_small", "standard_kd"): 50.03}
"""Printed totals that are not the mean of the printed cells -> that mean."""


def test_the_grid_is_whole() -> None:
    rows = {(teacher, "teacher") for teacher in TEACHERS}
    rows |= {(student, method) for student in STUDENTS for method in (*METHODS, "delta_ff", "delta_distill")}
    assert set(table1().index) == rows and list(table1().columns) == [*DATASETS, "total"]
    assert set(table2().index) == {("flan_t5_large", ablation) for ablation in (*ABLATIONS, "none")}
    assert not table1().isna().any().any() and not table2().isna().any().any()


def test_totals_are_means_of_their_cells() -> None:
    off = {}
    for row, cells in table1().iterrows():
        mean = sum(cells[name] for name in DATASETS) / 6
        if "delta" not in row[1] and abs(mean - cells["total"]) > ROUNDED:
            off[row] = round(mean, 2)
    assert off == TOTALS_THAT_DO_NOT_ADD_UP


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(("row", "against"), [("delta_ff", "full_ft"), ("delta_distill", "step_by_step")])
def test_gains_follow_from_the_cells(student: str, row: str, against: str) -> None:
    for name in DATASETS:
        gain = table1().loc[(student, "tinyllm"), name] / table1().loc[(student, against), name] - 1
        assert 100 * gain == pytest.approx(table1().loc[(student, row), name], abs=ROUNDED)
    ours, theirs = (table1().loc[(student, method), list(DATASETS)].mean() for method in ("tinyllm", against))
    assert 100 * (ours / theirs - 1) == pytest.approx(table1().loc[(student, row), "total"], abs=ROUNDED)


def test_both_tables_tell_the_same_of_the_whole_method() -> None:
    assert list(table2().loc[("flan_t5_large", "none")]) == list(table1().loc[("flan_t5_large", "tinyllm")])[:6]


def test_numbers_stand_in_the_papers_text(shared: Path) -> None:
    """Row by row: the lines of the two tables, in their order."""
    lines = [line.split("\t") for line in (shared / "paper.txt").read_text().splitlines()]
    cells = [[re.sub(r"[↑% ]", "", cell) for cell in line[2:]] for line in lines if len(line) == 9]
    rows = [[float(cell) for cell in row] for row in cells if all(re.fullmatch(r"[\d.]+", cell) for cell in row)]
    assert rows == table1().to_numpy().tolist()
    names = ("w/o", "TINYLLM")
    second = [[float(cell) for cell in line[1:]] for line in lines if len(line) == 7 and line[0].startswith(names)]
    assert second == table2().to_numpy().tolist()


def test_a_number_by_name() -> None:
    assert reported("flan_t5_small", "tinyllm", "obqa") == pytest.approx(0.4940)
    assert reported("flan_t5_xl", "teacher", "total") == pytest.approx(0.6449)
    assert reported("flan_t5_base", "delta_distill", "riddle") == pytest.approx(0.3303)
    assert reported("flan_t5_large", "tinyllm", "arc", "no_llama") == pytest.approx(0.6232)
    for missing in [
        ("tiny", "tinyllm", "obqa"),
        ("flan_t5_small", "tinyllm", "minilab"),
        ("flan_t5_small", "tinyllm", "obqa", "no_llama"),
        ("flan_t5_large", "step_by_step", "obqa", "no_llama"),
        ("flan_t5_large", "tinyllm", "total", "no_llama"),
        ("flan_t5_large", "tinyllm", "obqa", "shuffled_rationales"),
    ]:
        assert reported(*missing) is None


def test_names_come_in_the_papers_order_and_then_by_name() -> None:
    assert paper_first(["minilab", "arc", "birds", "obqa", "arc"], DATASETS) == ["obqa", "arc", "birds", "minilab"]
    assert paper_first([], STUDENTS) == []
