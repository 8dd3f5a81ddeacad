"""Generation pays once: only what is missing is asked, batch by batch, by one process at a time."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
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
    ExampleSource,
    ExperimentConfig,
    PromptConfig,
    RationalesConfig,
    RationalesStageConfig,
    ShardConfig,
    Source,
    TeacherConfig,
)
from tinyllm.errors import UserError
from tinyllm.records import Question, Split
from tinyllm.teachers.asking import turns as module
from tinyllm.teachers.asking.ask import ask_engine, generate
from tinyllm.teachers.asking.plan import Summary, Turn, plan_turns
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import stored

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
        self.asked: list[Request] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            self.asked.append(request)
            if request.id in self.fail:
                yield [Completion(request.id, "", "error", error="HTTP 500, 7 times")]
            else:
                yield [Completion(request.id, self.text, "stop", prompt_tokens=10, tokens=5)]


def config(tmp_path: Path, **changes: object) -> ExperimentConfig:
    teacher = TeacherConfig(name="fake", engine=Engine.openai, model="m", prefix="fake: ")
    made = ExperimentConfig(
        store=str(tmp_path / "store"),
        data=DataConfig(name="mine", source=Source.jsonl),
        teachers={"fake": teacher},
        prompt=PromptConfig(examples=0),
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


def test_only_what_is_missing_is_asked(tmp_path: Path, fake: Fake) -> None:
    asked: dict[Split, list[Question]] = {"train": questions("t", 5)}
    (first,) = run(config(tmp_path), {"train": asked["train"][:3]}, quiet())
    assert (first.existing, first.written, first.failed) == (0, 3, {})
    (second,) = run(config(tmp_path), asked, quiet())
    assert (second.existing, second.written) == (3, 2)
    (third,) = run(config(tmp_path), asked, quiet())
    assert (third.existing, third.written) == (5, 0)
    assert Counter(request.id for request in fake.asked) == Counter({f"t{i}": 1 for i in range(5)})
    assert set(records(tmp_path).values()) == {1}
    kept = stored(config(tmp_path), config(tmp_path).teachers["fake"], "train")
    assert {r.answer for r in kept.values()} == {None}, "with teacher forcing the answer isn't the teacher's"


def test_failures_are_reported_and_asked_again(tmp_path: Path, fake: Fake) -> None:
    fake.fail = {"t1", "t3"}
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    (summary,) = run(config(tmp_path), {"train": questions("t", 5)}, console)
    assert summary.failed == {"t1": "HTTP 500, 7 times", "t3": "HTTP 500, 7 times"}
    assert "2 failed (HTTP 500, 7 times): t" in console.export_text()
    fake.fail = set()
    (summary,) = run(config(tmp_path), {"train": questions("t", 5)}, quiet())
    assert (summary.existing, summary.written) == (3, 2)


def test_free_answers_are_parsed_and_the_unparsed_counted(tmp_path: Path, fake: Fake) -> None:
    free = config(tmp_path, prompt=PromptConfig(teacher_forcing=False, examples=0))
    run(free, {"train": questions("t", 2)}, quiet())
    fake.text = "I can't tell."
    (summary,) = run(free, {"train": questions("t", 3)}, quiet())
    assert summary.unparsed == 1
    kept = stored(free, free.teachers["fake"], "train")
    assert [kept[f"t{i}"].answer for i in range(3)] == ["it shrinks", "it shrinks", None]
    assert all("\nAnswer:" not in str(request.prompt) for request in fake.asked)


def test_longest_prompts_come_first(tmp_path: Path, fake: Fake) -> None:
    run(config(tmp_path), {"train": questions("t", 20)}, quiet())
    lengths = [request.length for request in fake.asked]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 1


def test_shards_part_the_questions(tmp_path: Path, fake: Fake) -> None:
    asked: dict[Split, list[Question]] = {"train": questions("t", 10)}
    counts = [run(config(tmp_path), asked, quiet(), shard=ShardConfig(i, 3))[0].written for i in range(3)]
    assert counts == [4, 3, 3]
    assert len(records(tmp_path)) == 10
    with pytest.raises(UserError, match=r"^shard: .* index 3 of count 3"):
        run(config(tmp_path), asked, quiet(), shard=ShardConfig(3, 3))


def test_a_second_sample_needs_a_temperature_and_its_own_seed(tmp_path: Path, fake: Fake) -> None:
    one = TeacherConfig(name="one", engine=Engine.openai, model="m", prefix="1: ", temperature=0.7)
    two = replace(one, name="two", prefix="2: ", sample=1, stored_as="one")
    run(config(tmp_path, teachers={"one": one, "two": two}), {"train": questions("t", 2)}, quiet())
    assert sorted(sample for _, _, _, sample in records(tmp_path)) == [0, 0, 1, 1]
    assert len({request.seed for request in fake.asked}) == 4
    greedy = config(tmp_path, teachers={"two": replace(two, temperature=0.0)})
    with pytest.raises(UserError, match=r"teacher two: sample 1 .* teachers\.two\.temperature"):
        run(greedy, {"train": questions("t", 2)}, quiet())


@pytest.mark.parametrize("source", [ExampleSource.random, ExampleSource.nearest])
def test_examples_come_from_training_with_the_teachers_zero_shot_rationales(
    tmp_path: Path, fake: Fake, source: ExampleSource
) -> None:
    if source is ExampleSource.nearest:
        pytest.importorskip("sklearn")
    fake.text = "Warmth makes the things of this world do so."
    training, held_out = questions("t", 12), questions("v", 4)
    leaked = replace(held_out[0], id="leaked")
    all_splits: dict[Split, list[Question]] = {
        "train": [*training, leaked],
        "valid": held_out,
        "test": questions("x", 3),
    }
    few = config(
        tmp_path,
        prompt=PromptConfig(examples=2, example_source=source),
        rationales=RationalesConfig(splits=["train", "test"]),
    )
    summaries = run(few, all_splits, quiet())
    assert [summary.written for summary in summaries] == [13, 3]
    shown = [r for r in fake.asked if str(r.prompt).count("Question:") == 3]
    zero_shot = [r for r in fake.asked if str(r.prompt).count("Question:") == 1]
    assert len(shown) == 16
    assert len(shown) + len(zero_shot) == len(fake.asked)
    assert len({r.id for r in zero_shot}) == len(zero_shot), "a zero-shot rationale is made once"
    assert {r.id for r in zero_shot} <= {q.id for q in training}, "none held out, nor a near-duplicate"
    by_id = {q.id: q for split in all_splits.values() for q in split}
    for request in shown:
        *examples, own = str(request.prompt).split("\n\n")[1:]
        assert by_id[request.id].question in own
        assert all(by_id[request.id].question not in example for example in examples)
        assert all(held_out[0].question not in example for example in examples)
        assert all("Let's think step by step. Warmth makes" in example for example in examples)


def test_a_teacher_that_invents_examples_is_asked_for_the_topic(tmp_path: Path, fake: Fake) -> None:
    data = DataConfig(name="mine", source=Source.jsonl, topic="the law of the sea")
    with pytest.raises(UserError, match=r"teacher fake .* prompt\.example_source=random"):  # none of these is usable
        run(config(tmp_path, data=data, prompt=PromptConfig()), {"train": questions("t", 2)}, quiet())
    assert "about the law of the sea" in str(fake.asked[0].prompt)
    assert all("Question: Whyt" not in str(request.prompt) for request in fake.asked), "no question is shown"


def test_the_ledger_keeps_tokens_and_money(tmp_path: Path, fake: Fake) -> None:
    priced = TeacherConfig(
        name="fake", engine=Engine.openai, model="m", prefix="f: ", price_prompt=1e6, price_completion=2e6
    )
    (summary,) = run(config(tmp_path, teachers={"fake": priced}), {"train": questions("t", 3)}, quiet())
    assert (summary.prompt_tokens, summary.completion_tokens, summary.money) == (30, 15, 60.0)
    with (tmp_path / "store" / "ledger.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["teacher"], row["prompts"], row["completion_tokens"], row["money"]) == ("fake", "3", "15", "60.0")
    run(config(tmp_path, teachers={"fake": priced}), {"train": questions("t", 3)}, quiet())
    assert len((tmp_path / "store" / "ledger.csv").read_text().splitlines()) == 2


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


def test_the_plan_is_printed_before_and_the_audit_after(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path, 3)
    text = capsys.readouterr().out
    places = [
        text.index(part)
        for part in (
            "fake: mine/train has 0 of 3 rationales, 3 to ask",
            "prompt tokens and at most 768 completion tokens to come",
            "now has 3 rationales, 3 of them new",
            "Audit of the rationales",
        )
    ]
    assert places == sorted(places)
    assert json.loads((tmp_path / "store" / "audit.json").read_text())["audits"][0]["texts"] == 3


def test_an_audit_alone_asks_nothing(tmp_path: Path, fake: Fake) -> None:
    stage(tmp_path, 3, audit=True)
    assert fake.asked == []
    assert json.loads((tmp_path / "store" / "audit.json").read_text())["audits"][0]["texts"] == 0


def test_the_stage_names_teacher_and_split_of_what_failed(tmp_path: Path, fake: Fake) -> None:
    fake.fail = {"t1", "t3"}
    with pytest.raises(UserError, match="2 train questions of fake"):
        stage(tmp_path, 5)
    assert len(records(tmp_path)) == 3


def test_a_split_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rationales\.splits: .* train"):
        run(config(tmp_path), {"train": []}, quiet())


SLOW_WRITER = """
import sys, time
from pathlib import Path
from tinyllm.config import PromptConfig, TeacherConfig
from tinyllm.records import Question, Split
from tinyllm.teachers.asking.ask import generate
from tinyllm.teachers.asking.plan import Turn
from tinyllm.teachers.engines.protocol import Completion
from tinyllm.teachers.store import RationaleStore
def ask(questions):
    for question in questions:
        print(question.id, flush=True)
        time.sleep(0.01)
        yield [Completion(question.id, "why " * 500, "stop")]
questions = [Question(f"q{i}", "Why?", ("a", "b"), "a") for i in range(60)]
turn = Turn(TeacherConfig(name="t", model="m", prefix="t: "), PromptConfig(), "d", "things", Split.train, "k")
generate(RationaleStore(Path(sys.argv[1])), ask, questions, turn, parse_answers=False, costs=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(folder)], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_ask_each_question_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    asked = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert Counter(asked) == Counter({f"q{i}": 1 for i in range(60)})
    assert len(RationaleStore(tmp_path).read("d", "train", "t", "k")) == 60


def test_a_run_killed_again_and_again_ends_with_one_record_a_question(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    kills = 0
    for _ in range(12):
        process = start(tmp_path)
        assert process.stdout is not None
        first = process.stdout.readline().split()
        time.sleep(0.15)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        asked.update([*first, *process.stdout.read().split()])
        if process.wait() == 0:
            break
    assert kills > 2
    turn = Turn(TeacherConfig(name="t", model="m", prefix="t: "), PromptConfig(), "d", "things", Split.train, "k")
    generate(
        RationaleStore(tmp_path),
        ask_engine(Fake(), turn),
        [Question(f"q{i}", "Why?", ("a", "b"), "a") for i in range(60)],
        turn,
        parse_answers=False,
        costs=True,
    )
    lines = [line for file in tmp_path.rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert Counter(json.loads(line)["question_id"] for line in lines) == Counter({f"q{i}": 1 for i in range(60)})
    # Paid twice is what was in flight at a kill, one question each.
    assert sum(asked.values()) - len(asked) <= kills
