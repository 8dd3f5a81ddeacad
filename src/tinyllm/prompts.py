"""Question -> text: what a student reads and what a teacher is asked. Pure functions, pinned by golden files."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.records import Question


def letter(index: int) -> str:
    """`(a)` for the first option, `(b)` for the second, and so on."""
    return f"({chr(ord('a') + index)})"


def options(choices: Sequence[str]) -> str:
    """The options block, one a line: `Answer Choices:`, then `(a) first`, `(b) second`, ..."""
    return "\n".join(["Answer Choices:", *(f"{letter(i)} {choice}" for i, choice in enumerate(choices))])


def student_source(question: Question, prefix: str) -> tuple[str, str, str]:
    """What the student's encoder reads, in three parts to be concatenated: prefix, context, question with options.

    The context (with its newline) is the only part that may be shortened, from its end, when the whole is too long;
    it is empty where the question has none.
    """
    context = f"{question.context}\n" if question.context else ""
    return prefix, context, f"{question.question}\n{options(question.choices)}"
