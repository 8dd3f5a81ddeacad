"""Prompts are pinned to the letter: one changed character makes other texts, and a store full of old ones.

Run this file as a script to write the golden files anew, and look at the difference.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tinyllm.prompts import (
    Domain,
    Example,
    example_request,
    invented_answer_request,
    invented_question_request,
    letter,
    student_source,
    teacher_messages,
    teacher_prompt,
)
from tinyllm.records import PromptKind, Question

GOLDEN = Path(__file__).parents[1] / "golden"
YES_NO = ("yes", "no")
# One invented question a dataset, in its form: four options, five, two long ones, yes and no with a context.
QUESTIONS = {
    "obqa": Question(
        "o", "A puddle is gone after a hot day because it", ("froze", "evaporated", "sank", "grew"), "evaporated"
    ),
    "arc": Question(
        "c", "Which tool shows how heavy a stone is?", ("a scale", "a ruler", "a clock", "a lens"), "a scale"
    ),
    "piqa": Question(
        "p",
        "Keep a door from slamming",
        ("Hang a towel over the top of the door.", "Hang a towel over a chair in another room."),
        "Hang a towel over the top of the door.",
    ),
    "riddle": Question(
        "r", "I have hands but can't clap. What am I?", ("glove", "clock", "monkey", "statue", "tree"), "clock"
    ),
    "pubmedqa": Question(
        "q",
        "Does tea keep volunteers awake?",
        ("yes", "no", "maybe"),
        "yes",
        context="Forty volunteers drank tea or water. Those with tea fell asleep an hour later.",
    ),
    "bioasq": Question("b", "Is the liver an organ?", YES_NO, "yes", context="The liver is the largest inner organ."),
    "minilab": Question("m", "What tells how warm soup is?", ("thermometer", "rope", "map", "bell"), "thermometer"),
}
EXAMPLES = [
    Example(
        Question("e1", "What do bees make?", ("milk", "wool", "honey", "ink"), "honey"), "Bees turn nectar into honey."
    ),
    Example(Question("e2", "Is ice cold?", YES_NO, "yes"), "Ice is frozen water, and that is cold."),
]
ASKED = [(kind, False) for kind in PromptKind] + [(PromptKind.forced, True), (PromptKind.unforced, True)]
CASES = list(itertools.product(QUESTIONS, ("plain", "chat"), (0, 2)))


def rendered(dataset: str, kind: str, n: int) -> str:
    parts = []
    shown, question = EXAMPLES[:n], QUESTIONS[dataset]
    for asked, authors in ASKED:
        option = 1 if asked is PromptKind.per_option else None
        parts.append(f"##### {asked}{' in the words of the authors' if authors else ''}")
        if kind == "plain":
            parts.append(teacher_prompt(question, shown, kind=asked, option=option, authors=authors))
        else:
            for message in teacher_messages(question, shown, kind=asked, option=option, authors=authors):
                parts.append(f"##### {message['role']}\n{message['content']}")
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize(("dataset", "kind", "n"), CASES)
def test_a_prompt_is_its_golden_file(dataset: str, kind: str, n: int) -> None:
    assert rendered(dataset, kind, n) == (GOLDEN / f"{dataset}-{kind}-{n}.txt").read_text()


def test_a_teacher_forced_prompt_by_hand() -> None:
    prompt = teacher_prompt(QUESTIONS["arc"], EXAMPLES[1:], kind=PromptKind.forced)
    assert prompt == (
        "Explain step by step how to get to the answer to the question.\n\n"
        "Question: Is ice cold?\nAnswer Choices:\n(a) yes\n(b) no\nAnswer: (a) yes\n"
        "Rationale: Let's think step by step. Ice is frozen water, and that is cold.\n\n"
        "Question: Which tool shows how heavy a stone is?\n"
        "Answer Choices:\n(a) a scale\n(b) a ruler\n(c) a clock\n(d) a lens\nAnswer: (a) a scale\n"
        "Rationale: Let's think step by step."
    )


@pytest.mark.parametrize("dataset", QUESTIONS)
def test_forced_and_unforced_prompts_differ_in_the_line_of_the_answer_alone(dataset: str) -> None:
    """An ablation changes one thing."""
    forced, unforced = (
        teacher_prompt(QUESTIONS[dataset], EXAMPLES, kind=kind).splitlines()
        for kind in (PromptKind.forced, PromptKind.unforced)
    )
    assert [line for line in forced if not line.startswith("Answer: ")] == unforced
    assert len(forced) == len(unforced) + 3


def test_the_words_of_the_authors_by_hand() -> None:
    """The README of their code, section 2.1: each on a line of its own, and the letter as the answer."""
    prompt = teacher_prompt(QUESTIONS["arc"], EXAMPLES[1:], kind=PromptKind.forced, authors=True)
    assert prompt == (
        "Question:\nIs ice cold?\nOptions:\n(a) yes\n(b) no\nAnswer:\na\n"
        "Rationale:\nLet's think step by step. Ice is frozen water, and that is cold.\n\n"
        "Question:\nWhich tool shows how heavy a stone is?\n"
        "Options:\n(a) a scale\n(b) a ruler\n(c) a clock\n(d) a lens\nAnswer:\na\n"
        "Rationale:\nLet's think step by step."
    )


def test_options_beyond_z_have_two_letters() -> None:
    assert [letter(i) for i in (0, 25, 26, 51, 52, 701, 702)] == [
        "(a)", "(z)", "(aa)", "(az)", "(ba)", "(zz)", "(aaa)",
    ]  # fmt: skip


def test_an_option_is_asked_about_by_its_letter_and_text() -> None:
    prompt = teacher_prompt(QUESTIONS["arc"], [], kind=PromptKind.per_option, option=2)
    assert prompt.splitlines()[-2] == "Why might (c) a clock be right?"


@pytest.mark.parametrize("kind", [PromptKind.unforced, PromptKind.solve, PromptKind.per_option])
@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("dataset", QUESTIONS)
def test_only_a_forced_prompt_tells_the_answer(dataset: str, n: int, kind: PromptKind) -> None:
    """Whichever option is right, the prompt is the same."""
    question = QUESTIONS[dataset]
    prompts = set()
    for choice in question.choices:
        other = Question(question.id, question.question, question.choices, choice, question.context)
        prompts.add(teacher_prompt(other, EXAMPLES[:n], kind=kind, option=0))
        prompts.add(json.dumps(teacher_messages(other, EXAMPLES[:n], kind=kind, option=0)))
    assert len(prompts) == 2


def test_turns_alternate_and_the_user_speaks_last() -> None:
    messages = teacher_messages(QUESTIONS["riddle"], EXAMPLES, kind=PromptKind.forced)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[-1]["content"].endswith("Let's think step by step.")


def test_requests_for_examples() -> None:
    free = Domain("the weather", 3)
    assert example_request(free).endswith(
        "Question: ...\nAnswer Choices:\n(a) ...\n(b) ...\n(c) ...\nAnswer: (letter) ...\nRationale: ..."
    )
    assert "(a) yes\n(b) no\nAnswer:" in example_request(Domain("the weather", 2, YES_NO))
    assert invented_question_request(free) == "Write a short question about the weather.\nQuestion:"
    assert "answered with yes or no, about" in invented_question_request(Domain("the weather", 2, YES_NO))
    assert invented_answer_request("Is it?", YES_NO).endswith("Is it?\nAnswer Choices:\n(a) yes\n(b) no\nAnswer:")
    assert invented_answer_request("What falls?").endswith("words.\nQuestion: What falls?\nAnswer:")


def test_a_student_source_joins_prefix_context_and_question() -> None:
    parts = student_source(QUESTIONS["bioasq"], "predict: ")
    assert "".join(parts) == (
        "predict: The liver is the largest inner organ.\nIs the liver an organ?\nAnswer Choices:\n(a) yes\n(b) no"
    )
    assert parts[1] == "The liver is the largest inner organ.\n"
    assert parts[3] == ""


def test_a_rationale_stands_below_the_options() -> None:
    parts = student_source(QUESTIONS["bioasq"], "predict: ", "Organs do a job. So yes.")
    assert "".join(parts) == (
        "predict: The liver is the largest inner organ.\nIs the liver an organ?\nAnswer Choices:\n(a) yes\n(b) no"
        "\nRationale: Organs do a job. So yes."
    )
    assert student_source(QUESTIONS["bioasq"], "predict: ", " \n")[3] == ""


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / "{}-{}-{}.txt".format(*case)).write_text(rendered(*case))
