"""Minilab's teachers as an engine: the texts of `data.minilab`, in order, whatever the prompt."""

from __future__ import annotations

import pytest

from tinyllm.config import Engine, TeacherConfig
from tinyllm.data import minilab
from tinyllm.errors import UserError
from tinyllm.records import PromptKind, Question, Split
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import FREE_BATCH, Completion, Request

QUESTIONS = minilab.generate(0)[Split.train][: FREE_BATCH + 5]


def done(teacher: TeacherConfig, kind: PromptKind, questions: list[Question] = QUESTIONS) -> list[Completion]:
    requests = [Request(q.id, "not read", question=q, split=Split.train, kind=kind, option=1) for q in questions]
    return [one for batch in open_engine(teacher).complete(requests) for one in batch]


@pytest.mark.parametrize("sample", [0, 1])
def test_texts_are_minilabs(sample: int) -> None:
    terse = TeacherConfig(name="t", engine=Engine.scripted, model="terse", prefix="t: ", sample=sample)
    forced = done(terse, PromptKind.forced)
    assert [one.id for one in forced] == [q.id for q in QUESTIONS]
    assert [one.text for one in forced] == [minilab.explain(q, "terse", sample) for q in QUESTIONS]
    assert {one.answer for one in forced} == {None}, "the answer was given"
    free = done(terse, PromptKind.solve)
    assert [(one.text, one.answer) for one in free] == [minilab.answer_freely(q, "terse", sample) for q in QUESTIONS]
    unforced = done(terse, PromptKind.unforced)
    assert [one.text for one in unforced] == [minilab.reason(q, "terse", sample) for q in QUESTIONS]
    argued = done(terse, PromptKind.per_option)
    assert [one.text for one in argued] == [minilab.argue(q, 1, "terse", sample) for q in QUESTIONS]
    assert {one.answer for one in [*unforced, *argued]} == {None}, "no answer was asked for"


def test_other_questions_and_bare_prompts_are_refused() -> None:
    terse = TeacherConfig(name="t", engine=Engine.scripted, model="terse", prefix="t: ")
    with pytest.raises(UserError, match="minilab"):
        done(terse, PromptKind.forced, [Question("q", "Why?", ("a", "b"), "a")])
    with pytest.raises(UserError, match="minilab"):
        list(open_engine(terse).complete([Request("0", "Write one new question.")]))
