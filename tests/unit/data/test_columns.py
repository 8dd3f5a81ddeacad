"""Rows of many public datasets' forms, mapped by their columns."""

from __future__ import annotations

from typing import Any

import pytest

from tinyllm.config import ColumnsConfig
from tinyllm.data.columns import is_hidden, to_fields, top_columns

OPTIONS = ["saw", "spoon", "rope"]
LISTED: dict[str, Any] = {"question": "What cuts?", "choices": OPTIONS}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"choices": {"text": OPTIONS, "label": ["A", "B", "C"]}, "answer": "B"}, {}),
        ({"choices": {"text": OPTIONS, "label": ["1", "2", "3"]}, "answer": "2"}, {}),
        ({"choices": {"text": OPTIONS, "label": [1, 2, 3]}, "answer": 2}, {}),
        (
            {
                "choices": [{"label": label, "text": text} for label, text in zip("ABC", OPTIONS, strict=True)],
                "answer": "B",
            },
            {},
        ),
        ({"choices": OPTIONS, "answer": 1}, {}),
        ({"choices": OPTIONS, "answer": "1"}, {}),
        ({"choices": OPTIONS, "answer": "b"}, {}),
        ({"choices": OPTIONS, "answer": "(B)"}, {}),
        ({"choices": OPTIONS, "answer": " spoon "}, {}),
        ({"a": "saw", "b": "spoon", "answer": 1}, {"choices": ["a", "b"]}),
        ({"a": "saw", "b": "spoon", "answer": "2"}, {"choices": ["a", "b"], "labels": ["1", "2"]}),
        ({"answer": True}, {"fixed_choices": ["saw", "spoon"]}),
        ({"answer": "spoon"}, {"fixed_choices": ["saw", "spoon"]}),
        ({"item": {"stem": {"options": OPTIONS}}, "key": 1}, {"choices": ["item.stem.options"], "answer": "key"}),
    ],
)  # fmt: skip
def test_the_second_option_is_found(row: dict[str, Any], columns: dict[str, Any]) -> None:
    fields = to_fields({"question": "What eats soup?"} | row, ColumnsConfig(**columns))
    assert fields["answer"] == "spoon" == fields["choices"][1]
    assert (fields["question"], fields["context"]) == ("What eats soup?", "")


def test_an_options_text_goes_before_its_letter_and_its_position() -> None:
    """Of a question about numbers, `1` is the option that says 1, not the second."""
    row = {"question": "Which is odd?", "choices": ["1", "0", "2"], "answer": "1"}
    assert to_fields(row, ColumnsConfig())["choices"].index(to_fields(row, ColumnsConfig())["answer"]) == 0


def test_a_context_is_a_text_or_a_list_of_them() -> None:
    row = LISTED | {"answer": 0, "paper": {"sections": ["One.", "Two."], "title": "T"}}
    assert to_fields(row, ColumnsConfig(context="paper.title"))["context"] == "T"
    assert to_fields(row, ColumnsConfig(context="paper.sections"))["context"] == "One. \n Two."


@pytest.mark.parametrize(
    ("row", "columns", "found"),
    [
        ({"answer": 3}, {}, "field 'answer': .*from 0 to 2, found 3"),
        ({"answer": -1}, {}, "field 'answer': .*found -1"),
        ({"answer": None}, {}, "field 'answer': .*found None"),
        ({"answer": "d"}, {}, "field 'answer': .*found 'd'"),
        ({"answer": "b"}, {"labels": ["1", "2", "3"]}, "field 'answer': .*1, 2, 3, found 'b'"),
        ({"answer": 0}, {"question": "item.stem"}, "field 'question': .*'item.stem'"),
        ({"answer": 0, "paper": ["One.", None]}, {"context": "paper"}, "field 'context'"),
    ],
)
def test_a_bad_row_names_its_field(row: dict[str, Any], columns: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        to_fields(LISTED | row, ColumnsConfig(**columns))


def test_a_group_is_a_column() -> None:
    row = LISTED | {"answer": 0, "fact": {"id": 7}}
    assert to_fields(row, ColumnsConfig(group="fact.id"))["group"] == 7
    assert to_fields(row, ColumnsConfig())["group"] == ""
    assert "fact" in top_columns(ColumnsConfig(group="fact.id"))


def test_which_answers_are_hidden() -> None:
    for answer, hidden in (
        (None, True),
        ("", True),
        (-1, True),
        ("-1", True),
        (0, False),
        ("a", False),
        (False, False),
    ):
        assert is_hidden({"answer": answer}, ColumnsConfig()) is hidden, answer
    assert not is_hidden({"answer": -1}, ColumnsConfig(labels=["-1", "1"]))


def test_which_columns_a_dataset_must_have() -> None:
    assert top_columns(ColumnsConfig()) == ["question", "choices", "answer"]
    nested = ColumnsConfig(id="qid", question="item.stem", choices=["item.options"], context="passage")
    assert top_columns(nested) == ["qid", "item", "answer", "passage"]
    assert top_columns(ColumnsConfig(fixed_choices=["no", "yes"])) == ["question", "answer"]
