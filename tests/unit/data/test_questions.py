"""Questions by split: the nested training subset, limits, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tinyllm.config import ColumnsConfig, DataConfig, Source
from tinyllm.data.questions import load_questions, training_subset
from tinyllm.errors import UserError
from tinyllm.records import Question

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


def make(count: int) -> list[Question]:
    return [
        Question(f"id-{i}", f"Which number follows {i}?", (str(i + 1), str(i + 2)), str(i + 1)) for i in range(count)
    ]


def ids(questions: list[Question]) -> list[str]:
    return [question.id for question in questions]


@pytest.mark.parametrize("seed", [0, 1])
def test_smaller_subsets_lie_inside_larger_ones(seed: int) -> None:
    questions = make(333)
    subsets = [set(ids(training_subset(questions, fraction, seed))) for fraction in FRACTIONS]
    for smaller, larger in pairwise(subsets):
        assert smaller < larger
    assert subsets[-1] == set(ids(questions))


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(80, 0.125, 10), (81, 0.125, 11), (4957, 0.125, 620), (100, 0.07, 7), (10, 0.3, 3), (3, 0.01, 1), (0, 0.5, 0)],
)
def test_size_is_the_share_rounded_up_and_never_off_by_a_float(count: int, fraction: float, expected: int) -> None:
    """100 * 0.07 is 7.000000000000001 in floats: still 7."""
    assert len(training_subset(make(count), fraction, 0)) == expected


def test_a_subset_is_seeded_and_keeps_the_order_of_the_split() -> None:
    questions = make(200)
    subset = training_subset(questions, 0.25, 3)
    assert subset == training_subset(questions, 0.25, 3)
    assert ids(subset) == [i for i in ids(questions) if i in set(ids(subset))]
    assert ids(subset) != ids(training_subset(questions, 0.25, 4))
    assert ids(subset) != ids(questions[:50])


def test_a_subset_follows_the_ids_not_the_positions() -> None:
    questions = make(200)
    assert set(ids(training_subset(questions[::-1], 0.25, 3))) == set(ids(training_subset(questions, 0.25, 3)))


@pytest.fixture
def own_file(tmp_path: Path) -> str:
    rows = [
        {"id": f"{split}{i}", "question": f"Is {i} even?", "choices": ["yes", "no"], "answer": "no", "split": split}
        for split, count in (("train", 40), ("valid", 6), ("test", 7))
        for i in range(count)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_fraction_cuts_train_alone_and_a_limit_cuts_its_split(own_file: str) -> None:
    data = DataConfig(name="own", source=Source.jsonl, root=own_file, train_fraction=0.5)
    everything = load_questions(data)
    assert {split: len(questions) for split, questions in everything.items()} == {"train": 20, "valid": 6, "test": 7}
    data.limit_train, data.limit_valid, data.limit_test = 5, 2, 100
    limited = load_questions(data)
    assert limited["train"] == everything["train"][:5]
    assert limited["valid"] == everything["valid"][:2]
    assert limited["test"] == everything["test"]


def test_the_subset_of_a_dataset_is_nested_and_seeded(own_file: str) -> None:
    def train(fraction: float, seed: int = 0) -> list[str]:
        return ids(
            load_questions(DataConfig("own", Source.jsonl, own_file, train_fraction=fraction, seed=seed))["train"]
        )

    assert set(train(0.125)) < set(train(0.25)) < set(train(1.0))
    assert train(0.25) != train(0.25, seed=1)


def test_a_root_under_the_home_folder(own_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(own_file).parent))
    assert len(load_questions(DataConfig("own", Source.jsonl, "~/own.jsonl"))["train"]) == 40


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("minilab", Source.hub, r"data=minilab: .*data\.source=builtin.*hub"),
        ("minilab", Source.release, r"data=minilab: .*data\.source=builtin.*release"),
        ("minilab", Source.jsonl, r"data=minilab: .*data\.source=builtin.*jsonl"),
        ("obqa", Source.builtin, r"data\.source=builtin: .*data=minilab.*data=obqa"),
        ("obqa", Source.release, r"data\.source=release: .*data\.root"),
        ("own", Source.jsonl, r"data\.source=jsonl: .*data\.root"),
    ],
)
def test_a_source_that_can_not_serve_the_dataset_is_refused(name: str, source: Source, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_questions(DataConfig(name, source))


@pytest.mark.parametrize("source", [Source.jsonl, Source.release])
def test_columns_are_of_the_hub_alone(source: Source, tmp_path: Path) -> None:
    data = DataConfig("own", source, root=str(tmp_path), columns=ColumnsConfig(question="stem"))
    with pytest.raises(UserError, match=rf"^data\.columns: .*data\.source=hub.*{source}"):
        load_questions(data)


def test_minilab_follows_its_seed() -> None:
    first, again, other = (load_questions(DataConfig("minilab", Source.builtin, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]
