"""A user's own questions: JSON lines, one question a line.

    {"id": "q1", "question": "...", "choices": ["...", "..."], "answer": "...", "context": "...", "split": "train",
     "group": "..."}

`context`, `split` and `group` are optional. `answer` is the text of an option, or its letter where no option has that
text. Questions of one `group` are not independent, such as rewordings of one question.
"""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path

from tinyllm.data.rows import REQUIRED, check_rows, raise_problems, read_rows, shortened
from tinyllm.data.splits import assign_split
from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

OPTIONAL = ("context", "split", "group")


def load(path: Path) -> dict[Split, list[Question]]:
    """Reads and checks a user's questions.

    Args:
        path: a file of JSON lines, or a folder that holds `train.jsonl`, `valid.jsonl`, `test.jsonl` (one or more of
            them; a split without a file is empty).

    Returns:
        Questions by split, in the order of the lines. Where no line of a file says its `split`, `splits.assign_split`
        does.

    Raises:
        UserError: once, for all problems: the first line sums up, each further line names file, line, field, what was
            expected and what was found. Also where some lines of a file have a split and some have none.
    """
    path = Path(path)
    problems: list[str] = []
    questions: dict[Split, list[Question]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for file, file_split in _sources(path):
        rows = list(read_rows(file, problems))
        own = [(place, row.get("split")) for place, row in rows if isinstance(row, dict)]
        also = partial(_further_problems, file_split=file_split)
        for row, question in check_rows(rows, problems, letters=True, also=also, seen=seen):
            split = row.get("split") if isinstance(row, dict) else None
            if split in (None, *SPLITS):
                questions[Split(split) if split else file_split or assign_split(question)].append(question)
        without = [place for place, split in own if split is None]
        if file_split is None and 0 < len(without) < len(own):
            problems.append(
                f"{without[0]}: field 'split': expected one on every line or on none, "
                f"found {len(own) - len(without)} with and {len(without)} without"
            )
    raise_problems(problems, str(path))
    if not seen:
        raise UserError(f"{path}: expected one question a line, found none: add lines with {', '.join(REQUIRED)}")
    return questions


def _sources(path: Path) -> list[tuple[Path, Split | None]]:
    """The files to read, each with the split that it holds (None for all)."""
    if path.is_file():
        return [(path, None)]
    if not path.is_dir():
        raise UserError(f"{path}: expected a file of JSON lines or a folder of them, found nothing: set data.root")
    expected = {f"{split}.jsonl": split for split in SPLITS}
    found = sorted(file.name for file in path.glob("*.jsonl"))
    if not found or any(name not in expected for name in found):
        raise UserError(
            f"{path}: expected only {', '.join(expected)} in the folder, found "
            f"{', '.join(found) or 'no .jsonl file'}: rename the files, or give one file whose lines have a 'split'"
        )
    return [(path / name, split) for name, split in expected.items() if name in found]


def _further_problems(row: object, *, file_split: Split | None) -> list[str]:
    """Of `split`, and of fields that look like an optional one and would silently not be read."""
    if not isinstance(row, dict):
        return []
    problems = []
    for name in row:
        near = difflib.get_close_matches(name.lower(), OPTIONAL, n=1, cutoff=0.8)
        if name not in OPTIONAL and near:
            problems.append(f"field {name!r}: there is no such field; did you mean {near[0]!r}?")
    split = row.get("split")
    if split is not None and split not in ((file_split,) if file_split else SPLITS):
        expected = f"'{file_split}' or no split in this file" if file_split else f"one of {', '.join(SPLITS)}"
        problems.append(f"field 'split': expected {expected}, found {shortened(split)}")
    return problems
