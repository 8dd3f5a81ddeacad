"""What tests of tables share: answers by hand, and cells by label and column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyllm.config import ExperimentConfig, Metric
from tinyllm.reporting.frame import collect, on_test
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table


def first(n: int, of: int = 40, start: int = 0) -> list[bool]:
    """Right on n questions from `start` on."""
    return [start <= i < start + n for i in range(of)]


def either(*parts: list[bool]) -> list[bool]:
    return [any(flags) for flags in zip(*parts, strict=True)]


def made(tmp_path: Path, metric: Metric = Metric.accuracy) -> Study:
    return Study(on_test(collect([tmp_path / "runs"]).frame), metric)


def row(table: Table, label: str) -> tuple[Cell, ...]:
    (found,) = [cells for cells in table.rows if cells[0].text == label]
    return found


def cell(table: Table, label: str, column: str) -> Cell:
    return row(table, label)[table.columns.index(column)]


def labels(table: Table) -> list[str]:
    return [str(cells[0].text) for cells in table.rows]


def ablated(name: str) -> dict[str, Any]:
    def change(config: ExperimentConfig) -> ExperimentConfig:
        return replace(config, ablation=replace(config.ablation, name=name))

    return {"config": change}


def untrained(config: ExperimentConfig) -> ExperimentConfig:
    return replace(config, method=replace(config.method, train=False))


def longer(config: ExperimentConfig) -> ExperimentConfig:
    return replace(config, trainer=replace(config.trainer, max_epochs=3))


def comparison(table: Table) -> dict[tuple[str, str], dict[str, Cell]]:
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    return {(str(one["method"].text), str(one["against"].text)): one for one in rows}
