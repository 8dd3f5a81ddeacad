"""A user's own questions: what is read, what is refused and how the refusal reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinyllm.data import jsonl
from tinyllm.data.splits import assign_split
from tinyllm.errors import UserError
from tinyllm.records import Question


def row(id: Any = "q1", **fields: Any) -> dict[str, Any]:
    base = {"id": id, "question": "Which tool cuts wood?", "choices": ["saw", "spoon", "rope"], "answer": "saw"}
    return base | fields


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return file


def error_of(path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        jsonl.load(path)
    return str(caught.value).splitlines()


def test_reads_a_file_with_splits_in_order(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.jsonl",
        row("b", split="train", context=" A carpenter's bench. "),
        row(7, split="test", question=" Which tool ties? ", answer=" rope "),
        "",
        row("a", split="train"),
    )
    loaded = jsonl.load(file)
    assert [q.id for q in loaded["train"]] == ["b", "a"]
    assert loaded["train"][0].context == "A carpenter's bench."
    assert loaded["valid"] == []
    assert loaded["test"] == [Question("7", "Which tool ties?", ("saw", "spoon", "rope"), "rope")]


def test_a_group_is_a_text_or_a_number(tmp_path: Path) -> None:
    rows = [row(str(i), split="test", **group) for i, group in enumerate(({"group": " saws "}, {"group": 7}, {}))]
    loaded = jsonl.load(write(tmp_path / "q.jsonl", *rows))
    assert [q.group for q in loaded["test"]] == ["saws", "7", ""]
    assert any("field 'group'" in line for line in error_of(write(tmp_path / "bad.jsonl", row(group=["saws"]))))
    (line,) = error_of(write(tmp_path / "near.jsonl", row(groups="saws")))
    assert "'groups'" in line and "'group'" in line


@pytest.mark.parametrize("answer", ["b", "B", "(b)", "b.", "b)", "spoon", " spoon "])
def test_an_answer_may_be_a_letter(tmp_path: Path, answer: str) -> None:
    loaded = jsonl.load(write(tmp_path / "q.jsonl", row(split="test", answer=answer)))
    assert loaded["test"][0].answer == "spoon"


def test_an_options_text_goes_before_its_letter(tmp_path: Path) -> None:
    """Of a question about letters, `b` is the option that says b, not the second."""
    loaded = jsonl.load(write(tmp_path / "q.jsonl", row(split="test", choices=["b", "a", "c"], answer="b")))
    assert loaded["test"][0].answer_index == 0


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (row(answer="d"), ["field 'answer'", "found 'd'", "'saw', 'spoon', 'rope'"]),
        (row(answer="Saw"), ["field 'answer'", "found 'Saw'"]),
        (row(answer=2), ["field 'answer'", "found 2"]),
        (row(choices=["saw"]), ["field 'choices'", "found ['saw']"]),
        (row(choices=["saw", " "]), ["field 'choices'", "found ['saw', ' ']"]),
        (row(choices="saw"), ["field 'choices'", "found 'saw'"]),
        (row(question="  "), ["field 'question'", "found '  '"]),
        (row(id=True), ["field 'id'", "found True"]),
        (row(context=3), ["field 'context'", "found 3"]),
        (row(split="dev"), ["field 'split'", "train, valid, test", "found 'dev'"]),
        (row(contxt="A bench."), ["field 'contxt'", "'context'"]),
        ({k: v for k, v in row().items() if k != "question"}, ["field 'question'"]),
        (["saw"], ["id, question, choices, answer", "found ['saw']"]),
        ("{'id': 1}", ["JSON", "found \"{'id': 1}\""]),
    ],
)
def test_one_bad_line_is_one_line_with_its_place(tmp_path: Path, line: Any, parts: list[str]) -> None:
    with_split = isinstance(line, dict) and "split" in line
    file = write(tmp_path / "q.jsonl", row("first", split="test") if with_split else row("first"), line)
    message = error_of(file)
    assert len(message) == 1
    for part in [f"{file}: line 2: ", *parts]:
        assert part in message[0]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", row("a", answer="x"), row("b"), row("b"), row("c", question="", choices=[]))
    message = error_of(file)
    assert message[0].startswith(f"{file}: 4 ")
    assert [line.split(": ")[1] for line in message[1:]] == ["line 1", "line 3", "line 4", "line 4"]
    assert f"found 'b' of {file}: line 2" in message[2]


def test_twenty_problems_are_spelt_out_and_the_rest_counted(tmp_path: Path) -> None:
    message = error_of(write(tmp_path / "q.jsonl", *[row(str(i), answer="x") for i in range(33)]))
    assert "33" in message[0]
    assert len(message) == 1 + 20 + 1
    assert "13" in message[-1]


def test_some_lines_with_a_split_and_some_without(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", row("a", split="train"), row("b"), row("c", split="test"))
    message = error_of(file)
    assert len(message) == 1
    assert "line 2: field 'split'" in message[0] and str(file) in message[0]


def test_without_splits_the_id_decides_about_80_10_10(tmp_path: Path) -> None:
    rows = [row(f"q{i}") for i in range(2000)]
    loaded = jsonl.load(write(tmp_path / "q.jsonl", *rows))
    sizes = {split: len(questions) for split, questions in loaded.items()}
    # Three standard deviations of a binomial share: 54 of 1600, 40 of 200.
    assert abs(sizes["train"] - 1600) < 54 and abs(sizes["valid"] - 200) < 41 and abs(sizes["test"] - 200) < 41

    backwards = jsonl.load(write(tmp_path / "r.jsonl", *rows[::-3]))
    for split, questions in backwards.items():
        assert {q.id for q in questions} <= {q.id for q in loaded[split]}


def test_the_assignment_is_pinned() -> None:
    """A change would move questions between train and test of users who go on with earlier runs."""
    # SHA-256 begins with 341, c75, d99, e96: 0.8 is ccc.., 0.9 is e66..
    found = [assign_split(Question(id, "?", ("a", "b"), "a")) for id in ("q0", "q1", "q8", "q16")]
    assert found == ["train", "train", "valid", "test"]


def test_a_group_stays_in_one_split(tmp_path: Path) -> None:
    loaded = jsonl.load(write(tmp_path / "q.jsonl", *(row(f"q{i}", group=f"g{i // 4}") for i in range(400))))
    where = {split: {q.group for q in questions} for split, questions in loaded.items()}
    assert sum(map(len, where.values())) == 100 and all(where.values())


def test_a_folder_of_three_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row("a"), row("b", split="train"))
    write(tmp_path / "test.jsonl", row("c"))
    loaded = jsonl.load(tmp_path)
    assert {split: [q.id for q in questions] for split, questions in loaded.items()} == {
        "train": ["a", "b"],
        "valid": [],
        "test": ["c"],
    }


def test_a_folder_refuses_doubled_ids_and_foreign_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row("a"))
    write(tmp_path / "test.jsonl", row("a"), row("b", split="train"))
    message = error_of(tmp_path)
    assert len(message) == 3
    assert f"{tmp_path / 'test.jsonl'}: line 1: field 'id'" in message[1] and "train.jsonl: line 1" in message[1]
    assert f"{tmp_path / 'test.jsonl'}: line 2: field 'split'" in message[2] and "'train'" in message[2]


def test_a_folder_refuses_other_file_names(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", row("a"))
    assert "dev.jsonl" in error_of(tmp_path)[0]


def test_nothing_there(tmp_path: Path) -> None:
    assert "absent.jsonl" in (message := error_of(tmp_path / "absent.jsonl")[0]) and "data.root" in message
    assert "train.jsonl, valid.jsonl, test.jsonl" in error_of(tmp_path)[0]
    assert "q.jsonl" in error_of(write(tmp_path / "q.jsonl", ""))[0]


def test_encodings(tmp_path: Path) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + json.dumps(row(split="test")).encode() + b"\r\n")
    assert len(jsonl.load(marked)["test"]) == 1

    separator = write(tmp_path / "sep.jsonl", json.dumps(row(split="test", context="one\u2028two"), ensure_ascii=False))
    assert jsonl.load(separator)["test"][0].context == "one\u2028two"

    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(row(question="Où?"), ensure_ascii=False).encode("latin-1"))
    assert all(part in error_of(latin)[0] for part in ("latin.jsonl", "UTF-8", "0xf9"))


def test_a_file_may_be_one_array(tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.write_text(json.dumps([row("a", split="test"), row("b", split="test", answer="x")], indent=1))
    message = error_of(file)
    assert len(message) == 1 and message[0].startswith(f"{file}: row 2: field 'answer'")
    file.write_text(json.dumps([row("a", split="test")]))
    assert [question.id for question in jsonl.load(file)["test"]] == ["a"]
