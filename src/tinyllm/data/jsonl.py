"""A user's own questions: JSON lines, one question a line.

    {"id": "q1", "question": "...", "choices": ["...", "..."], "answer": "...", "context": "...", "split": "train"}

`context` and `split` are optional. `answer` is the text of an option, or its letter where no option has that text.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

REQUIRED = ("id", "question", "choices", "answer")
OPTIONAL = ("context", "split")
MAX_PROBLEMS = 20
"""Problems that one error lists; the rest is counted."""

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


def load(path: Path) -> dict[Split, list[Question]]:
    """Reads and checks a user's questions.

    Args:
        path: a file of JSON lines, or a folder that holds `train.jsonl`, `valid.jsonl`, `test.jsonl` (one or more of
            them; a split without a file is empty).

    Returns:
        Questions by split, in the order of the lines. Where no line of a file says its `split`, `assign_split` does.

    Raises:
        UserError: once, for all problems: the first line sums up, each further line names file, line, field, what was
            expected and what was found. Also where some lines of a file have a split and some have none.
    """
    path = Path(path)
    if path.is_dir():
        expected = {f"{split}.jsonl": split for split in SPLITS}
        found = sorted(file.name for file in path.glob("*.jsonl"))
        if not found or any(name not in expected for name in found):
            raise UserError(
                f"{path}: expected only {', '.join(expected)} in the folder, found "
                f"{', '.join(found) or 'no .jsonl file'}: rename the files, or give one file whose lines have a 'split'"
            )
        sources: list[tuple[Path, Split | None]] = [(path / name, expected[name]) for name in expected if name in found]
    elif path.is_file():
        sources = [(path, None)]
    else:
        raise UserError(f"{path}: expected a file of JSON lines or a folder of them, found nothing: set data.root")

    problems: list[str] = []
    questions: dict[Split, list[Question]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for file, file_split in sources:
        with_split: list[int] = []
        without: list[int] = []
        for number, row in _lines(file, problems):
            where = f"{file}: line {number}"
            own_split, split_problem = _split_of(row, file_split)
            question, row_problems = parse_row(row, letters=True)
            for problem in row_problems + _misspelt(row) + ([split_problem] if split_problem else []):
                problems.append(f"{where}: {problem}")
            if isinstance(row, dict):
                (without if row.get("split") is None else with_split).append(number)
            if question is None:
                continue
            if question.id in seen:
                problems.append(
                    f"{where}: field 'id': expected an id used once, found {question.id!r} of {seen[question.id]}"
                )
                continue
            seen[question.id] = where
            questions[own_split or file_split or assign_split(question.id)].append(question)
        if file_split is None and with_split and without:
            problems.append(
                f"{file}: line {without[0]}: field 'split': expected one on every line or on none, "
                f"found {len(with_split)} with and {len(without)} without"
            )
    raise_problems(problems, str(path))
    if not seen:
        raise UserError(f"{path}: expected one question a line, found none: add lines with {', '.join(REQUIRED)}")
    return questions


def assign_split(id: str) -> Split:
    """Split of a question that names none: 80% train, 10% valid, 10% test, by a hash of its id.

    The same id falls into the same split on every machine, whatever other questions stand beside it. So shares are
    exact only on average: of 10 questions, none may be in test.
    """
    share = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8]) / 2**64
    return Split.train if share < 0.8 else Split.valid if share < 0.9 else Split.test


def parse_row(row: object, *, letters: bool) -> tuple[Question | None, list[str]]:
    """Checks one row {id, question, choices, answer[, context]}; texts lose their outer whitespace.

    Args:
        row: what JSON decoding gave.
        letters: whether `answer` may also be a letter (`b`, `B`, `(b)`, `b.`) where no option has that text.

    Returns:
        The question, or None with one problem a field: `field 'x': expected ..., found ...`.
    """
    if not isinstance(row, dict):
        return None, [f"expected a JSON object with {', '.join(REQUIRED)}, found {_short(row)}"]
    problems: list[str] = []

    def text(name: str, default: str | None = None) -> str:
        value = row.get(name)
        if value is None and default is not None:
            return default
        if name == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or (not value.strip() and default is None):
            problems.append(f"field {name!r}: expected a non-empty text, found {_short(row.get(name, _ABSENT))}")
            return ""
        return value.strip()

    id, question, context = text("id"), text("question"), text("context", "")
    choices = row.get("choices", _ABSENT)
    options: tuple[str, ...] = ()
    if isinstance(choices, list) and len(choices) > 1 and all(isinstance(o, str) and o.strip() for o in choices):
        options = tuple(choice.strip() for choice in choices)
    else:
        problems.append(f"field 'choices': expected a list of two or more non-empty texts, found {_short(choices)}")
    answer = text("answer")
    if options and answer and answer not in options:
        match = _LETTER.fullmatch(answer) if letters else None
        index = ord(match[1].lower()) - ord("a") if match else len(options)
        if index < len(options):
            answer = options[index]
        else:
            last = chr(ord("a") + len(options) - 1)
            expected = f"the text of an option or a letter from a to {last}" if letters else "the text of an option"
            problems.append(
                f"field 'answer': expected {expected}, found {_short(answer)}, options {_short(list(options))}"
            )
    if problems:
        return None, problems
    return Question(id=id, question=question, choices=options, answer=answer, context=context), []


def raise_problems(problems: list[str], where: str) -> None:
    """Raises one UserError for all problems (the first `MAX_PROBLEMS` spelt out); none, no error."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        listed = problems[:MAX_PROBLEMS]
        if len(problems) > MAX_PROBLEMS:
            listed.append(f"... and {len(problems) - MAX_PROBLEMS} more")
        raise UserError(f"{where}: {len(problems)} problems, expected none: fix these rows\n" + "\n".join(listed))


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


class _Absent:
    def __repr__(self) -> str:
        return "no such field"


_ABSENT = _Absent()


def _lines(file: Path, problems: list[str]) -> list[tuple[int, Any]]:
    """Decoded rows with their line numbers from 1; blank lines are skipped, lines that aren't JSON become problems."""
    rows = []
    # Not str.splitlines: U+2028 and the like may stand inside a JSON string.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                problems.append(f"{file}: line {number}: expected one JSON object, found {_short(line)} ({error.msg})")
    return rows


def _split_of(row: Any, file_split: Split | None) -> tuple[Split | None, str | None]:
    """The row's own split, and what is wrong with it."""
    value = row.get("split") if isinstance(row, dict) else None
    if value is None:
        return None, None
    for split in SPLITS:
        if value == split and file_split in (None, split):
            return split, None
    expected = f"'{file_split}' or no split in this file" if file_split else f"one of {', '.join(SPLITS)}"
    return None, f"field 'split': expected {expected}, found {_short(value)}"


def _misspelt(row: Any) -> list[str]:
    """Further fields are ignored, unless they look like an optional field that would silently not be read."""
    problems = []
    for name in row if isinstance(row, dict) else ():
        near = difflib.get_close_matches(name.lower(), OPTIONAL, n=1, cutoff=0.8)
        if name not in OPTIONAL and near:
            problems.append(f"field {name!r}: expected {near[0]!r}, found this spelling: rename it")
    return problems


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
