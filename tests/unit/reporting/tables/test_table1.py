"""Table 1: cells against hand-computed numbers, bold against the test that it claims to be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import (
    ablated,
    cell,
    either,
    first,
    labels,
    longer,
    made,
    untrained,
)

from tinyllm.config import Metric
from tinyllm.evaluation.statistics import wilson_interval
from tinyllm.paper import DATASETS
from tinyllm.reporting.tables import comparisons, table1


def test_seeds_of_equal_accuracy_are_no_certainty(make_run: MakeRun, tmp_path: Path) -> None:
    """A student that always names the majority class: Student's t would have no width."""
    for seed in range(3):
        make_run("tinyllm", seed=seed, right=first(20))
    (table,) = table1(made(tmp_path))
    found = cell(table, "TinyLLM", "minilab")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, *wilson_interval(20, 40)))


def test_one_seed_is_not_the_best_of_several(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(3):
        make_run("tinyllm", seed=seed, right=first(10))
    make_run("full_ft", right=first(30))
    (table,) = table1(made(tmp_path))
    assert not cell(table, "Full fine-tuning", "minilab").best
    for seed in (1, 2):
        make_run("full_ft", seed=seed, right=first(30))
    (table,) = table1(made(tmp_path))
    assert cell(table, "Full fine-tuning", "minilab").best


def test_a_cell_is_the_mean_over_seeds_with_its_t_interval(make_run: MakeRun, tmp_path: Path) -> None:
    """20, 24 and 28 of 40: 0.6 with 4.302653 x 0.1 / sqrt(3); a single run has Wilson's interval."""
    for seed, n in enumerate((20, 24, 28)):
        make_run("tinyllm", seed=seed, right=first(n))
    make_run("full_ft", right=first(10))
    (table,) = table1(made(tmp_path))
    ours = cell(table, "TinyLLM", "minilab")
    assert (ours.value, ours.low, ours.high) == pytest.approx((0.6, 0.6 - 0.24841, 0.6 + 0.24841), abs=1e-4)
    one = cell(table, "Full fine-tuning", "minilab")
    assert (one.value, one.low, one.high) == pytest.approx((0.25, *wilson_interval(10, 40)))
    assert "seeds 0,1,2" in ours.note and "n 40" in ours.note
    assert table.name == "table1_tiny" and "Seeds: 0,1,2; Full fine-tuning: 0." in table.notes


def test_a_row_that_no_run_has_is_left_out_and_zero_is_a_number(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(0))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["TinyLLM"] and cell(table, "TinyLLM", "minilab").value == 0.0
    make_run("full_ft", right=first(10))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["Full fine-tuning", "TinyLLM", "Δ_FF"]
    make_run("inference", student="wordy", right=first(9), result={"method": "teacher", "train_examples": 0})
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["wordy (teacher)", "Full fine-tuning", "TinyLLM", "Δ_FF"]
    assert not any(one.missing for cells in table.rows for one in cells)


def test_a_gain_that_cannot_be_computed_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    """Full fine-tuning and TinyLLM on different datasets: no difference, no gain, and no total of either."""
    make_run("tinyllm", dataset="arc", right=first(20))
    make_run("full_ft", dataset="piqa", right=first(10))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["Full fine-tuning", "TinyLLM"] and table.columns == ("Method", "arc", "piqa")
    assert comparisons(made(tmp_path)) == []


def test_methods_stand_in_the_papers_order(make_run: MakeRun, tmp_path: Path) -> None:
    for method in ("tinyllm", "standard_kd", "mine", "inference", "full_ft", "pinto", "step_by_step", "lora"):
        make_run(method, right=first(20))
    (table,) = table1(made(tmp_path))
    assert labels(table) == [
        "Inference", "PINTO", "LoRA", "Full fine-tuning", "Standard KD", "Distilling step-by-step", "TinyLLM",
        "Δ_FF", "Δ_Distill", "mine",
    ]  # fmt: skip


def test_the_papers_numbers_stand_beside_ours(make_run: MakeRun, tmp_path: Path) -> None:
    for dataset in DATASETS[:5]:
        make_run("tinyllm", dataset=dataset, student="flan_t5_small", right=first(30))
        if dataset != "arc":
            make_run("full_ft", dataset=dataset, student="flan_t5_small", right=first(20))
    teacher = {"method": "teacher", "train_examples": 0}
    make_run("inference", dataset="piqa", student="flan_t5_xl", right=first(9), result=teacher)
    (table,) = table1(made(tmp_path))
    assert table.columns == ("Method", *DATASETS[:5])  # none ran on the sixth: no column, and no total over the others
    assert labels(table) == ["flan_t5_xl (teacher)", "Full fine-tuning", "TinyLLM", "Δ_FF"]
    asked = cell(table, "flan_t5_xl (teacher)", "piqa")
    assert (asked.value, asked.paper) == (pytest.approx(9 / 40), pytest.approx(0.5843))
    assert cell(table, "TinyLLM", "arc").paper == pytest.approx(0.3305)
    gain = cell(table, "Δ_FF", "obqa")
    assert (gain.value, gain.paper) == (pytest.approx(0.5), pytest.approx(0.1875))
    arc = cell(table, "Full fine-tuning", "arc")
    assert arc.missing and arc.paper == pytest.approx(0.2747)
    make_run("tinyllm", dataset="bioasq", student="flan_t5_small", right=first(30))
    (table,) = table1(made(tmp_path))
    assert table.columns == ("Method", *DATASETS, "Total")
    assert cell(table, "TinyLLM", "Total").paper == pytest.approx(0.5578)
    for label in ("Full fine-tuning", "Δ_FF"):  # two datasets lack: no total over the others
        assert cell(table, label, "Total").missing


def test_a_total_is_the_mean_of_whole_rows(make_run: MakeRun, tmp_path: Path) -> None:
    """Seeds 0 and 1 have totals 0.5 and 0.525: 12.7062 x 0.0176777 / sqrt(2) on either side."""
    for index, dataset in enumerate(DATASETS):
        for seed in (0, 1):
            right = first(20 + seed + (5 if index == 0 else -1))
            make_run("tinyllm", dataset=dataset, student="flan_t5_base", seed=seed, right=right)
        make_run("full_ft", dataset=dataset, student="flan_t5_base", seed=0, right=first(16))
    make_run("full_ft", dataset="minilab", student="flan_t5_base", right=first(40))
    (table,) = table1(made(tmp_path))
    total = cell(table, "TinyLLM", "Total")
    assert (total.value, total.low, total.high) == pytest.approx((0.5125, 0.5125 - 0.15883, 0.5125 + 0.15883), abs=1e-4)
    single = cell(table, "Full fine-tuning", "Total")
    low, high = wilson_interval(16, 40)
    assert single.value == pytest.approx(0.4)  # minilab is none of the six
    assert (single.low, single.high) == pytest.approx((0.4 - (0.4 - low) / 6**0.5, 0.4 + (high - 0.4) / 6**0.5))
    assert table.columns[-2:] == ("Total", "minilab")
    gain = cell(table, "Δ_FF", "Total")  # on seed 0, which both have: 0.5 over 0.4
    assert gain.value == pytest.approx(0.25) and gain.low is not None and gain.low < 0.25 < (gain.high or 0)


def test_a_total_by_ranking_knows_nothing_of_generation(make_run: MakeRun, tmp_path: Path) -> None:
    """Totals by ranking are 0.5 and 0.525 as above, then equal: as wide as Wilson's of 20 of 40 over the root of 6."""
    for method, more in (("tinyllm", 1), ("full_ft", 0)):
        for index, dataset in enumerate(DATASETS):
            for seed in (0, 1):
                ranked = first(20 + (seed + (5 if index == 0 else -1)) * more)
                make_run(
                    method, dataset=dataset, student="flan_t5_base", seed=seed, right=first(3 * seed), ranked=ranked
                )
    (table,) = table1(made(tmp_path, Metric.accuracy_ranked))
    total = cell(table, "TinyLLM", "Total")
    assert (total.value, total.low, total.high) == pytest.approx((0.5125, 0.5125 - 0.15883, 0.5125 + 0.15883), abs=1e-4)
    equal = cell(table, "Full fine-tuning", "Total")
    low, high = wilson_interval(20, 40)
    assert (equal.value, equal.low, equal.high) == pytest.approx(
        (0.5, 0.5 - (0.5 - low) / 6**0.5, 0.5 + (high - 0.5) / 6**0.5)
    )


def test_subsets_are_columns_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    parts = {
        name: {
            "n": 20,
            **{f"accuracy{which}{end}": value for which in ("", "_ranked") for end in ("", "_low", "_high")},
        }
        for name, value in (("hidden", 0.25), ("visible", 0.75))
    }
    make_run("tinyllm", right=first(20), result={"subsets": parts})
    make_run("full_ft", right=first(30), result={"subsets": parts})
    (table,) = table1(made(tmp_path, Metric.accuracy_ranked))
    assert table.columns == ("Method", "minilab", "minilab/visible", "minilab/hidden")
    assert cell(table, "TinyLLM", "minilab/hidden").value == 0.25
    gain = cell(table, "Δ_FF", "minilab/hidden")  # of the questions whose number divides by 4: 5 against 8
    assert gain.value == pytest.approx(5 / 8 - 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "bold"),
    [
        (first(38), first(12), True),
        (first(21), first(20), False),
        (first(20), first(20, start=20), False),
        (first(12), first(38), True),
    ],
    ids=["clear", "a question more", "equal", "the other way round"],
)
def test_only_a_clear_winner_is_bold(
    make_run: MakeRun, tmp_path: Path, ours: list[bool], theirs: list[bool], bold: bool
) -> None:
    make_run("tinyllm", right=ours)
    make_run("full_ft", right=theirs)
    make_run("inference", right=first(2), valid=None)
    (table,) = table1(made(tmp_path))
    winner = "TinyLLM" if sum(ours) >= sum(theirs) else "Full fine-tuning"
    assert [cells[0].text for cells in table.rows if cells[1].best] == ([winner] if bold else [])


def test_holm_takes_back_what_many_columns_give_by_chance(make_run: MakeRun, tmp_path: Path) -> None:
    """12 against 3 of 40: p is about 0.035, which is clear in one column, and chance in one of four."""
    clear = {"tinyllm": first(20), "full_ft": either(first(8), first(3, start=30))}
    for method, right in clear.items():
        make_run(method, dataset="arc", right=right)
    (alone,) = table1(made(tmp_path))
    assert cell(alone, "TinyLLM", "arc").best
    for dataset in ("obqa", "piqa", "riddle"):
        make_run("tinyllm", dataset=dataset, right=first(20))
        make_run("full_ft", dataset=dataset, right=first(20, start=1))
    (among,) = table1(made(tmp_path))
    assert not cell(among, "TinyLLM", "arc").best


def test_a_control_that_is_as_good_takes_the_bold_away(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run("tinyllm", seed=seed, right=first(36))
        make_run("full_ft", seed=seed, right=first(8))
    (table,) = table1(made(tmp_path))
    assert cell(table, "TinyLLM", "minilab").best
    for seed in range(2):
        make_run("full_ft", seed=seed, right=first(35), config=longer)
        make_run("tinyllm", seed=seed, right=first(9), **ablated("shuffled_rationales"))
    (table,) = table1(made(tmp_path))
    assert labels(table)[-2:] == ["Full fine-tuning [trainer.max_epochs=3]", "TinyLLM shuffled rationales"]
    assert labels(table).index("Δ_FF") < labels(table).index("TinyLLM shuffled rationales")
    assert not any(cells[1].best for cells in table.rows)
    assert cell(table, "Δ_FF", "minilab").value == pytest.approx(36 / 8 - 1)


def test_what_validation_chose_stands_in_the_table(make_run: MakeRun, tmp_path: Path) -> None:
    """terse is better on test."""
    for teacher, valid, n in (("terse", 0.3, 38), ("wordy", 0.6, 12)):
        make_run("step_by_step", teacher=teacher, alpha={teacher: 1.0}, valid=valid, right=first(n))
    make_run("tinyllm", right=first(20))
    study = made(tmp_path)
    (table,) = table1(study)
    chosen = cell(table, "Distilling step-by-step", "minilab")
    assert chosen.value == 0.3 and "wordy" in chosen.note and "one of 2 settings" in chosen.note
    (note,) = [note for note in table.notes if note.startswith("Selected: ")]
    assert note == f"Selected: {study.choices[0]}." and "wordy" in note
    assert study.selection in table.shared_notes


def test_teachers_have_rows_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    """Asked once for each of three seeds, on the same questions: one measurement, with Wilson's interval."""
    for seed in range(3):
        make_run(
            "inference", student="wordy", seed=seed, right=first(30), valid=None,
            result={"method": "teacher", "train_examples": 0, "config_hash": str(seed)},
        )  # fmt: skip
    (alone,) = table1(made(tmp_path))
    assert (alone.name, labels(alone)) == ("table1_teachers", ["wordy (teacher)"])
    make_run("tinyllm", right=first(20))
    (table,) = table1(made(tmp_path))
    teacher = cell(table, "wordy (teacher)", "minilab")
    assert (teacher.value, teacher.low, teacher.high) == pytest.approx((0.75, *wilson_interval(30, 40)))
    assert not teacher.best and labels(table) == ["wordy (teacher)", "TinyLLM"]  # terse was not asked


def test_untrained_students_of_several_seeds_count_where_they_differ(make_run: MakeRun, tmp_path: Path) -> None:
    """Random weights are others with every seed; by generation all say nothing, by ranking they differ."""
    for seed, ranked in enumerate((0.2, 0.3, 0.4)):
        scores = {"accuracy_ranked": ranked, "accuracy_ranked_low": 0.0, "accuracy_ranked_high": 1.0}
        make_run(
            "inference", seed=seed, right=first(0), valid=None,
            config=lambda c: replace(c, method=replace(c.method, train=False)),
            result={"train_examples": 0, **scores},
        )  # fmt: skip
    study = made(tmp_path)
    (greedy,) = table1(study)
    nothing = cell(greedy, "Inference", "minilab")
    assert (nothing.low, nothing.high) == pytest.approx(wilson_interval(0, 40))
    (ranked_table,) = table1(made(tmp_path, Metric.accuracy_ranked))
    spread = cell(ranked_table, "Inference", "minilab")
    assert (spread.value, spread.low) == pytest.approx((0.3, 0.3 - 0.24841), abs=1e-4)


def test_deviations_are_listed_once(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run("tinyllm", seed=seed, config=longer)
        make_run(
            "full_ft",
            seed=seed,
            config=longer,
            result={"deviations": {"trainer.max_epochs": ["not stated, preset 1", "3"]}},
        )
    (table,) = table1(made(tmp_path))
    (note,) = [note for note in table.notes if "the paper's" in note]
    assert note.count("trainer.max_epochs=3 (paper: 1)") == note.count("trainer.max_epochs=3") == 1


def test_the_minimum_detectable_effect_is_printed(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(200, of=400), n=400)
    make_run("full_ft", right=first(200, of=400, start=40), n=400)
    (table,) = table1(made(tmp_path))
    (note,) = [note for note in table.notes if note.startswith("Minimum detectable effect")]
    assert "power 0.8" in note and "level 0.05" in note
    found = re.search(
        r"minilab: ([\d.]+) \(TinyLLM vs\. Full fine-tuning, 1 seed, n 400, 20% discordant; McNemar's .*: ([\d.]+)\)",
        note,
    )
    assert found is not None
    # (1.95996 + 0.84162) x sqrt(0.2 / 400); Connor's formula for McNemar's test gives 6.2, the exact one needs more.
    assert [float(points) for points in found.groups()] == pytest.approx([6.26, 6.3], abs=0.25)
    assert any("test on one seed" in note for note in table.shared_notes)


def test_without_runs_on_all_questions_the_largest_share_is_shown(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(10), fraction=0.25)
    make_run("tinyllm", right=first(30), fraction=0.5)
    make_run("full_ft", right=first(5), fraction=0.25)
    make_run("inference", right=first(8), valid=None, config=untrained, result={"train_examples": 0})
    (table,) = table1(made(tmp_path))
    assert table.name == "table1_tiny"
    assert cell(table, "TinyLLM", "minilab").value == 0.75
    assert labels(table) == ["Inference", "TinyLLM"]  # full fine-tuning has another fraction, inference none
    assert cell(table, "Inference", "minilab").value == 0.2
    (note,) = [note for note in table.notes if note.startswith("Trained on")]
    assert "50%" in note and "minilab (tiny)" in note
    make_run("full_ft", right=first(20))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["Inference", "Full fine-tuning"]
    assert cell(table, "Full fine-tuning", "minilab").value == 0.5
    assert not any(note.startswith("Trained on") for note in table.notes)


def test_untrained_rows_have_no_training_to_deviate_in(make_run: MakeRun, tmp_path: Path) -> None:
    told = {"trainer.batch_size": ["8", "4"]}
    make_run(
        "inference", valid=None, config=untrained, result={"train_examples": 0, "deviations": told},
    )  # fmt: skip
    (table,) = table1(made(tmp_path))
    assert not any("batch_size" in note for note in table.notes)


def test_a_teacher_that_ranks_nothing_takes_no_part_in_the_bold(make_run: MakeRun, tmp_path: Path) -> None:
    teacher = make_run(
        "inference", student="wordy", right=first(40), valid=None, result={"method": "teacher", "train_examples": 0}
    )
    lines = [json.loads(line) for line in (teacher / "predictions.jsonl").read_text().splitlines()]
    (teacher / "predictions.jsonl").write_text("\n".join(json.dumps({**line, "ranked": None}) for line in lines))
    make_run("tinyllm", right=first(36))
    make_run("full_ft", right=first(9))
    (table,) = table1(made(tmp_path, Metric.accuracy_ranked))
    assert cell(table, "wordy (teacher)", "minilab").value == 1.0
    assert [cells[0].text for cells in table.rows if cells[1].best] == ["TinyLLM"]


def test_the_majority_class_is_a_row_where_it_is_known(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, share in enumerate((0.5, 0.6)):
        make_run("tinyllm", dataset="pubmedqa", seed=seed, right=first(20), result={"majority": share, "chance": 1 / 3})
    make_run("tinyllm", dataset="arc", right=first(20), result={"chance": 0.25})
    make_run("inference", student="wordy", dataset="arc", result={"method": "teacher", "train_examples": 0})
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["wordy (teacher)", "Majority class", "TinyLLM"]
    found = cell(table, "Majority class", "pubmedqa")
    assert (found.value, found.low) == (pytest.approx(0.55), None)
    assert cell(table, "Majority class", "arc").missing and cell(table, "Majority class", "Total").missing
    assert any(note.startswith("Majority class") for note in table.shared_notes)


def test_exact_equality_as_the_metric_of_a_report(make_run: MakeRun, tmp_path: Path) -> None:
    """Half of TinyLLM's right answers end in a full stop: right for `accuracy`, wrong for `accuracy_exact`."""
    folder = make_run("tinyllm", right=first(24))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    stopped = [row | {"generated": row["generated"] + "."} if i < 12 else row for i, row in enumerate(rows)]
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, stopped)))
    result = json.loads((folder / "result.json").read_text())
    low, high = wilson_interval(12, 40)
    changed = {"accuracy_exact": 12 / 40, "accuracy_exact_low": low, "accuracy_exact_high": high}
    (folder / "result.json").write_text(json.dumps(result | changed))
    make_run("full_ft", right=first(20))
    for metric, gap in ((Metric.accuracy, 4 / 40), (Metric.accuracy_exact, -8 / 40)):
        study = made(tmp_path, metric)
        assert cell(table1(study)[0], "TinyLLM", "minilab").value == pytest.approx(20 / 40 + gap)
        (line,) = comparisons(study)[0].rows
        assert line[4].value == pytest.approx(gap)


def test_one_teacher_stands_beside_the_papers_methods(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(30))
    make_run("one_teacher", teacher="terse", alpha={"terse": 1.0}, right=first(20))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["One teacher, forced", "TinyLLM"]  # no gain over Distilling step-by-step
    make_run("step_by_step", teacher="terse", alpha={"terse": 1.0}, right=first(10))
    (table,) = table1(made(tmp_path))
    assert labels(table) == ["Distilling step-by-step", "One teacher, forced", "TinyLLM", "Δ_Distill"]
    assert cell(table, "Δ_Distill", "minilab").value == pytest.approx(2.0)


def test_unequal_tries_are_said(make_run: MakeRun, tmp_path: Path) -> None:
    for alpha in (0.1, 1.0):
        make_run("tinyllm", alpha={"terse": alpha, "wordy": 1.0}, result={"valid_examples": 50})
    for teacher in ("terse", "wordy"):
        make_run("step_by_step", teacher=teacher, alpha={teacher: 1.0}, result={"valid_examples": 50})

    def tries() -> str:
        (note,) = [note for note in table1(made(tmp_path))[0].notes if note.startswith("Settings tried")]
        return note

    assert "(" not in tries() and "TinyLLM 2" in tries() and "50 validation questions" in tries()
    make_run("full_ft")
    assert "not equally many" in tries() and "Full fine-tuning 1" in tries()
