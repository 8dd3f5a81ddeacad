"""What tests of tables share: answers by hand, and cells by label and column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.reporting.conftest import MakeRun

from tinyllm.config import Engine, ExperimentConfig, Metric, TeacherConfig
from tinyllm.reporting.frame import collect, on_test
from tinyllm.reporting.study import Study
from tinyllm.reporting.table import Cell, Table

Change = Callable[[ExperimentConfig], ExperimentConfig]


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


def of_set(names: Sequence[str], **more: Any) -> Change:
    """`teachers=[...]`, all at α = 3."""

    def change(config: ExperimentConfig) -> ExperimentConfig:
        own = {
            m: TeacherConfig(
                name=m, engine=Engine.scripted, model=m, prefix=f"{m}: ", share=0.5 if m == "misleading" else None
            )
            for m in names
        }
        return replace(config, teachers=own, alpha=dict.fromkeys(names, 3.0), **more)

    return change


def taught(names: Sequence[str]) -> dict[str, Any]:
    return {"alpha": dict.fromkeys(names, 3.0), "config": of_set(names)}


def two_teachers(make_run: MakeRun, ranked: bool = False, **more: Any) -> None:
    """Full fine-tuning, each teacher and both: 10, 20, 16 and 28 right, with `ranked` by ranking alone."""
    for names, n in (((), 10), (("terse",), 20), (("wordy",), 16), (("terse", "wordy"), 28)):
        flags: dict[str, Any] = {"right": first(33), "ranked": first(n)} if ranked else {"right": first(n)}
        make_run(**({"method": "full_ft"} if not names else taught(names)), **flags, **more)
