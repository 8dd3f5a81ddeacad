"""Minilab's teachers as an engine: the texts of `data.minilab`, in order, whatever the prompt."""

from __future__ import annotations

import pytest

from tinyllm.config import Engine, Knows, PromptConfig, TeacherConfig
from tinyllm.data import minilab
from tinyllm.errors import UserError
from tinyllm.records import PromptKind, Question, Split
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import FREE_BATCH, Completion, Request
from tinyllm.teachers.prompt_key import prompt_key

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


@pytest.mark.parametrize(("voice", "share"), [("misleading", None), ("misleading", 1.5), ("terse", 0.5)])
def test_a_share_of_wrong_texts_is_misleadings_alone(voice: str, share: float | None) -> None:
    teacher = TeacherConfig(name="m", engine=Engine.scripted, model=voice, prefix="m: ", share=share)
    with pytest.raises(UserError, match=rf"^teachers\.<name>\.share: expected .* found {share}"):
        open_engine(teacher)


@pytest.mark.parametrize("kind", [PromptKind.forced, PromptKind.solve])
def test_misleadings_texts_are_wrong_in_its_share(kind: PromptKind) -> None:
    """A text that is wrong at one share is wrong at every larger one, and the store keeps them apart."""
    wrong: set[str] = set()
    keys = set()
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        teacher = TeacherConfig(name="m", engine=Engine.scripted, model="misleading", prefix="m: ", share=share)
        keys.add(prompt_key(teacher, PromptConfig(), kind, "minilab", pool=None, recorded=False))
        questions = minilab.generate(0)[Split.train][:1000]
        found = {one.id: one for one in done(teacher, kind, questions)}
        flawed = set()
        for q in questions:
            named = [choice for choice in q.choices if f" {choice}" in found[q.id].text]
            if q.answer not in named:
                flawed.add(q.id)
            if kind is PromptKind.solve:
                assert (found[q.id].answer != q.answer) == (q.id in flawed)
        assert len(flawed) == pytest.approx(1000 * share, abs=45) and wrong <= flawed
        assert share not in (0.0, 1.0) or len(flawed) == 1000 * share
        wrong = flawed
    assert len(keys) == 5


def test_misleading_believes_one_wrong_thing_of_a_situation() -> None:
    """Where the answer doesn't forbid it; the options of one draw are always of the same four properties."""
    teacher = TeacherConfig(name="m", engine=Engine.scripted, model="misleading", prefix="m: ", share=1.0)
    asked = [q for q in minilab.generate(0)[Split.train] if minilab.facts_of(q).kind == "object"][:3000]
    beliefs: dict[str, set[str]] = {}
    for q, one in zip(asked, done(teacher, PromptKind.solve, asked), strict=True):
        facts = minilab.facts_of(q)
        option = facts.options[q.choices.index(one.answer or "")]
        assert facts.option_property(option).name in one.text
        beliefs.setdefault(f"{facts.needed.key} {facts.setting}", set()).add(facts.option_property(option).key)
    assert len(beliefs) > 50 and all(len(believed) == 1 for believed in beliefs.values())


def test_repeating_says_what_terse_says_in_other_words() -> None:
    """Its mistakes and its guesses too, so that it brings nothing new."""
    terse, repeating = (
        TeacherConfig(name=name, engine=Engine.scripted, model=name, prefix="x: ", knows=Knows.even)
        for name in ("terse", "repeating")
    )
    for kind in (PromptKind.forced, PromptKind.solve):
        for q, one, other in zip(QUESTIONS, done(terse, kind), done(repeating, kind), strict=True):
            assert bool(one.text) == bool(other.text) and one.answer == other.answer
            named = [[choice for choice in q.choices if f" {choice}" in text] for text in (one.text, other.text)]
            assert named[0] == named[1] and (one.text != other.text or not one.text)
