"""Comparisons: paired tests of stored predictions."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import (
    cell,
    comparison,
    either,
    first,
    made,
)

from tinyllm.evaluation.statistics import holm
from tinyllm.reporting.tables import comparisons, table1


def test_comparisons_are_paired_tests_of_stored_predictions(make_run: MakeRun, tmp_path: Path) -> None:
    """12 against 2 of 40 differ: exact p is 2 x (1 + 14 + 91) / 2^14."""
    make_run("tinyllm", right=first(20))
    make_run("full_ft", right=either(first(8), first(2, start=20)))
    make_run("lora", right=first(20, start=20))
    (table,) = comparisons(made(tmp_path))
    rows = comparison(table)
    full = "Full fine-tuning"
    assert set(rows) == {("TinyLLM", full), ("LoRA", full), ("LoRA", "TinyLLM")}
    one = rows["TinyLLM", full]
    assert one["difference"].value == pytest.approx(10 / 40)
    assert one["p (McNemar)"].text == f"{2 * (1 + 14 + 91) / 2**14:.3f}"
    assert (one["seeds"].text, one["questions"].text) == ("1", "40")
    raw = [float(str(r["p"].text).strip("<")) for r in rows.values()]
    adjusted = [float(str(r["p (Holm)"].text)) for r in rows.values()]
    assert adjusted == pytest.approx(holm(raw), abs=0.003)
    make_run("tinyllm", seed=1, right=first(20))
    make_run("full_ft", seed=1, right=first(20))
    one = comparison(*comparisons(made(tmp_path)))["TinyLLM", full]
    assert one["p (McNemar)"].missing and one["difference"].value == pytest.approx(5 / 40)


def test_questions_in_groups_are_tested_by_group(make_run: MakeRun, tmp_path: Path) -> None:
    """Both questions of a pair are answered alike: 20 pairs, 6 won and 1 lost, variance (7 - 25 / 20) / 20 squared."""
    wins = either(first(12), first(20, start=20))
    losses = first(22, start=18)
    for pairs, groups in ((False, 40), (True, 20)):
        make_run("tinyllm", right=wins, pairs=pairs)
        make_run("full_ft", right=losses, pairs=pairs)
        study = made(tmp_path)
        (table,) = comparisons(study)
        one = comparison(table)["TinyLLM", "Full fine-tuning"]
        assert (one["difference"].value, one["questions"].text) == (10 / 40, "40")
        low, high = one["difference"].low, one["difference"].high
        error = math.sqrt(7 / 20 - (5 / 20) ** 2) / math.sqrt(groups)
        assert low is not None and high is not None
        assert (low, high) == pytest.approx((0.25 - 1.96 * error, 0.25 + 1.96 * error), abs=0.04)
        assert one["p (McNemar)"].missing is pairs
        (effects,) = [note for note in table.notes if note.startswith("Minimum detectable effect")]
        assert ("McNemar" in effects, "in 20 groups" in effects) == (not pairs, pairs)


def shuffled(folder: Path, keep: Sequence[int] | None = None) -> None:
    """Put the lines of a run's predictions into another order; `keep` leaves some out."""
    path = folder / "predictions.jsonl"
    lines = path.read_text().splitlines()
    lines = [lines[i] for i in keep] if keep is not None else lines
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")


def test_answers_meet_by_question_id(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(20))
    other = make_run("full_ft", right=either(first(8), first(2, start=20)))
    before = comparisons(made(tmp_path))
    shuffled(other)
    assert comparisons(made(tmp_path)) == before
    shuffled(other, keep=range(30))
    (table,) = comparisons(made(tmp_path))
    common = comparison(table)["TinyLLM", "Full fine-tuning"]
    assert common["questions"].text == "30"


def test_equal_options_are_equally_right(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(20))
    folder = make_run("full_ft", right=first(20))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    text = "\n".join(json.dumps({**r, "predicted": str(r["predicted"]).replace("oak", " oak ")}) for r in rows)
    (folder / "predictions.jsonl").write_text(text)
    one = comparison(*comparisons(made(tmp_path)))["TinyLLM", "Full fine-tuning"]
    assert one["difference"].value == 0.0 and one["p (McNemar)"].text == "1.000"


def test_without_predictions_numbers_stay_and_tests_go(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(36))
    (make_run("full_ft", right=first(9)) / "predictions.jsonl").unlink()
    study = made(tmp_path)
    (table,) = table1(study)
    assert cell(table, "Full fine-tuning", "minilab").value == pytest.approx(9 / 40)
    gain = cell(table, "Δ_FF", "minilab")
    assert gain.value == pytest.approx(3.0) and gain.low is None
    assert not any(cells[1].best for cells in table.rows)
    assert comparisons(study) == []


def test_the_minimum_detectable_effect_counts_the_spread_of_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    """Gaps of 0, 10 and 20 points: (4.30265 + 0.84162) x 10 / sqrt(3) = 29.7, far above what questions alone say."""
    for seed in range(3):
        make_run("tinyllm", seed=seed, right=first(200 + 40 * seed, of=400), n=400)
        make_run("full_ft", seed=seed, right=first(200, of=400), n=400)
    study = made(tmp_path)
    (table,) = table1(study)
    for one in (table, *comparisons(study)):
        notes = [*one.notes, *one.shared_notes]
        (note,) = [note for note in notes if note.startswith("Minimum detectable effect")]
        assert ": 29.7 (TinyLLM vs. Full fine-tuning, 3 seeds, n 400" in note
        assert any("With two or more seeds" in note for note in notes)
    assert not cell(table, "TinyLLM", "minilab").best  # t = 1.73 with 2 degrees of freedom: p = 0.23
    one = comparison(*comparisons(study))["TinyLLM", "Full fine-tuning"]
    assert one["p"].text == "0.225"
    assert (one["difference"].low, one["difference"].high) == pytest.approx((0.1 - 0.24841, 0.1 + 0.24841), abs=1e-4)
    gain = cell(table, "Δ_FF", "minilab")  # 0.6 over 0.5; by seed 1.0, 1.2 and 1.4 of the other
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.2, 0.2 - 0.49683, 0.2 + 0.49683), abs=1e-4)
    assert gain.note == "seeds 0,1,2"
