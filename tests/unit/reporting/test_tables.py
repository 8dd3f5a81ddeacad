"""The frame -> tables: cells against hand-computed numbers, bold and p against the tests they claim to be."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.conftest import MakeRun

from tinyllm.config import ExperimentConfig, Metric
from tinyllm.evaluation.statistics import holm, wilson_interval
from tinyllm.paper import DATASETS
from tinyllm.reporting.frame import collect, on_test
from tinyllm.reporting.study import Study, enough_resamples
from tinyllm.reporting.table import Cell, Table
from tinyllm.reporting.tables import all_tables, comparisons, settings, table1, table2


def first(n: int, of: int = 40, start: int = 0) -> list[bool]:
    """Right on n questions from `start` on."""
    return [start <= i < start + n for i in range(of)]


def either(*parts: list[bool]) -> list[bool]:
    return [any(flags) for flags in zip(*parts, strict=True)]


def made(tmp_path: Path, metric: Metric = Metric.accuracy) -> Study:
    return Study(on_test(collect([tmp_path / "runs"]).frame), metric)


def row(table: Table, label: str) -> tuple[Cell, ...]:
    (found,) = [cells for cells in table.rows if cells[0].text == label]
    return found


def cell(table: Table, label: str, column: str) -> Cell:
    return row(table, label)[table.columns.index(column)]


def labels(table: Table) -> list[str]:
    return [str(cells[0].text) for cells in table.rows]


def ablated(name: str) -> dict[str, Any]:
    def change(config: ExperimentConfig) -> ExperimentConfig:
        return replace(config, ablation=replace(config.ablation, name=name))

    return {"config": change}


def untrained(config: ExperimentConfig) -> ExperimentConfig:
    return replace(config, method=replace(config.method, train=False))


def longer(config: ExperimentConfig) -> ExperimentConfig:
    return replace(config, trainer=replace(config.trainer, max_epochs=3))


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
    assert table.name == "table1_tiny" and "Seeds: 0,1,2." in table.notes


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
    """9 against 2 of 40: p is about 0.03, which is clear in one column, and chance in one of four."""
    clear = {"tinyllm": first(20), "full_ft": either(first(11), first(2, start=30))}
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


def test_parts_of_the_training_set_are_for_figure_2(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", right=first(20))
    make_run("tinyllm", right=first(40), fraction=0.5)
    study = made(tmp_path)
    (table,) = table1(study)
    assert cell(table, "TinyLLM", "minilab").value == 0.5
    assert len(settings(study)[0].rows) == 2


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


def test_deviations_are_told_once(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run("tinyllm", seed=seed, config=longer)
    (table,) = table1(made(tmp_path))
    (note,) = [note for note in table.notes if "the paper's" in note]
    assert note.count("trainer.max_epochs=3 (paper: 1)") == 1


def test_the_smallest_difference_is_printed(make_run: MakeRun, tmp_path: Path) -> None:
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


def test_the_smallest_difference_counts_the_spread_of_seeds(make_run: MakeRun, tmp_path: Path) -> None:
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
        assert any("with two or more seeds" in note for note in notes)
    assert not cell(table, "TinyLLM", "minilab").best  # t = 1.73 with 2 degrees of freedom: p = 0.23
    one = comparison(*comparisons(study))["TinyLLM", "Full fine-tuning"]
    assert one["p"].text == "0.225"
    assert (one["difference"].low, one["difference"].high) == pytest.approx((0.1 - 0.24841, 0.1 + 0.24841), abs=1e-4)
    gain = cell(table, "Δ_FF", "minilab")  # 0.6 over 0.5; by seed 1.0, 1.2 and 1.4 of the other
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.2, 0.2 - 0.49683, 0.2 + 0.49683), abs=1e-4)
    assert gain.note == "seeds 0,1,2"


def test_no_interval_leaves_what_an_accuracy_can_be(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, n in enumerate((2, 24)):
        for dataset in ("arc", "piqa"):
            make_run("tinyllm", dataset=dataset, seed=seed, right=first(n))
    study = made(tmp_path)
    (table,) = table1(study)
    (line,) = [row for row in settings(study)[0].rows if row[0].text == "arc"]
    for one in (cell(table, "TinyLLM", "arc"), cell(table, "TinyLLM", "Total"), line[7]):
        assert (one.value, one.low, one.high) == (pytest.approx(0.325), 0.0, 1.0)


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


def test_table_2_shows_differences_to_the_whole_method(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run("tinyllm", student="flan_t5_large", dataset="arc", seed=seed, right=first(36))
        for name, n in (("no_llama", 10), ("no_t5", 35), ("shuffled_rationales", 12)):
            make_run("tinyllm", student="flan_t5_large", dataset="arc", seed=seed, right=first(n), **ablated(name))
    study = made(tmp_path)
    accuracies, differences = table2(study)
    assert (accuracies.name, differences.name) == ("table2_flan_t5_large", "table2_flan_t5_large_differences")
    assert labels(accuracies) == ["TinyLLM w/o LLaMA", "TinyLLM w/o T5", "TinyLLM shuffled rationales", "TinyLLM"]
    assert labels(differences) == labels(accuracies)[:-1] and accuracies.columns == ("Method", "arc")
    assert cell(accuracies, "TinyLLM w/o LLaMA", "arc").paper == pytest.approx(0.6232)
    assert cell(accuracies, "TinyLLM", "arc").paper == pytest.approx(0.6429)
    assert not cell(accuracies, "TinyLLM", "arc").best  # w/o T5 is a tie
    worse = cell(differences, "TinyLLM w/o LLaMA", "arc")
    assert worse.value == pytest.approx(-26 / 40) and (worse.high or 0) < 0
    p = {label: cell(differences, label, "p, arc").text for label in labels(differences)}
    assert p["TinyLLM w/o LLaMA"] == "0.003" and float(p["TinyLLM w/o T5"] or 0) > 0.5  # 3 tests: 3 x 2 / 2001 at least
    assert table2(Study(study.frame[study.frame.ablation == "none"].reset_index(drop=True))) == []


def test_a_chosen_weight_is_no_part_of_an_ablation(make_run: MakeRun, tmp_path: Path) -> None:
    """The variant has α 1; the whole method is shown at 3, which validation chose, and compared at 1."""
    ones, threes = {"terse": 1.0, "wordy": 1.0}, {"terse": 3.0, "wordy": 1.0}
    make_run("tinyllm", alpha=ones, right=first(20), valid=0.3)
    make_run("tinyllm", alpha=threes, right=first(36), valid=0.5)
    make_run("tinyllm", alpha={"terse": 1.0}, right=first(16), config=without_wordy)
    make_run("tinyllm", alpha={"terse": 0.1, "wordy": 1.0}, right=first(12), **ablated("no_in_context"))
    accuracies, differences = table2(made(tmp_path))
    assert cell(accuracies, "TinyLLM", "minilab").value == pytest.approx(0.9)
    assert cell(differences, "TinyLLM w/o LLaMA", "minilab").value == pytest.approx(16 / 40 - 20 / 40)
    assert cell(differences, "TinyLLM w/o in-context", "minilab").value == pytest.approx(12 / 40 - 36 / 40)
    against = comparison(*comparisons(made(tmp_path)))["TinyLLM w/o LLaMA", "TinyLLM"]
    assert against["difference"].value == pytest.approx(16 / 40 - 20 / 40)
    same, mixed = [note for note in differences.notes if note.startswith("Compared with TinyLLM at")]
    assert "terse=1 wordy=1" in same and "w/o LLaMA" in same and "w/o in-context" not in same
    assert "mixes tuning with ablation" in mixed and "w/o in-context" in mixed and "w/o LLaMA" not in mixed
    for table in (accuracies, differences):
        assert "Teachers left out: TinyLLM w/o LLaMA: wordy." in table.notes


def without_wordy(config: ExperimentConfig) -> ExperimentConfig:
    """As `ablation=no_llama` is composed: the weights are the set's, the streams are fewer."""
    ablation = replace(config.ablation, name="no_llama", drop=["llama2_7b_chat", "wordy"])
    return replace(config, ablation=ablation, alpha={"terse": 1.0, "wordy": 1.0})


def test_seeds_may_find_different_teachers_to_be_the_strongest(make_run: MakeRun, tmp_path: Path) -> None:
    def doubled(config: ExperimentConfig) -> ExperimentConfig:
        ablation = replace(config.ablation, name="no_diverse_teachers", strongest="valid")
        return replace(config, ablation=ablation, alpha={"terse": 1.0, "wordy": 1.0})

    for seed, teacher in enumerate(("terse", "wordy", "terse")):
        alpha = {teacher: 1.0, f"{teacher}_2": 1.0}
        make_run("tinyllm", seed=seed, alpha=alpha, right=first(10 + 4 * seed), config=doubled, valid=0.1 * seed)
        make_run("tinyllm", seed=seed, right=first(30))
    study = made(tmp_path)
    assert study.choices == [] and study.frame["setting"].nunique() == 2
    accuracies, _ = table2(study)
    one = cell(accuracies, "TinyLLM w/o diverse teachers", "minilab")
    assert one.value == pytest.approx(0.35)
    assert "seeds 0,1,2" in one.note and "strongest teacher terse (seeds 0,2), wordy (seeds 1)" in one.note


def comparison(table: Table) -> dict[tuple[str, str], dict[str, Cell]]:
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    return {(str(one["method"].text), str(one["against"].text)): one for one in rows}


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
    text = "\n".join(json.dumps({**r, "predicted": str(r["predicted"]).replace("oak", " Oak.")}) for r in rows)
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


def test_many_tests_get_resamples_enough_to_be_clear() -> None:
    """The least p that B resamples can give is 2 / (B + 1); Holm multiplies it by the number of tests."""
    for tests in (1, 7, 60, 400):
        assert tests * 2 / (enough_resamples(tests) + 1) < 0.05 / 5


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


def test_a_note_that_tables_share_is_no_note_of_one(make_run: MakeRun, tmp_path: Path) -> None:
    for student in ("tiny", "flan_t5_small"):
        for name, n in (("tinyllm", 30), ("full_ft", 20)):
            make_run(name, student=student, right=first(n))
        make_run("tinyllm", student=student, right=first(25), **ablated("no_t5"))
    tables = all_tables(made(tmp_path))
    assert len(tables) == 8  # tables 1 and 2 and the differences of two students, comparisons, settings
    own = [note for table in tables for note in table.notes]
    shared = [note for table in tables for note in table.shared_notes]
    assert set(own).isdisjoint(shared)
    assert max(map(shared.count, shared)) > 1
