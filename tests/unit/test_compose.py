"""Every option of every group composes into dataclasses."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tinyllm.checks import checked
from tinyllm.compose import compose, config_folder, refuse_unknown_keys
from tinyllm.config import ExperimentConfig
from tinyllm.deviations import deviations
from tinyllm.errors import UserError

GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(config_folder().iterdir())
    if folder.is_dir() and folder.name != "teacher"
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
CONTRACT = {
    "data": {"minilab", "obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq", "jsonl"},
    "student": {
        "tiny",
        "flan_t5_small",
        "flan_t5_base",
        "flan_t5_large",
        "smollm2",
        "smollm2_360m",
        "qwen3_0_6b",
        "llama3_2_1b",
        "gemma3_270m",
    },
    "teachers": {"minilab", "paper", "flan_t5_xl", "llama2_7b_chat", "smollm2", "minilab4"},
    "method": {"inference", "full_ft", "lora", "pinto", "standard_kd", "step_by_step", "tinyllm"},
    "ablation": {"none", "no_in_context", "no_llama", "no_t5", "no_diverse_teachers", "no_teacher_forcing"},
    "alpha": {"uniform", "grid", "staged"},
    "weighting": {
        "uniform",
        "correct",
        "consensus",
        "confidence",
        "surprisal",
        "router",
        "random_router",
        "learned",
    },
    "trainer": {"cpu", "gpu", "ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp"},
    "logger": {"csv", "wandb"},
    "experiment": {
        "paper",
        "authors_code",
        "minilab",
        "table1",
        "table2_ablation",
        "fig2_train_size",
        "fig3_alpha",
        "fig4_cases",
        "teachers",
    },
}


def composed(*overrides: str) -> ExperimentConfig:
    loaded = OmegaConf.to_object(compose("train", overrides))
    assert isinstance(loaded, ExperimentConfig)
    return loaded


@pytest.mark.parametrize(("group", "names"), CONTRACT.items())
def test_the_contract_names_are_there(group: str, names: set[str]) -> None:
    assert names <= set(GROUPS[group])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    extra = ["data.root=questions.jsonl"] if option == "jsonl" else []
    typed = checked(compose("train", [f"{group}={option}", *extra]), Path("run"))
    assert isinstance(typed, ExperimentConfig)
    if group in ("data", "student", "method", "ablation", "logger", "weighting"):
        assert getattr(typed, group).name == ("questions" if option == "jsonl" else option)


def test_a_cell_of_the_paper() -> None:
    config = composed(
        "data=obqa", "data.source=release", "data.root=somewhere", "teachers=paper", "student=flan_t5_small",
        "alpha.flan_t5_xl=0.5", "alpha.llama2_7b_chat=1",
    )  # fmt: skip
    assert config.alpha == {"flan_t5_xl": 0.5, "llama2_7b_chat": 1.0}
    assert list(config.teachers) == ["flan_t5_xl", "llama2_7b_chat"]
    assert [config.teachers[name].prefix for name in config.teachers] == ["explain: ", "rationale: "]
    assert (config.optimizer.lr, config.trainer.batch_size, config.trainer.max_epochs) == (5e-5, 8, 1)
    assert config.student.max_source_length == 1024


@pytest.mark.parametrize("student", ["tiny", "flan_t5_large"])
def test_the_paper_preset_sets_the_settings_of_section_4_1(student: str) -> None:
    config = composed("experiment=paper", f"student={student}")
    assert (config.optimizer.lr, config.trainer.batch_size, config.trainer.max_epochs) == (5e-5, 8, 1)
    assert config.student.max_source_length == 1024 and config.trainer.gradient_clip is None


@pytest.mark.parametrize("name", sorted(CONTRACT["experiment"] - {"minilab", "authors_code", "teachers"}))
def test_every_experiment_has_the_papers_settings(name: str) -> None:
    """And the call's own choice stands."""
    teachers, student = ["teachers=paper"], ["student=flan_t5_small"]
    found = deviations(composed(f"experiment={name}", "data=arc", *teachers, *student))
    sampled = {"teachers.flan_t5_xl.temperature", "teachers.llama2_7b_chat.temperature"}  # two samples must differ
    assert set(found) == (sampled if name == "table2_ablation" else set())
    assert composed(f"experiment={name}", "trainer.max_epochs=3", "student=flan_t5_base").trainer.max_epochs == 3


@pytest.mark.parametrize("data", GROUPS["data"])
def test_what_the_authors_code_does_composes_with_every_dataset_and_student(data: str) -> None:
    root = ["data.root=questions.jsonl"] if data == "jsonl" else []
    for student in GROUPS["student"]:
        config = composed("experiment=authors_code", f"data={data}", f"student={student}", *root)
        trainer = config.trainer
        assert (trainer.batch_size, trainer.accumulate_grad_batches, trainer.max_epochs) == (64, 8, 64)
        assert (config.student.max_source_length, config.student.max_target_length) == (100, 256)
        assert (trainer.gradient_clip, config.loss.reduction, trainer.select_by) == (1.0, "token", "accuracy_exact")
        assert config.optimizer == composed("experiment=paper").optimizer


def test_composing_leaves_a_running_application_as_it_is() -> None:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        inside = GlobalHydra.instance().hydra
        compose("train", ["seed=3"])
        assert inside is not None and GlobalHydra.instance().hydra is inside
        assert hydra.compose("train", ["seed=4"]).seed == 4
    assert GlobalHydra.instance().hydra is None


@pytest.mark.parametrize("key", ["extra", "trainer.extra", "teachers.terse.extra"])
def test_a_key_that_no_stage_reads_is_refused(key: str) -> None:
    refuse_unknown_keys(compose("train", ["+student.architecture.own=1"]))  # a mapping takes any key
    with pytest.raises(UserError, match=key):
        refuse_unknown_keys(compose("train", [f"+{key}=1"]))
