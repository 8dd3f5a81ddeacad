"""A row of a hub dataset -> the fields of a question, as `ColumnsConfig` maps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyllm.config import ColumnsConfig
from tinyllm.data.rows import letter_index, shortened

Row = dict[str, Any]
HIDDEN = (None, "", -1, "-1")
"""What stands in the place of an answer that is kept secret."""


def top_columns(columns: ColumnsConfig) -> list[str]:
    """The columns that a dataset must have."""
    names = [columns.id, columns.question, *([] if columns.fixed_choices else columns.choices), columns.answer]
    return list(dict.fromkeys(name.split(".")[0] for name in [*names, columns.context, columns.group] if name))


def to_fields(row: Row, columns: ColumnsConfig) -> Row:
    """{question, choices, answer, context, group} of a row, as `rows.parse_row` reads them.

    Raises:
        ValueError: `field 'x': expected ..., found ...`.
    """
    labels: Sequence[Any] | None
    if columns.fixed_choices:
        choices, labels = list(columns.fixed_choices), None
    elif len(columns.choices) == 1:
        choices, labels = _listed(lookup(row, columns.choices[0], "choices"))
    else:
        choices, labels = [lookup(row, name, "choices") for name in columns.choices], None
    context = lookup(row, columns.context, "context") if columns.context else ""
    if isinstance(context, list):
        if not all(isinstance(section, str) for section in context):
            raise ValueError(f"field 'context': expected texts, found {shortened(context)}")
        context = " \n ".join(context)
    return {
        "question": lookup(row, columns.question, "question"),
        "choices": choices,
        "answer": _answer(lookup(row, columns.answer, "answer"), choices, columns.labels or labels),
        "context": context,
        "group": lookup(row, columns.group, "group") if columns.group else "",
    }


def is_hidden(row: Row, columns: ColumnsConfig) -> bool:
    """Whether the row keeps its answer secret, as rows of many test splits do."""
    try:
        value = lookup(row, columns.answer, "answer")
    except ValueError:
        return False  # `to_fields` says what is wrong
    return value in HIDDEN and str(value) not in columns.labels


def lookup(row: Row, name: str, field: str) -> Any:
    """The value of a column, or of `column.field` of a struct."""
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"field {field!r}: expected a value in column {name!r}, found none")
        value = value[part]
    return value


def _listed(value: Any) -> tuple[Any, Sequence[Any] | None]:
    """Texts and labels of one column: a list of texts, {text: [...], label: [...]}, or a list of {text, label}."""
    if isinstance(value, list) and value and all(isinstance(option, dict) for option in value):
        value = {key: [option.get(key) for option in value] for key in ("text", "label")}
    if not isinstance(value, dict):
        return value, None
    labels = value.get("label")
    return value.get("text"), labels if isinstance(labels, list) else None


def _answer(value: Any, choices: Any, labels: Sequence[Any] | None) -> Any:
    """Text of the right option: by label where there are labels, else by position from 0, text or letter."""
    if not isinstance(choices, list):
        return value  # parse_row says what is wrong
    index: int | None
    if labels:
        names = [str(label) for label in labels]
        index = names.index(str(value)) if str(value) in names else None
        expected = f"one of {', '.join(names)}"
    elif isinstance(value, int):  # a truth value, too
        index, expected = int(value), f"a position from 0 to {len(choices) - 1}"
    else:
        texts = [str(choice).strip() for choice in choices]
        text = str(value).strip()
        index = texts.index(text) if text in texts else int(text) if text.isdecimal() else letter_index(text)
        expected = "an option's text, its letter or its position from 0"
    if index is None or not 0 <= index < len(choices):
        raise ValueError(f"field 'answer': expected {expected}, found {shortened(value)}")
    return choices[index]
