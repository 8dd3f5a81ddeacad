"""`tinyllm evaluate`: what it asks a student with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.conftest import Stage

from tinyllm import runs
from tinyllm.config import (
    DataConfig,
    ExperimentConfig,
    MethodConfig,
    Source,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
)
from tinyllm.errors import UserError
from tinyllm.student.student import Student


def test_a_run_is_evaluated_in_its_own_precision(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call composes the default student, whose file has a precision of its own."""
    asked: list[str] = []

    def load(folder: Path, *, precision: str, cache: Path) -> Student:
        asked.append(precision)
        raise UserError("enough")

    monkeypatch.setattr(Student, "load", load)
    trained = ExperimentConfig(
        data=DataConfig(name="minilab", source=Source.builtin),
        student=StudentConfig(name="tiny"),
        method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}),
        trainer=TrainerConfig(precision="bf16-mixed"),
    )
    runs.write_config(trained, tmp_path / "run")
    for more in ([], ["trainer=cpu"], ["trainer.precision=32-true"]):
        code, _, err = stage("evaluate", "run=run", *more)
        assert code == 2 and "enough" in err
    assert asked == ["bf16-mixed", "bf16-mixed", "32-true"]


def test_random_weights_are_those_of_the_seed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def create(*_: Any, **__: Any) -> Student:
        seeds.append(torch.initial_seed())
        raise UserError("enough")

    monkeypatch.setattr(Student, "create", create)
    for seed in (7, 8):
        code, _, err = stage("evaluate", f"seed={seed}")
        assert code == 2 and "enough" in err
    assert seeds == [7, 8]
