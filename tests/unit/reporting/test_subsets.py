"""Runs that differ in their teachers alone: which belong together, and how sure a Shapley value is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import Change, cell, first, longer, made, of_set, taught, two_teachers

from tinyllm.reporting.subsets import lattices
from tinyllm.reporting.tables.teachers import teachers


@pytest.mark.parametrize(("pairs", "independent"), [(False, 40), (True, 20)])
def test_a_shapley_value_is_as_sure_as_its_groups(
    make_run: MakeRun, tmp_path: Path, pairs: bool, independent: int
) -> None:
    """terse brings 0 on 22 questions, a half on 14 and 1 on 4; both questions of a pair are answered alike."""
    two_teachers(make_run, pairs=pairs)
    (table, _) = teachers(made(tmp_path))
    found = cell(table, "terse", "Shapley value")
    mean = (14 / 2 + 4) / 40
    error = ((14 / 4 + 4) / 40 - mean**2) ** 0.5 / independent**0.5
    assert found.value == pytest.approx(mean) and found.low is not None and found.high is not None
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.02)


@pytest.mark.parametrize(
    "other", [longer, lambda c: replace(c, optimizer=replace(c.optimizer, lr=0.01))], ids=["longer", "faster"]
)
def test_full_fine_tuning_that_was_trained_otherwise_is_no_empty_set(
    make_run: MakeRun, tmp_path: Path, other: Change
) -> None:
    make_run("full_ft", right=first(39), config=other)
    for names, n in ((["terse"], 20), (["wordy"], 16), (["terse", "wordy"], 28)):
        make_run(right=first(n), **taught(names))
    (lattice,) = lattices(made(tmp_path))
    assert frozenset() not in lattice.runs and not lattice.complete
    make_run("full_ft", right=first(10), config=of_set([]))
    (lattice,) = lattices(made(tmp_path))
    assert lattice.complete and list(lattice.runs[frozenset()]["accuracy"]) == [10 / 40]
