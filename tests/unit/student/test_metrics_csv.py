"""`metrics.csv`: fixed columns, appended line by line, continued by a resumed run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tinyllm.student.metrics_csv import MetricsCsv

COLUMNS = [
    "step",
    "train/loss",
    "train/loss/answer",
    "train/loss/owl",
    "valid/accuracy",
    "valid/accuracy_ranked",
    "valid/accuracy_exact",
    "train/examples_per_second",
    "lr",
    "epoch",
]


def logger(path: Path, from_step: int | None = None, streams: tuple[str, ...] = ("answer", "owl")) -> MetricsCsv:
    return MetricsCsv(path, streams, from_step)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_and_lines_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.csv"
    log = logger(path)
    log.log_metrics({"train/loss": 2.5, "train/loss/owl": 1.25, "lr": 0.1, "epoch": 0}, step=10)
    log.log_metrics({"valid/accuracy": 0.5, "valid/accuracy_ranked": 0.75}, step=20)
    assert path.read_text().splitlines() == [
        ",".join(COLUMNS),
        "10,2.5,,1.25,,,,,0.1,0",
        "20,,,,0.5,0.75,,,,",
    ]


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    """A killed run keeps what it logged."""
    path = tmp_path / "metrics.csv"
    log = logger(path)
    for step in (1, 2, 3):
        log.log_metrics({"train/loss": step / 2}, step=step)
        assert [row["step"] for row in rows(path)] == [str(s) for s in range(1, step + 1)]


def test_what_has_no_column_writes_no_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = logger(path)
    log.log_metrics({"epoch": 1}, step=1)
    log.log_metrics({"epoch": 1, "train/loss/unknown": 3.0}, step=2)
    log.log_metrics({}, step=3)
    assert not path.exists()
    log.log_metrics({"train/loss": 1.0, "train/loss/unknown": 3.0}, step=4)
    assert [row["step"] for row in rows(path)] == ["4"]


def test_a_new_run_writes_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger(path).log_metrics({"train/loss": 1.0}, step=5)
    logger(path).log_metrics({"train/loss": 2.0}, step=3)
    assert [(row["step"], row["train/loss"]) for row in rows(path)] == [("3", "2.0")]


def test_a_resumed_run_keeps_the_lines_below_its_step(tmp_path: Path) -> None:
    """Steps count from 0, so 101 steps behind a run are lines up to 100."""
    path = tmp_path / "metrics.csv"
    first = logger(path)
    for step in (9, 10, 100, 101, 110):  # as numbers, not as text: 9 < 10 < 100
        first.log_metrics({"train/loss": float(step)}, step=step)
    again = logger(path, from_step=101)
    again.log_metrics({"train/loss": 0.5}, step=101)
    again.log_metrics({"train/loss": 0.25}, step=102)
    assert [(row["step"], row["train/loss"]) for row in rows(path)] == [
        ("9", "9.0"),
        ("10", "10.0"),
        ("100", "100.0"),
        ("101", "0.5"),
        ("102", "0.25"),
    ]


def test_a_resumed_run_that_logs_nothing_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger(path).log_metrics({"train/loss": 1.0}, step=5)
    before = path.read_text()
    logger(path, from_step=2)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "step", "step,train/loss\n1,2.0\n\n3"])
def test_a_torn_file_is_gone_on_with(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    logger(path, from_step=10).log_metrics({"train/loss": 0.5}, step=11)
    found = [(row["step"], row["train/loss"]) for row in rows(path)]
    assert found[-1] == ("11", "0.5")
    assert (("1", "2.0") in found) == ("2.0" in text)


def test_other_columns_of_an_old_file_are_sorted_into_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger(path, streams=("elk",)).log_metrics({"train/loss": 1.0, "train/loss/elk": 4.0, "lr": 0.5}, step=1)
    logger(path, from_step=2).log_metrics({"lr": 0.25}, step=2)
    first, second = rows(path)
    assert list(first) == COLUMNS
    assert (first["train/loss"], first["train/loss/owl"], first["lr"], second["lr"]) == ("1.0", "", "0.5", "0.25")
