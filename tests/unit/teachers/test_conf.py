"""The shipped teachers and teacher sets: every file fits the typed config, and a set is what its name says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tinyllm.cli.alpha_grid import search_of
from tinyllm.cli.main import one_line
from tinyllm.compose import compose as compose_stage
from tinyllm.config import Engine, ExperimentConfig, TeacherConfig
from tinyllm.data import minilab
from tinyllm.errors import UserError
from tinyllm.methods import build_streams

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
    if teacher.engine not in (Engine.scripted, Engine.file) and file.stem not in ("openai", "smollm2"):
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


def test_a_set_is_a_list_of_names_without_a_file_of_its_own() -> None:
    names = ["flan_t5_xl", "qwen3_4b", "smollm2"]
    config = compose_stage("train", [f"teachers=[{','.join(names)}]", "alpha.qwen3_4b=0.5"])
    assert list(config.teachers) == names and dict(config.alpha) == {"flan_t5_xl": 1, "qwen3_4b": 0.5, "smollm2": 1}
    for name in names:
        assert config.teachers[name] == OmegaConf.merge(
            OmegaConf.structured(TeacherConfig), OmegaConf.load(CONF / "teacher" / f"{name}.yaml")
        )
    assert list(compose_stage("train", ["teachers=qwen3_4b"]).teachers) == ["qwen3_4b"]
    mixed = compose_stage("train", ["experiment=table1", "teachers=[smollm2,minilab]"])
    assert list(mixed.teachers) == ["smollm2", "terse", "wordy"] and mixed.alpha.terse == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [("teachers=[terse,nobody]", r"^teachers=nobody: no such option; expected one of .*minilab4.*qwen3_4b"),
     ("teachers=[terse,terse]", r"^[^\n]*teachers\.terse appears more than once[^\n]*$")],
)  # fmt: skip
def test_a_wrong_list_is_told_in_one_line(given: str, named: str) -> None:
    with pytest.raises(HydraException) as error:
        compose_stage("train", [given])
    assert re.search(named, one_line(error.value))


def test_every_teacher_is_a_set_of_one_and_no_two_share_a_prefix() -> None:
    prefixes = {}
    for file in sorted((CONF / "teacher").glob("*.yaml")):
        model = ["teachers.openai.model=x"] if file.stem == "openai" else []
        config = compose_stage("train", [f"teachers=[{file.stem}]", *model])
        assert list(config.teachers) == list(config.alpha) == [file.stem]
        prefixes[file.stem] = config.teachers[file.stem].prefix
    assert len({*prefixes.values(), "predict: "}) == len(prefixes) + 1


def test_teachers_that_are_given_one_prefix_are_named() -> None:
    config = compose_stage("train", ["teachers=[terse,smollm2,wordy]", "teachers.wordy.prefix='smollm: '"])
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, ExperimentConfig)
    questions = minilab.generate(0)["train"][:3]
    texts = {name: {q.id: "Because." for q in questions} for name in typed.teachers}
    with pytest.raises(UserError, match=r"'smollm: ' for smollm2 and wordy: set teachers\.<name>\.prefix"):
        build_streams(typed.method, typed.teachers, typed.alpha, [], questions, texts)


def test_a_list_of_teachers_is_one_set_for_a_search() -> None:
    assert search_of(["-m", "alpha=grid", "teachers=[terse,wordy]"]) == "grid"
    with pytest.raises(UserError, match="one teacher set"):
        search_of(["-m", "alpha=grid", "teachers=[terse],[wordy]"])
