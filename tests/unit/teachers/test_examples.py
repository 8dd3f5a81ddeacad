"""In-context examples: none gives the question, or one of validation or test, away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.errors import UserError
from tinyllm.prompts import Domain, Example
from tinyllm.records import Question
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.examples import (
    ALIKE,
    INVENTION,
    NearDuplicates,
    allowed_for_training_examples,
    domain_of,
    invent,
    invented_examples,
    nearest_orders,
    pick,
    pick_invented,
    random_order,
    random_pool,
)

NOUNS = ["soup", "stone", "bee", "river", "cloud", "lamp", "horse", "bread", "clock", "wool"]


def question(id: str, text: str, choices: tuple[str, ...] = ("one", "two")) -> Question:
    return Question(id, text, choices, choices[0])


def many(prefix: str, n: int) -> list[Question]:
    """Questions that have few words in common."""
    return [question(f"{prefix}{i}", f"Why{i} does{i} {NOUNS[i % 10]} number{i} matter{i}?") for i in range(n)]


class Script:
    """An engine that answers by a function of the prompt and counts what it is asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            self.requests.append(request)
            prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]
            yield [Completion(request.id, self.answer(prompt, len(self.requests)), "stop")]  # type: ignore[operator]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8), max_size=12),
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8),
)
def test_near_duplicates_are_those_of_comparing_all_pairs(known: list[list[str]], asked: list[str]) -> None:
    def like(words: list[str]) -> bool:
        one, other = set(words), set(asked)
        return len(one & other) / len(one | other) >= ALIKE

    index = NearDuplicates([question(str(i), " ".join(words)) for i, words in enumerate(known)])
    assert index.like(question("x", " ".join(asked))) == any(like(words) for words in known)


def test_near_duplicates_look_past_case_and_punctuation() -> None:
    index = NearDuplicates([question("a", "Which of these things is the warmest one today?")])
    assert index.like(question("b", "which of these things, is the WARMEST one"))
    assert not index.like(question("c", "which of these is cold"))
    assert not NearDuplicates([]).like(question("c", "anything"))


def test_held_out_questions_and_their_near_duplicates_are_not_allowed() -> None:
    training = [*many("t", 5), question("leak", "Which tool is it that tells how warm the soup is now?")]
    held_out = [question("v", "Which tool is it that tells how warm the soup is?"), question("w", training[2].question)]
    allowed = allowed_for_training_examples(training, held_out)
    assert [q.id for q in allowed] == ["t0", "t1", "t3", "t4"]


def test_the_random_pool_is_the_same_everywhere_and_each_question_draws_its_own() -> None:
    training = many("t", 100)
    pool = random_pool("d", training)
    assert len(pool) == 32
    assert random_pool("d", training[::-1]) == pool
    assert random_pool("other", training) != pool
    orders = {tuple(q.id for q in random_order(pool, one)[:2]) for one in many("q", 20)}
    assert len(orders) > 10


@pytest.mark.parametrize("n", [1, 2])
def test_no_example_is_the_question_or_nearly(n: int) -> None:
    asked = question("q", "Which of these things is the warmest one today?")
    nearly = question("n", "Which of these things is the warmest one")
    others = many("o", 3)
    rationales = {q.id: f"Because {q.id}." for q in [asked, nearly, *others[1:]]}
    chosen = pick([asked, nearly, *others], rationales, asked, n)
    # o0 has no rationale; the first chosen stands last, next to the question.
    assert [example.question.id for example in chosen] == ["o1", "o2"][:n][::-1]
    assert [example.rationale for example in chosen] == [f"Because o{i}." for i in (1, 2)][:n][::-1]
    invented = [Example(q, "Because.") for q in [nearly, *others]]
    drawn = [e.question.id for e in pick_invented(invented, asked, n)]
    assert drawn == [q.id for q in random_order(others, asked)][:n], "by a hash, and never the near-duplicate"


def test_the_nearest_are_nearest_and_not_the_same() -> None:
    pytest.importorskip("sklearn")
    allowed = [
        question("a", "Which animal makes honey in a hive?"),
        question("b", "What do bees gather for their honey?"),
        question("c", "How deep is the ocean at its deepest point?"),
        question("d", "What melts in the sun?"),
    ]
    asked = [question("q", "Which small animal makes honey?"), allowed[0]]
    orders = nearest_orders(allowed, asked, 2)
    assert [q.id for q in orders["q"]] == ["a", "b"]
    assert "a" not in {q.id for q in orders["a"]}
    assert nearest_orders([], asked, 2) == {"q": [], "a": []}


def test_questions_without_a_word_of_two_letters_have_nearest_ones_too() -> None:
    pytest.importorskip("sklearn")
    allowed = [question(sum_, sum_, ("4", "5")) for sum_ in ("1 + 2 = ?", "7 + 8 = ?")]
    asked = question("q", "6 + 2 = ?", ("4", "5"))
    assert [q.id for q in nearest_orders(allowed, [asked], 1)["q"]] == ["1 + 2 = ?"], "they share a 2"


def test_the_domain_follows_the_questions() -> None:
    yes_no = [question(str(i), f"Is it {i}?", ("yes", "no")) for i in range(3)]
    assert domain_of("medicine", yes_no).choices == ("yes", "no")
    four = [Question(str(i), "What?", ("a", "b", "c", str(i)), "a") for i in range(3)]
    assert domain_of("science", four) == domain_of("science", []) == Domain("science", 4)


def whole(prompt: str, number: int) -> str:
    if number % 3 == 0:
        return "I'd rather not."
    noun = NOUNS[number % 10]
    return (
        f"Question: What is the {noun} of place{number} good{number} for{number}?\nAnswer Choices:\n(a) eating\n"
        f"(b) seeing\n(c) going\nAnswer: (b) seeing\nRationale: The {noun} lets people see what is there. And it"
    )


def test_a_teacher_invents_whole_examples() -> None:
    engine = Script(whole)
    examples = invent(engine, Domain("things", 3), 4, chat=False, avoid=[])
    assert [example.question.id for example in examples] == [f"invented-{i}" for i in range(4)]
    assert len({example.question.question for example in examples}) == 4
    assert all(example.question.answer == "seeing" for example in examples)
    assert examples[0].rationale.endswith("see what is there."), "cut to the last whole sentence"
    assert all("What is the" not in str(request.prompt) for request in engine.requests), "no example is shown"
    assert {request.sampling for request in engine.requests} == {INVENTION}
    assert len({request.seed for request in engine.requests}) == len(engine.requests)


def test_an_invented_example_like_a_held_out_question_is_dropped() -> None:
    first = invent(Script(whole), Domain("things", 3), 4, chat=False, avoid=[])[0].question
    again = invent(Script(whole), Domain("things", 3), 4, chat=False, avoid=[first])
    assert len(again) == 4
    assert first.question not in {example.question.question for example in again}


def in_steps(prompt: str, number: int) -> str:
    if prompt.startswith("Write one new"):
        return "Here is a nice idea for a quiz about things."
    if prompt.startswith("Write a short question"):
        return f"Sure!\n**Question: What would{number} help{number} against{number} the{number} cold?**"
    if prompt.startswith("Answer the question"):
        return f"Answer: a coat{number}."
    assert "Let's think step by step." in prompt
    return "Let's think step by step. Thick cloth keeps the warmth of the body inside."


@pytest.mark.parametrize("chat", [False, True])
def test_a_teacher_that_cannot_keep_the_form_is_led_step_by_step(chat: bool) -> None:
    examples = invent(Script(in_steps), Domain("things", 4), 3, chat=chat, avoid=[])
    assert len(examples) == 3
    for example in examples:
        assert example.question.question.startswith("What would")
        assert len(example.question.choices) == 4
        assert example.question.answer.startswith("a coat")
        assert example.rationale == "Thick cloth keeps the warmth of the body inside."


def test_the_set_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "d" / "examples.json"
    engine = Script(whole)
    made = invented_examples(file, engine, Domain("things", 3), 2, chat=False, avoid=[], teacher="t")
    asked = len(engine.requests)
    assert invented_examples(file, engine, Domain("things", 3), 2, chat=False, avoid=[], teacher="t") == made
    assert len(engine.requests) == asked
    assert len(json.loads(file.read_text())["examples"]) == len(made) <= 16


def test_failed_requests_make_no_smaller_pool(tmp_path: Path) -> None:
    """A pool is kept for good: one that lacks examples because a server failed for a while must not be."""

    class Failing(Script):
        def complete(self, requests):
            for batch in super().complete(requests):
                yield [
                    Completion(done.id, "", "error", error="HTTP 503, 6 times") if int(done.id) % 8 else done
                    for done in batch
                ]

    file, domain = tmp_path / "e.json", Domain("things", 3)
    with pytest.raises(
        UserError, match=r"teacher t: \d+ of \d+ requests .* failed \(HTTP 503, 6 times\).* run the same"
    ):
        invented_examples(file, Failing(whole), domain, 2, chat=False, avoid=[], teacher="t")
    assert not file.exists()
    assert len(invented_examples(file, Script(whole), domain, 2, chat=False, avoid=[], teacher="t")) >= 2


def test_what_is_refused_for_good_keeps_no_pool_from_being_made(tmp_path: Path) -> None:
    """No other call gets more of it."""

    class Filtering(Script):
        def complete(self, requests):
            for batch in super().complete(requests):
                yield [
                    Completion(done.id, "", "error", error="filtered", final=True) if int(done.id) % 8 else done
                    for done in batch
                ]

    domain = Domain("things", 3)
    made = invented_examples(tmp_path / "e.json", Filtering(whole), domain, 2, chat=False, avoid=[], teacher="t")
    assert 2 <= len(made) < 16


THOUGHTS = (
    "<think>Question: is that what it would take here?\nAnswer Choices:\n(a) x\nAnswer: (a) x\nRationale: so.</think>\n"
)


@pytest.mark.parametrize("answer", ["whole", "in_steps"])
def test_thoughts_are_no_part_of_an_example(answer: str) -> None:
    """They speak of questions and answers, too."""
    says = {"whole": whole, "in_steps": in_steps}[answer]
    domain = Domain("things", 3)
    plain = invent(Script(says), domain, 3, chat=True, avoid=[])
    thinking = invent(Script(lambda p, n: THOUGHTS + says(p, n)), domain, 3, chat=True, avoid=[])
    assert thinking == plain and len(plain) == 3


def test_a_file_system_without_locks_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    file = tmp_path / "e.json"
    assert invented_examples(file, Script(whole), Domain("things", 3), 2, chat=False, avoid=[], teacher="t")


def test_too_few_usable_ones_end_the_run_with_a_remedy(tmp_path: Path) -> None:
    engine = Script(lambda prompt, number: "No.")
    with pytest.raises(UserError, match=r"t invented 0 usable .* of the 2 wanted: use prompt.example_source=random"):
        invented_examples(tmp_path / "e.json", engine, Domain("x", 3), 2, chat=False, avoid=[], teacher="t")
    assert not (tmp_path / "e.json").exists()
