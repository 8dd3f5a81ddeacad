"""Texts that the user has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinyllm.config import Engine, PromptConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import PromptKind, Question, text_key
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.prompt_key import prompt_key

QUESTION = Question("q1", "What floats?", ("rock", "wood"), "wood")
ROWS: list[dict[str, Any]] = [
    {"id": "q1", "text": "Wood is light."},
    {"id": "q1", "kind": "solve", "text": "Light things float.", "answer": "(b)"},
    {"id": "q1", "kind": "solve", "text": "", "id ": ""},
    {"id": "q1", "kind": "per_option", "option": 0, "text": "A rock is hard."},
    {"id": 7, "text": "Seven."},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> TeacherConfig:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TeacherConfig(name="mine", engine=Engine.file, model=str(file), prefix="mine: ")


def asked(teacher: TeacherConfig, *requests: Request) -> list[Completion]:
    return [done for batch in open_engine(teacher).complete(requests) for done in batch]


def request(id: str, kind: PromptKind = PromptKind.forced, option: int | None = None) -> Request:
    return Request(text_key(id, option), "", question=QUESTION, kind=kind, option=option)


def test_each_request_gets_the_text_of_its_kind(tmp_path: Path) -> None:
    teacher = write(tmp_path, [ROWS[0], ROWS[1], *ROWS[3:]])
    wanted = [request("q1"), request("q1", PromptKind.solve), request("q1", PromptKind.per_option, 0), request("7")]
    assert [(done.text, done.answer) for done in asked(teacher, *wanted)] == [
        ("Wood is light.", None), ("Light things float.", "wood"), ("A rock is hard.", None), ("Seven.", None),
    ]  # fmt: skip
    missing = asked(teacher, request("q1"), request("q2"), request("q1", PromptKind.unforced))[1:]
    assert [(done.text, done.final) for done in missing] == [("", True)] * 2
    assert all("texts.jsonl has no text on it" in str(done.error) for done in missing)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ROWS[2], "line 2: field 'id '"),
        ({"id": "q2"}, "line 2: field 'text': expected a text, found None"),
        ({"text": "why"}, "line 2: field 'id'"),
        ({"id": "q2", "text": "why", "kind": "guess"}, "line 2: field 'kind': .*unforced.* found 'guess'"),
        ({"id": "q2", "text": "why", "option": 1}, "line 2: field 'option'"),
        ({"id": "q2", "text": "why", "answer": "wood"}, "line 2: field 'answer'"),
        ({"id": "q1", "text": "another"}, "line 2: field 'id': expected one text"),
        ({"id": "q1", "kind": "solve", "text": "why", "answer": "ice"}, "field 'answer' of q1: .*found ice"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        asked(write(tmp_path, [ROWS[0], row]), request("q1"), request("q1", PromptKind.solve))


def test_texts_on_other_questions_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"texts\.jsonl: expected texts on questions such as q9 \(forced\), found q1"):
        asked(write(tmp_path, ROWS[:1]), request("q9"))


def test_the_key_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    def key(teacher: TeacherConfig) -> str:
        return prompt_key(teacher, PromptConfig(), PromptKind.forced, "own", pool=None, recorded=False)

    (tmp_path / "moved").mkdir()
    first = key(write(tmp_path, ROWS[:1]))
    assert key(write(tmp_path / "moved", ROWS[:1])) == first
    assert key(write(tmp_path, ROWS[:2])) != first
    with pytest.raises(UserError, match=r"teachers\.<name>\.model=.*gone\.jsonl"):
        key(TeacherConfig(name="mine", engine=Engine.file, model=str(tmp_path / "gone.jsonl"), prefix="mine: "))
