"""Accuracy where teachers contradict each other: by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import first, made, of_set, taught

from tinyllm.config import ExperimentConfig, MethodConfig, PromptConfig
from tinyllm.records import Prediction
from tinyllm.reporting.tables.conflict import conflict
from tinyllm.runs import TEACHER


def answers_of(make_run: MakeRun, name: str, right: list[bool], examples: int = 2, **more: Any) -> Path:
    """A teacher that was asked itself: where it is wrong, it names another option than the right one."""

    def alone(config: ExperimentConfig) -> ExperimentConfig:
        own = of_set([name])(config)
        return replace(own, alpha={}, method=MethodConfig(name="tinyllm"), prompt=PromptConfig(examples=examples))

    result = {"teachers": (), "alpha": {}}
    return make_run(TEACHER, student=name, right=right, alpha={}, config=alone, result=result, **more)


def test_accuracy_with_and_without_conflict(make_run: MakeRun, tmp_path: Path) -> None:
    """terse is right on the first 30 of 40, wordy on the first 24: they differ on 6; wrong alike on the last 10."""
    answers_of(make_run, "terse", first(30))
    answers_of(make_run, "wordy", first(24))
    make_run("full_ft", right=first(10))
    make_run(right=first(26), **taught(["terse", "wordy"]))
    make_run(right=first(40), **taught(["terse"]))
    (table,) = conflict(made(tmp_path))
    assert "6 of 40 test questions (15%)" in " ".join(table.notes)
    rows = {str(row[0].text): row for row in table.rows}
    assert len(rows) == 2, "one teacher alone has no conflict"
    (name,) = [key for key in rows if key.startswith("TinyLLM")]
    assert rows["Full fine-tuning"][1].value == 0 and rows["Full fine-tuning"][2].value == pytest.approx(10 / 34)
    assert rows[name][1].value == pytest.approx(2 / 6) and rows[name][2].value == pytest.approx(24 / 34)
    assert rows[name][3].value == pytest.approx(2 / 6 - 24 / 34)


def test_teachers_that_agree_nowhere_leave_the_other_column_empty(make_run: MakeRun, tmp_path: Path) -> None:
    answers_of(make_run, "terse", first(40))
    answers_of(make_run, "wordy", first(0))
    make_run(right=first(26), **taught(["terse", "wordy"]))
    (table,) = conflict(made(tmp_path))
    assert table.rows[0][1].value == pytest.approx(26 / 40)
    assert table.rows[0][2].missing and table.rows[0][3].missing


def test_an_answer_that_names_no_option_contradicts_nobody(make_run: MakeRun, tmp_path: Path) -> None:
    """wordy's text names none on 12 of the 24 questions that terse and wordy answered rightly."""

    def unparsed(answer: Prediction) -> Prediction:
        return replace(answer, predicted=None) if int(answer.id[1:]) < 12 else answer

    answers_of(make_run, "terse", first(30))
    answers_of(make_run, "wordy", first(24), change=unparsed)
    make_run(right=first(26), **taught(["terse", "wordy"]))
    (table,) = conflict(made(tmp_path))
    assert "6 of 40 test questions (15%)" in " ".join(table.notes)
    assert table.rows[0][1].value == pytest.approx(2 / 6) and table.rows[0][2].value == pytest.approx(24 / 34)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_teacher_that_was_asked_in_two_ways_counts_as_in_table_1(
    make_run: MakeRun, tmp_path: Path, names: tuple[str, str]
) -> None:
    """Whatever the folders' names: without in-context examples terse is wrong, and was asked 10 questions more."""
    both = answers_of(make_run, "terse", first(30)), answers_of(make_run, "terse", first(0, of=50), examples=0)
    for folder, name in zip(both, names, strict=True):
        folder.rename(folder.with_name(name))
    answers_of(make_run, "wordy", first(24, of=50))
    make_run(right=first(26, of=50), **taught(["terse", "wordy"]))
    (table,) = conflict(made(tmp_path))
    assert "6 of 40 test questions (15%)" in " ".join(table.notes)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_seeds_that_were_asked_the_same_the_lowest_counts(
    make_run: MakeRun, tmp_path: Path, names: tuple[str, str]
) -> None:
    for seed, (name, n) in enumerate(zip(names, (30, 0), strict=True)):
        folder = answers_of(make_run, "terse", first(n), seed=seed)
        folder.rename(folder.with_name(name))
    answers_of(make_run, "wordy", first(24))
    make_run(right=first(26), **taught(["terse", "wordy"]))
    (table,) = conflict(made(tmp_path))
    assert "6 of 40 test questions (15%)" in " ".join(table.notes)
