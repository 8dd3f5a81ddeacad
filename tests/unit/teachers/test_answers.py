"""A teacher's own answers to a split: asked freely, once, and joined with the questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tinyllm.config import DataConfig, Engine, ExperimentConfig, Source, TeacherConfig
from tinyllm.data import minilab
from tinyllm.errors import UserError
from tinyllm.records import Split
from tinyllm.teachers.answers import teacher_predictions
from tinyllm.teachers.engines.protocol import Completion, Request

SPLITS = {split: questions[:40] for split, questions in minilab.generate(0).items()}


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    data = DataConfig(name="minilab", source=Source.builtin)
    return ExperimentConfig(store=str(tmp_path / "store"), data=data)


TERSE = TeacherConfig(name="terse", engine=Engine.scripted, model="terse", prefix="terse: ")


class Mute:
    """Fails on every request."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            yield [Completion(request.id, "", "error", error="HTTP 500")]


def test_predictions_are_the_teachers_free_answers(config: ExperimentConfig) -> None:
    console = Console(quiet=True)
    found = teacher_predictions(config, TERSE, SPLITS, Split.valid, console)
    expected = [minilab.answer_freely(question, "terse") for question in SPLITS[Split.valid]]
    assert [(one.generated, one.predicted) for one in found] == expected
    assert [(one.id, one.answer, one.subset, one.group) for one in found] == [
        (question.id, question.answer, question.subset, question.group) for question in SPLITS[Split.valid]
    ]
    assert teacher_predictions(config, TERSE, SPLITS, Split.valid, console) == found
    files = Path(config.store).rglob("*.jsonl")
    assert sum(len(file.read_text().splitlines()) for file in files) == 40, "asked once"


def test_answers_to_other_questions_are_refused(config: ExperimentConfig) -> None:
    config.data = DataConfig(name="mine", source=Source.jsonl)
    teacher_predictions(config, TERSE, SPLITS, Split.valid, Console(quiet=True))
    first, *others = SPLITS[Split.valid]
    changed = {**SPLITS, Split.valid: [replace(first, question="What is it?"), *others]}
    with pytest.raises(UserError, match=rf"1 of the questions \({first.id} is.*new ids"):
        teacher_predictions(config, TERSE, changed, Split.valid, Console(quiet=True))


def test_questions_without_an_answer_are_counted(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyllm.teachers.asking.turns.open_engine", lambda *_: Mute())
    server = replace(TERSE, engine=Engine.openai, name="far")
    config.prompt.examples = 0
    with pytest.raises(UserError, match=r"40 of 40 minilab/test .* far"):
        teacher_predictions(config, server, SPLITS, Split.test, Console(quiet=True))
