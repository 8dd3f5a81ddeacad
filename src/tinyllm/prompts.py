"""Question -> text: what a student reads and what a teacher is asked. Pure functions, pinned by golden files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from tinyllm.records import PromptKind, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK = "Let's think step by step."
"""What stands before every rationale (Kojima et al., 2022; paper, section 3.2)."""

EXPLAIN = "Explain step by step how to get to the answer to the question."
"""Instruction of `forced` and `unforced` prompts, which differ in the answer's line alone."""
ARGUE = "Explain step by step why the option that is asked about might be right."
"""Instruction of `per_option` prompts."""
RATIONALE_LABEL = "\nRationale:"
"""What stands between the options of a student's source and a rationale."""
SOLVE = "Answer the question. Think step by step, and end with: The answer is (letter) option."
"""Instruction of `solve` prompts."""

DATE = "26 Jul 2024"
"""The date that a chat template puts in: always this one, so that a run's texts do not depend on the day."""
_STOPPED_CLOCK = f"{{%- macro strftime_now(format) -%}}{DATE}{{%- endmacro -%}}"


class Message(TypedDict):
    """One turn of a chat, as chat templates and OpenAI-compatible servers take it."""

    role: str
    """`user` or `assistant`; never `system`, which not every chat template knows."""
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """An in-context example: a question with its answer and a rationale (P of the paper's equation 1)."""

    question: Question
    rationale: str


@dataclass(frozen=True, slots=True)
class Domain:
    """What a teacher that invents examples is asked for, never having seen a question of the dataset."""

    about: str
    """The topic, in words."""
    n_choices: int
    choices: tuple[str, ...] = ()
    """The options, where every question has the same ones."""


def letter(index: int) -> str:
    """`(a)` for the first option, `(b)` for the second, and so on; `(aa)` follows `(z)`."""
    name = ""
    while index >= 0:
        index, sign = index // 26 - 1, index % 26
        name = chr(ord("a") + sign) + name
    return f"({name})"


def options(choices: Sequence[str]) -> str:
    """The options block, one a line: `Answer Choices:`, then `(a) first`, `(b) second`, ..."""
    return "\n".join(["Answer Choices:", *(f"{letter(i)} {choice}" for i, choice in enumerate(choices))])


def student_source(question: Question, prefix: str, rationale: str = "") -> tuple[str, str, str, str]:
    """What the student's encoder reads, in four parts to be concatenated: prefix, context, question, rationale.

    The question stands with its options and is never shortened. When the whole is too long, the context (with its
    newline) gives way first and the rationale (` ...` behind `RATIONALE_LABEL`) after it, each from its end; both are
    empty where there is none.

    Args:
        question: the question.
        prefix: of the stream, with its trailing space.
        rationale: a teacher's text that the student reads with the question (PINTO); empty for none.
    """
    context = f"{question.context}\n" if question.context else ""
    tail = f"{RATIONALE_LABEL} {rationale}" if rationale.strip() else ""
    return prefix, context, f"{question.question}\n{options(question.choices)}", tail


def student_prompt(question: Question) -> tuple[str, str]:
    """What a student without an encoder reads first, in parts to be concatenated: context, and question with options.

    Each part ends with a newline, at which a byte-level tokenizer splits, or is empty; so the tokens of the parts are
    the tokens of the whole. A rationale (PINTO) comes next, or `instruction`.
    """
    context = f"{question.context.strip()}\n" if question.context.strip() else ""
    return context, f"{question.question.strip()}\n{options(question.choices)}".rstrip() + "\n"


def instruction(prefix: str) -> str:
    """A stream's prefix as it stands behind the question: `Explain:` for `explain: `, and `Answer:` for `predict: `."""
    words = prefix.strip()
    return "Answer:" if words == "predict:" else words[:1].upper() + words[1:]


def teacher_prompt(
    question: Question,
    examples: Sequence[Example],
    *,
    kind: PromptKind,
    option: int | None = None,
    authors: bool = False,
) -> str:
    """What a teacher without a chat template reads: instruction, examples and question, all in one form.

    The teacher goes on after `Let's think step by step.`

    Args:
        question: what it is asked.
        examples: shown above the question (P of the paper's equation 1).
        kind: with `forced` the right answer stands above the rationale (paper, section 3.2), with `per_option` the
            option that is asked about; with `solve` the examples end in `Therefore, the answer is (b) ...`.
        option: position of the option that is asked about; of `per_option` alone.
        authors: in the words of the authors' README; of `forced` and `unforced` alone.
    """
    shown = [f"{_example_block(one, kind, authors)} {_rationale_block(one, kind)}" for one in examples]
    asked = _question_block(question, kind, option, authors)
    return "\n\n".join([*_instruction(kind, authors), *shown, asked])


def teacher_messages(
    question: Question,
    examples: Sequence[Example],
    *,
    kind: PromptKind,
    option: int | None = None,
    authors: bool = False,
) -> list[Message]:
    """The same as a chat: each example is a turn of the user and one of the assistant; the user speaks last."""
    messages: list[Message] = []
    for example in examples:
        messages.append({"role": "user", "content": _example_block(example, kind, authors)})
        messages.append({"role": "assistant", "content": _rationale_block(example, kind)})
    messages.append({"role": "user", "content": _question_block(question, kind, option, authors)})
    messages[0]["content"] = "\n\n".join([*_instruction(kind, authors), messages[0]["content"]])
    return messages


def example_request(domain: Domain) -> str:
    """Asks a teacher to invent one example of the domain, with no example shown (paper, in-context example generator).

    `parsing.parse_example` reads the answer.
    """
    if domain.choices:
        listed = options(domain.choices)
    else:
        listed = "\n".join(["Answer Choices:", *(f"{letter(i)} ..." for i in range(domain.n_choices))])
    return (
        f"Write one new multiple-choice question about {domain.about}, with its answer choices, the right answer and "
        "a short rationale that explains why it is right. Write nothing else, and use exactly this form:\n\n"
        f"Question: ...\n{listed}\nAnswer: (letter) ...\nRationale: ..."
    )


def invented_question_request(domain: Domain) -> str:
    """First step for a teacher that can't keep to the form of `example_request`: the question alone."""
    kind = f"question, to be answered with {' or '.join(domain.choices)}," if domain.choices else "short question"
    return f"Write a {kind} about {domain.about}.\nQuestion:"


def invented_answer_request(question: str, choices: Sequence[str] = ()) -> str:
    """Next step: the right answer, freely or out of `choices`. The wrong options are other questions' answers."""
    listed = f"\n{options(choices)}" if choices else ""
    return f"Answer the question in one to five words.\nQuestion: {question}{listed}\nAnswer:"


_INSTRUCTIONS = {
    PromptKind.forced: EXPLAIN,
    PromptKind.unforced: EXPLAIN,
    PromptKind.solve: SOLVE,
    PromptKind.per_option: ARGUE,
}


def _instruction(kind: PromptKind, authors: bool) -> list[str]:
    return [] if authors else [_INSTRUCTIONS[kind]]


def _question_block(question: Question, kind: PromptKind, option: int | None, authors: bool) -> str:
    """One question in the form that all teachers read, up to where the rationale begins."""
    if authors:
        return _authors_block(question, kind)
    lines = [f"Context: {question.context}"] if question.context else []
    lines += [f"Question: {question.question}", options(question.choices)]
    if kind is PromptKind.forced:
        lines.append(f"Answer: {letter(question.answer_index)} {question.answer}")
    if kind is PromptKind.per_option:
        if option is None:
            raise ValueError("expected the option that is asked about, found none")
        lines.append(f"Why might {letter(option)} {question.choices[option]} be right?")
    return "\n".join([*lines, f"Rationale: {THINK}"])


def _authors_block(question: Question, kind: PromptKind) -> str:
    """The template of the README of the authors' code, section 2.1; a context stands at the head of the question."""
    text = f"{question.context}\n{question.question}" if question.context else question.question
    lines = ["Question:", text, "Options:", *(f"{letter(i)} {choice}" for i, choice in enumerate(question.choices))]
    if kind is PromptKind.forced:
        lines += ["Answer:", letter(question.answer_index).strip("()")]
    return "\n".join([*lines, "Rationale:", THINK])


def _example_block(example: Example, kind: PromptKind, authors: bool) -> str:
    """An example's question; where options are asked about, its right one is: the rationale is about that."""
    return _question_block(example.question, kind, example.question.answer_index, authors)


def _rationale_block(example: Example, kind: PromptKind) -> str:
    """What the teacher should have written about an example."""
    if kind is not PromptKind.solve:
        return example.rationale
    question = example.question
    return f"{example.rationale} Therefore, the answer is {letter(question.answer_index)} {question.answer}."


def without_special_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts, with a space inside of every special token that they name: `</s>` becomes `< /s>`.

    Else a question's words could end a text or a turn of a chat. `split_special_tokens` of transformers does not
    suffice: T5's pieces have `</s>` among them.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
    if not names:
        return list(texts)
    named = re.compile("|".join(map(re.escape, names)))
    return [named.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text) for text in texts]


def on_a_fixed_day(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Options of `apply_chat_template` with which a template shows `DATE`, whether it takes one or asks the clock."""
    template = tokenizer.get_chat_template()
    return {"date_string": DATE, "chat_template": _STOPPED_CLOCK * ("strftime_now" in template) + template}
