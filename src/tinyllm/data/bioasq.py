"""BioASQ task B, the organisers' training JSON: there is no free copy on the hub.

    {"questions": [{"id", "type": "yesno", "body", "exact_answer": "yes", "snippets": [{"text"}]}]}

`exact_answer` is in some years a list of one text. Source: http://participants-area.bioasq.org, after registering.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from tinyllm.data.columns import Row
from tinyllm.data.rows import decode, read_text
from tinyllm.errors import UserError

_ADVICE = (
    "BioASQ has no free copy: register at http://participants-area.bioasq.org, download the training set of task 11b "
    "or later, and set data.root to that file or its folder"
)


def read(root: Path | None, wanted: Container[str]) -> list[Row]:
    """The yes/no questions with these ids; of an id that several files have, the first file's.

    Args:
        root: a training file, or a folder that holds such files, itself or as `<root>/bioasq`.
        wanted: ids.

    Returns:
        Rows {id, body, exact_answer, snippets}: the answer a text in small letters, the snippets texts.

    Raises:
        UserError: where no file is found, or one is not the organisers' JSON.
    """
    if root is None:
        raise UserError(f"bioasq: expected the organisers' training JSON in data.root, found no data.root: {_ADVICE}")
    folder = root / "bioasq" if (root / "bioasq").is_dir() else root
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [root]
    if not files or not files[0].is_file():
        raise UserError(f"bioasq: expected the organisers' training JSON at {root}, found no .json file: {_ADVICE}")
    rows: dict[str, Row] = {}
    for file in files:
        content = decode(read_text(file), file, "JSON")
        questions = content.get("questions") if isinstance(content, dict) else None
        if not isinstance(questions, list):
            raise UserError(f"{file}: expected an object with a list `questions`, found none: {_ADVICE}")
        for row in questions:
            if isinstance(row, dict) and row.get("type") == "yesno" and isinstance(row.get("id"), str):
                rows.setdefault(row["id"], row)
    return [_plain(row) for row in rows.values() if row["id"] in wanted]


def _plain(row: Row) -> Row:
    answer, snippets = row.get("exact_answer"), row.get("snippets") or []
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    listed = snippets if isinstance(snippets, list) else [snippets]
    texts = [snippet.get("text") if isinstance(snippet, dict) else None for snippet in listed]
    return row | {
        "exact_answer": str(answer).strip().lower(),
        "snippets": [text.strip() if isinstance(text, str) else text for text in texts],
    }
