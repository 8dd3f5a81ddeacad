"""Hub rows against what the release holds: invented rows with the hub's columns, in parquet files written here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.conftest import parquet

from tinyllm.config import ColumnsConfig
from tinyllm.data import hub, release, splits
from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

SHARED = Path(os.environ.get("TINYLLM_SHARED", Path(__file__).resolve().parents[4] / "shared"))

Entries = dict[Split, list[splits.SplitEntry]]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def entry(id: str, text: str | None = None) -> splits.SplitEntry:
    return splits.SplitEntry(id, None if text is None else sha(text))


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def use_splits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Small splits in the place of the packaged ones."""

    def use(entries: Entries) -> None:
        monkeypatch.setattr(splits, "load", lambda dataset: entries)

    return use


def read(dataset: str, root: Path | None, hub_config: str | None = None) -> dict[Split, list[Question]]:
    return hub.load(dataset, hub_id=None, hub_config=hub_config, revision=None, root=root)


def lettered(question: str, key: str, options: list[str], labels: str = "ABCDE", **fields: Any) -> dict[str, Any]:
    choices = {"text": options, "label": list(labels[: len(options)])}
    return {"question": question, "choices": choices, "answerKey": key} | fields


def test_obqa_follows_the_splits_order(tmp_path: Path, use_splits: Any) -> None:
    def row(id: str, key: str) -> dict[str, Any]:
        fields = lettered("", key, ["saw ", "spoon", "rope", "cup"], id=id, question_stem=" Wood is cut with ")
        return {name: value for name, value in fields.items() if name != "question"}

    use_splits({"train": [entry("b"), entry("a")], "valid": [entry("c")], "test": [entry("d")]})
    rows = {"train": [row("a", "A"), row("b", "D")], "validation": [row("c", "B")], "test": [row("d", "C")]}
    loaded = read("obqa", parquet(tmp_path, "obqa", **rows))
    options = ("saw", "spoon", "rope", "cup")
    assert loaded == {
        "train": [Question("b", "Wood is cut with", options, "cup"), Question("a", "Wood is cut with", options, "saw")],
        "valid": [Question("c", "Wood is cut with", options, "spoon")],
        "test": [Question("d", "Wood is cut with", options, "rope")],
    }


def test_arc_keeps_the_questions_of_the_splits_and_reads_both_kinds_of_labels(tmp_path: Path, use_splits: Any) -> None:
    four, five = ["saw", "spoon", "rope", "cup"], ["saw", "spoon", "rope", "cup", "lid"]
    rows = [
        lettered("Which cuts?", "1", four, labels="1234", id="numbers"),
        lettered("Which ties?", "C", four, id="letters"),
        lettered("Which covers?", "E", five, id="five options"),
    ]
    use_splits({"train": [entry("letters"), entry("numbers")], "valid": [], "test": []})
    loaded = read("arc", parquet(tmp_path, "arc", train=rows, validation=rows, test=rows))
    assert [(q.id, q.answer) for q in loaded["train"]] == [("letters", "rope"), ("numbers", "saw")]


def piqa_row(goal: str, label: int) -> dict[str, Any]:
    return {"goal": goal, "sol1": f"{goal}: use a saw ", "sol2": f"{goal}: use a cup", "label": label}


def test_piqa_goes_by_row_number(tmp_path: Path, use_splits: Any) -> None:
    use_splits(
        {
            "train": [entry("train-0"), entry("train-1")],
            "valid": [entry("1", "Cut")],
            "test": [entry("0", "Cut"), entry("2", "Drink")],
        }
    )
    root = parquet(
        tmp_path,
        "piqa",
        train=[piqa_row("Saw", 0), piqa_row("Sip", 1)],
        validation=[piqa_row("Cut", 1), piqa_row(" Cut ", 0), piqa_row("Drink", 1)],
    )
    loaded = read("piqa", root)
    assert [q.answer for q in loaded["train"]] == ["Saw: use a saw", "Sip: use a cup"]
    assert loaded["valid"] == [Question("1", "Cut", ("Cut : use a saw", "Cut : use a cup"), "Cut : use a saw")]
    assert [(q.id, q.answer) for q in loaded["test"]] == [("0", "Cut: use a cup"), ("2", "Drink: use a cup")]


def test_piqa_in_another_order_is_refused(tmp_path: Path, use_splits: Any) -> None:
    use_splits({"train": [], "valid": [entry("0", "Cut")], "test": [entry("1", "Drink")]})
    root = parquet(tmp_path, "piqa", train=[], validation=[piqa_row("Drink", 0), piqa_row("Cut", 0)])
    pq.write_table(pa.Table.from_pylist([piqa_row("Saw", 0)]), root / "piqa" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"^piqa: 2 .*valid/0, test/1\b"):
        read("piqa", root)


def test_riddle_goes_by_hash_and_gets_the_papers_ids(tmp_path: Path, use_splits: Any) -> None:
    options = ["saw", "spoon", "rope", "cup", "lid"]
    use_splits(
        {
            "train": [entry("x-2", "I tie.")],
            "valid": [entry("y-1", "I cover.")],
            "test": [entry("y-2", "I cut.  Who am I?")],
        }
    )
    root = parquet(
        tmp_path,
        "riddle",
        train=[lettered("I tie.", "C", options)],
        validation=[lettered(" I cut.  Who am I?\n", "A", options), lettered("I cover.", "E", options)],
    )
    loaded = read("riddle", root)
    assert {split: [(q.id, q.answer) for q in questions] for split, questions in loaded.items()} == {
        "train": [("x-2", "rope")],
        "valid": [("y-1", "lid")],
        "test": [("y-2", "saw")],
    }
    assert loaded["test"][0].question == "I cut.  Who am I?"


def pubmed_row(id: int, decision: str) -> dict[str, Any]:
    return {
        "pubid": id,
        "question": "Do saws cut?",
        "context": {"contexts": ["We sawed.", "It fell."], "labels": ["A", "B"], "meshes": ["Wood"]},
        "long_answer": "They do.",
        "final_decision": decision,
    }


def test_pubmedqa_equals_the_release(tmp_path: Path, use_splits: Any) -> None:
    use_splits({"train": [entry("30")], "valid": [entry("10")], "test": [entry("20")]})
    rows = [pubmed_row(10, "yes"), pubmed_row(20, "no"), pubmed_row(30, "maybe"), pubmed_row(40, "yes")]
    loaded = read("pubmedqa", parquet(tmp_path, "pubmedqa", train=rows))
    assert loaded["train"][0].context == "We sawed. \n It fell."

    folder = tmp_path / "published" / "pubmedqa"
    folder.mkdir(parents=True)
    for split, id, answer in (("train", "30", "maybe"), ("valid", "10", "yes"), ("test", "20", "no")):
        text = "We sawed. \n It fell. \n Do saws cut?"
        row = {"id": id, "question": text, "choices": ["yes", "no", "maybe"], "answer": answer}
        (folder / f"pubmedqa_{split}.json").write_text(json.dumps([row]))
    assert release.load(tmp_path / "published", "pubmedqa") == loaded


def bioasq_row(id: str, answer: Any, **fields: Any) -> dict[str, Any]:
    row = {"id": id, "type": "yesno", "body": "Do saws cut?", "exact_answer": answer}
    return row | {"snippets": [{"text": " We sawed. "}, {"text": "It fell."}]} | fields


def test_bioasq_reads_the_organisers_files(tmp_path: Path, use_splits: Any) -> None:
    use_splits({"train": [entry("c"), entry("a")], "valid": [entry("b")], "test": [entry("d")]})
    first = [bioasq_row("a", "yes"), bioasq_row("b", ["no"]), bioasq_row("x", [["saw"]], type="factoid")]
    second = [bioasq_row("c", "Yes", snippets=[]), bioasq_row("d", "no"), bioasq_row("unused", "perhaps")]
    (tmp_path / "one.json").write_text(json.dumps({"questions": first}))
    (tmp_path / "two.json").write_text(json.dumps({"questions": second}))
    loaded = read("bioasq", tmp_path)
    context = "We sawed. \n It fell."
    assert loaded == {
        "train": [
            Question("c", "Do saws cut?", ("yes", "no"), "yes"),
            Question("a", "Do saws cut?", ("yes", "no"), "yes", context),
        ],
        "valid": [Question("b", "Do saws cut?", ("yes", "no"), "no", context)],
        "test": [Question("d", "Do saws cut?", ("yes", "no"), "no", context)],
    }
    everything = tmp_path / "all" / "training.json"
    everything.parent.mkdir()
    everything.write_text(json.dumps({"questions": first + second}))
    assert read("bioasq", everything) == loaded

    with pytest.raises(UserError, match=r"^bioasq: 2 .*train/c, test/d\b.*data.root"):
        read("bioasq", tmp_path / "one.json")


def test_bioasq_without_a_file_says_where_to_get_it(tmp_path: Path) -> None:
    for root in (None, tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match=r"^bioasq: .*http://participants-area.bioasq.org.*data.root"):
            read("bioasq", root)
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(UserError, match=r"training.json: .*`questions`"):
        read("bioasq", tmp_path)


def test_missing_questions_are_counted_with_examples(tmp_path: Path) -> None:
    """Against the packaged splits."""
    with pytest.raises(UserError) as caught:
        read("pubmedqa", parquet(tmp_path, "pubmedqa", train=[pubmed_row(1, "yes")]))
    assert str(caught.value).startswith("pubmedqa: 1000 of ")
    assert "train/21645374" in str(caught.value) and "data.source=release" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_names_the_lacking_column_or_the_row_and_its_field(tmp_path: Path, use_splits: Any) -> None:
    use_splits({"train": [entry("1")], "valid": [], "test": []})
    other = [{"pubid": 1, "question": "Do saws cut?", "final_decision": "yes"}]
    with pytest.raises(UserError, match=r"^pubmedqa: .*pubid, question, final_decision, context .*\(without context\)"):
        read("pubmedqa", parquet(tmp_path / "other", "pubmedqa", train=other))
    for root, row in (("unsure", pubmed_row(1, "unsure")), ("letter", pubmed_row(1, "b"))):
        with pytest.raises(UserError, match=rf"^pubmedqa: train, row 0 .*field 'answer': .*'{row['final_decision']}'"):
            read("pubmedqa", parquet(tmp_path / root, "pubmedqa", train=[row]))
    hidden = [piqa_row("Saw", 0), piqa_row("Cut", -1)]
    with pytest.raises(UserError, match=r"^piqa: train, row 1 .*field 'answer': .*from 0 to 1, found -1"):
        read("piqa", parquet(tmp_path / "hidden", "piqa", train=hidden, validation=hidden))
    (tmp_path / "training.json").write_text(json.dumps({"questions": [bioasq_row("1", "yes", snippets=[{}])]}))
    with pytest.raises(UserError, match=r"^bioasq: train, row 0 .*field 'context'"):
        read("bioasq", tmp_path / "training.json")


def test_folders_as_the_hub_lays_them_out(tmp_path: Path, use_splits: Any) -> None:
    use_splits({"train": [entry("1")], "valid": [entry("2")], "test": []})
    for place, ids in (("pqa_labeled/train/0000", [1, 2]), ("pqa_artificial/train/0000", [7])):
        file = tmp_path / "pubmedqa" / f"{place}.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([pubmed_row(id, "yes") for id in ids]), file)
    assert [q.id for q in read("pubmedqa", tmp_path, "pqa_labeled")["valid"]] == ["2"]
    with pytest.raises(UserError, match=r"pubmedqa: .*train\*.parquet"):
        read("pubmedqa", tmp_path)


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, use_splits: Any) -> None:
    """On the conversion branch a config is a folder, as that branch knows no config but the default one."""
    import datasets

    use_splits({"train": [entry("1")], "valid": [], "test": []})
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([pubmed_row(1, "yes")])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub.load("pubmedqa", hub_id="a/b", hub_config="pqa_labeled", revision="v1", root=None)
    hub.load("pubmedqa", hub_id="a/b", hub_config="pqa_labeled", revision="refs/convert/parquet", root=None)
    assert asked == [
        (("a/b", "pqa_labeled"), {"revision": "v1", "split": "train"}),
        (("a/b",), {"data_dir": "pqa_labeled", "revision": "refs/convert/parquet", "split": "train"}),
    ]


def test_an_unreachable_hub_is_one_line_with_remedies() -> None:
    with pytest.raises(UserError) as caught:
        hub.load("obqa", hub_id="allenai/openbookqa", hub_config="main", revision=None, root=None)
    message = str(caught.value)
    assert message.startswith("obqa: ") and "allenai/openbookqa" in message
    assert "<data.root>/obqa/" in message and "data.source=release" in message and "\n" not in message


def test_neither_a_folder_nor_a_dataset_id() -> None:
    for dataset in ("obqa", "mmlu"):
        with pytest.raises(UserError, match=rf"^{dataset}: .*data.hub_id .*data.root"):
            read(dataset, None)


def test_columns_of_a_known_dataset_are_refused(tmp_path: Path) -> None:
    """They would do nothing."""
    columns = ColumnsConfig(question="stem")
    with pytest.raises(UserError, match=r"data.columns: .*obqa"):
        hub.load("obqa", hub_id=None, hub_config=None, revision=None, root=tmp_path, columns=columns)


def test_the_module_does_not_import_datasets_by_itself() -> None:
    """It takes seconds, and other sources do without."""
    code = "import sys, tinyllm.data.hub; sys.exit('datasets' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("dataset", ["obqa", "arc", "piqa", "pubmedqa"])
def test_hub_rows_of_the_published_questions_give_the_published_questions(tmp_path: Path, dataset: str) -> None:
    """The real questions, written back in the hub's columns and in another order, against the packaged splits."""
    root = SHARED / "data" / "release"
    if not root.is_dir():
        pytest.skip(f"the published data are not at {root}: set TINYLLM_SHARED")
    published = release.load(root, dataset)
    rows = {"train": published["train"], "validation": published["valid"], "test": published["test"]}
    if dataset == "piqa":
        halves = sorted(published["valid"] + published["test"], key=lambda q: int(q.id))
        rows = {"train": published["train"], "validation": halves}
    elif dataset == "pubmedqa":
        rows = {"train": [q for split in SPLITS for q in published[split]][::-1]}
    else:
        rows = {name: questions[::-1] for name, questions in rows.items()}

    def back(q: Question) -> dict[str, Any]:
        if dataset == "piqa":
            return {"goal": q.question, "sol1": q.choices[0], "sol2": q.choices[1], "label": q.answer_index}
        if dataset == "pubmedqa":
            sections = {"contexts": q.context.split(" \n "), "labels": [], "meshes": []}
            return {"pubid": int(q.id), "question": q.question, "context": sections, "final_decision": q.answer}
        row = lettered(q.question, "ABCD"[q.answer_index], list(q.choices), id=q.id)
        return row | {"question_stem": q.question} if dataset == "obqa" else row

    parquet(tmp_path, dataset, **{name: [back(q) for q in questions] for name, questions in rows.items()})
    assert read(dataset, tmp_path) == published
