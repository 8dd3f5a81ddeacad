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
from tests.unit.teachers.asking.conftest import (
    KD,
    PINTO,
    TINYLLM,
    Fake,
    Inventor,
    config,
    questions,
    quiet,
    records,
    run,
    stage,
)

from tinyllm.cli import rationales
from tinyllm.config import (
    AblationConfig,
    DataConfig,
    Engine,
    ExampleSource,
    MethodConfig,
    PromptConfig,
    PromptTemplate,
    RationalesConfig,
    RationalesStageConfig,
    ShardConfig,
    Source,
    StreamConfig,
    Target,
    TeacherConfig,
    Weighting,
    WeightingConfig,
    WhichTeachers,
)
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.records import PromptKind, Question, Split
from tinyllm.teachers.asking import turns as module
from tinyllm.teachers.asking.ask import ask_engine, generate
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.plan import Turn, items_of, plan_turns
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.engines.protocol import Completion, Published, Request
from tinyllm.teachers.ledger import read_ledger
from tinyllm.teachers.prompt_key import digest_of_file
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import stored, training_texts


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
    kept = stored(config(tmp_path), config(tmp_path).teachers["fake"], PromptKind.forced, "train")
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
    free = config(tmp_path, method=KD)
    run(free, {"train": questions("t", 2)}, quiet())
    fake.text = "I can't tell."
    (summary,) = run(free, {"train": questions("t", 3)}, quiet())
    assert summary.unparsed == 1
    kept = stored(free, free.teachers["fake"], PromptKind.solve, "train")
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


def test_a_case_is_asked_for_each_option_and_kept_with_it(tmp_path: Path, fake: Fake) -> None:
    asked: dict[Split, list[Question]] = {"train": questions("t", 2)}
    pinto = config(tmp_path, method=PINTO)
    (summary,) = run(pinto, asked, quiet())
    assert (summary.existing, summary.written) == (0, 6)
    lines = [str(request.prompt).splitlines()[-2] for request in fake.asked if request.question == asked["train"][0]]
    assert sorted(lines) == [
        f"Why might ({x}) {text} be right?" for x, text in zip("abc", asked["train"][0].choices, strict=True)
    ]
    kept = stored(pinto, pinto.teachers["fake"], PromptKind.per_option, "train")
    assert {(r.question_id, r.option) for r in kept.values()} == {(f"t{i}", k) for i in range(2) for k in range(3)}
    assert {r.answer for r in kept.values()} == {None}
    (again,) = run(pinto, asked, quiet())
    assert (again.existing, again.written) == (6, 0)


def test_too_few_usable_examples_are_said_or_refused(
    tmp_path: Path, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[Split, list[Question]] = {"train": questions("t", 12)}
    few = config(tmp_path, prompt=PromptConfig(examples=2, example_source=ExampleSource.random))
    fake.text = ""
    with pytest.raises(UserError, match=r"fake: prompt\.examples=2 needs 2 usable .*, found 0 of 12"):
        run(few, asked, quiet())
    fake.text = "Warmth makes the things of this world do so."
    fake.fail = {"t3"}
    with pytest.raises(UserError, match=r"1 of 12 rationales for in-context examples failed \(HTTP 500"):
        run(replace(few, store=str(tmp_path / "other")), asked, quiet())
    fake.fail.clear()
    usable = iter([fake.text] * 2)

    class Mixed(Fake):
        def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
            for request in requests:
                whole = str(request.prompt).count("Question:") > 1
                yield [Completion(request.id, fake.text if whole else next(usable, ""), "stop")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_engine", lambda teacher, published=None: Mixed())
        (summary,) = run(replace(few, store=str(tmp_path / "third")), asked, quiet())
    assert summary.written == 12
    assert "2 of 12 prompts show fewer than 2 examples: 2 of 12 rationales made for them are usable" in caplog.text


def test_published_and_asked_texts_have_engines_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weighting=correct` on published data: solutions are asked of the model, and no published text stands for one."""
    opened = []

    def open_engine(teacher: TeacherConfig, published: Published | None = None) -> Fake:
        opened.append(published)
        return Fake(text="Published." if published else "It is warm. The answer is (b).")

    monkeypatch.setattr(module, "open_engine", open_engine)
    asked = {Split.train: questions("t", 2)}
    made = config(tmp_path)
    turns = plan_turns(replace(made, weighting=WeightingConfig(name=Weighting.correct)), asked)
    forced, solve = sorted(turns, key=lambda turn: turn.kind is PromptKind.solve)
    forced = replace(forced, published=Published(tmp_path, "mine"))
    store = RationaleStore(Path(made.store))
    take_turns([forced, solve], store, asked, quiet())
    assert [one is not None for one in opened] == [True, False]
    texts = [{text.text for text in store.read(*turn.part).values()} for turn in (forced, solve)]
    assert texts == [{"Published."}, {"It is warm. The answer is (b)."}]


def test_what_can_never_be_answered_is_kept_empty_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Filtered(Fake):
        def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
            for batch in super().complete(requests):
                yield [
                    Completion(done.id, "", "error", 10, 0, "held back by the filter", final=True)
                    if done.id == "t1"
                    else done
                    for done in batch
                ]

    engine = Filtered()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    stage(tmp_path, 3)
    assert "1 have an empty text, and are not asked again (held back by the filter): t1" in capsys.readouterr().out
    data = DataConfig(name="mine", source=Source.jsonl, root=str(tmp_path / "mine.jsonl"))
    assert training_texts(config(tmp_path, data=data), load_questions(data)["train"])["fake"].keys() == {"t0", "t2"}
    asked = len(engine.asked)
    stage(tmp_path, 3)
    assert len(engine.asked) == asked
    lines = [line for file in (tmp_path / "store").rglob("*.jsonl") for line in file.read_text().splitlines()]
    (row,) = (json.loads(line) for line in lines if '"t1"' in line)
    assert (row["text"], row["finish_reason"]) == ("", "error")


def test_a_changed_question_under_its_old_id_is_refused(tmp_path: Path, fake: Fake) -> None:
    """By the stage that would keep the old text, and by training that would read it."""
    stage(tmp_path, 3)
    file, asked = tmp_path / "mine.jsonl", len(fake.asked)
    data = DataConfig(name="mine", source=Source.jsonl, root=str(file))
    training = load_questions(data)["train"]
    assert training_texts(config(tmp_path, data=data), training)["fake"].keys() == {"t0", "t1", "t2"}
    file.write_text(file.read_text().replace("would1 rope", "would1 string"))
    again = RationalesStageConfig(**vars(config(tmp_path, data=data)))
    refused = r"mine/train: 1 of the questions \(t1 is the first\) have other words.* data\.name or store"
    with pytest.raises(UserError, match=refused):
        rationales.main(again, tmp_path)
    with pytest.raises(UserError, match=refused):
        training_texts(again, load_questions(data)["train"])
    rationales.main(replace(again, data=replace(data, name="other")), tmp_path)
    assert len(fake.asked) == 2 * asked


def test_a_changed_question_is_no_example_with_its_old_text(tmp_path: Path, fake: Fake) -> None:
    fake.text = "Warmth makes the things of this world do so."
    few = PromptConfig(examples=2, example_source=ExampleSource.random)
    stage(tmp_path, 12, prompt=few, rationales=RationalesConfig(splits=["test"]))
    file, asked = tmp_path / "mine.jsonl", len(fake.asked)
    file.write_text(file.read_text().replace("Whyt", "Howt"))
    data = DataConfig(name="mine", source=Source.jsonl, root=str(file))
    again = config(tmp_path, data=data, prompt=few, rationales=RationalesConfig(splits=["valid"]))
    with pytest.raises(UserError, match=r"mine/train: 12 of the questions .* have other words"):
        rationales.main(RationalesStageConfig(**vars(again)), tmp_path)
    assert len(fake.asked) == asked


def test_limits_let_no_held_out_question_become_an_example(tmp_path: Path, fake: Fake) -> None:
    fake.text = "Warmth makes the things of this world do so."
    file = tmp_path / "mine.jsonl"
    rows = [("train", q) for q in questions("t", 6)] + [("test", q) for q in questions("x", 4)]
    rows += [("train", replace(q, id=f"copy of {q.id}")) for _, q in rows if q.id in ("x2", "x3")]
    rows += [("valid", questions("v", 1)[0])]
    file.write_text(
        "".join(
            json.dumps({"id": q.id, "question": q.question, "choices": q.choices, "answer": q.answer, "split": split})
            + "\n"
            for split, q in rows
        )
    )
    data = DataConfig(name="mine", source=Source.jsonl, root=str(file), limit_test=1)
    few = config(tmp_path, data=data, prompt=PromptConfig(examples=2, example_source=ExampleSource.random))
    rationales.main(RationalesStageConfig(**vars(few)), tmp_path)
    explained = {request.id for request in fake.asked if str(request.prompt).count("Question:") == 1}
    assert explained == {f"t{i}" for i in range(6)}
    assert len(fake.asked) == 6 + 8


def test_a_file_of_texts_is_read_once_for_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a record: that takes minutes for some ten thousand."""
    file, read = tmp_path / "texts.jsonl", Counter[str]()
    asked = {Split.train: questions("t", 300)}
    lines = [{"id": q.id, "text": f"Warmth makes {q.id} do so."} for q in asked[Split.train]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def count(path: Path) -> str:
        read[path.name] += 1
        return digest_of_file(path)

    monkeypatch.setattr("tinyllm.teachers.prompt_key.digest_of_file", count)
    teacher = TeacherConfig(name="own", engine=Engine.file, model=str(file), prefix="own: ")
    (summary,) = run(config(tmp_path, teachers={"own": teacher}), asked, quiet())
    assert summary.written == 300 and read["texts.jsonl"] < 20


def test_teachers_that_no_run_reads_are_not_asked(tmp_path: Path, fake: Fake) -> None:
    owl, fox = (replace(config(tmp_path).teachers["fake"], name=n, model=n, prefix=f"{n}: ") for n in ("owl", "fox"))
    two = {"teachers": {"owl": owl, "fox": fox}}
    step_by_step = replace(TINYLLM, teacher="owl", streams={
        "answer": StreamConfig(), "rationale": StreamConfig(Target.rationale, WhichTeachers.one),
    })  # fmt: skip
    for number, (options, kept) in enumerate(
        [
            ({"method": step_by_step}, {"owl"}),
            ({"ablation": AblationConfig(drop=["fox"])}, {"owl"}),
            ({"alpha": {"owl": 1.0, "fox": 0.0}}, {"owl"}),
            ({"method": replace(step_by_step, teacher=None)}, {"owl", "fox"}),
            ({}, {"owl", "fox"}),
        ]
    ):
        store = tmp_path / f"store{number}"
        stage(tmp_path, 2, **two, **options, store=str(store))
        assert {cost.teacher for cost in read_ledger(store)} == kept, options


def test_every_kind_that_the_method_reads_is_asked_and_none_stands_for_another(tmp_path: Path, fake: Fake) -> None:
    streams = {**TINYLLM.streams, **KD.streams}
    several = config(tmp_path, method=MethodConfig(name="several", source_rationale=True, streams=streams))
    asked: dict[Split, list[Question]] = {"train": questions("t", 1)}
    assert [summary.written for summary in run(several, asked, quiet())] == [1, 1, 3]
    unforced = replace(several, method=TINYLLM, prompt=PromptConfig(teacher_forcing=False, examples=0))
    assert [summary.written for summary in run(unforced, asked, quiet())] == [1]
    assert len({(split, key) for split, _, key, _ in records(tmp_path)}) == 4


def test_questions_draw_two_of_a_pool_whose_content_is_in_the_prompt_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Inventor()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    two = config(tmp_path, prompt=PromptConfig())
    asked: dict[Split, list[Question]] = {"train": questions("t", 30)}
    run(two, asked, quiet())
    (file,) = (tmp_path / "store").rglob("examples/**/*.json")
    pool = json.loads(file.read_text())["examples"]
    assert len(pool) == 16
    shown = [
        tuple(example["question"] for example in pool if example["question"] in str(request.prompt))
        for request in engine.asked
        if request.question is not None
    ]
    assert {len(pair) for pair in shown} == {2}
    assert len(set(shown)) > 20, "nearly every question has a pair of its own"
    assert {text for pair in shown for text in pair} == {example["question"] for example in pool}
    assert len(stored(two, two.teachers["fake"], PromptKind.forced, "train")) == 30
    # Another pool is another prompt: its texts are asked for, and never those of the first taken.
    pool[0]["rationale"] = "Another reason."
    file.write_text(json.dumps({"about": "things", "examples": pool}))
    assert stored(two, two.teachers["fake"], PromptKind.forced, "train") == {}
    (summary,) = run(two, asked, quiet())
    assert (summary.existing, summary.written) == (0, 30)


def test_examples_of_another_training_subset_make_another_prompt(tmp_path: Path, fake: Fake) -> None:
    random = config(tmp_path, prompt=PromptConfig(examples=1, example_source=ExampleSource.random))
    fake.text = "Warmth makes the things of this world do so."
    asked: dict[Split, list[Question]] = {"train": questions("t", 12)}
    run(random, asked, quiet())
    kept = stored(random, random.teachers["fake"], PromptKind.forced, "train")
    assert len(kept) == 12
    for change in ({"train_fraction": 0.5}, {"limit_train": 6}):
        smaller = replace(random, data=replace(random.data, **change))  # type: ignore[arg-type]
        assert stored(smaller, random.teachers["fake"], PromptKind.forced, "train") == {}


def test_the_authors_template_takes_their_examples(tmp_path: Path, fake: Fake) -> None:
    authors = PromptConfig(template=PromptTemplate.authors)
    bare = config(tmp_path, prompt=replace(authors, examples=0))
    run(bare, {"train": questions("t", 1)}, quiet())
    assert str(fake.asked[0].prompt).startswith("Question:\nWhyt0")


def test_what_another_process_asks_for_is_left_to_it_and_is_no_budgets_end(tmp_path: Path, fake: Fake) -> None:
    here, asked = config(tmp_path), {Split.train: questions("t", 6)}
    (turn,) = plan_turns(here, asked)
    with RationaleStore(Path(here.store)).claims(*turn.part) as claims:
        assert claims.take(["t1", "t4"]) == ["t1", "t4"]
        (summary,) = run(here, asked, quiet())
    assert (summary.claimed_elsewhere, summary.written, summary.left) == (2, 4, 0)
    assert {request.id for request in fake.asked} == {"t0", "t2", "t3", "t5"}


def test_the_ledger_keeps_tokens_and_money(tmp_path: Path, fake: Fake) -> None:
    priced = TeacherConfig(
        name="fake", engine=Engine.openai, model="m", prefix="f: ", price_prompt=1e6, price_completion=2e6
    )
    (summary,) = run(config(tmp_path, teachers={"fake": priced}), {"train": questions("t", 3)}, quiet())
    assert (summary.prompt_tokens, summary.completion_tokens, summary.money) == (30, 15, 60.0)
    with (tmp_path / "store" / "ledger.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["teacher"] == "fake"
    assert [float(row[name]) for name in ("prompts", "prompt_tokens", "completion_tokens", "money")] == [3, 30, 15, 60]
    run(config(tmp_path, teachers={"fake": priced}), {"train": questions("t", 3)}, quiet())
    assert len((tmp_path / "store" / "ledger.csv").read_text().splitlines()) == 2


def test_the_plan_is_printed_before_and_the_audit_after(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path, 3)
    text = capsys.readouterr().out
    places = [
        text.index(part)
        for part in (
            "fake: mine/train has 0 of 3 rationales (forced), 3 to ask",
            "prompt tokens and at most 768 completion tokens to come",
            "now has 3 rationales (forced), 3 of them new",
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
from tinyllm.records import PromptKind, Question, Split
from tinyllm.teachers.asking.ask import generate
from tinyllm.teachers.asking.plan import Turn, items_of
from tinyllm.teachers.engines.protocol import Completion
from tinyllm.teachers.store import RationaleStore
def ask(items):
    for item in items:
        print(item.key.replace(" ", "_"), flush=True)
        time.sleep(0.01)
        yield [Completion(item.key, "why " * 500, "stop")]
kind = PromptKind(sys.argv[2])
questions = [Question(f"q{i}", "Why?", ("a", "b"), "a") for i in range(30 if kind is PromptKind.per_option else 60)]
teacher = TeacherConfig(name="t", model="m", prefix="t: ")
turn = Turn(teacher, PromptConfig(), kind, "d", "things", Split.train, key="k")
generate(RationaleStore(Path(sys.argv[1])), ask, items_of(turn, questions), turn, costs=True)
"""


def start(folder: Path, kind: PromptKind = PromptKind.forced) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(folder), kind], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_ask_each_question_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    asked = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert Counter(asked) == Counter({f"q{i}": 1 for i in range(60)})
    assert len(RationaleStore(tmp_path).read("d", "train", "t", "k")) == 60


@pytest.mark.parametrize("kind", [PromptKind.forced, PromptKind.per_option])
def test_a_run_killed_again_and_again_ends_with_one_record_a_text(tmp_path: Path, kind: PromptKind) -> None:
    asked: Counter[str] = Counter()
    kills = 0
    for _ in range(12):
        process = start(tmp_path, kind)
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
    teacher = TeacherConfig(name="t", model="m", prefix="t: ")
    turn = Turn(teacher, PromptConfig(), kind, "d", "things", Split.train, key="k")
    count = 30 if kind is PromptKind.per_option else 60
    about = [Question(f"q{i}", "Why?", ("a", "b"), "a") for i in range(count)]
    generate(RationaleStore(tmp_path), ask_engine(Fake(), turn, Budget()), items_of(turn, about), turn, costs=True)
    rows = [json.loads(line) for file in tmp_path.rglob("*.jsonl") for line in file.read_text().splitlines()]
    options = [0, 1] if kind is PromptKind.per_option else [None]
    wanted = Counter((q.id, option) for q in about for option in options)
    assert Counter((row["question_id"], row.get("option")) for row in rows) == wanted
    # Paid twice is what was in flight at a kill, one question each.
    assert sum(asked.values()) - len(asked) <= kills
