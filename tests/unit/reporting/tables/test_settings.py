"""All settings, and what all tables share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import (
    ablated,
    cell,
    first,
    made,
)

from tinyllm.reporting.tables import all_tables, settings, table1


def test_settings_show_every_setting_and_its_cost(make_run: MakeRun, tmp_path: Path) -> None:
    for alpha in (0.1, 1.0):
        for seed in range(2):
            make_run("tinyllm", alpha={"terse": alpha}, seed=seed, right=first(20 + 8 * seed), valid=alpha / 2)
    make_run("full_ft", right=first(10), result={"train_tokens": 0, "train_seconds": 0.0})
    study = made(tmp_path)
    (table,) = settings(study)
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert [r["α"].text for r in rows] == ["", "terse=0.1", "terse=1"]
    assert rows[1]["greedy"].value == pytest.approx(0.6) and rows[1]["valid"].value == pytest.approx(0.05)
    assert (rows[1]["seeds"].text, rows[1]["tokens read"].text, rows[1]["seconds"].text) == ("0,1", "5,000", "8")
    assert rows[0]["tokens read"].missing and rows[0]["seconds"].text == "10"


def test_settings_show_every_accuracy(make_run: MakeRun, tmp_path: Path) -> None:
    exact = {"accuracy_exact": 0.25, "accuracy_exact_low": 0.1, "accuracy_exact_high": 0.4}
    make_run("tinyllm", right=first(20), result=exact)
    make_run("full_ft", right=first(10), result=dict.fromkeys(exact))  # of an earlier version
    (table,) = settings(made(tmp_path))
    assert table.columns[7:10] == ("greedy", "ranked", "exact")
    old, new = (dict(zip(table.columns, cells, strict=True)) for cells in table.rows)
    assert (new["exact"].value, new["exact"].low, new["exact"].high) == (0.25, 0.1, 0.4)
    assert (new["greedy"].value, old["greedy"].value) == (0.5, 0.25) and old["exact"].missing


def test_no_interval_leaves_what_an_accuracy_can_be(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, n in enumerate((2, 24)):
        for dataset in ("arc", "piqa"):
            make_run("tinyllm", dataset=dataset, seed=seed, right=first(n))
    study = made(tmp_path)
    (table,) = table1(study)
    (line,) = [row for row in settings(study)[0].rows if row[0].text == "arc"]
    for one in (cell(table, "TinyLLM", "arc"), cell(table, "TinyLLM", "Total"), line[7]):
        assert (one.value, one.low, one.high) == (pytest.approx(0.325), 0.0, 1.0)


def test_a_note_that_tables_share_is_no_note_of_one(make_run: MakeRun, tmp_path: Path) -> None:
    for student in ("tiny", "flan_t5_small"):
        for name, n in (("tinyllm", 30), ("full_ft", 20)):
            make_run(name, student=student, right=first(n))
        make_run("tinyllm", student=student, right=first(25), **ablated("no_t5"))
    tables = all_tables(made(tmp_path))
    assert len(tables) == 9  # claims, tables 1 and 2 and the differences of two students, comparisons, settings
    own = [note for table in tables for note in table.notes]
    shared = [note for table in tables for note in table.shared_notes]
    assert set(own).isdisjoint(shared)
    assert max(map(shared.count, shared)) > 1


def test_parts_of_the_training_set_are_for_figure_2(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(20))
    make_run("tinyllm", right=first(40), fraction=0.5)
    study = made(tmp_path)
    (table,) = table1(study)
    assert cell(table, "TinyLLM", "minilab").value == 0.5
    assert len(settings(study)[0].rows) == 2


def test_few_settings_of_one_dataset_are_shown_in_the_terminal(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(20))
    assert settings(made(tmp_path))[0].in_terminal
    make_run("tinyllm", dataset="arc", right=first(20))
    assert not settings(made(tmp_path))[0].in_terminal


def test_settings_that_differ_in_rate_or_share_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for rate in (1e-4, 3e-4):
        make_run("lora", config=lambda c, rate=rate: replace(c, optimizer=replace(c.optimizer, lr=rate)))
    for fraction in (0.5, 1.0):
        make_run("full_ft", fraction=fraction)
    (table,) = settings(made(tmp_path))
    names = [line[table.columns.index("method")].text for line in table.rows]
    assert {"LoRA at learning rate 0.0001", "LoRA at learning rate 0.0003"} <= set(names)
    assert "training fraction" not in table.files_only
