"""The published folder: invented files for the odd cases, the real files (where present) for the counts.

No sentence of the datasets stands here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from tinyllm.data import release, splits
from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

SHARED = Path(os.environ.get("TINYLLM_SHARED", Path(__file__).resolve().parents[4] / "shared"))
PUBLISHED = ("obqa", "arc", "piqa", "pubmedqa")

SAW: dict[str, Any] = {
    "id": "1-1",
    "question": "Which tool cuts wood?",
    "choices": ["saw", "spoon", "rope"],
    "answer": "saw",
}
ASKED = "Q: Which tool cuts wood?\nAnswer Choices:\n(a) saw\n(b) spoon\n(c) rope"


def question(**fields: Any) -> Question:
    row = SAW | fields
    return Question(row["id"], row["question"], tuple(row["choices"]), row["answer"], row.get("context", ""))


def published(
    root: Path, dataset: str, rows: dict[str, list[Any]], strings: dict[str, list[list[str]]], lines: bool = False
) -> Path:
    """Writes the published layout: rows by split, and the strings of each numbered file by split."""
    folder = root / dataset
    (folder / "llm").mkdir(parents=True)
    for split in SPLITS:
        content = rows.get(split, [SAW | {"id": f"{split}-filler"}])
        text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content, indent=1)
        (folder / f"{dataset}_{split}.json").write_text(text)
    for name, files in strings.items():
        for number, content in enumerate(files):
            (folder / "llm" / f"{name}_CoT_{number}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("lines", [False, True])
def test_reads_arrays_and_lines_in_order(tmp_path: Path, lines: bool) -> None:
    rows = [SAW | {"id": "z"}, SAW | {"id": "a", "choices": ["saw ", " spoon"], "answer": "saw "}]
    loaded = release.load(published(tmp_path, "arc", {"train": rows}, {}, lines), "arc")
    assert loaded["train"] == [question(id="z"), question(id="a", choices=["saw", "spoon"])]
    assert [q.id for q in loaded["test"]] == ["test-filler"]


@pytest.mark.parametrize("dataset", ["obqa", "pubmedqa", "bioasq"])
def test_the_context_is_what_stands_before_the_last_newline(tmp_path: Path, dataset: str) -> None:
    rows = [SAW | {"question": "A bench. \n A carpenter. \n Which tool cuts wood?"}]
    loaded = release.load(published(tmp_path, dataset, {"test": rows}, {}), dataset)["test"][0]
    assert (loaded.context, loaded.question) == ("A bench. \n A carpenter.", "Which tool cuts wood?")


def test_a_newline_in_other_datasets_is_part_of_the_question(tmp_path: Path) -> None:
    rows = [SAW | {"question": "Teeth of steel,\nwhat am I?"}]
    loaded = release.load(published(tmp_path, "riddle", {"test": rows}, {}), "riddle")["test"][0]
    assert (loaded.context, loaded.question) == ("", "Teeth of steel,\nwhat am I?")


def test_piqas_row_numbers_become_unique_ids(tmp_path: Path) -> None:
    loaded = release.load(published(tmp_path, "piqa", {s: [SAW | {"id": i}] for i, s in enumerate(SPLITS)}, {}), "piqa")
    assert [loaded[split][0].id for split in SPLITS] == ["train-0", "1", "2"]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (SAW | {"answer": "b"}, ["field 'answer'", "found 'b'"]),
        (SAW | {"choices": None}, ["field 'choices'", "found None"]),
        ({"id": "x"}, ["field 'question'"]),
        ("saw", ["id, question, choices, answer", "found 'saw'"]),
        (SAW | {"id": "first"}, ["field 'id'", "found 'first'", "1"]),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, lines: bool, bad: Any, parts: list[str]) -> None:
    root = published(tmp_path, "arc", {"train": [SAW | {"id": "first"}, bad]}, {}, lines)
    with pytest.raises(UserError) as caught:
        release.load(root, "arc")
    place = "line 2" if lines else "row 2"
    for part in [f"{tmp_path / 'arc' / 'arc_train.json'}: {place}: ", *parts]:
        assert part in str(caught.value)


def test_files_that_are_no_json_or_absent(tmp_path: Path) -> None:
    root = published(tmp_path, "arc", {}, {})
    (root / "arc" / "arc_valid.json").write_text('[{"id": 1},\n')
    with pytest.raises(UserError, match=r"arc_valid.json: line 2: .*JSON"):
        release.load(root, "arc")
    (root / "arc" / "arc_valid.json").write_text('{"id": 1\n')
    with pytest.raises(UserError, match=r"arc_valid.json: line 1: .*JSON"):
        release.load(root, "arc")
    (root / "arc" / "arc_valid.json").unlink()
    with pytest.raises(UserError, match=r"arc_valid.json: "):
        release.load(root, "arc")
    with pytest.raises(UserError, match=r"riddle: .*data.root"):
        release.load(root, "riddle")
    with pytest.raises(UserError, match=r"'mmlu': .*obqa, arc"):
        release.load(root, "mmlu")


def test_an_id_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"arc: field 'id': .*'1-1'.*train.*test"):
        release.load(published(tmp_path, "arc", {"train": [SAW], "test": [SAW]}, {}), "arc")


@pytest.mark.parametrize(
    ("string", "flan", "llama"),
    [
        (
            f"Teeth cut. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: Step 1.\nSa",
            "Teeth cut.",
            "Step 1.\nSa",
        ),
        # What a rationale may itself hold.
        (
            f"Q: so it asks. Thus, the answer is near. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: x",
            "Q: so it asks. Thus, the answer is near.",
            "x",
        ),
        (
            f"First.\n\n{ASKED} Hm. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: x",
            f"First.\n\n{ASKED} Hm.",
            "x",
        ),
        (
            f"First.\n\n{ASKED}\nA: yes. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: x",
            f"First.\n\n{ASKED}\nA: yes.",
            "x",
        ),
        (
            f"Teeth. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: y\n\n{ASKED} llama rationale: z",
            "Teeth.",
            f"y\n\n{ASKED} llama rationale: z",
        ),
        (
            f"Teeth. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: Thus, the answer is (b) spoon\n\nQ: next",
            "Teeth.",
            "Thus, the answer is (b) spoon\n\nQ: next",
        ),
        # What may stand between the question and LLaMA's text.
        (
            f"T. Thus, the answer is (a) saw\n\n{ASKED}\nA: Let's think step by step. llama rationale: So.",
            "T.",
            "So.",
        ),
        (f"T. Thus, the answer is (a) saw\n\n{ASKED}\nA: Let's think step by step.", "T.", ""),
        # What may be absent, or differ in spaces.
        (f"T. Thus, the answer is (a) saw\n\n{ASKED}", "T.", ""),
        (f"T. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: ", "T.", ""),
        (f"T. Thus, the answer is (a) saw\n\n{ASKED} llama rationale:", "T.", ""),
        (f"Thus, the answer is (a) saw\n\n{ASKED} llama rationale: x", "", "x"),
        (f"{ASKED} llama rationale: x", "", "x"),
        (f"Only this.\n\n{ASKED} llama rationale: x", "Only this.", "x"),
        (f"T. Thus, the answer is (c) rope\n\n{ASKED} llama rationale: x", "T.", "x"),
        (f"T. Thus, the answer is (a)  saw \n\n{ASKED.replace('saw', 'saw ')} llama rationale: x", "T.", "x"),
    ],
)
def test_a_string_is_cut_at_its_own_question(string: str, flan: str, llama: str) -> None:
    assert release.split_string(string, question()) == (flan, llama)


def test_options_with_odd_text() -> None:
    choices = ["Thus, the answer is (b) none", "x llama rationale: y", "\nA: no"]
    odd = question(question="Q: which? (a) or llama rationale: (b)", choices=choices, answer=choices[0])
    asked = f"Q: {odd.question}\nAnswer Choices:\n(a) {choices[0]}\n(b) {choices[1]}\n(c) {choices[2]}"
    string = f"Since. Thus, the answer is (a) {choices[0]}\n\n{asked} llama rationale: Because."
    assert release.split_string(string, odd) == ("Since.", "Because.")


def test_a_context_is_part_of_the_recorded_question() -> None:
    asked = ASKED.replace("Q: ", "Q: A bench. \n ")
    string = f"T. Thus, the answer is (a) saw\n\n{asked} llama rationale: x"
    assert release.split_string(string, question(context="A bench.")) == ("T.", "x")
    assert release.split_string(string, question(context="A table.")) is None


@pytest.mark.parametrize(
    "string",
    [
        "Teeth cut.",
        f"T. Thus, the answer is (a) saw\n\n{ASKED}s llama rationale: x",
        f"T. Thus, the answer is (a) saw\n\n{ASKED} ladder llama rationale: x",
        f"T. Thus, the answer is (a) saw\n\n{ASKED.replace('wood', 'bread')} llama rationale: x",
        f"T. Thus, the answer is (a) saw\n\n{ASKED.replace('spoon', 'fork')} llama rationale: x",
    ],
)
def test_a_string_about_another_question_is_seen(string: str) -> None:
    assert release.split_string(string, question()) is None


def strings_of(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"Flan on {row['id']}. Thus, the answer is (a) saw\n\n{ASKED.replace('wood', row['id'])} "
        f"llama rationale: Llama on {row['id']}."
        for row in rows
    ]


def test_files_are_read_by_number_and_joined_by_id(tmp_path: Path) -> None:
    rows = [SAW | {"id": f"r{i}", "question": f"Which tool cuts r{i}?"} for i in range(24)]
    strings = strings_of(rows)
    files = [strings[2 * k : 2 * k + 2] for k in range(12)]  # by name, file 10 would follow file 1
    root = published(tmp_path, "arc", {"train": rows}, {"train": files})
    wanted = release.load(root, "arc")["train"][::-5]
    texts = release.load_rationales(root, "arc", "train", wanted)
    ids = ["r23", "r18", "r13", "r8", "r3"]
    assert texts["flan_t5_xl"] == {id: f"Flan on {id}." for id in ids}
    assert texts["llama2_7b_chat"] == {id: f"Llama on {id}." for id in ids}


def test_missing_texts_are_missing_keys_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [SAW | {"id": id} for id in ("none", "gap", "both")]
    strings = [
        f"T. Thus, the answer is (a) saw\n\n{ASKED}",
        f"nan Thus, the answer is (a) saw\n\n{ASKED} llama rationale: nan",
        f"T. Thus, the answer is (a) saw\n\n{ASKED} llama rationale: nan is no number.",
    ]
    root = published(tmp_path, "arc", {"valid": rows}, {"valid": [strings]})
    questions = release.load(root, "arc")["valid"]
    with caplog.at_level(logging.WARNING):
        texts = release.load_rationales(root, "arc", "valid", questions)
    assert texts == {"flan_t5_xl": {"none": "T.", "both": "T."}, "llama2_7b_chat": {"both": "nan is no number."}}
    assert release.missing(texts, questions) == {"flan_t5_xl": ["gap"], "llama2_7b_chat": ["none", "gap"]}
    assert any("2 of 3 arc/valid" in line and "llama2_7b_chat" in line for line in caplog.messages)


def test_a_string_in_the_wrong_place_names_file_and_index(tmp_path: Path) -> None:
    rows = [SAW | {"id": f"r{i}", "question": f"Which tool cuts r{i}?"} for i in range(4)]
    strings = strings_of(rows)
    strings[2], strings[3] = strings[3], strings[2]
    root = published(tmp_path, "arc", {"test": rows}, {"test": [strings[:2], strings[2:]]})
    with pytest.raises(UserError, match=r"test_CoT_1.json: string 0: .*'r2'.*'Which tool cuts r3"):
        release.load_rationales(root, "arc", "test", release.load(root, "arc")["test"])


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = [SAW | {"id": f"r{i}", "question": f"Which tool cuts r{i}?"} for i in range(3)]
    strings = strings_of(rows)
    root = published(tmp_path, "arc", {"train": rows}, {"train": [strings[:1], strings[1:2], strings[2:]]})
    questions = release.load(root, "arc")["train"]
    llm = root / "arc" / "llm"

    with pytest.raises(UserError, match=r"1 of 4 arc/train .*else:"):
        release.load_rationales(root, "arc", "train", [*questions, question(id="else")])

    (llm / "train_CoT_2.json").write_text("[]")
    with pytest.raises(UserError, match=r"llm: .*3 .*train_CoT_.*found 2"):
        release.load_rationales(root, "arc", "train", questions)
    (llm / "train_CoT_2.json").write_text("[null]")
    with pytest.raises(UserError, match=r"train_CoT_2.json: string 0: .*NoneType"):
        release.load_rationales(root, "arc", "train", questions)
    (llm / "train_CoT_2.json").write_text("{}")
    with pytest.raises(UserError, match=r"train_CoT_2.json: .*dict"):
        release.load_rationales(root, "arc", "train", questions)
    (llm / "train_CoT_1.json").unlink()
    with pytest.raises(UserError, match=r"llm: .*train_CoT_.*found 0, 2"):
        release.load_rationales(root, "arc", "train", questions)


# The real files.


@pytest.fixture
def real() -> Path:
    root = SHARED / "data" / "release"
    if not root.is_dir():
        pytest.skip(f"the published data are not at {root}: set TINYLLM_SHARED")
    return root


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_ids_and_order_are_the_packaged_splits(real: Path, dataset: str) -> None:
    loaded, expected = release.load(real, dataset), splits.load(dataset)
    for split in SPLITS:
        assert [q.id for q in loaded[split]] == [entry.id for entry in expected[split]]


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_texts_have_the_split_files_hashes(real: Path, dataset: str) -> None:
    """The hash is of the whole published text: in pubmedqa, of context and question."""
    loaded = release.load(real, dataset)
    for split, entries in json.loads((SHARED / "splits" / f"{dataset}.json").read_text()).items():
        for q, entry in zip(loaded[split], entries, strict=True):
            whole = f"{q.context} \n {q.question}" if q.context else q.question
            assert hashlib.sha256(whole.encode()).hexdigest()[:16] == entry["question_sha256"], q.id


def test_which_published_questions_carry_a_context(real: Path) -> None:
    """All of pubmedqa; none of obqa, though its authors' format allows one."""
    for dataset in PUBLISHED:
        carried = {bool(q.context) for questions in release.load(real, dataset).values() for q in questions}
        assert carried == {dataset == "pubmedqa"}


ABSENT = {
    ("obqa", "train"): (2, 29),
    ("obqa", "valid"): (0, 2),
    ("obqa", "test"): (0, 2),
    ("arc", "train"): (12, 4),
    ("arc", "valid"): (2, 1),
    ("arc", "test"): (24, 6),
    ("piqa", "train"): (4, 16113),
    ("piqa", "valid"): (0, 919),
    ("piqa", "test"): (0, 919),
    ("pubmedqa", "train"): (2, 0),
    ("pubmedqa", "valid"): (0, 0),
    ("pubmedqa", "test"): (0, 0),
}


@pytest.mark.parametrize(("dataset", "split"), ABSENT)
def test_published_rationales(real: Path, dataset: str, split: Split) -> None:
    """Against a plain cut of each string at its first `Thus,` and its marker: no real rationale holds either twice."""
    questions = release.load(real, dataset)[split]
    texts = release.load_rationales(real, dataset, split, questions)
    absent = release.missing(texts, questions)
    assert (len(absent["flan_t5_xl"]), len(absent["llama2_7b_chat"])) == ABSENT[dataset, split]

    number, position = 0, 0
    while (file := real / dataset / "llm" / f"{split}_CoT_{number}.json").exists():
        for string in json.loads(file.read_text(encoding="utf-8")):
            id = questions[position].id
            before, _, llama = string.partition(" llama rationale: ")
            flan = before.split("Thus, the answer is (")[0].strip()
            assert texts["flan_t5_xl"].get(id, "nan") == flan
            assert texts["llama2_7b_chat"].get(id, "nan") == (llama.strip() or "nan")
            position += 1
        number += 1
    assert position == len(questions)
