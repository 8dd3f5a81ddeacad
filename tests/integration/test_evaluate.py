"""`tinyllm evaluate`: what it asks a student with."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.conftest import SMALL, Stage

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


def test_an_evaluation_tells_what_the_student_learned_from(stage: Stage, tmp_path: Path) -> None:
    """Of `ablation.strongest` the two samples that stood for the set, and what the weighting gave them."""
    pair = ["ablation=no_diverse_teachers", "ablation.strongest=wordy", "weighting=random_router"]
    assert stage("rationales", "data.limit_train=40", *pair)[0] == 0
    options = [*SMALL, *pair, "trainer.max_steps=2", "trainer.select_by=accuracy_ranked", "hydra.run.dir=run"]
    code, _, err = stage("train", *options, "evaluation.split=valid")
    assert code == 0, err
    assert stage("evaluate", "run=run", "evaluation.split=test")[0] == 0
    run = tmp_path / "run"
    trained, evaluated = runs.result_of(run), runs.result_of(run / "evaluation-minilab-test")
    assert evaluated.teachers == trained.teachers == ("wordy", "wordy_2")
    assert evaluated.alpha == trained.alpha and evaluated.weights == trained.weights != {}
    assert evaluated.deviations["teachers"] == trained.deviations["teachers"]
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    card = (tmp_path / "exported" / "README.md").read_text()
    said = f"chosen by validation accuracy by ranking ({trained.valid_accuracy:.4f}), so it was chosen on these very"
    assert said in card and "read once" not in card


def test_an_export_onto_a_mount_is_one_line(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage("train", *SMALL, "method=full_ft", "trainer.max_steps=1", "hydra.run.dir=run")[0] == 0

    def busy(*_: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("tinyllm.cli.export.os.replace", busy)
    code, _, err = stage("export", "run=run", "output=there")
    assert code == 2 and "output=there" in err and "a folder inside it" in err
    assert not list(tmp_path.glob(".there*"))


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
