"""The shipped teachers and teacher sets: every file fits the typed config, and a set is what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tinyllm.config import Engine, ExperimentConfig, TeacherConfig

CONF = Path(__file__).parents[3] / "conf"
SETS = sorted(file.stem for file in (CONF / "teachers").glob("*.yaml"))


def composed(name: str) -> ExperimentConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = compose(overrides=[f"+teachers={name}"])
    merged = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), content)
    config = OmegaConf.create({"teachers": merged.teachers, "alpha": merged.alpha})
    alpha = OmegaConf.to_container(config.alpha)
    teachers = {
        str(key): OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TeacherConfig), value))
        for key, value in config.teachers.items()
    }
    return ExperimentConfig(teachers=teachers, alpha=alpha)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", sorted((CONF / "teacher").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_teacher_file_fits_the_schema(file: Path) -> None:
    teacher = OmegaConf.merge(OmegaConf.structured(TeacherConfig), OmegaConf.load(file))
    assert teacher.name == file.stem
    assert teacher.prefix.endswith(": ")
    if teacher.engine is not Engine.scripted and file.stem not in ("openai", "smollm2"):
        assert len(teacher.revision) == 40, "a model on the hub is pinned to a commit"
        assert teacher.licence


@pytest.mark.parametrize("name", SETS)
def test_a_set_names_its_teachers_and_their_weights(name: str) -> None:
    config = composed(name)
    assert list(config.teachers) == list(config.alpha)
    assert [teacher.name for teacher in config.teachers.values()] == list(config.teachers)
    assert len({teacher.prefix for teacher in config.teachers.values()}) == len(config.teachers)


def test_the_papers_set_is_the_papers() -> None:
    teachers = composed("paper").teachers
    assert list(teachers) == ["flan_t5_xl", "llama2_7b_chat"]
    assert [teacher.prefix for teacher in teachers.values()] == ["explain: ", "rationale: "]
    assert [teacher.model for teacher in teachers.values()] == ["google/flan-t5-xl", "meta-llama/Llama-2-7b-chat-hf"]
