"""What a run reads of its teachers besides training texts: rationales of the source, and the teacher's own answers."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tinyllm.config import (
    AblationConfig,
    DataConfig,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    RationalesConfig,
    Source,
    StreamConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.data.minilab import VOICES, argue, generate
from tinyllm.errors import UserError
from tinyllm.parsing import parse_answer, without_conclusion
from tinyllm.prompts import student_source
from tinyllm.records import PromptKind, Question, Rationale, Split, asked_hash
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import (
    check_unchanged,
    is_recorded,
    shuffle_by_options,
    source_rationales,
    teacher_answers,
    training_streams,
)

FORCED = PromptKind.forced
QUESTIONS = [Question(f"q{i}", f"What is {i}?", ("a cup", "a cap"), "a cup") for i in range(4)]
PINTO = MethodConfig(name="pinto", source_rationale=True, streams={"answer": StreamConfig()})
KD = MethodConfig(name="standard_kd", streams={
    "answer": StreamConfig(), "teacher_answer": StreamConfig(Target.teacher_answer, WhichTeachers.one),
})  # fmt: skip


def config(tmp_path: Path, method: MethodConfig) -> ExperimentConfig:
    teachers = {name: TeacherConfig(name=name, model=name, prefix=f"{name}: ") for name in ("owl", "fox")}
    return ExperimentConfig(
        store=str(tmp_path / "store"), data=DataConfig(name="minilab", source=Source.builtin), method=method,
        teachers=teachers, prompt=PromptConfig(examples=0),
    )  # fmt: skip


def keep(here: ExperimentConfig, split: Split, texts: dict[str, tuple[str, str | None]], teacher: str = "owl") -> None:
    """Each text is a solution; of PINTO the case for the second option, beside one for the first."""
    kind = PromptKind.per_option if here.method.source_rationale else PromptKind.solve
    key = prompt_key(here.teachers[teacher], here.prompt, kind, "minilab", pool=None, recorded=False)

    def record(question_id: str, text: str, own: str | None, option: int | None) -> Rationale:
        return Rationale("minilab", split, question_id, teacher, 0, key, text, own, "stop", 5, "2024", option)

    store = RationaleStore(Path(here.store))
    for i, (text, own) in texts.items():
        if here.method.source_rationale:
            store.append([record(i, "Cups are for tea.", None, 0), record(i, text, None, 1)])
        else:
            store.append([record(i, text, own, None)])


TEXTS: dict[str, tuple[str, str | None]] = {
    "q0": ("Let's think step by step. Cups hold tea. The answer is (a).", "a cup"),
    "q1": ("So the answer is (b) a cap.\n", "a cap"),
    "q2": (" \n", None),
    "q3": ("Who knows?", None),
}


def test_source_rationales_are_the_cases_by_option_without_a_verdict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is any rejected: to reject a text that concludes wrongly would tell the right answer at test."""
    here = config(tmp_path, PINTO)
    here.rationales = RationalesConfig(reject=["empty", "other_answer", "wrong_options"])
    keep(here, "test", TEXTS)
    with caplog.at_level(logging.WARNING):
        found = source_rationales(here, QUESTIONS, "test")
    first = "Cups are for tea."
    assert found == {"q0": (first, "Cups hold tea."), "q1": (first, ""), "q2": (first, ""), "q3": (first, "Who knows?")}
    assert "2 options of 4 test questions have an empty rationale of owl" in caplog.text
    here.rationales.clean = False
    assert source_rationales(here, QUESTIONS, "test")["q0"][1].startswith("Let's think")
    here.rationales.shuffle = True
    mixed = source_rationales(here, QUESTIONS, "test")
    assert sorted(mixed) == ["q0", "q1", "q2", "q3"] and mixed["q3"][1] != "Who knows?"
    assert (first, "Who knows?") in mixed.values()


@pytest.mark.parametrize("verdict", ["The answer is (b) a cap.", "Hence, a cap is the right answer.", "(b) a cap"])
def test_no_source_at_test_names_an_answer(tmp_path: Path, verdict: str) -> None:
    """A student that reads the teacher's answer copies it; whatever it said, its case for an option is all there is."""
    here = config(tmp_path, PINTO)
    keep(here, "test", dict.fromkeys(TEXTS, (f"A cap is worn on the head.\n{verdict}", None)))
    sources = [
        student_source(question, "predict: ", case)
        for question in QUESTIONS
        for case in source_rationales(here, QUESTIONS, "test")[question.id]
    ]
    rationales = {rationale for *_, rationale in sources}
    assert rationales == {"\nRationale: Cups are for tea.", "\nRationale: A cap is worn on the head."}


@pytest.mark.parametrize("voice", VOICES)
def test_scripted_cases_name_no_answer_and_do_not_tell_which_is_right(voice: str) -> None:
    splits = generate(0)
    for question in [*splits[Split.test], *splits[Split.train][:500]]:
        cases = [argue(question, option, voice) for option in range(len(question.choices))]
        assert all(parse_answer(case, question.choices) is None for case in cases)
        assert all(without_conclusion(case, question.choices) == case for case in cases)
        other = next(choice for choice in question.choices if choice != question.answer)
        assert cases == [argue(replace(question, answer=other), i, voice) for i in range(len(question.choices))]


def test_shuffled_cases_go_to_a_question_with_as_many_options() -> None:
    texts = {f"q{i}": tuple(f"{i}/{option}" for option in range(2 + i % 2)) for i in range(8)}
    mixed = shuffle_by_options(texts, 0)
    assert sorted(mixed.values()) == sorted(texts.values())
    assert all(mixed[i] != own and len(mixed[i]) == len(own) for i, own in texts.items())


def test_another_text_in_the_store_is_another_source(tmp_path: Path) -> None:
    here = config(tmp_path, replace(PINTO, teacher="fox"))
    keep(here, "test", TEXTS)
    keep(here, "test", dict.fromkeys(TEXTS, ("Foxes say.", "a cup")), "fox")
    assert {texts[1] for texts in source_rationales(here, QUESTIONS, "test").values()} == {"Foxes say."}
    assert source_rationales(replace(here, method=KD), QUESTIONS, "test") == {}


def test_missing_rationales_name_the_split_to_ask_about(tmp_path: Path) -> None:
    here = config(tmp_path, PINTO)
    keep(here, "train", TEXTS)
    assert source_rationales(here, QUESTIONS, "train")
    with pytest.raises(UserError, match=r"4 of 4 minilab/test .* owl .* 'tinyllm rationales' "):
        source_rationales(here, QUESTIONS, "test")
    with pytest.raises(UserError, match=r"rationales\.splits=\[test\]"):
        source_rationales(here, QUESTIONS, "test")


def test_answers_of_the_teacher_itself_are_those_that_could_be_parsed(tmp_path: Path) -> None:
    here = config(tmp_path, KD)
    keep(here, "train", TEXTS)
    assert teacher_answers(here, QUESTIONS) == {"q0": "a cup", "q1": "a cap"}
    assert teacher_answers(here, QUESTIONS[1:]) == {"q1": "a cap"}
    assert teacher_answers(replace(here, method=PINTO), QUESTIONS) == {}


def test_a_run_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    """Beside gold answers a teacher without one is left out; alone it leaves nothing."""
    here = config(tmp_path, KD)
    keep(here, "train", {i: ("Who knows?", None) for i in TEXTS})
    assert [stream.name for stream in training_streams(here, QUESTIONS)] == ["answer"]
    alone = {"answer": StreamConfig(weight=0.0), "teacher_answer": KD.streams["teacher_answer"]}
    here = replace(here, method=replace(KD, streams=alone))
    message = r"^method=standard_kd: .*none .* 4 .*teacher_answer.*method\.teacher.*method\.streams\.answer\.weight"
    with pytest.raises(UserError, match=message):
        training_streams(here, QUESTIONS)
    assert training_streams(replace(here, method=replace(here.method, train=False)), QUESTIONS) == []


@pytest.mark.parametrize("method", [PINTO, KD], ids=lambda method: method.name)
def test_a_teacher_that_the_ablation_drops_can_not_be_read(tmp_path: Path, method: MethodConfig) -> None:
    here = replace(config(tmp_path, method), ablation=AblationConfig(name="no_owl", drop=["owl"]))
    with pytest.raises(UserError, match=f"method={method.name} reads owl, which ablation=no_owl drops"):
        source_rationales(here, QUESTIONS, "train") or teacher_answers(here, QUESTIONS)


def test_recorded_texts_are_those_of_the_papers_two_on_the_release() -> None:
    release = ExperimentConfig(data=DataConfig(name="obqa", source=Source.release))
    flan = TeacherConfig(name="flan_t5_xl", model="google/flan-t5-xl", prefix="explain: ")
    assert is_recorded(release, flan, FORCED)
    assert not is_recorded(release, replace(flan, name="smollm2"), FORCED)
    assert not is_recorded(release, replace(flan, name="again", stored_as="flan_t5_xl", sample=1), FORCED)
    assert not is_recorded(replace(release, data=DataConfig(name="obqa", source=Source.hub)), flan, FORCED)
    assert not is_recorded(replace(release, prompt=PromptConfig(examples=0)), flan, FORCED)
    assert not any(is_recorded(release, flan, kind) for kind in PromptKind if kind is not FORCED)
    assert not is_recorded(replace(release, rationales=RationalesConfig(recorded=False)), flan, FORCED)


def test_reading_loads_no_model_library_no_engine_and_nothing_that_asks() -> None:
    """Reports and runs read stored texts: they start without the seconds that torch and transformers take."""
    code = "import sys, tinyllm.runs, tinyllm.teachers.stored; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tinyllm.teachers.store" in loaded
    heavy = {"torch", "transformers", "openai", "lightning", "tinyllm.student"}
    assert not [
        name
        for name in loaded
        if name.split(".")[0] in heavy or name.startswith(("tinyllm.teachers.engines", "tinyllm.teachers.asking"))
    ]


@pytest.mark.parametrize(
    ("name", "source", "refused"),
    [
        ("mine", Source.jsonl, True), ("mine", Source.hub, True),
        ("obqa", Source.hub, False), ("obqa", Source.release, False), ("minilab", Source.builtin, False),
    ],
)  # fmt: skip
def test_texts_about_other_questions_than_a_dataset_of_ones_own_has_are_refused(
    tmp_path: Path, name: str, source: Source, refused: bool
) -> None:
    """A row that was put in front moves all ids that are row numbers."""
    here = replace(config(tmp_path, KD), data=DataConfig(name=name, source=source))
    moved = replace(QUESTIONS[0], id=QUESTIONS[1].id)
    asked = asked_hash(QUESTIONS[1])
    record = Rationale(name, Split.train, moved.id, "owl", 0, "k", "It is.", None, "stop", 3, "2026-01-01", asked=asked)
    check_unchanged(here, QUESTIONS, {record.key: record}, Split.train)
    with pytest.raises(UserError, match="q1 is the first") if refused else nullcontext():
        check_unchanged(here, [moved], {record.key: record}, Split.train)
