"""Published texts as an engine: each stands in the published files, and what is absent there is empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyllm.config import TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import Question, Split
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import Published, Request

QUESTIONS = [Question(f"q{i}", f"Why {i}?", ("tea", "milk"), "tea") for i in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three published questions; FLAN-T5 wrote nothing on the last, LLaMA-2 nothing on the first."""
    folder = tmp_path / "obqa"
    (folder / "llm").mkdir(parents=True)
    rows = [{"id": q.id, "question": q.question, "choices": q.choices, "answer": q.answer} for q in QUESTIONS]
    (folder / "obqa_train.json").write_text(json.dumps(rows))
    written = ("It is warm.", "It is wet.", ""), ("", "Tea is drunk.", "Cups hold it.")
    texts = [
        f"{flan} Thus, the answer is (a) tea\nQ: {q.question}\nAnswer Choices:\n(a) tea\n(b) milk\n"
        f" llama rationale: {llama}"
        for q, flan, llama in zip(QUESTIONS, *written, strict=True)
    ]
    (folder / "llm" / "train_CoT_0.json").write_text(json.dumps(texts))
    return tmp_path


def complete(root: Path, teacher: str, questions: list[Question]) -> dict[str, tuple[str, str]]:
    config = TeacherConfig(name="mine", stored_as=teacher, model="m", prefix="m: ")
    engine = open_engine(config, Published(root, "obqa"))
    requests = (Request(q.id, "not read", question=q, split=Split.train) for q in questions)
    return {one.id: (one.text, one.finish_reason) for batch in engine.complete(requests) for one in batch}


def test_a_text_is_the_published_one_or_empty(root: Path) -> None:
    assert complete(root, "flan_t5_xl", QUESTIONS) == {
        "q0": ("It is warm.", "recorded"), "q1": ("It is wet.", "recorded"), "q2": ("", "recorded"),
    }  # fmt: skip
    assert complete(root, "llama2_7b_chat", QUESTIONS[:0:-1]) == {
        "q2": ("Cups hold it.", "recorded"), "q1": ("Tea is drunk.", "recorded"),
    }  # fmt: skip
    assert complete(root, "flan_t5_xl", []) == {}


def test_nothing_is_read_before_the_first_request(tmp_path: Path) -> None:
    assert complete(tmp_path / "absent", "flan_t5_xl", []) == {}
    with pytest.raises(UserError, match=r"data\.root"):
        complete(tmp_path / "absent", "flan_t5_xl", QUESTIONS)
