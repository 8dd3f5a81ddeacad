"""Datasets that the package doesn't know: the hub's own splits, ids, and what is held out of train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.conftest import parquet

from tinyllm.config import ColumnsConfig, DataConfig
from tinyllm.data import hub, questions
from tinyllm.errors import UserError
from tinyllm.records import Question, Split

pytestmark = pytest.mark.usefixtures("offline")


def rows(count: int, start: int = 0, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"What follows {i}?", "choices": [str(i), str(i + 1)], "answer": 1} | fields
        for i in range(start, start + count)
    ]


def with_ids(questions: list[dict[str, Any]], ids: list[Any]) -> list[dict[str, Any]]:
    return [row | {"id": id} for row, id in zip(questions, ids, strict=True)]


def read(root: Path | None, **columns: Any) -> dict[Split, list[Question]]:
    return hub.load("mine", hub_id=None, hub_config=None, revision=None, root=root, columns=ColumnsConfig(**columns))


def ids(loaded: dict[Split, list[Question]]) -> dict[str, list[str]]:
    return {split: [question.id for question in questions] for split, questions in loaded.items()}


@pytest.mark.parametrize("valid", ["validation", "valid", "val", "dev"])
def test_the_hubs_splits_in_their_order(tmp_path: Path, valid: str) -> None:
    loaded = read(parquet(tmp_path, "mine", **{"train": rows(3), valid: rows(1, 3), "test": rows(2, 4)}))
    assert ids(loaded) == {
        "train": ["train-0", "train-1", "train-2"],
        "valid": [f"{valid}-0"],
        "test": ["test-0", "test-1"],
    }
    assert loaded[Split.test][1] == Question("test-1", "What follows 5?", ("5", "6"), "6")


def test_ids_are_the_rows_own_where_they_are_unique_over_all_splits(tmp_path: Path) -> None:
    splits = {"train": with_ids(rows(2), [7, 3]), "validation": with_ids(rows(1, 2), [1]), "test": rows(1, 3, id=9)}
    assert ids(read(parquet(tmp_path, "mine", **splits))) == {"train": ["7", "3"], "valid": ["1"], "test": ["9"]}
    splits["test"][0]["id"] = 7
    counted = {"train": ["train-0", "train-1"], "valid": ["validation-0"], "test": ["test-0"]}
    assert ids(read(parquet(tmp_path / "again", "mine", **splits))) == counted
    splits = {split: [row | {"qid": f"q{row['id']}"} for row in part] for split, part in splits.items()}
    splits["test"][0]["qid"] = "other"
    named = ids(read(parquet(tmp_path / "named", "mine", **splits), id="qid"))
    assert named == {"train": ["q7", "q3"], "valid": ["q1"], "test": ["other"]}
    inside = {split: [row | {"meta": {"key": row["qid"]}} for row in part] for split, part in splits.items()}
    assert ids(read(parquet(tmp_path / "inside", "mine", **inside), id="meta.key")) == named
    with pytest.raises(UserError, match=r"mine: data\.columns\.id=id"):  # asked for by name, and not unique
        read(tmp_path / "named", id="id")


def test_what_the_hub_lacks_is_held_out_of_train(tmp_path: Path) -> None:
    """About a tenth each, the same questions at every reading, and none twice."""
    everything = rows(2000)
    loaded = read(parquet(tmp_path / "one", "mine", train=everything))
    # Three standard deviations of a binomial share: 40 of 200.
    assert abs(len(loaded[Split.valid]) - 200) < 41 and abs(len(loaded[Split.test]) - 200) < 41
    found = [id for split in ids(loaded).values() for id in split]
    assert sorted(found) == sorted(f"train-{i}" for i in range(2000))
    assert loaded == read(tmp_path / "one")

    with_valid = read(parquet(tmp_path / "two", "mine", train=everything, validation=rows(30, 5000)))
    assert ids(with_valid)["test"] == ids(loaded)["test"]
    assert len(with_valid[Split.valid]) == 30 and len(with_valid[Split.train]) == 2000 - len(loaded[Split.test])


@pytest.mark.parametrize("secret", [-1, None])
def test_a_test_split_with_hidden_answers_is_none(tmp_path: Path, secret: int | None) -> None:
    hidden = [row | {"answer": secret} for row in rows(50, 5000)]
    splits = {"train": rows(300), "validation": rows(20, 4000), "test": hidden}
    if secret is None:
        hidden[0]["answer"] = 0  # a column of nothing has no type
        with pytest.raises(UserError, match=r"mine: test, row 1 .*field 'answer'"):
            read(parquet(tmp_path / "mixed", "mine", **splits))
        return
    loaded = read(parquet(tmp_path, "mine", **splits))
    assert loaded[Split.test] and all(question.id.startswith("train-") for question in loaded[Split.test])


def test_the_order_of_a_run_does_not_move_questions_between_splits(tmp_path: Path) -> None:
    """Runs of several seeds share a test set, and the store's texts keep their split."""
    parquet(tmp_path, "mine", train=rows(300))
    test = [
        ids(questions.load_questions(DataConfig("mine", root=str(tmp_path), seed=seed, train_fraction=0.5)))["test"]
        for seed in (0, 1)
    ]
    assert test[0] == test[1]


def test_problems_are_gathered_with_split_row_and_field(tmp_path: Path) -> None:
    bad = rows(4)
    bad[1]["answer"], bad[3]["question"] = 5, " "
    with pytest.raises(UserError) as caught:
        read(parquet(tmp_path, "mine", train=bad))
    message = str(caught.value).splitlines()
    assert "data.columns" in message[0] and len(message) == 3
    for line, number, field in zip(message[1:], (1, 3), ("answer", "question"), strict=True):
        assert line.startswith(f"- mine: train, row {number} ") and f"field '{field}'" in line


def test_what_can_not_be_read_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mine: .*train"):
        read(parquet(tmp_path / "test", "mine", test=rows(3)))
    with pytest.raises(UserError, match=r"^mine: .*query.*without query.*data.columns"):
        read(parquet(tmp_path / "columns", "mine", train=rows(3)), question="query")
    with pytest.raises(UserError, match=r"^mine: .*train, valid"):
        read(parquet(tmp_path / "few", "mine", train=rows(1)))


def test_a_dataset_on_the_hub_is_asked_for_its_splits(tmp_path: Path) -> None:
    """A folder in the hub's layout, which `datasets` reads as it reads the hub."""
    parquet(tmp_path, "data", train=rows(200), validation=rows(20, 300), extra=rows(5, 900))
    loaded = hub.load("mine", hub_id=str(tmp_path), hub_config=None, revision=None, root=None)
    assert len(loaded[Split.valid]) == 20 and loaded[Split.test][0].id.startswith("train-")


def test_an_unreachable_hub_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        hub.load("mine", hub_id="no/such", hub_config=None, revision=None, root=None)
    message = str(caught.value)
    assert message.startswith("mine: ") and "no/such" in message and "<data.root>/mine/" in message
    assert "\n" not in message and "release" not in message


def test_the_conversion_branch_is_asked_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a config is a folder, of which the splits are asked, too."""
    import datasets

    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def split_names(*args: Any, **kwargs: Any) -> list[str]:
        asked.append((args, kwargs))
        return ["train", "test"]

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(rows(100))

    monkeypatch.setattr(datasets, "get_dataset_split_names", split_names)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub.load("mine", hub_id="a/b", hub_config="main", revision="refs/convert/parquet", root=None)
    place = {"revision": "refs/convert/parquet", "data_dir": "main"}
    assert asked == [(("a/b",), place), *((("a/b",), {**place, "split": split}) for split in ("train", "test"))]
