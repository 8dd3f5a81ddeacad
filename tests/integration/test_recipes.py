"""CONTRIBUTING's recipes, followed to the letter, and what they lead to."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.integration.conftest import Stage, read_metrics
from tests.integration.documents import ROOT, SMALLER, blocks, follow, read, write_questions
from tests.unit.teachers.engines.test_openai import answered, serving

from tinyllm.data import splits
from tinyllm.records import Question
from tinyllm.reporting import tables


def recipe(section: str, stage: Stage, folder: Path, **more: list[str]) -> Path:
    """Follow one recipe; returns the folder of its only run."""
    shown = [block for block in blocks(read("CONTRIBUTING.md")) if block.section == section]
    assert shown, f"CONTRIBUTING.md has no recipe {section!r}"
    follow(shown, folder, stage, {name: [*SMALLER[name], *more.get(name, [])] for name in SMALLER})
    (result,) = folder.glob("runs/*/*/*/result.json")
    return result.parent


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def predictions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().split("\n") if line]


def test_your_own_questions(stage: Stage, tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl")
    run = recipe("Your own questions", stage, tmp_path)
    assert result(run)["dataset"] == "questions" and result(run)["n"] == 8
    assert [row["id"] for row in predictions(run)] == [f"q{i}" for i in range(40, 48)]


@pytest.mark.parametrize("hub_splits", [["train"], ["train", "validation", "test"]])
def test_a_dataset_of_the_hub(stage: Stage, tmp_path: Path, hub_splits: list[str]) -> None:
    """One that the package doesn't know, in parquet files."""
    (tmp_path / "my_data" / "science").mkdir(parents=True)
    for hub_split in hub_splits:
        rows = [
            {
                "stem": f"What is {i} of {hub_split}?",
                "options": [f"saw {i}", f"spoon {i}", f"rope {i}"],
                "key": "ABC"[i % 3],
                "passage": f"Thing {i} cuts.",
            }
            for i in range(200)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "my_data" / "science" / f"{hub_split}-0.parquet")
    run = recipe("A dataset of the hub", stage, tmp_path)
    found = result(run)
    assert (found["dataset"], found["method"], found["n"], found["train_examples"]) == ("science", "full_ft", 8, 16)
    if "test" in hub_splits:
        expected = [f"test-{i}" for i in range(8)]
    else:
        expected = [
            f"train-{i}"
            for i in range(200)
            if splits.assign_split(Question(f"train-{i}", "?", ("a", "b"), "a")) == "test"
        ][:8]
    assert [row["id"] for row in predictions(run)] == expected
    for row in predictions(run):
        number = int(row["id"].split("-")[1])
        assert row["answer"] == f"{('saw', 'spoon', 'rope')[number % 3]} {number}"


def test_a_teacher(stage: Stage, tmp_path: Path) -> None:
    """Its server is one of this process, which says the same of every question."""
    write_questions(tmp_path / "questions.jsonl")
    with serving(lambda body, count: (200, answered("Numbers follow each other."))) as server:
        url = f"teachers.careful.base_url={server.url}"
        examples = "prompt.examples=0"
        run = recipe("A teacher", stage, tmp_path, rationales=[url, examples], train=[url, examples])
    assert len(server.bodies) == 16 and {body["model"] for body in server.bodies} == {"my-lab/careful-7b"}
    assert result(run)["teachers"] == ["careful"] and result(run)["alpha"] == {"careful": 1.0}
    assert float(read_metrics(run)[0]["train/loss/careful"]) > 0


def test_texts_that_you_have(stage: Stage, tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl")
    run = recipe("Texts that you have", stage, tmp_path)
    assert result(run)["teachers"] == ["file"]
    assert any(float(row["train/loss/file"] or 0) > 0 for row in read_metrics(run))


def test_a_student(stage: Stage, tmp_path: Path) -> None:
    own = [value for value in SMALLER["train"] if not value.startswith("student.")]
    shown = [block for block in blocks(read("CONTRIBUTING.md")) if block.section == "A student"]
    follow(shown, tmp_path, stage, {"train": own})
    (file,) = tmp_path.glob("runs/minilab/narrow/*/checkpoints/student/config.json")
    config = json.loads(file.read_text())
    assert (config["d_model"], config["num_heads"], config["num_layers"]) == (48, 4, 1)


def test_a_method(stage: Stage, tmp_path: Path) -> None:
    """The loss is the answer's and half of what each teacher's has by its alpha."""
    run = recipe("A method", stage, tmp_path)
    alpha = result(run)["alpha"]
    assert alpha == {"terse": 3.0, "wordy": 3.0}
    assert result(run)["method"] == "light" and result(run)["teachers"] == ["terse", "wordy"]
    rows = [row for row in read_metrics(run) if row["train/loss"]]
    assert len(rows) == 2
    for row in rows:
        answer, terse, wordy = (float(row[f"train/loss/{name}"]) for name in ("answer", "terse", "wordy"))
        assert float(row["train/loss"]) == pytest.approx(answer + 0.5 * 3 * (terse + wordy), rel=1e-5)


def test_a_table(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, commands = (block for block in blocks(read("CONTRIBUTING.md")) if block.section == "A table")
    follow([file], tmp_path, stage)
    path = tmp_path / file.mark.removeprefix("file ")
    assert path.parent.relative_to(tmp_path) == Path(tables.__file__).parent.relative_to(ROOT)
    spec = importlib.util.spec_from_file_location("seconds", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(tables, "TABLES", (*tables.TABLES, module.seconds))
    follow([commands], tmp_path, stage)
    with (tmp_path / "report" / "tables" / "seconds.csv").open(newline="") as written:
        rows = list(csv.DictReader(written))
    runs = {
        run["method"]: run for run in map(result, (path.parent for path in tmp_path.glob("runs/*/*/*/result.json")))
    }
    assert {row["method"] for row in rows} == set(runs) == {"full_ft", "inference"}
    for row in rows:
        assert row["seconds"] == f"{runs[row['method']]['wall_seconds']:.0f}"
    for ending in ("md", "tex"):
        assert "How long the runs took" in (tmp_path / "report" / "tables" / f"seconds.{ending}").read_text()


RECIPES = {
    "Your own questions",
    "A dataset of the hub",
    "A teacher",
    "Texts that you have",
    "A student",
    "A method",
    "A table",
}
"""Headings of CONTRIBUTING whose fences are followed here."""
