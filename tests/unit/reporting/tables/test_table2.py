"""Table 2: ablations and their differences from TinyLLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun
from tests.unit.reporting.tables.conftest import (
    ablated,
    cell,
    comparison,
    first,
    labels,
    made,
)

from tinyllm.config import Engine, ExperimentConfig
from tinyllm.reporting.study import Study
from tinyllm.reporting.tables import comparisons, table2


def test_table_2_shows_differences_from_tinyllm(make_run: MakeRun, tmp_path: Path) -> None:
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
    assert "effect of tuning" in mixed and "w/o in-context" in mixed and "w/o LLaMA" not in mixed
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


def generated(config: ExperimentConfig) -> ExperimentConfig:
    """The teachers are models that are asked; greedy unless a temperature is set."""
    teachers = {name: replace(teacher, engine=Engine.transformers) for name, teacher in config.teachers.items()}
    return replace(config, teachers=teachers)


def at(temperature: float) -> Callable[[ExperimentConfig], ExperimentConfig]:
    def change(config: ExperimentConfig) -> ExperimentConfig:
        config = generated(config)
        teachers = {name: replace(t, temperature=temperature) for name, t in config.teachers.items()}
        return replace(config, teachers=teachers)

    return change


def twice(config: ExperimentConfig) -> ExperimentConfig:
    ablation = replace(config.ablation, name="no_diverse_teachers", strongest="terse")
    return replace(at(0.7)(config), ablation=ablation, alpha={"terse": 1.0, "wordy": 1.0})


def test_two_samples_are_compared_at_the_same_decoding(make_run: MakeRun, tmp_path: Path) -> None:
    """A greedy teacher says the same twice, so the ablation is sampled: the whole method has to be sampled too."""
    for seed in (0, 1):  # most runs are greedy: the sampled one is the variant
        make_run("tinyllm", seed=seed, right=first(30), config=generated)
    make_run("tinyllm", right=first(20), alpha={"terse": 1.0, "terse_2": 1.0}, config=twice)
    (accuracies,) = table2(made(tmp_path))
    assert labels(accuracies) == ["TinyLLM w/o diverse teachers", "TinyLLM"]
    (note,) = [note for note in accuracies.notes if note.startswith("Not compared with TinyLLM: ")]
    assert "temperature 0.7" in note and "minilab" in note and "rationales.recorded" not in note
    (against,) = [row for row in comparisons(made(tmp_path)) if row] or [None]
    assert against is None
    make_run("tinyllm", right=first(24), config=at(0.7))
    _, differences = table2(made(tmp_path))
    assert cell(differences, "TinyLLM w/o diverse teachers", "minilab").value == pytest.approx(-4 / 40)
    assert any("teachers.terse.temperature=0.7" in note for note in differences.notes)


def test_an_ablation_may_change_one_thing_of_the_texts(make_run: MakeRun, tmp_path: Path) -> None:
    def fewer(config: ExperimentConfig) -> ExperimentConfig:
        return replace(generated(config), prompt=replace(config.prompt, examples=0))

    def free(config: ExperimentConfig) -> ExperimentConfig:
        return replace(generated(config), prompt=replace(config.prompt, teacher_forcing=False))

    def both(config: ExperimentConfig) -> ExperimentConfig:
        return replace(generated(config), prompt=replace(config.prompt, teacher_forcing=False, examples=0))

    make_run("tinyllm", right=first(30), config=generated)
    for name, change in (("no_in_context", fewer), ("no_teacher_forcing", free), ("mine", both)):
        ablation = ablated(name)["config"]
        make_run("tinyllm", right=first(20), config=lambda c, f=change, g=ablation: g(f(c)))
    accuracies, differences = table2(made(tmp_path))
    assert labels(differences) == ["TinyLLM w/o in-context", "TinyLLM w/o teacher-forcing"]
    (note,) = [note for note in accuracies.notes if note.startswith("Not compared")]
    assert "TinyLLM mine" in note and "unforced" in note


def wrong_in(share: float, *dropped: str, **more: str) -> Callable[[ExperimentConfig], ExperimentConfig]:
    """`wordy` misleads in a share of its texts."""

    def changed(config: ExperimentConfig) -> ExperimentConfig:
        teachers = config.teachers | {"wordy": replace(config.teachers["wordy"], share=share)}
        return replace(config, teachers=teachers, ablation=replace(config.ablation, drop=list(dropped), **more))

    return changed


def test_an_ablation_meets_the_same_teachers(make_run: MakeRun, tmp_path: Path) -> None:
    """Without `wordy` there is nothing left by which texts could differ; still that is no TinyLLM to compare with."""
    for seed in range(4):  # most runs: what is called TinyLLM
        make_run("tinyllm", seed=seed, right=first(32), config=wrong_in(1.0))
    for seed in range(3):
        make_run("tinyllm", seed=seed, right=first(36), config=wrong_in(0.5))
        make_run("tinyllm", seed=seed, alpha={"terse": 1.0}, right=first(24), config=wrong_in(1.0, "wordy"))
        make_run(
            "tinyllm", seed=seed, right=first(25), config=wrong_in(0.5, name="shuffled_rationales"),
            result={"ablation": "shuffled_rationales"},
        )  # fmt: skip
    accuracies, differences = table2(made(tmp_path))
    assert cell(accuracies, "TinyLLM", "minilab").value == pytest.approx(32 / 40)
    assert cell(differences, "TinyLLM shuffled rationales", "minilab").value == pytest.approx((25 - 36) / 40)
    (effect,) = [note for note in differences.notes if note.startswith("Minimum detectable")]
    assert "TinyLLM [teachers.wordy.share=0.5] vs. TinyLLM shuffled rationales, 3 seeds" in effect

    without_partner = Study(made(tmp_path).frame.query("wrong_share == 1 or ablation != 'none'").reset_index(drop=True))
    (alone,) = table2(without_partner)
    assert any("Not compared with TinyLLM: TinyLLM shuffled rationales" in note for note in alone.notes)
