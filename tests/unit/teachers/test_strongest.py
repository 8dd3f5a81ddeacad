"""Two samples of the strongest teacher in place of the set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tinyllm.config import (
    AblationConfig,
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    Source,
    StreamConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.data.minilab import explain, generate
from tinyllm.errors import UserError
from tinyllm.methods import two_samples_of
from tinyllm.records import PromptKind
from tinyllm.teachers.asking.plan import plan_turns
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import resolve_strongest_teacher, stored

TINYLLM = MethodConfig(name="tinyllm", streams={"rationale": StreamConfig(Target.rationale, WhichTeachers.all)})
KD = MethodConfig(name="kd", streams={"teacher_answer": StreamConfig(Target.teacher_answer, WhichTeachers.one)})


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Minilab's teachers, the weaker one first: wordy errs on a quarter of its free answers, terse on a tenth."""
    return ExperimentConfig(
        store=str(tmp_path / "store"),
        data=DataConfig(name="minilab", source=Source.builtin),
        teachers={
            name: TeacherConfig(name=name, engine=Engine.scripted, model=name, prefix=f"{name}: ")
            for name in ("wordy", "terse")
        },
        alpha={"wordy": 1.0, "terse": 0.5},
        ablation=AblationConfig(name="no_diverse_teachers", strongest="valid"),
        method=TINYLLM,
    )


def run(config: ExperimentConfig) -> None:
    questions = generate(0)
    take_turns(plan_turns(config, questions), RationaleStore(Path(config.store)), questions, Console(quiet=True))


def answer_freely(config: ExperimentConfig) -> None:
    asked = replace(config, method=KD, ablation=AblationConfig())
    asked.rationales.splits = ["valid"]
    run(asked)


def test_the_strongest_is_found_on_validation(config: ExperimentConfig) -> None:
    answer_freely(config)
    changed = resolve_strongest_teacher(config, generate(0)["valid"])
    assert list(changed.teachers) == ["terse", "terse_2"]
    assert changed.alpha == {"terse": 0.5, "terse_2": 0.5}
    first, second = changed.teachers.values()
    assert (first.sample, second.sample) == (0, 1)
    assert (second.stored_as, second.prefix) == ("terse", "terse again: ")
    later = replace(config, teachers={"terse": replace(first, sample=3)})
    assert [one.sample for one in two_samples_of(later, "terse").teachers.values()] == [3, 4]
    assert first == config.teachers["terse"], "its first texts are those that the store has already"
    assert list(config.teachers) == ["wordy", "terse"], "the run's own configuration stays"


def test_its_second_texts_are_others(config: ExperimentConfig) -> None:
    questions = generate(0)
    changed = two_samples_of(config, "terse")
    run(changed)
    second = stored(changed, changed.teachers["terse_2"], PromptKind.forced, "train")
    assert all(second[q.id].text == explain(q, "terse", 1) for q in questions["train"])
    differ = sum(second[q.id].text != explain(q, "terse", 0) for q in questions["train"])
    assert differ > 0.9 * len(questions["train"])


def test_without_answers_the_command_is_told(config: ExperimentConfig) -> None:
    asked = r"run 'tinyllm evaluate teacher=wordy teacher\.temperature=0 .*evaluation\.split=valid'"
    with pytest.raises(UserError, match=asked):
        resolve_strongest_teacher(config, generate(0)["valid"])


def test_a_name_needs_no_answers_and_must_be_in_the_set(config: ExperimentConfig) -> None:
    named = replace(config, ablation=AblationConfig(strongest="wordy"))
    assert list(resolve_strongest_teacher(named, []).teachers) == ["wordy", "wordy_2"]
    wrong = replace(config, ablation=AblationConfig(strongest="nobody"))
    with pytest.raises(UserError, match=r"^ablation\.strongest=nobody: .*valid.*wordy, terse"):
        resolve_strongest_teacher(wrong, [])


def test_both_samples_are_decoded_as_the_whole_method_is(config: ExperimentConfig) -> None:
    """A sampled pair against a greedy one would measure the sampling; a greedy pair is refused when it is asked."""
    model = TeacherConfig(name="m", engine=Engine.transformers, model="m", prefix="m: ", temperature=0.0)
    greedy = two_samples_of(replace(config, teachers={"m": model}), "m")
    assert [teacher.temperature for teacher in greedy.teachers.values()] == [0.0, 0.0]
    second = replace(greedy, teachers={"m_2": greedy.teachers["m_2"]}, prompt=PromptConfig(examples=0))
    with pytest.raises(UserError, match=r"teacher m_2: sample 1 .* teachers\.m_2\.temperature"):
        run(second)


def test_a_teacher_that_is_left_out_is_not_the_strongest(config: ExperimentConfig) -> None:
    answer_freely(config)
    for left_out in (
        replace(config, ablation=AblationConfig(strongest="valid", drop=["terse"])),
        replace(config, alpha={**config.alpha, "terse": 0.0}),
    ):
        assert list(resolve_strongest_teacher(left_out, generate(0)["valid"]).teachers) == ["wordy", "wordy_2"]
    nobody = replace(config, alpha={"terse": 0.0, "wordy": 0.0})
    with pytest.raises(UserError, match=r"ablation\.strongest=valid: expected a teacher .* found none"):
        resolve_strongest_teacher(nobody, generate(0)["valid"])


def test_a_method_without_teachers_needs_no_strongest(config: ExperimentConfig) -> None:
    plain = replace(config, method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}))
    assert resolve_strongest_teacher(plain, []) is plain


def test_other_ablations_change_nothing(config: ExperimentConfig) -> None:
    plain = replace(config, ablation=AblationConfig())
    assert resolve_strongest_teacher(plain, []) is plain
