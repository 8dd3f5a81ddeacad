"""Rows of questions: files of JSON read, every row checked, problems gathered with file, line and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

from tinyllm.errors import UserError
from tinyllm.records import Question
from tinyllm.shown import ITEM

REQUIRED = ("id", "question", "choices", "answer")
MAX_PROBLEMS = 20
"""Problems that one error lists; the rest is counted."""

_NOT_JSON = (ValueError, RecursionError)
"""What `json.loads` raises: also for a number of thousands of digits, and for a thousand nested lists."""
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


def read_rows(file: Path, problems: list[str]) -> Iterator[tuple[str, object]]:
    """Decoded rows of a JSON array or of JSON lines, each with its place.

    Args:
        file: an array where its text begins with `[`, else one JSON value a line; blank lines are skipped.
        problems: gets the lines that aren't JSON.

    Yields:
        Place (`<file>: line 3`, in an array `<file>: row 3`; both from 1) and row.

    Raises:
        UserError: where the file can't be read, is not UTF-8, holds a broken array or an object over several lines.
    """
    text = read_text(file)
    if text.lstrip().startswith("["):
        rows = decode(text, file, "a JSON array")
        assert isinstance(rows, list)
        yield from ((f"{file}: row {number}", row) for number, row in enumerate(rows, start=1))
        return
    # Not str.splitlines: U+2028 and the like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except _NOT_JSON as error:
                if line.strip() == "{":
                    raise UserError(
                        f"{file}: line {number}: expected one JSON object a line, or an array of them, found one over "
                        "several lines"
                    ) from None
                problems.append(
                    f"{file}: line {number}: expected one JSON object, found {shortened(line)} ({_reason(error)})"
                )
            else:
                yield f"{file}: line {number}", row


def check_rows(
    rows: Iterable[tuple[str, object]],
    problems: list[str],
    *,
    letters: bool,
    also: Callable[[object], list[str]] = lambda row: [],
    seen: dict[str, str] | None = None,
) -> Iterator[tuple[object, Question]]:
    """The good rows and their questions.

    Args:
        rows: places and rows, as `read_rows` yields them.
        problems: gets what is wrong with the others, behind their place.
        letters: as in `parse_row`.
        also: further problems of a row.
        seen: id -> place of earlier rows; gets those of these rows, and an id in it is a problem. None: no such check.
    """
    for place, row in rows:
        question, row_problems = parse_row(row, letters=letters)
        problems += [f"{place}: {problem}" for problem in row_problems + also(row)]
        if question is None:
            continue
        if seen is not None:
            if question.id in seen:
                problems.append(
                    f"{place}: field 'id': expected an id used once, found {question.id!r} of {seen[question.id]}"
                )
                continue
            seen[question.id] = place
        yield row, question


def parse_row(row: object, *, letters: bool) -> tuple[Question | None, list[str]]:
    """Checks one row {id, question, choices, answer[, context][, group]}; texts lose their outer whitespace.

    Args:
        row: what JSON decoding gave.
        letters: whether `answer` may also be a letter (`b`, `B`, `(b)`, `b.`) where no option has that text.

    Returns:
        The question, or None with one problem a field: `field 'x': expected ..., found ...`.
    """
    if not isinstance(row, dict):
        return None, [f"expected a JSON object with {', '.join(REQUIRED)}, found {shortened(row)}"]
    problems: list[str] = []

    def text(name: str, default: str | None = None) -> str:
        value = row.get(name)
        if value is None and default is not None:
            return default
        if name in ("id", "group") and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not is_text(value) or (not value.strip() and default is None):
            problems.append(f"field {name!r}: expected a non-empty text, found {shortened(row.get(name, _ABSENT))}")
            return ""
        return value.strip()

    id, question, context, group = text("id"), text("question"), text("context", ""), text("group", "")
    choices = row.get("choices", _ABSENT)
    options: tuple[str, ...] = ()
    if isinstance(choices, list) and len(choices) > 1 and all(is_text(o) and o.strip() for o in choices):
        options = tuple(choice.strip() for choice in choices)
    else:
        problems.append(f"field 'choices': expected a list of two or more non-empty texts, found {shortened(choices)}")
    answer = text("answer")
    if options and answer and answer not in options:
        index = letter_index(answer) if letters else None
        if index is not None and index < len(options):
            answer = options[index]
        else:
            last = chr(ord("a") + min(len(options), 26) - 1)
            expected = f"the text of an option or a letter from a to {last}" if letters else "the text of an option"
            problems.append(
                f"field 'answer': expected {expected}, found {shortened(answer)}, options {shortened(list(options))}"
            )
    if problems:
        return None, problems
    return Question(id=id, question=question, choices=options, answer=answer, context=context, group=group), []


def letter_index(text: str) -> int | None:
    """Position that `b`, `B`, `(b)` or `b.` names, from 0; None for another text."""
    match = _LETTER.fullmatch(text)
    return ord(match[1].lower()) - ord("a") if match else None


def raise_problems(problems: list[str], where: str) -> None:
    """Raises one UserError for all problems (the first `MAX_PROBLEMS` spelt out); none, no error."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        listed = problems[:MAX_PROBLEMS]
        if len(problems) > MAX_PROBLEMS:
            listed.append(f"... and {len(problems) - MAX_PROBLEMS} more")
        raise UserError(
            "".join([f"{where}: {len(problems)} problems; fix these rows:", *(f"{ITEM}{one}" for one in listed)])
        )


def read_text(file: Path) -> str:
    """The file's text, without a byte-order mark.

    Raises:
        UserError: where the file can't be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: expected UTF-8, found byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: expected a readable file, found: {error.strerror}") from None


def decode(text: str, file: Path, expected: str) -> object:
    """The JSON value of a whole file.

    Raises:
        UserError: with file and line, where the text is not JSON.
    """
    try:
        return json.loads(text)
    except _NOT_JSON as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise UserError(f"{file}: line {line}: expected {expected}, found none ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that can be written: half of a surrogate pair (`\\ud83d` in JSON) can't."""
    return isinstance(value, str) and not _HALF_A_PAIR.search(value)


def shortened(value: object) -> str:
    """A value as it is shown in an error: at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


class _Absent:
    def __repr__(self) -> str:
        return "no such field"


_ABSENT = _Absent()
