"""Texts are parsed as a careful reader would: what names nothing, or two things, is None."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.data.release import load, load_rationales
from tinyllm.parsing import (
    clean_rationale,
    is_right,
    match_choice,
    normalise,
    parse_answer,
    parse_example,
    without_conclusion,
)
from tinyllm.prompts import Domain, Example, example_request, teacher_prompt
from tinyllm.records import PromptKind, Question, Split

CHOICES = ("a rope", "thermometer", "hot water", "water")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Thermometer.", "thermometer"),
        (" (b) Thermometer", "thermometer"),
        ("(b)", "thermometer"),
        ("(B).", "thermometer"),
        ("(e)", None),
        ("water", "water"),
        ("cold water", None),
        ("", None),
        ("(a) thermometer", "thermometer"),
    ],
)
def test_match_choice(text: str, named: str | None) -> None:
    assert match_choice(text, CHOICES) == named


def test_an_option_as_it_stands_is_that_option() -> None:
    assert match_choice("(b)", ("(b)", "(a)")) == "(b)"


def test_normalise() -> None:
    assert normalise("  (c) Hot \n Water. ") == "hot water"
    assert normalise("(c)") == normalise(" (C).") == "(c)"


def test_options_that_are_bare_letters_or_differ_in_case_stay_apart() -> None:
    assert not is_right("(a)", "(b)") and is_right("(a)", "(a)")
    assert match_choice("Co", ["CO", "Co"]) == "Co" and match_choice("co", ["CO", "Co"]) is None
    genotypes = ("R", "rr", "Rr", "RR")
    assert match_choice("(c) Rr.", genotypes) == "Rr" == parse_answer("So the answer is Rr.", genotypes)
    assert parse_answer("The answer is rR.", genotypes) is None
    assert parse_answer("The answer is (b) RR.", genotypes) is None
    assert not is_right("rr", "Rr") and is_right("sieve  lined", "sieve lined ")


@pytest.mark.parametrize(
    "text",
    [
        "The first option is a rope. The second option is a thermometer, which tells how warm it is. "
        "The last option is water.",
        "The wrong answer is (a) a rope.",
        "An incorrect choice would be (d) water.",
        "Another option is hot water, but that tells nothing.",
        "The answer is (a) or (b).",
        "The correct answer is a rope or water.",
        "The answer is either (a) or (b).",
    ],
)
def test_what_lists_excludes_or_leaves_open_concludes_on_nothing(text: str) -> None:
    assert parse_answer(text, CHOICES) is None


def test_a_longer_number_is_another_one() -> None:
    assert parse_answer("The answer is 3.5 metres.", ("3", "5", "7")) is None
    assert parse_answer("The answer is 1,000.", ("1", "100")) is None
    assert parse_answer("The answer is 3.", ("3", "5", "7")) == "3"
    assert parse_answer("The answer is ice or snow.", ("ice or snow", "snow")) == "ice or snow"


def test_a_text_that_describes_its_options_loses_nothing() -> None:
    text = "The first option is a rope, which cannot tell warmth. A thermometer tells how warm it is."
    assert without_conclusion(text, CHOICES) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Heat is measured. Therefore, the answer is (b) thermometer.", "thermometer"),
        ("So the answer is (b).", "thermometer"),
        ("The correct answer is B.", "thermometer"),
        ("The correct answer is B", "thermometer"),
        ("The answer is: **(B) Thermometer**", "thermometer"),
        ("The answer is option (c) hot water, as it boils.", "hot water"),
        ("The answer is a thermometer.", "thermometer"),
        ("the answer is the hot water", "hot water"),
        ("The answer is a rope.", "a rope"),
        ("Answer: d) water\n", "water"),
        ("The answer is (a)? No. The answer is (c) hot water.", "hot water"),
        ("The correct answer choice is (d).", "water"),
        ("The best option is to use the water", None),
        ("It tells how warm it is.\n(b) thermometer", "thermometer"),
        ("It tells how warm it is.\nthermometer", "thermometer"),
        # Marks of LaTeX and Markdown, and our own instruction repeated.
        (r"**Answer:** \boxed{B}", "thermometer"),
        (r"It tells how warm it is: \boxed{\text{thermometer}}", "thermometer"),
        ("The answer is `(b)`.", "thermometer"),
        # A letter without brackets, where it can only be an answer.
        (r"It tells how warm it is: \boxed{B}", "thermometer"),
        (r"So it is \boxed{\text{b}}.", "thermometer"),
        (r"So it is \boxed{B. thermometer}.", "thermometer"),
        (r"So it is \boxed{B. water}.", None),
        ("It tells how warm it is.\n\n### Answer\n\n**B**", "thermometer"),
        ("It tells how warm it is.\nB) thermometer", "thermometer"),
        ("It tells how warm it is.\nb. thermometer.", "thermometer"),
        ("B", "thermometer"),
        ("It tells how warm it is.\nB", None),  # the first letter of a word that was cut off
        ("It tells how warm it is.\nB. water", None),
        ("A) a rope\nB) thermometer", None),
        ("The answer is $(b)$", "thermometer"),
        ("The answer is (letter) b", "thermometer"),
        # A model's thoughts, whole, begun in the template, and cut off.
        ("<think>The answer is (a)?</think>\nThe answer is (b).", "thermometer"),
        ("The answer is (a)?\n</think>\n\nThe answer is (b).", "thermometer"),
        ("<think>\nMaybe the answer is (a)? Hm", None),
        # Nothing is concluded on.
        ("A thermometer tells how warm it is.", None),
        ("The answer is not (b).", None),
        ("The answer is (e).", None),
        ("The answer is (x) thermometer.", None),
        ("The answer is a matter of taste.", None),
        ("The answer is waterproof.", None),
        ("", None),
        # Letter and text disagree.
        ("The answer is (a) thermometer.", None),
        ("The answer is (b). In the end the answer is (a) thermometer.", None),
    ],
)
def test_parse_answer(text: str, named: str | None) -> None:
    assert parse_answer(text, CHOICES) == named


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("The answer is C-reactive protein.", ("C-reactive protein", "insulin", "glucose", "albumin"), 0),
        ("The answer is C major.", ("D major", "C major", "F minor", "E flat"), 1),
        ("The answer is X-rays.", ("light", "X-rays"), 1),
        ("Answer: I leave a log.", ("I leave a log", "I take it"), 0),
        ("The answer is B. B cells", ("T cells", "B cells"), 1),
        ("The answer is (b) B cells", ("T cells", "B cells"), 1),
        ("The answer is B", ("T cells", "B cells"), 1),
    ],
)
def test_options_that_begin_with_a_letter(text: str, choices: tuple[str, ...], named: int) -> None:
    assert parse_answer(text, choices) == choices[named]


def test_two_equal_options_do_not_disagree() -> None:
    assert parse_answer("The answer is (b) no.", ("no", "no", "yes")) == "no"


PIECES = [
    "Let's think step by step.",
    "Rationale:",
    "Question: Is it?",
    "Answer Choices:",
    "\n",
    " ",
    "Ice melts.",
    "Q:",
    "<think>",
    "</think>",
]


@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_parsing_takes_any_text(text: str) -> None:
    assert parse_answer(text, CHOICES) in (None, *CHOICES)
    cleaned = clean_rationale(text)
    assert clean_rationale(cleaned) == cleaned
    parse_example(text, "x", 4)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Let's think step by step. Ice melts.", "Ice melts."),
        ("Let\u2019s think step-by-step:\n\nIce melts.", "Ice melts."),
        ("Let's think about this step by step.\nIce melts.", "Ice melts."),
        ("Rationale: Let's think step by step. Let's think step by step. Ice melts.", "Ice melts."),
        ("Ice melts. Let's think step by step.", "Ice melts. Let's think step by step."),
        ("Ice melts.\n\nQuestion: What is ice?\nAnswer Choices:\n(a) water", "Ice melts."),
        ("Ice melts.\nAnswer Choices:\n(a) water", "Ice melts."),
        ("He asked: Q: what melts? Ice melts.", "He asked: Q: what melts? Ice melts."),
        ("The question: what melts? Ice melts.", "The question: what melts? Ice melts."),
        ("Question: What is ice?", ""),
        ("Let's think step by step. Question: What is ice?", ""),
        ("Let's think step by step.", ""),
        ("  \n ", ""),
        ("Ice melts at 0 degrees.\nSo it is water.", "Ice melts at 0 degrees.\nSo it is water."),
        ("<think>\nRope?\nNo.\n</think>\n\nLet's think step by step. Ice melts.", "Ice melts."),
        ("Rope? No.</think>Ice melts.", "Ice melts."),
        ("Ice melts. <thinking>Does it", "Ice melts."),
        ("<think>Question: is it", ""),
    ],
)
def test_clean_rationale(raw: str, cleaned: str) -> None:
    assert clean_rationale(raw) == cleaned


def test_the_prompts_own_repeat_is_cleaned_away() -> None:
    """Whatever a teacher appends in the form of the prompt doesn't reach the student."""
    question = Question("q", "What melts?", ("ice", "stone"), "ice", context="It is warm.")
    repeat = teacher_prompt(question, [], kind=PromptKind.forced).split("\n\n", 1)[1]
    assert clean_rationale(f"Ice melts.\n\n{repeat}") == "Ice melts."


WELL = """Sure! Here is one:

**Question:** What do bees
make?
Answer Choices:
(a) honey
(b) milk
(c) wool
Answer: (a) honey
Rationale: Let's think step by step. Bees turn nectar into honey.

I hope this helps!"""


def test_a_well_formed_example() -> None:
    assert parse_example(WELL, "x", 3) == Example(
        Question("x", "What do bees make?", ("honey", "milk", "wool"), "honey"), "Bees turn nectar into honey."
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(b) milk\n", ""),
        ("(b) milk", "(b) Honey."),
        ("Answer: (a) honey", "Answer: (d) ink"),
        ("Answer: (a) honey", "Answer: (b) honey"),
        ("Answer: (a) honey\n", ""),
        ("Bees turn nectar into honey.", ""),
        ("Bees turn nectar into honey.", "Bees make it. So the answer is (b)."),
        ("Bees turn nectar into honey.", "..."),
        ("What do bees\nmake?", "..."),
        ("(c) wool", "wool and more"),
    ],
)
def test_a_malformed_example_is_none(old: str, new: str) -> None:
    assert old in WELL
    assert parse_example(WELL.replace(old, new), "x", 3) is None


def test_the_request_itself_is_no_example() -> None:
    for domain in (Domain("bees", 3), Domain("bees", 2, ("yes", "no"))):
        assert parse_example(example_request(domain), "x", domain.n_choices, domain.choices) is None


def test_an_example_with_given_options_keeps_to_them() -> None:
    text = "Question: Is ice cold?\nAnswer Choices:\n(a) yes\n(b) no\nAnswer: yes\nRationale: It is frozen."
    assert parse_example(text, "x", 2, ("yes", "no")) is not None
    assert parse_example(text, "x", 2, ("no", "yes")) is None


OPTIONS = ("sand", "a stopwatch", "salt water", "glass")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A stopwatch measures time. Therefore, the answer is (b) a stopwatch.", "A stopwatch measures time."),
        ("Sand sinks, so the answer is (a) sand.", "Sand sinks."),
        ("It takes time, so a stopwatch is the best choice.", "It takes time."),
        ("Water boils. The best option is salt water.", "Water boils."),
        ("Answer: (a)", ""),
        ("(b) is correct.", ""),
        ("The correct choice must be B.", ""),
        ("It melts at last.\nglass", "It melts at last."),
        # A text that only mentions options says no answer.
        ("One needs to measure time. A stopwatch does that.", "One needs to measure time. A stopwatch does that."),
        ("A stopwatch is best used for time.", "A stopwatch is best used for time."),
        ("The answer is 42.", "The answer is 42."),
        ("", ""),
    ],
)
def test_a_text_loses_what_it_says_the_answer_is(text: str, kept: str) -> None:
    assert without_conclusion(text, OPTIONS) == kept
    assert parse_answer(without_conclusion(text, OPTIONS), OPTIONS) is None


def test_no_published_text_says_the_answer_afterwards(shared: Path) -> None:
    """Thousands of texts that models wrote in their own ways."""
    root = shared / "data" / "release"
    train = load(root, "obqa")[Split.train]
    by_id = {question.id: question.choices for question in train}
    for texts in load_rationales(root, "obqa", Split.train, train).values():
        concluded = [i for i, text in texts.items() if parse_answer(clean_rationale(text), by_id[i]) is not None]
        assert concluded, "otherwise nothing is tested"
        left = [i for i, text in texts.items() if parse_answer(without_conclusion(text, by_id[i]), by_id[i])]
        assert left == []


@pytest.mark.parametrize(
    ("text", "choices", "answer"),
    [
        ("So the answer is b.\nQ2.\nWhich star is closest?\nAnswer:\nd", "pqrs", "q"),
        ("Sand sinks, so the answer is (a).\n\n### Question 13:\nWhat floats?\nThe answer is (b).", "ab", "a"),
        ("Question: What sinks?\nThe answer is (a).", "ab", "a"),
        ("Answers:\n(a) water\n(b) bleach\n(c) air", ["water", "bleach", "air"], None),
        ("Air rises.\nair\nair", ["water", "bleach", "air"], "air"),
        ("Therefore, the answer is (b) -5.", ["5", "-5", "10"], "-5"),
        ("The answer is (a) and (c).", "xyz", None),
        ("The answer is (a), (b) and (c).", "xyz", None),
        ("The answer is (b) salt and pepper.", ["oil", "salt and pepper"], "salt and pepper"),
        ("The answer is (b), because sand sinks and (a) is sand.", ["sand", "wood"], "wood"),
        ("One option is (a). But it fails.", "xy", None),
        ("The least likely answer is (a).", "xy", None),
    ],
)
def test_a_conclusion_is_one_option_of_this_question(text: str, choices: Sequence[str], answer: str | None) -> None:
    assert parse_answer(text, list(choices)) == answer


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The answer is (a) sand because sand is denser than water.", "Sand is denser than water."),
        ("(a) sand is correct because it sinks at once.", "It sinks at once."),
        ("(a) is not correct because wood floats.", "(a) is not correct because wood floats."),
        ("Sand sinks, so the answer is (a) sand because it is heavy.", "Sand sinks."),
        ("The answer is (a) sand because.", ""),
    ],
)
def test_a_reason_behind_a_verdict_stays(text: str, left: str) -> None:
    assert without_conclusion(text, ["sand", "wood"]) == left
