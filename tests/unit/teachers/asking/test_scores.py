"""A teacher's scores of the options: against one plain forward a text, kept in the store, read by a student like it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.conftest import small_t5
from tests.unit.teachers.engines.test_transformers import save as save_engine

from tinyllm.cli.rationales import main
from tinyllm.config import (
    BudgetConfig,
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    RationalesConfig,
    RationalesStageConfig,
    Source,
    StreamConfig,
    StudentConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.data import minilab
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.prompts import student_source
from tinyllm.records import PromptKind, Split
from tinyllm.student import models
from tinyllm.student.student import Student
from tinyllm.student.tokenizer import train_tokenizer
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.plan import plan_turn
from tinyllm.teachers.asking.scores import ask_for_scores
from tinyllm.teachers.engines.protocol import ScoreRequest
from tinyllm.teachers.engines.transformers import TransformersEngine
from tinyllm.teachers.ledger import read_ledger
from tinyllm.teachers.prompt_key import scores_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import option_scores
from tinyllm.teachers.vocabulary import vocabulary_hash

QUESTIONS = minilab.generate(0)["train"][:5]
TOKENIZER = train_tokenizer(["".join(student_source(q, "predict: ")) for q in QUESTIONS], max_size=300)
METHOD = MethodConfig(name="standard_kd_logits", streams={
    "answer": StreamConfig(),
    "teacher_options": StreamConfig(Target.teacher_options, WhichTeachers.one),
})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and a student of one vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("teacher", "student")):
        Student(small_t5(seed, tied=True, vocab=320), TOKENIZER, "predict: ").save(folder / name)
    return folder


def config(folder: Path, store: Path) -> ExperimentConfig:
    teacher = TeacherConfig(name="big", model=str(folder / "teacher"), prefix="big: ", dtype="float32", batch_size=2)
    return ExperimentConfig(
        store=str(store), data=DataConfig(name="minilab", source=Source.builtin), method=METHOD,
        student=StudentConfig(name="small", pretrained=str(folder / "student")), teachers={"big": teacher},
        rationales=RationalesConfig(splits=["train"]),
    )  # fmt: skip


def ask(config: ExperimentConfig) -> None:
    """What the rationales stage does after the texts."""
    turn = plan_turn(config, config.teachers["big"], PromptKind.solve, Split.train)
    store = RationaleStore(Path(config.store))
    ask_for_scores(turn, config.student, store, QUESTIONS, Budget(), Console(quiet=True))


def plain_scores(folder: Path) -> dict[str, list[float]]:
    """One forward a text, without padding."""
    model = models.load_pretrained(str(folder / "teacher"))[0].eval()
    found = {}
    for question in QUESTIONS:
        source = TOKENIZER("".join(student_source(question, "")), return_tensors="pt").input_ids
        with torch.no_grad():
            found[question.id] = [
                -model(input_ids=source, labels=TOKENIZER(option, return_tensors="pt").input_ids).loss.item()
                for option in question.choices
            ]
    return found


def test_scores_are_the_mean_token_log_likelihoods(folder: Path) -> None:
    engine = TransformersEngine(model=str(folder / "teacher"), dtype="float32", batch_size=3)
    requests = [ScoreRequest(q.id, "".join(student_source(q, "")), q.choices) for q in QUESTIONS]
    requests[1] = replace(requests[1], options=requests[1].options[:2])  # options differ in number
    done = {one.id: json.loads(one.text) for batch in engine.score(requests) for one in batch}
    expected = plain_scores(folder)
    expected[QUESTIONS[1].id] = expected[QUESTIONS[1].id][:2]
    assert done.keys() == expected.keys()
    for i, scores in expected.items():
        assert done[i] == pytest.approx(scores, rel=1e-5)


def test_the_rationales_stage_keeps_scores_that_training_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = config(folder, tmp_path / "store")
    with pytest.raises(UserError, match=r"5 of 5 minilab/train .*\bbig\b.*'tinyllm rationales'"):
        option_scores(here, QUESTIONS)
    ask(here)
    found = option_scores(here, QUESTIONS[::-1])
    for i, scores in plain_scores(folder).items():
        assert found[i] == pytest.approx(scores, rel=1e-5)
    monkeypatch.setattr(TransformersEngine, "score", lambda *_: pytest.fail("asked twice"))
    ask(here)
    assert option_scores(replace(here, method=MethodConfig(name="full_ft", streams={"a": StreamConfig()})), []) == {}


def test_scores_of_other_options_are_refused(folder: Path, tmp_path: Path) -> None:
    here = config(folder, tmp_path / "store")
    here.data.source = Source.jsonl
    ask(here)
    changed = [replace(QUESTIONS[0], choices=QUESTIONS[0].choices[::-1]), *QUESTIONS[1:]]
    with pytest.raises(UserError, match=rf"{QUESTIONS[0].id} is the first.*new ids"):
        option_scores(here, changed)


def test_scores_keep_to_the_budget_and_are_in_the_ledger(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A budget of nothing prints the plan alone and loads no weights; in the end every question was paid once."""
    composed = config(folder, tmp_path / "store")
    composed.data.limit_train = 5
    here = RationalesStageConfig(**vars(composed))
    asked = load_questions(here.data)[Split.train]
    tokens = {q.id: len(TOKENIZER("".join(student_source(q, "")))["input_ids"]) for q in asked}
    store = RationaleStore(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "_load", lambda _: pytest.fail("loaded the weights"))
        main(replace(here, budget=BudgetConfig(tokens=0)), tmp_path)
        with pytest.raises(UserError, match=r"budget\.money=1: .*teachers\.big\.price_prompt"):
            main(replace(here, budget=BudgetConfig(money=1.0)), tmp_path)
    out = capsys.readouterr().out
    assert "has 0 of 5 option scores, 5 to ask" in out and "nothing was asked, as the budget is 0" in out
    assert not list(store.folder.rglob("*.jsonl")) and read_ledger(store.folder) == []
    with pytest.raises(UserError, match=r"of budget\.tokens=500.* train texts of big are still missing"):
        main(replace(here, budget=BudgetConfig(tokens=500)), tmp_path)
    (line,) = read_ledger(store.folder)
    assert 0 < line.prompts < 5 and line.prompt_tokens <= 500
    main(here, tmp_path)
    lines = read_ledger(store.folder)
    assert sum(line.prompts for line in lines) == 5
    assert sum(line.prompt_tokens for line in lines) == sum(tokens.values())


def test_a_student_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    here = config(folder, tmp_path / "store")
    ask(here)
    other = train_tokenizer(["some other words"], max_size=300)
    Student(small_t5(vocab=320), other, "predict: ").save(tmp_path / "other")
    theirs = replace(here, student=StudentConfig(name="other", pretrained=str(tmp_path / "other")))
    with pytest.raises(UserError, match=r"teacher big: expected the student's vocabulary, .*method=standard_kd"):
        ask(theirs)
    with pytest.raises(UserError, match="lack option scores"):
        option_scores(theirs, QUESTIONS)


@pytest.mark.parametrize("engine", [Engine.scripted, Engine.openai])
def test_teachers_without_likelihoods_are_refused(engine: Engine, folder: Path, tmp_path: Path) -> None:
    here = config(folder, tmp_path)
    here.teachers["big"].engine = engine
    message = f"teacher big \\({engine} engine\\)"
    with pytest.raises(UserError, match=message):
        option_scores(here, QUESTIONS)
    with pytest.raises(UserError, match=message):
        ask(here)


def test_a_student_from_scratch_and_a_decoder_are_refused(folder: Path, tmp_path: Path) -> None:
    here = replace(config(folder, tmp_path), student=StudentConfig(name="tiny"))
    with pytest.raises(UserError, match=r"^student=tiny .*method=standard_kd"):
        option_scores(here, QUESTIONS)
    engine = TransformersEngine(model=save_engine(tmp_path / "decoder", encoder_decoder=False), dtype="float32")
    with pytest.raises(UserError, match="encoder-decoder"):
        next(engine.score([ScoreRequest("q", "w1", ("w2", "w3"))]))


def test_the_key_follows_model_and_vocabulary_and_nothing_of_the_sampling() -> None:
    teacher = TeacherConfig(name="big", model="m", prefix="big: ")
    key = scores_key(teacher, "v")
    assert key == scores_key(replace(teacher, temperature=0.7, chat=True, max_new_tokens=3, batch_size=1), "v")
    others = [scores_key(replace(teacher, model="n"), "v"), scores_key(replace(teacher, revision="r"), "v")]
    assert len({key, *others, scores_key(teacher, "w")}) == 4


def test_vocabularies_are_compared_by_their_entries(folder: Path) -> None:
    saved = models.load_pretrained(str(folder / "teacher"))[1]
    assert vocabulary_hash(saved) == vocabulary_hash(TOKENIZER)
    assert vocabulary_hash(train_tokenizer(["some other words"], 300)) != vocabulary_hash(TOKENIZER)
