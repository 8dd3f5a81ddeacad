"""Run folders -> frame."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.reporting.conftest import MakeRun

from tinyllm import runs
from tinyllm.config import ExperimentConfig
from tinyllm.errors import UserError
from tinyllm.records import PromptKind
from tinyllm.reporting.frame import collect, on_test
from tinyllm.runs import TEACHER


def epochs(number: int) -> dict[str, object]:
    return {"config": lambda c: replace(c, trainer=replace(c.trainer, max_epochs=number))}


def test_runs_that_differ_in_their_seed_alone_share_a_setting(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", seed=0)
    make_run("tinyllm", seed=1)
    make_run("full_ft", seed=0)
    frame = collect([tmp_path / "runs"]).frame
    assert len(frame) == 3
    tinyllm = frame[frame.method == "tinyllm"]
    assert tinyllm.setting.nunique() == 1
    assert set(tinyllm.setting).isdisjoint(frame[frame.method == "full_ft"].setting)


def test_columns_say_what_a_run_was(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", alpha={"terse": 0.5, "wordy": 2.0}, fraction=0.25)
    make_run("step_by_step", teacher="wordy", alpha={"wordy": 3.0})
    frame = collect([tmp_path / "runs"]).frame.set_index("method")
    tiny, step = frame.loc["tinyllm"], frame.loc["step_by_step"]
    assert (tiny["alpha"], tiny["teachers"], tiny["train_fraction"]) == ("terse=0.5 wordy=2", "terse+wordy", 0.25)
    assert (tiny["alpha/terse"], tiny["alpha/wordy"], tiny["method_teacher"]) == (0.5, 2.0, "")
    assert (step["method_teacher"], step["alpha/wordy"], step["train_fraction"]) == ("wordy", 3.0, 1.0)
    assert step.isna()["alpha/terse"]
    assert tiny["run"].startswith("minilab/tiny/tinyllm-seed0-")
    assert Path(tiny["folder"], "predictions.jsonl").is_file()
    assert list(frame["variant"]) == ["", ""]


def test_families_span_alpha_teacher_and_fraction_and_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    for alpha in (0.1, 1.0):
        for fraction in (0.5, 1.0):
            make_run("tinyllm", alpha={"terse": alpha}, fraction=fraction)
    for teacher in ("terse", "wordy"):
        make_run("step_by_step", teacher=teacher, alpha={teacher: 1.0})
    frame = collect([tmp_path / "runs"]).frame
    assert frame.groupby("method")["family"].nunique().to_dict() == {"tinyllm": 1, "step_by_step": 1}
    assert frame.groupby("method")["setting"].nunique().to_dict() == {"tinyllm": 4, "step_by_step": 2}


def test_a_control_is_the_variant_however_many_seeds_it_has(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(3):
        make_run("full_ft", seed=seed, **epochs(18))
    make_run("full_ft", **epochs(6))
    for seed in range(5):
        make_run("tinyllm", seed=seed, **epochs(6))
    frame = collect([tmp_path / "runs"]).frame
    assert set(frame[frame.method == "tinyllm"].variant) == {""}
    assert sorted(frame[frame.method == "full_ft"].variant) == ["", *["trainer.max_epochs=18"] * 3]


def test_the_plain_row_is_of_the_default_settings_whatever_the_others_have(make_run: MakeRun, tmp_path: Path) -> None:
    def conflicts(drop: bool) -> Callable[[ExperimentConfig], ExperimentConfig]:
        return lambda c: replace(c, weighting=replace(c.weighting, drop_conflicts=drop))

    def clean(clean: bool) -> Callable[[ExperimentConfig], ExperimentConfig]:
        return lambda c: replace(c, rationales=replace(c.rationales, clean=clean))

    for seed in range(3):
        make_run("tinyllm", seed=seed, config=conflicts(True))
        make_run("tinyllm", seed=seed, config=clean(False))
    make_run("tinyllm", config=conflicts(False))
    frame = collect([tmp_path / "runs"]).frame
    assert sorted(frame.variant) == ["", *["rationales.clean=False"] * 3, *["weighting.drop_conflicts=True"] * 3]


def test_a_precision_that_auto_becomes_is_no_variant(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, precision in enumerate(["auto", "bf16-mixed", "32-true"]):
        make_run(
            "tinyllm", seed=seed, config=lambda c, p=precision: replace(c, trainer=replace(c.trainer, precision=p))
        )
    frame = collect([tmp_path / "runs"]).frame.sort_values("seed")
    assert list(frame.variant) == ["", "", "trainer.precision=32-true"]


def test_a_teacher_of_weight_0_is_left_out_and_no_candidate(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", alpha={"terse": 1.0, "wordy": 0.0})
    make_run("tinyllm", alpha={"terse": 1.0, "wordy": 1.0})
    frame = collect([tmp_path / "runs"]).frame
    assert sorted(frame.variant) == ["", "ablation.drop=['wordy']"]


def test_a_method_that_was_only_trained_otherwise_is_a_variant(make_run: MakeRun, tmp_path: Path) -> None:
    """Else its row would pass for one that differs in its method alone."""
    for seed in range(2):
        make_run("tinyllm", seed=seed, **epochs(2))
        make_run("full_ft", seed=seed, **epochs(60))
    make_run("inference", config=lambda c: replace(c, method=replace(c.method, train=False)))
    frame = collect([tmp_path / "runs"]).frame
    found = {method: set(runs.variant) for method, runs in frame.groupby("method")}
    assert found == {"tinyllm": {""}, "full_ft": {"trainer.max_epochs=60"}, "inference": {""}}


def test_a_run_of_a_foreign_configuration_is_named_and_skipped(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("full_ft")
    make_run("tinyllm", config=lambda c: replace(c, alpha={"nobody": 1.0}))
    found = collect([tmp_path / "runs"])
    assert len(found.frame) == 1 and len(found.skipped) == 1 and "alpha.nobody" in found.skipped[0]


def test_teachers_asked_in_several_ways_are_no_unknown_runs(make_run: MakeRun, tmp_path: Path) -> None:
    for examples in (0, 2):
        make_run(
            TEACHER, student="wordy", valid=None, result={"train_examples": 0},
            config=lambda c, n=examples: replace(c, prompt=replace(c.prompt, examples=n)),
        )  # fmt: skip
    variants = sorted(collect([tmp_path / "runs"]).frame.variant)
    assert len(variants) == 2 and "" in variants and not any("unknown" in v for v in variants)


def test_what_a_method_does_not_use_makes_no_setting(make_run: MakeRun, tmp_path: Path) -> None:
    """A sweep over α that has full_ft among its methods trains the same student again and again."""
    for weight in (0.1, 1.0, 3.0):
        make_run(
            "full_ft",
            config=lambda c, w=weight: replace(
                c, alpha={"terse": w, "wordy": 1.0}, prompt=replace(c.prompt, examples=5)
            ),
        )
    found = collect([tmp_path / "runs"])
    assert len(found.frame) == 1
    assert len(found.repeated) == 2 and all("same setting and seeds" in line for line in found.repeated)


def test_the_same_run_in_two_folders_counts_once(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("full_ft")
    shutil.copytree(folder, tmp_path / "copy")
    assert len(collect([tmp_path / "runs", tmp_path / "copy", folder]).frame) == 1


def test_broken_and_foreign_results_are_named_and_skipped(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run("full_ft")
    bad = {
        "torn": '{"dataset": "obqa", "acc',
        "foreign": '{"accuracy": 0.5, "model": "bert"}',
        "list": "[1, 2]",
        "text": json.dumps(
            {
                **json.loads(next((tmp_path / "runs").rglob("result.json")).read_text()),
                "accuracy": "high",
                "config_hash": "other",
            }
        ),
    }
    whole = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    for key, value in (
        ("alpha", ["terse"]), ("alpha", {"terse": "much"}), ("deviations", ["x"]), ("deviations", {"lr": 3}),
        ("student", ["tiny"]), ("split", None), ("seed", "0"), ("accuracy_ranked", "0.5"), ("subsets", {"hidden": [1]}),
        ("subsets", {"hidden": {"accuracy": "all"}}), ("teachers", 3), ("train_loss", {"answer": "low"}),
        ("train_tokens", None),
    ):  # fmt: skip
        bad[f"{key}{len(bad)}"] = json.dumps({**whole, "config_hash": "other", key: value})
    for name, text in bad.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text(text)
    found = collect([tmp_path / "runs"])
    assert len(found.frame) == 1 and len(found.skipped) == len(bad)
    for name in bad:
        assert sum(line.startswith(f"{name}/result.json: ") for line in found.skipped) == 1
        assert str(tmp_path / "runs" / name) in caplog.text


def test_a_result_of_an_older_version_is_read(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("tinyllm")
    row = json.loads((folder / "result.json").read_text())
    for newer in ("train_tokens", "train_seconds", "deviations", "parameters", "trained_parameters", "train_loss"):
        del row[newer]
    (folder / "result.json").write_text(json.dumps(row))
    frame = collect([tmp_path / "runs"]).frame
    assert frame.loc[0, "train_tokens"] == 0
    assert "trainer" not in frame.loc[0, "deviations"]  # from the configuration, which has the paper's values


def test_a_folder_without_configuration_stays_by_itself(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("full_ft", seed=0)
    for seed in (1, 2):
        (make_run("full_ft", seed=seed) / runs.CONFIG).unlink()
    frame = collect([tmp_path / "runs"]).frame
    assert frame["setting"].nunique() == 3


def test_runs_whose_configuration_is_unknown_are_told_in_words(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(2):
        make_run("full_ft", seed=seed)
    broken = make_run("full_ft", seed=2)
    for text in ("- a list", "just words", "seed: {", "seed: [1]", "nonsense: 1"):
        (broken / runs.CONFIG).write_text(text)
        caplog.clear()
        frame = collect([tmp_path / "runs"]).frame.set_index("seed")
        assert frame["variant"].to_dict() == {0: "", 1: "", 2: "without config.yaml"}
        assert str(broken / runs.CONFIG) in caplog.text and "WARNING" in caplog.text
    (make_run("full_ft", seed=3) / runs.CONFIG).unlink()
    frame = collect([tmp_path / "runs"]).frame.set_index("seed")
    assert frame.loc[3, "variant"] == f"without config.yaml ({frame.loc[3, 'config_hash']})"
    assert frame.loc[2, "variant"] != frame.loc[3, "variant"]


def test_what_no_result_depends_on_tells_no_variants_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run("full_ft", seed=seed)

    def elsewhere(config: ExperimentConfig) -> ExperimentConfig:
        trainer = replace(config.trainer, devices=2, progress_bar=False, max_epochs=3, strategy="ddp")
        return replace(config, trainer=trainer, data=replace(config.data, root="/data"), store="other")

    make_run("full_ft", config=elsewhere)
    assert set(collect([tmp_path / "runs"]).frame["variant"]) == {"", "trainer.max_epochs=3"}


def test_an_evaluation_of_a_run_knows_its_validation(make_run: MakeRun, tmp_path: Path) -> None:
    """Trained with evaluation on valid, then evaluated on test."""
    make_run(
        "full_ft",
        valid=0.7,
        result={"split": "valid", "config_hash": "a"},
        config=lambda c: replace(c, evaluation=replace(c.evaluation, split="valid")),
    )
    make_run("full_ft", valid=None, result={"train_examples": 0, "config_hash": "b"})
    frame = collect([tmp_path / "runs"]).frame
    assert len(frame) == 2
    test = on_test(frame)
    assert list(test["valid_accuracy"]) == [0.7] and list(test["variant"]) == [""]


def test_a_student_evaluated_on_other_data_is_no_run_on_that_data(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("full_ft", dataset="arc", seed=0)
    make_run("full_ft", dataset="arc", seed=3, valid=None, result={"train_examples": 0})
    frame = collect([tmp_path / "runs"]).frame.set_index("seed")
    assert frame["variant"].to_dict() == {0: "", 3: "training run unknown"}


def test_a_student_of_another_dataset_is_never_the_plain_one(make_run: MakeRun, tmp_path: Path) -> None:
    """Where no other of its method stands beside it, it would be compared with students of this dataset."""
    make_run("full_ft", dataset="obqa", result={"config_hash": "o"})
    make_run("full_ft", dataset="arc", result={"train_examples": 0, "valid_accuracy": None, "trained_by": "o"})
    make_run("tinyllm", dataset="arc", result={"config_hash": "t"})
    few = {"train_examples": 0, "valid_accuracy": None, "config_hash": "f", "trained_by": "t"}
    make_run("tinyllm", dataset="arc", result=few, config=lambda c: replace(c, data=replace(c.data, limit_test=5)))
    frame = collect([tmp_path / "runs"]).frame
    found = sorted(zip(frame["dataset"], frame["method"], frame["variant"], strict=True))
    assert found == [
        ("arc", "full_ft", "trained on obqa"), ("arc", "tinyllm", ""), ("arc", "tinyllm", "data.limit_test=5"),
        ("obqa", "full_ft", ""),
    ]  # fmt: skip


def test_a_student_of_another_dataset_says_so_and_is_no_duplicate(make_run: MakeRun, tmp_path: Path) -> None:
    """`evaluate run=<of obqa> data=arc`: its settings are those of a run that was trained on arc."""
    make_run("full_ft", dataset="arc", result={"config_hash": "a"}, valid=0.4)
    make_run("full_ft", dataset="obqa", result={"config_hash": "o"}, valid=0.6)
    again = {"train_examples": 0, "valid_accuracy": None}
    make_run("full_ft", dataset="arc", result={**again, "config_hash": "b", "trained_by": "o"})
    collected = collect([tmp_path / "runs"])
    assert collected.repeated == []
    on_arc = collected.frame[collected.frame["dataset"] == "arc"].set_index("config_hash")
    assert on_arc["variant"].to_dict() == {"a": "", "b": "trained on obqa"}
    assert on_arc["setting"].nunique() == on_arc["without_teachers"].nunique() == 2
    assert on_arc["valid_accuracy"]["a"] == 0.4 and math.isnan(on_arc["valid_accuracy"]["b"])


def test_only_test_evaluations_make_tables(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(
        "full_ft",
        result={"split": "valid"},
        config=lambda c: replace(c, evaluation=replace(c.evaluation, split="valid")),
    )
    with pytest.raises(UserError, match=r"^runs: .*\bvalid\b"):
        on_test(collect([tmp_path / "runs"]).frame)
    make_run("tinyllm")
    assert list(on_test(collect([tmp_path / "runs"]).frame)["method"]) == ["tinyllm"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder, found none at"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"no result\.json below"):
        collect([tmp_path])


def forced(config: ExperimentConfig) -> ExperimentConfig:
    """As all runs of `step_by_step` were before its teacher was asked without the answer."""
    streams = {name: replace(s, prompt=PromptKind.forced) for name, s in config.method.streams.items()}
    return replace(config, method=replace(config.method, streams=streams))


def test_step_by_step_with_the_answer_given_is_another_method(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("step_by_step", teacher="terse", alpha={"terse": 1.0})
    make_run("step_by_step", teacher="terse", alpha={"terse": 1.0}, config=forced)
    make_run("one_teacher", teacher="terse", alpha={"terse": 1.0}, seed=1)
    frame = collect([tmp_path / "runs"]).frame
    assert sorted(frame["method"]) == ["one_teacher", "one_teacher", "step_by_step"]
    assert frame.groupby("method")[["setting", "family"]].nunique().to_numpy().tolist() == [[1, 1], [1, 1]]
    assert frame["setting"].nunique() == 2 and set(frame["variant"]) == {""}
    texts = {method: str(runs["texts"].iloc[0]) for method, runs in frame.groupby("method")}
    assert texts == {
        "one_teacher": "terse: scripted, voice terse, forced",
        "step_by_step": "terse: scripted, voice terse, solve",
    }


def test_passes_are_epochs_times_streams(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", **epochs(6))
    make_run("tinyllm", alpha={"terse": 1.0}, **epochs(6))
    make_run("full_ft", **epochs(18))
    steps = make_run("full_ft", config=lambda c: replace(c, trainer=replace(c.trainer, max_epochs=3, max_steps=25)))
    assert json.loads((steps / "result.json").read_text())["train_examples"] == 100
    frame = collect([tmp_path / "runs"]).frame
    found = sorted(zip(frame["method"], frame["epochs"], frame["passes"], strict=True))
    assert found == [("full_ft", 2.0, 2.0), ("full_ft", 18.0, 18.0), ("tinyllm", 6.0, 12.0), ("tinyllm", 6.0, 18.0)]
