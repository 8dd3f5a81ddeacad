"""A teacher that is asked for nothing real, and the stage on questions of its own."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tinyllm.cli.rationales import main
from tinyllm.config import (
    DataConfig,
    Engine,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    RationalesStageConfig,
    ShardConfig,
    Source,
    StreamConfig,
    Target,
    TeacherConfig,
    WhichTeachers,
)
from tinyllm.records import Question, Split
from tinyllm.teachers.asking import turns as module
from tinyllm.teachers.asking.plan import Summary, plan_turns
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.store import RationaleStore

WORDS = ["heat", "rope", "map", "bell", "milk", "wool", "lamp", "ice", "oak", "sand"]


def questions(prefix: str, n: int) -> list[Question]:
    """Questions with few words in common and prompts of different lengths."""
    return [
        Question(
            f"{prefix}{i}",
            f"Why{prefix}{i} would{i} {WORDS[i % 10]} do{i}{' really' * (i % 5)}?",
            ("it grows", "it shrinks", "it stays"),
            ("it grows", "it shrinks", "it stays")[i % 3],
        )
        for i in range(n)
    ]


class Fake:
    """An engine that notes its prompts, and fails where it is told to."""

    def __init__(self, fail: Iterable[str] = (), text: str = "Warmth makes it so. The answer is (b).") -> None:
        self.fail = set(fail)
        self.text = text
        self.cost = (10, 5)
        """Prompt and completion tokens of each answer."""
        self.asked: list[Request] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            self.asked.append(request)
            if request.id in self.fail:
                yield [Completion(request.id, "", "error", error="HTTP 500, 7 times")]
            else:
                yield [Completion(request.id, self.text, "stop", *self.cost)]


TINYLLM = MethodConfig(name="tinyllm", streams={
    "answer": StreamConfig(), "rationale": StreamConfig(Target.rationale, WhichTeachers.all),
})  # fmt: skip
KD = MethodConfig(name="standard_kd", streams={
    "teacher_answer": StreamConfig(Target.teacher_answer, WhichTeachers.one),
})  # fmt: skip
PINTO = MethodConfig(name="pinto", source_rationale=True, streams={"answer": StreamConfig()})


def config(tmp_path: Path, **changes: object) -> ExperimentConfig:
    teacher = TeacherConfig(name="fake", engine=Engine.openai, model="m", prefix="fake: ")
    made = ExperimentConfig(
        store=str(tmp_path / "store"),
        data=DataConfig(name="mine", source=Source.jsonl),
        teachers={"fake": teacher},
        prompt=PromptConfig(examples=0),
        method=TINYLLM,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def records(tmp_path: Path) -> Counter[tuple[str, str, str, int]]:
    found: Counter[tuple[str, str, str, int]] = Counter()
    for file in (tmp_path / "store").rglob("*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found[row["split"], row["question_id"], row["prompt_key"], row["sample"]] += 1
    return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    engine = Fake()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    return engine


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"), width=200)


def run(
    config: ExperimentConfig,
    questions: dict[Split, list[Question]],
    console: Console,
    shard: ShardConfig | None = None,
) -> list[Summary]:
    """The rationales stage without its audit."""
    store = RationaleStore(Path(config.store))
    return take_turns(plan_turns(config, questions), store, questions, console, shard=shard)


class Inventor(Fake):
    """Invents well-formed examples, each time another one, and explains whatever else it is asked."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            self.asked.append(request)
            text = "Warmth makes the things of this world do so."
            if str(request.prompt).startswith("Write one new"):
                n = request.seed
                text = (
                    f"Question: Which{n} of{n} these{n} is{n} warm?\nAnswer Choices:\n(a) it grows\n(b) it shrinks\n"
                    f"(c) it stays\nAnswer: (a)\nRationale: Fire {n} burns wood, which gives off much heat."
                )
            yield [Completion(request.id, text, "stop", *self.cost)]


def stage(tmp_path: Path, n: int, **changes: object) -> None:
    """The stage's main on `n` questions of a file."""
    file = tmp_path / "mine.jsonl"
    rows = [
        {"id": q.id, "question": q.question, "choices": q.choices, "answer": q.answer, "split": split}
        for split, prefix in (("train", "t"), ("valid", "v"), ("test", "x"))
        for q in questions(prefix, n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(name="mine", source=Source.jsonl, root=str(file))
    made = RationalesStageConfig(**vars(config(tmp_path, data=data)))
    main(replace(made, **changes), tmp_path)  # type: ignore[arg-type]
