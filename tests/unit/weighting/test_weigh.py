"""Every weighting against a naive reference, and what an importance does to a step."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.conftest import byte_level, small_decoder, small_t5
from tests.unit.teachers.engines.test_transformers import save as save_engine

from tinyllm.checks import broken_rules
from tinyllm.config import (
    Accelerator,
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    Reduction,
    Source,
    StreamConfig,
    StudentConfig,
    Target,
    TeacherConfig,
    TrainerConfig,
    Weighting,
    WeightingConfig,
    WhichTeachers,
)
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.data.steps import MicroBatch
from tinyllm.errors import UserError
from tinyllm.methods import Stream, build_streams, kinds_to_ask, single_target
from tinyllm.prompts import student_source
from tinyllm.records import PromptKind, Question, Rationale, Split
from tinyllm.student.module import StudentModule
from tinyllm.student.student import Student
from tinyllm.student.tokenizer import train_tokenizer
from tinyllm.student.training import fit, train
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.confidence import ask_for_confidence, source_of
from tinyllm.teachers.asking.plan import plan_turn
from tinyllm.teachers.engines.protocol import ScoreRequest
from tinyllm.teachers.engines.transformers import TransformersEngine
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import conflicts, expectations
from tinyllm.weighting.routing import fold_of, random_route, route, solving_chances
from tinyllm.weighting.similarity import agreement
from tinyllm.weighting.surprisal import rank_surprisal_ratios
from tinyllm.weighting.weigh import left, normalised, softmax, summary, weigh

QUESTIONS = [
    Question("q1", "What keeps soup warm?", ("a flask", "a wide sieve", "ice"), "a flask"),
    Question("q2", "What lifts a piano?", ("a spoon", "a tall crane"), "a tall crane"),
    Question("q3", "What marks the hour?", ("a bell", "a brick", "fog", "a pile of sand"), "a bell"),
    Question("q4", "What cuts wood?", ("a saw", "a pile of ice"), "a saw"),
    Question("q5", "What is white?", ("snow", "a crane", "coal"), "snow"),
]
TEXTS = {
    "owl": {"q1": "A flask keeps warm.", "q2": "A tall crane lifts a piano.", "q4": "A saw cuts."},
    "fox": {"q1": "A flask is what keeps soup warm.", "q2": "A spoon lifts it.", "q3": "A bell rings."},
    "hen": {"q1": "Ice is warm.", "q2": "The tall crane lifts a piano.", "q4": "A pile of ice cuts."},
}
"""On q2 fox, and on q1 and q4 hen, names a wrong option and not the right one."""
OWN = {
    "owl": dict.fromkeys(("q1", "q2", "q4"), True) | {"q3": False, "q5": True},
    "fox": {"q1": True, "q2": False, "q3": False, "q4": True, "q5": True},
    "hen": {"q1": False, "q2": False, "q3": True, "q4": False, "q5": True},
}
"""Who solves what."""
METHOD = MethodConfig(name="tinyllm", streams={
    "answer": StreamConfig(), "rationale": StreamConfig(Target.rationale, WhichTeachers.all),
})  # fmt: skip
WORDS = [text for by_id in TEXTS.values() for text in by_id.values()]
TOKENIZER = train_tokenizer(
    ["".join(student_source(q, "predict: owl: fox: hen: ")) for q in QUESTIONS] + WORDS, max_size=300
)


def config(folder: Path, name: str = "uniform", **settings: object) -> ExperimentConfig:
    teachers = {m: TeacherConfig(name=m, engine=Engine.scripted, model=m, prefix=f"{m}: ") for m in TEXTS}
    return ExperimentConfig(
        store=str(folder / "store"), cache=str(folder / "cache"), method=METHOD, teachers=teachers,
        data=DataConfig(name="minilab", source=Source.builtin), prompt=PromptConfig(examples=0),
        student=StudentConfig(name="small", max_source_length=200, max_target_length=50),
        trainer=TrainerConfig(precision="32-true", batch_size=4, max_epochs=2, log_every=1, valid_every=1.0),
        weighting=WeightingConfig(name=Weighting(name), **settings),
    )  # fmt: skip


def keep(here: ExperimentConfig) -> None:
    """Forced texts (none is empty) and solutions, as the rationales stage stores them."""
    store = RationaleStore(Path(here.store))
    for name, teacher in here.teachers.items():
        for kind in (PromptKind.forced, PromptKind.solve):
            key = prompt_key(teacher, here.prompt, kind, "minilab", pool=None, recorded=False)
            for q in QUESTIONS:
                wrong = next(choice for choice in q.choices if choice != q.answer)
                own = None if kind is PromptKind.forced else q.answer if OWN[name][q.id] else wrong
                text = TEXTS[name].get(q.id, "")
                store.append([Rationale("minilab", Split.train, q.id, name, 0, key, text, own, "stop", 5, "2026")])


def streams_of(here: ExperimentConfig) -> list[Stream]:
    return build_streams(here.method, here.teachers, {"owl": 2.0, "fox": 1.0, "hen": 0.5}, [], QUESTIONS, TEXTS)


def student_in(folder: Path, dropout: float = 0.0) -> Student:
    return Student(small_t5(vocab=320, dropout=dropout), TOKENIZER, "predict: ", cache=folder / "cache")


def importances(here: ExperimentConfig, folder: Path) -> dict[str, dict[str, float]]:
    found = left(weigh(here, QUESTIONS, streams_of(here), student_in(folder)))
    assert not found[0].importance, "the answers have none"
    return {stream.name: dict(stream.importance) for stream in found[1:]}


def approx(values: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    return {m: pytest.approx(dict(by_id)) for m, by_id in values.items()}


# The arithmetic


def test_a_questions_importances_add_up_to_its_number_of_texts() -> None:
    given = normalised({"owl": {"a": 1.0, "b": 0.0, "c": 0.2}, "fox": {"a": 3.0, "b": 0.0}})
    assert given == approx({"owl": {"a": 0.5, "b": 0.0, "c": 1.0}, "fox": {"a": 1.5, "b": 0.0}})


def test_softmax_over_the_teachers_that_have_a_text() -> None:
    found = softmax({"owl": {"a": 1.0, "b": -900.0}, "fox": {"a": 2.0}}, 0.5)
    assert found["owl"]["a"] == pytest.approx(math.exp(2) / (math.exp(2) + math.exp(4)))
    assert found["owl"]["a"] + found["fox"]["a"] == pytest.approx(1) and found["owl"]["b"] == 1


# The options


def test_uniform_leaves_the_streams_as_they_are(tmp_path: Path) -> None:
    here = config(tmp_path)
    before = streams_of(here)
    assert weigh(here, QUESTIONS, before, student_in(tmp_path)) == before


def test_correct_takes_the_texts_of_teachers_that_solve_the_question(tmp_path: Path) -> None:
    here = config(tmp_path, "correct")
    keep(here)
    assert importances(here, tmp_path) == {
        "owl": {"q1": 1.5, "q2": 3.0, "q4": 2.0},  # q1: owl and fox of three; q2: owl alone of three
        "fox": {"q1": 1.5, "q2": 0.0, "q3": 0.0},  # q3: nobody's text counts
    }, "hen has no text left, and no stream"


def test_a_floor_leaves_something_of_every_text(tmp_path: Path) -> None:
    here = config(tmp_path, "correct", floor=0.5)
    keep(here)
    assert importances(here, tmp_path) == approx({
        "owl": {"q1": 3 / 2.5, "q2": 3 / 2, "q4": 2 / 1.5},
        "fox": {"q1": 3 / 2.5, "q2": 1.5 / 2, "q3": 1.0},
        "hen": {"q1": 1.5 / 2.5, "q2": 1.5 / 2, "q4": 1 / 1.5},
    })  # fmt: skip


def test_what_the_store_lacks_is_named_with_the_command(tmp_path: Path) -> None:
    here = config(tmp_path, "correct")
    with pytest.raises(UserError, match=r"5 of 5 minilab/train .*\bowl\b.*\(solve\).*'tinyllm rationales'.*weighting"):
        importances(here, tmp_path)
    assert kinds_to_ask(here) == [PromptKind.forced, PromptKind.solve]
    assert kinds_to_ask(config(tmp_path)) == [PromptKind.forced]
    full_ft = replace(here, method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}))
    assert kinds_to_ask(full_ft) == []


def naive_agreement(texts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """TF-IDF with idf = 1 + log((1 + n) / (1 + df)), as scikit-learn documents it."""
    words = {(m, i): text.lower().strip(".").split() for m, by_id in texts.items() for i, text in by_id.items()}
    n = len(words)
    frequency = Counter(word for own in words.values() for word in set(own))
    vectors = {}
    for key, own in words.items():
        raw = {word: count * (1 + math.log((1 + n) / (1 + frequency[word]))) for word, count in Counter(own).items()}
        length = math.sqrt(sum(value**2 for value in raw.values()))
        vectors[key] = {word: value / length for word, value in raw.items()}
    found: dict[str, dict[str, float]] = {}
    for m, by_id in texts.items():
        found[m] = {}
        for i in by_id:
            others = [vectors[o, i] for o in texts if o != m and i in texts[o]]
            cosines = [sum(v * other.get(w, 0) for w, v in vectors[m, i].items()) for other in others]
            found[m][i] = sum(cosines) / len(cosines) if cosines else 0.0
    return found


def test_consensus_is_a_softmax_of_mean_cosine_similarities(tmp_path: Path) -> None:
    expected = naive_agreement(TEXTS)
    assert agreement(TEXTS, None) == approx(expected)
    found = importances(config(tmp_path, "consensus", temperature=0.1), tmp_path)
    power = {m: math.exp(expected[m]["q2"] / 0.1) for m in TEXTS}
    assert {m: found[m]["q2"] for m in TEXTS} == pytest.approx({m: 3 * power[m] / sum(power.values()) for m in TEXTS})
    assert found["fox"]["q2"] < 0.1 < found["owl"]["q2"] and found["fox"]["q3"] == 1.0


def test_two_texts_are_as_alike_as_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = config(tmp_path, "consensus")
    found = weigh(here, QUESTIONS, streams_of(here)[:3], student_in(tmp_path))
    assert all(w == pytest.approx(1) for stream in found[1:] for w in stream.importance.values())
    assert "no question has three texts" in caplog.text


def test_texts_without_a_word_are_alike_to_none() -> None:
    assert agreement({"owl": {"a": "?!"}, "fox": {"a": "..."}}, None) == {"owl": {"a": 0.0}, "fox": {"a": 0.0}}


def test_a_teacher_of_whom_nothing_is_left_is_told_and_not_taught(caplog: pytest.LogCaptureFixture) -> None:
    targets = single_target(dict.fromkeys("ab", "x"))
    dropped = Stream("owl", "owl: ", 3.0, targets, importance={"a": 0.0, "b": 0.0})
    answer = Stream("answer", "predict: ", 1.0, targets)
    assert left([answer, dropped]) == [answer] and "teacher owl" in caplog.text
    assert summary([answer, dropped], ["owl"], {}) == {"owl": {"mean": [0.0], "spread": [0.0], "zeros": [1.0]}}
    with pytest.raises(UserError, match=r"^weighting: no text is left"):
        left([dropped])


def test_sentence_embeddings_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"^weighting\.embeddings=some/model: .*pip install sentence-transformers"):
        importances(config(tmp_path, "consensus", embeddings="some/model"), tmp_path)


def test_sentence_embeddings_are_read_from_safetensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Embedder:
        """The first letters that a text has, as a vector."""

        def __init__(self, model: str, **settings: Any) -> None:
            asked.update(settings, model=model)

        def encode(self, texts: list[str], normalize_embeddings: bool) -> list[list[float]]:
            rows = [[float(letter in text) for letter in "abcdefgh"] for text in texts]
            return [[value / max(1e-9, math.hypot(*row)) for value in row] for row in rows]

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Embedder))
    found = importances(config(tmp_path, "consensus", embeddings="some/model"), tmp_path)
    assert asked == {"model": "some/model", "trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    assert found != importances(config(tmp_path, "consensus"), tmp_path)


def naive_ratio(student: Student, question: Question, prefix: str, text: str) -> float:
    """One text at a time, by transformers; ranks by sorting."""
    source, target = (
        torch.tensor([TOKENIZER(part, add_special_tokens=False)["input_ids"] + [1]])
        for part in ("".join(student_source(question, prefix)), text)
    )
    with torch.no_grad():
        log_p = student.model(input_ids=source, labels=target).logits[0].log_softmax(-1)
    ranks = [
        int((row.argsort(descending=True) == token).nonzero()) + 1 for row, token in zip(log_p, target[0], strict=True)
    ]
    return sum(min(rank, 100) for rank in ranks) / -sum(float(row[t]) for row, t in zip(log_p, target[0], strict=True))


def test_surprisal_prefers_a_low_rank_surprisal_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = config(tmp_path, "surprisal", temperature=0.5)
    streams, student = streams_of(here), student_in(tmp_path, dropout=0.1)
    by_id = {q.id: q for q in QUESTIONS}
    student.model.eval()
    expected = {m: {i: naive_ratio(student, by_id[i], f"{m}: ", text) for i, text in TEXTS[m].items()} for m in TEXTS}
    student.model.train()
    ratios = rank_surprisal_ratios(student, QUESTIONS, streams[1:], 50, 3, Accelerator.cpu)
    assert student.model.training
    assert ratios == {m: pytest.approx(own, rel=1e-4) for m, own in expected.items()}
    assert any(ratio != next(iter(ratios["owl"].values())) for ratio in ratios["owl"].values())
    found = importances(here, tmp_path)
    merits = {m: expected[m]["q1"] ** (-1 / 0.5) for m in TEXTS}
    assert {m: found[m]["q1"] for m in TEXTS} == pytest.approx(
        {m: 3 * merits[m] / sum(merits.values()) for m in TEXTS}, rel=1e-3
    )
    monkeypatch.setattr(Student, "lay_out", lambda *_: pytest.fail("computed twice"))
    assert rank_surprisal_ratios(student, QUESTIONS, streams[1:], 50, 3, Accelerator.cpu) == ratios
    student.precision, precision = "bf16-mixed", student.precision
    with pytest.raises(pytest.fail.Exception, match="computed twice"):
        rank_surprisal_ratios(student, QUESTIONS, streams[1:], 50, 3, Accelerator.cpu)
    student.precision = precision
    with torch.no_grad():
        next(student.model.parameters()).add_(0.1)
    with pytest.raises(pytest.fail.Exception, match="computed twice"):
        rank_surprisal_ratios(student, QUESTIONS, streams[1:], 50, 3, Accelerator.cpu)


def test_ratios_that_can_not_be_kept_leave_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    streams, student = streams_of(config(tmp_path, "surprisal"))[1:], student_in(tmp_path)
    ratios = rank_surprisal_ratios(student, QUESTIONS, streams, 50, 3, Accelerator.cpu)
    (file,) = (student.cache / "surprisal").iterdir()
    file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            rank_surprisal_ratios(student, QUESTIONS, streams, 50, 3, Accelerator.cpu)
    assert list(file.parent.iterdir()) == []
    assert rank_surprisal_ratios(student, QUESTIONS, streams, 50, 3, Accelerator.cpu) == ratios


def test_surprisal_of_a_decoder_reads_the_instruction_before_the_text(tmp_path: Path) -> None:
    streams = streams_of(config(tmp_path, "surprisal"))[1:]
    words = [q.question for q in QUESTIONS] + [text for own in TEXTS.values() for text in own.values()]
    tokenizer = byte_level(words)
    student = Student(small_decoder(vocab_size=len(tokenizer)), tokenizer, "predict: ", cache=tmp_path / "cache")
    sources = student.sources(QUESTIONS)
    ratios = rank_surprisal_ratios(student, QUESTIONS, streams, 50, 3, Accelerator.cpu)
    student.model.set_attn_implementation("sdpa")
    for stream in streams:
        for i, text in TEXTS[stream.name].items():
            ids = [*tokenizer(f" {text}")["input_ids"], tokenizer.eos_token_id]
            row = torch.tensor([[*sources.source(i, stream.prefix), *sources.lead(stream.prefix), *ids]])
            with torch.no_grad():
                log_p = student.model(input_ids=row).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            rank = [int((p > p[token]).sum()) + 1 for p, token in zip(log_p, ids, strict=True)]
            loss = -sum(float(p[token]) for p, token in zip(log_p, ids, strict=True))
            assert ratios[stream.name][i] == pytest.approx(sum(min(r, 100) for r in rank) / loss, rel=1e-4)


MANY = [
    Question(f"{topic}{i}", f"A {topic} thing number {i}?", ("yes", "no"), "yes", group=f"{topic}{i // 2}")
    for i in range(30)
    for topic in ("sea", "sky")
]


def knows(topic: str) -> dict[str, bool]:
    return {q.id: q.id.startswith(topic) for q in MANY}


def test_the_router_finds_who_knows_what() -> None:
    solved = {"owl": knows("sea"), "fox": knows("sky"), "hen": dict.fromkeys(knows("sea"), False)}
    every = [q.id for q in MANY]
    found = route(MANY, solved, dict.fromkeys(solved, every), 5)
    assert found["owl"] == {i: float(i.startswith("sea")) for i in every}
    assert found["fox"] == {i: float(i.startswith("sky")) for i in every}
    without = route(MANY, solved, {"owl": every[:7], "hen": every}, 5)
    assert all(without["hen"][i] == 1 for i in every[7:]), "the only one with a text"


def test_the_router_shares_ties_out() -> None:
    every = [q.id for q in MANY]
    all_right = {m: dict.fromkeys(every, True) for m in ("owl", "fox")}
    found = route(MANY, all_right, dict.fromkeys(all_right, every), 5)
    assert 20 <= sum(found["owl"].values()) <= 40 and found == route(
        MANY, all_right, dict.fromkeys(all_right, every), 5
    )


def test_no_question_trains_its_own_choice() -> None:
    """Whatever the answers to a question and its group are, its own chance is the same, and others' are not."""
    solved = knows("sea")
    before = solving_chances(MANY, solved, 5)
    fold = fold_of(MANY[0], 5)
    assert len({fold_of(q, 5) for q in MANY}) == 5
    assert all(fold_of(q, 5) == fold_of(other, 5) for q in MANY for other in MANY if q.group == other.group)
    here = {q.id for q in MANY if fold_of(q, 5) == fold}
    after = solving_chances(MANY, {i: right != (i in here) for i, right in solved.items()}, 5)
    assert {i: after[i] for i in here} == {i: before[i] for i in here}
    assert all(after[i] != before[i] for i in before.keys() - here)


def test_a_chance_is_that_of_a_classifier_of_the_other_folds() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    one = MANY[3]
    others = [q for q in MANY if fold_of(q, 3) != fold_of(one, 3)]
    texts = [f"{q.question}\nAnswer Choices:\n(a) yes\n(b) no" for q in [*others, one]]
    vectors = TfidfVectorizer(sublinear_tf=True).fit(texts[:-1])
    model = LogisticRegression(max_iter=1000).fit(vectors.transform(texts[:-1]), [knows("sky")[q.id] for q in others])
    expected = model.predict_proba(vectors.transform(texts[-1:]))[0, 1]
    assert solving_chances(MANY, knows("sky"), 3)[one.id] == pytest.approx(expected)


def test_a_random_router_takes_each_as_often_and_needs_no_record(tmp_path: Path) -> None:
    every = [str(i) for i in range(3000)]
    found = random_route({"owl": every, "fox": every, "hen": every[:1500]}, 0)
    assert all(sum(found[m].get(i, 0) for m in found) == 1 for i in every)
    first = [sum(found[m][i] for i in every[:1500]) for m in found]
    assert all(450 < count < 550 for count in first)
    assert found == random_route({"owl": every, "fox": every, "hen": every[:1500]}, 0)
    assert found != random_route({"owl": every, "fox": every, "hen": every[:1500]}, 1)
    weighed = importances(config(tmp_path, "random_router"), tmp_path)
    assert all(sorted(own[i] for own in weighed.values() if i in own)[-1] == 3 for i in ("q1", "q2"))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("random_router", {}, True), ("router", {}, True), ("correct", {"floor": 0.5}, True),
        ("correct", {}, False), ("uniform", {"drop_conflicts": True}, False),
    ],
)  # fmt: skip
def test_texts_without_another_to_compare_with_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, settings: dict[str, Any], says: bool
) -> None:
    here = config(tmp_path, name, **settings)
    keep(here)
    streams = streams_of(here)
    weigh(here, QUESTIONS, streams, student_in(tmp_path))
    assert "no question has two texts" not in caplog.text
    one_each = [replace(s, targets={i: t for i, t in s.targets.items() if i == f"q{n}"}) for n, s in enumerate(streams)]
    weigh(here, QUESTIONS, [streams[0], *one_each[1:]], student_in(tmp_path))
    assert ("no question has two texts" in caplog.text) == says


def test_texts_on_questions_with_a_conflict_can_be_dropped(tmp_path: Path) -> None:
    here = config(tmp_path, drop_conflicts=True)
    keep(here)
    found = left(weigh(here, QUESTIONS, streams_of(here), student_in(tmp_path)))
    assert {s.name: s.importance for s in found[1:]} == {"fox": {"q1": 0.0, "q2": 0.0, "q3": 1.0}}, "q1, q2 and q4"


def test_a_conflict_is_looked_for_in_the_text_that_is_trained_on(tmp_path: Path) -> None:
    """Behind its rationale a teacher goes on with a question of its own, which cleaning cuts off."""
    here = config(tmp_path, drop_conflicts=True)
    key = prompt_key(here.teachers["fox"], here.prompt, PromptKind.forced, "minilab", pool=None, recorded=False)
    text = "It rings every hour.\n\nQuestion: What sinks? It is a brick."
    record = Rationale("minilab", Split.train, "q3", "fox", 0, key, text, None, "stop", 5, "2025")
    RationaleStore(Path(here.store)).append([record])  # the oldest of several counts
    keep(here)
    assert conflicts(here, QUESTIONS) == {"q1", "q2", "q4"}
    here.rationales.clean = False
    assert conflicts(here, QUESTIONS) == {"q1", "q2", "q3", "q4"}


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("correct", {"floor": 2.0}, "floor"),
        ("consensus", {"temperature": 0.0}, "temperature"),
        ("router", {"folds": 1}, "folds"),
        ("learned", {"lr": -1.0}, "lr"),
    ],
)
def test_settings_that_can_not_work(tmp_path: Path, name: str, settings: dict[str, float], key: str) -> None:
    (problem,) = broken_rules(config(tmp_path, name, **settings))
    assert problem.startswith(f"weighting.{key}: expected ")


# Confidence: what is asked, stored and counted


def confident(folder: Path, *models: str) -> ExperimentConfig:
    here = config(folder, "confidence", temperature=2.0)
    teachers = {
        m: TeacherConfig(name=m, model=model, prefix=f"{m}: ", dtype="float32", batch_size=2)
        for m, model in zip(TEXTS, models, strict=True)
    }
    return replace(here, teachers=teachers)


def test_confidence_reads_what_the_rationales_stage_has_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for seed, name in enumerate(TEXTS):
        student_in(tmp_path).save(tmp_path / name)
        small_t5(seed + 1, tied=True, vocab=320).save_pretrained(tmp_path / name)
        models.append(str(tmp_path / name))
    here = confident(tmp_path, *models)
    keep(here)
    with pytest.raises(UserError, match=r"3 of 3 minilab/train .*\bowl\b.*rationales weighting=confidence"):
        importances(here, tmp_path)
    store = RationaleStore(Path(here.store))

    def ask() -> None:
        for teacher in here.teachers.values():
            turn = plan_turn(here, teacher, PromptKind.forced, Split.train)
            ask_for_confidence(turn, store, QUESTIONS, Budget(), Console(quiet=True))

    ask()
    ledger = (store.folder / "ledger.csv").read_text().splitlines()
    assert [line.split(",")[3] for line in ledger[1:]] == list(TEXTS)
    assert all(int(line.split(",")[7]) > 30 for line in ledger[1:]), "prompt tokens"
    expected: dict[str, float] = {}
    for m, model in zip(TEXTS, models, strict=True):
        teacher = type(small_t5()).from_pretrained(model).eval()
        source = TOKENIZER(source_of(QUESTIONS[1], TEXTS[m]["q2"]), return_tensors="pt").input_ids
        labels = TOKENIZER(QUESTIONS[1].answer, return_tensors="pt").input_ids
        with torch.no_grad():
            expected[m] = float(torch.exp(-teacher(input_ids=source, labels=labels).loss / 2))
    found = importances(here, tmp_path)
    assert {m: found[m]["q2"] for m in TEXTS} == pytest.approx(
        {m: 3 * value / sum(expected.values()) for m, value in expected.items()}, rel=1e-4
    )
    monkeypatch.setattr(TransformersEngine, "score", lambda *_, **__: pytest.fail("asked twice"))
    ask()
    again = replace(here, teachers={m: replace(teacher, sample=1) for m, teacher in here.teachers.items()})
    with pytest.raises(UserError, match=r"3 of 3 minilab/train .*\bowl\b.*rationales weighting=confidence"):
        expectations(again, QUESTIONS, {"owl": ["q1", "q2", "q3"]})


def test_a_decoder_scores_what_continues_its_source(tmp_path: Path) -> None:
    engine = TransformersEngine(
        model=save_engine(tmp_path / "decoder", encoder_decoder=False), dtype="float32", batch_size=2
    )
    requests = [ScoreRequest("a", "w1 w2 w3", ("w4", "w5 w6")), ScoreRequest("b", "w7", ("w8 w9 w10",))]
    (done,) = engine.score(requests, continues=True)
    for request, one in zip(requests, done, strict=True):
        for option, score in zip(request.options, json.loads(one.text), strict=True):
            source, ids = (engine.tokenizer()(text, return_tensors="pt").input_ids for text in (request.source, option))
            with torch.no_grad():
                logits = engine._model(input_ids=torch.cat([source, ids], dim=1)).logits[0].log_softmax(-1)
            own = [float(logits[source.shape[1] + n - 1, token]) for n, token in enumerate(ids[0])]
            assert score == pytest.approx(sum(own) / len(own), rel=1e-4)


def test_teachers_without_likelihoods_are_refused(tmp_path: Path) -> None:
    here = config(tmp_path, "confidence")
    keep(here)
    message = r"^weighting=confidence: expected teachers with engine=transformers.*owl \(scripted engine\)"
    with pytest.raises(UserError, match=message):
        importances(here, tmp_path)
    turn = plan_turn(here, here.teachers["owl"], PromptKind.forced, Split.train)
    with pytest.raises(UserError, match=message):
        ask_for_confidence(turn, RationaleStore(Path(here.store)), QUESTIONS, Budget(), Console(quiet=True))


# What an importance does


def data_of(
    streams: Sequence[Stream], student: Student, reduction: Reduction, accumulate: int = 1
) -> QuestionDataModule:
    return QuestionDataModule(
        {Split.train: QUESTIONS, Split.valid: QUESTIONS}, streams, TOKENIZER, lay_out=student.lay_out,
        max_source_length=200, max_target_length=50, reduction=reduction, batch_size=5,
        accumulate_grad_batches=accumulate, shuffle=False, group_by_length=False, seed=0, answer_prefix="predict: ",
        evaluation_batch_size=5, cache=student.cache,
    )  # fmt: skip


@pytest.mark.parametrize("reduction", list(Reduction))
def test_a_steps_token_weights_are_those_of_equal_texts_times_the_importance(
    tmp_path: Path, reduction: Reduction
) -> None:
    """And a text of importance 0 is not computed, nor is its source."""
    student, plain = student_in(tmp_path), streams_of(config(tmp_path))
    given = {"q1": 0.25, "q2": 2.0, "q4": 0.0}
    weighed = [replace(s, importance=given) if s.name == "owl" else s for s in plain]
    step = MicroBatch((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), 1)

    def tokens(streams: Sequence[Stream]) -> tuple[list[tuple[int, int, float]], int]:
        data = data_of(streams, student, reduction)
        batch = data.dataset[step]
        rows = zip(batch.stream_M.tolist(), batch.label_M.tolist(), batch.normaliser_M.tolist(), strict=True)
        assert sum(data.dataset.lengths()) == batch.tokens
        return sorted(rows), batch.source_N.numel()

    ids = {i: [*TOKENIZER(text, add_special_tokens=False)["input_ids"], 1] for i, text in TEXTS["owl"].items()}
    every = sum(map(len, ids.values()))
    expected = [
        (1, token, given[i] / (every if reduction is Reduction.token else 5 * len(own)))
        for i, own in ids.items()
        if i != "q4"
        for token in own
    ]
    (before, sources), (after, fewer) = tokens(plain), tokens(weighed)
    assert [row for row in after if row[0] != 1] == [row for row in before if row[0] != 1]
    own = [row for row in after if row[0] == 1]
    assert [row[:2] for row in own] == [row[:2] for row in sorted(expected)]
    assert [row[2] for row in own] == pytest.approx([row[2] for row in sorted(expected)])
    unread = TOKENIZER("".join(student_source(QUESTIONS[3], "owl: ")), add_special_tokens=False)["input_ids"]
    assert sources - fewer == len(unread) + 1


def test_uniform_trains_what_a_run_without_weighting_trains(tmp_path: Path) -> None:
    """To the last bit: streams that no weighting has seen, those of `uniform`, and importances of 1 written out."""
    here = config(tmp_path)
    keep(here)
    plain = streams_of(here)
    uniform = weigh(here, QUESTIONS, plain, student_in(tmp_path))
    ones = [replace(s, importance=dict.fromkeys(s.targets, 1.0)) for s in plain]
    correct = left(weigh(config(tmp_path, "correct"), QUESTIONS, plain, student_in(tmp_path)))
    trained = []
    for name, streams in {"plain": plain, "uniform": uniform, "ones": ones, "correct": correct}.items():
        student = student_in(tmp_path, dropout=0.1)
        questions = {Split.train: QUESTIONS, Split.valid: QUESTIONS}
        train(student, here, tmp_path / name, questions, streams, {}, [])
        trained.append(student.model.state_dict())
    first, *others, weighed = trained
    for other in others:
        assert all(torch.equal(weight, other[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, weighed[name]) for name, weight in first.items())


# Learned weights


@pytest.mark.parametrize("reduction", list(Reduction))
def test_learned_weights_have_the_value_and_the_gradients_of_their_formula(
    tmp_path: Path, reduction: Reduction
) -> None:
    """L_A + sum_m alpha_m (exp(-s_m) L_m + c_m s_m), differentiated by autograd."""
    student, streams = student_in(tmp_path), streams_of(config(tmp_path))
    alpha = {stream.name: stream.weight for stream in streams}
    module = StudentModule(student, alpha, lr=1e-3, learned=list(TEXTS))
    with torch.no_grad():
        module.log_variance.copy_(torch.tensor([0.3, -0.2, 0.0]))
    batch = data_of(streams, student, reduction).dataset[MicroBatch((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), 1)]
    loss, _ = module.losses(batch)
    loss.backward()
    own = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    s = torch.tensor([0.3, -0.2, 0.0], requires_grad=True)
    by_id = {q.id: q for q in QUESTIONS}
    plain = small_t5(vocab=320)
    terms = []
    for stream in streams:
        found = []
        for i, ((text, _),) in stream.targets.items():
            source, target = (
                torch.tensor([TOKENIZER(part, add_special_tokens=False)["input_ids"] + [1]])
                for part in ("".join(student_source(by_id[i], stream.prefix)), text)
            )
            logits = plain(input_ids=source, labels=target).logits[0]
            found.append(torch.nn.functional.cross_entropy(logits, target[0], reduction="none"))
        mean = torch.cat(found).mean() if reduction is Reduction.token else sum(x.mean() for x in found) / 5
        terms.append(mean)
    total = terms[0]
    for m, term in zip(range(3), terms[1:], strict=True):
        share = 1.0 if reduction is Reduction.token else len(streams[m + 1].targets) / 5
        total = total + streams[m + 1].weight * (torch.exp(-s[m]) * term + share * s[m])
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert s.grad is not None and own["log_variance"].tolist() == pytest.approx(s.grad.tolist(), rel=1e-4)
    for name, parameter in plain.named_parameters():
        assert torch.allclose(own[f"model.{name}"], parameter.grad, rtol=1e-3, atol=1e-6), name


def test_a_step_without_a_teachers_text_leaves_its_learned_weight_alone(tmp_path: Path) -> None:
    student, (answer, owl, *_) = student_in(tmp_path), streams_of(config(tmp_path))
    alone = replace(owl, targets={"q1": owl.targets["q1"]})
    module = StudentModule(student, {"answer": 1.0, owl.name: 3.0}, lr=1e-3, learned=[owl.name])
    data = data_of([answer, alone], student, Reduction.example)
    for examples, moves in (((0, 1), True), ((2, 3), False)):
        module.zero_grad()
        module.losses(data.dataset[MicroBatch(examples, examples, 1)])[0].backward()
        assert module.log_variance.grad is not None
        assert bool(module.log_variance.grad.abs().sum() > 0) is moves


@pytest.mark.parametrize("name", ["uniform", "learned"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains(tmp_path: Path, precision: str, name: str) -> None:
    """Under bf16-true and 64-true Lightning changes PyTorch's default type during a step."""
    here = config(tmp_path, name)
    rate = replace(here.optimizer, lr=0.05)  # a step that bf16 weights can hold
    here = replace(here, optimizer=rate, trainer=replace(here.trainer, precision=precision, max_epochs=1))
    student = student_in(tmp_path)
    before = [w.clone() for w in student.model.parameters()]
    questions = {Split.train: QUESTIONS, Split.valid: QUESTIONS}
    trained = train(student, here, tmp_path / "run", questions, streams_of(here), {}, [])
    assert trained.steps == 2 and all(math.isfinite(loss) for loss in trained.train_loss.values())
    assert all(not torch.equal(a.float(), b.float()) for a, b in zip(before, student.model.parameters(), strict=True))


def test_learned_weights_are_logged_by_epoch_and_counted_apart(tmp_path: Path) -> None:
    """Accumulated or not, they move alike; they are no weights of the student."""
    streams = streams_of(config(tmp_path))
    alpha = {stream.name: stream.weight for stream in streams}
    found = []
    for accumulate in (1, 5):
        student = student_in(tmp_path)
        module = StudentModule(student, alpha, lr=1e-3, learned=list(TEXTS), learned_lr=0.1)
        settings = TrainerConfig(
            precision="32-true", batch_size=5, accumulate_grad_batches=accumulate, max_epochs=3, valid_every=1.0
        )
        data = data_of(streams, student, Reduction.example, accumulate)
        fitted = fit(module, data, settings, tmp_path / f"run{accumulate}", [])
        assert fitted.parameters == sum(p.numel() for p in student.model.parameters())
        found.append(fitted.weights)
    assert list(found[0]) == list(TEXTS) and all(len(by_epoch) == 3 for by_epoch in found[0].values())
    assert all(len(set(by_epoch)) == 3 for by_epoch in found[0].values())
    assert found[0] == {m: pytest.approx(by_epoch, rel=1e-4) for m, by_epoch in found[1].items()}
    assert summary(streams, list(TEXTS), found[0])["owl"] == {
        "mean": found[0]["owl"], "spread": [0.0] * 3, "zeros": [0.0] * 3,
    }  # fmt: skip


def test_a_runs_weights_by_hand() -> None:
    targets = single_target(dict.fromkeys("abcd", "x"))
    stream = Stream("owl", "owl: ", 3.0, targets, importance={"a": 0.0, "b": 2.0, "c": 2.0})
    found = summary([stream, Stream("answer", "predict: ", 1.0, targets)], ["owl"], {})
    assert found == {"owl": {"mean": [1.25], "spread": [pytest.approx(math.sqrt(0.6875))], "zeros": [0.25]}}
