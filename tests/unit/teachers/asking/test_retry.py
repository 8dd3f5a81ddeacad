"""A raised limit: only texts with a finding are asked again, and every text stays in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.teachers.asking.conftest import PINTO, Fake, Inventor, config, questions, records, stage

from tinyllm.config import (
    BudgetConfig,
    Engine,
    ExampleSource,
    ExperimentConfig,
    PromptConfig,
    RationalesConfig,
    TeacherConfig,
)
from tinyllm.errors import UserError
from tinyllm.records import Finding, PromptKind
from tinyllm.teachers.asking import turns as module
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.stored import stored, training_texts

CUT = RationalesConfig(retry=[Finding.cut])


def limited(n: int) -> dict[str, TeacherConfig]:
    return {"fake": TeacherConfig(name="fake", engine=Engine.openai, model="m", prefix="f: ", max_new_tokens=n)}


class Talker(Fake):
    """Writes 10 tokens about the first question, 20 about the second and so on, as far as its limit lets it."""

    limit = 0

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            self.asked.append(request)
            wanted = 10 * (int(request.id.split()[0].removeprefix("t")) + 1)
            text = " ".join(f"{request.id}word{i}" for i in range(min(wanted, self.limit)))
            reason = "stop" if wanted <= self.limit else "length"
            yield [Completion(request.id, text, reason, 10, min(wanted, self.limit))]


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Talker:
    engine = Talker()

    def open_engine(teacher: TeacherConfig, published: object = None) -> Talker:
        engine.limit = teacher.max_new_tokens
        return engine

    monkeypatch.setattr(module, "open_engine", open_engine)
    return engine


def here(tmp_path: Path, n: int, **changes: object) -> ExperimentConfig:
    return config(tmp_path, teachers=limited(n), **changes)


def test_only_cut_texts_are_asked_again_and_training_reads_the_newest(
    tmp_path: Path, talker: Talker, capsys: pytest.CaptureFixture[str]
) -> None:
    """10, 20, 30, 40 and 50 tokens; at 20 three are cut, at 40 one of them still is."""
    stage(tmp_path, 5, teachers=limited(20))
    old = stored(here(tmp_path, 20), limited(20)["fake"], PromptKind.forced, "train")
    assert [old[f"t{i}"].finish_reason for i in range(5)] == ["stop", "stop", "length", "length", "length"]
    talker.asked.clear()
    capsys.readouterr()
    stage(tmp_path, 5, teachers=limited(40), rationales=CUT)
    assert sorted(request.id for request in talker.asked) == ["t2", "t3", "t4"]
    out = capsys.readouterr().out
    assert "3 texts asked again with 40 tokens at most, 2 taken over from 20; 1 still have a finding" in out
    assert "teachers.fake.max_new_tokens" in out
    new = stored(here(tmp_path, 40), limited(40)["fake"], PromptKind.forced, "train")
    assert [new[f"t{i}"].tokens for i in range(5)] == [10, 20, 30, 40, 40]
    assert {i: (new[i].text, new[i].created) for i in ("t0", "t1")} == {
        i: (old[i].text, old[i].created) for i in ("t0", "t1")
    }
    assert stored(here(tmp_path, 20), limited(20)["fake"], PromptKind.forced, "train") == old, "the old ones stay"
    # What was cut at 20 and at 40 is asked at 60, and nothing else; training reads one text a question.
    talker.asked.clear()
    stage(tmp_path, 5, teachers=limited(60), rationales=CUT)
    assert [request.id for request in talker.asked] == ["t4"]
    assert "taken over from 20 and 40; 0 still" in capsys.readouterr().out
    texts = training_texts(here(tmp_path, 60), questions("t", 5))["fake"]
    assert {i: len(text.split()) for i, text in texts.items()} == {f"t{i}": 10 * (i + 1) for i in range(5)}
    # Nothing is left to do.
    talker.asked.clear()
    stage(tmp_path, 5, teachers=limited(60), rationales=CUT)
    assert not talker.asked and set(records(tmp_path).values()) == {1}


def test_what_was_cut_before_its_first_word_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a model that thinks up to the limit."""

    class Thinker(Fake):
        def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
            for request in requests:
                self.asked.append(request)
                yield [Completion(request.id, "", "length", 10, 20)]

    engine = Thinker()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    stage(tmp_path, 3, teachers=limited(20))
    engine.asked.clear()
    stage(tmp_path, 3, teachers=limited(40), rationales=CUT)
    assert len(engine.asked) == 3


def test_without_retry_a_raised_limit_asks_everything(tmp_path: Path, talker: Talker) -> None:
    stage(tmp_path, 3, teachers=limited(20))
    talker.asked.clear()
    stage(tmp_path, 3, teachers=limited(40))
    assert len(talker.asked) == 3


def test_a_budget_may_end_it_and_the_next_call_goes_on(tmp_path: Path, talker: Talker) -> None:
    stage(tmp_path, 8, teachers=limited(20))
    talker.asked.clear()
    with pytest.raises(UserError, match=r"\d train texts of fake"):
        stage(tmp_path, 8, teachers=limited(90), rationales=CUT, budget=BudgetConfig(tokens=590))
    assert 0 < len(talker.asked) < 6
    stage(tmp_path, 8, teachers=limited(90), rationales=CUT)
    assert sorted(request.id for request in talker.asked) == [f"t{i}" for i in range(2, 8)]


def test_options_are_asked_again_one_by_one(tmp_path: Path, talker: Talker) -> None:
    stage(tmp_path, 3, teachers=limited(20), method=PINTO)
    talker.asked.clear()
    stage(tmp_path, 3, teachers=limited(40), method=PINTO, rationales=CUT)
    assert sorted(request.id for request in talker.asked) == [f"t2 option {k}" for k in range(3)]


@pytest.mark.parametrize("source", [ExampleSource.generated, ExampleSource.random])
def test_the_examples_above_a_question_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: ExampleSource
) -> None:
    """The teacher would invent others, or explain them anew, under another limit: then no text could be taken over."""
    engine = Inventor()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    prompt = PromptConfig(example_source=source)
    stage(tmp_path, 12, teachers=limited(20), prompt=prompt)
    engine.asked.clear()
    stage(tmp_path, 12, teachers=limited(40), prompt=prompt, rationales=CUT)
    assert not engine.asked, "nothing was cut"
    kept = stored(here(tmp_path, 40, prompt=prompt), limited(40)["fake"], PromptKind.forced, "train")
    assert len(kept) == 12
    stage(tmp_path, 12, teachers={"fake": replace(limited(60)["fake"], seed=1)}, prompt=prompt)
    assert engine.asked, "without retry the pool is another"
