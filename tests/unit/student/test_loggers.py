"""Weights & Biases, offline: a job's run is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from tinyllm.config import LoggerConfig, LoggerName
from tinyllm.errors import UserError
from tinyllm.student.loggers import closed_on_failure, make_loggers


def test_a_job_after_a_failed_one_has_a_run_of_its_own(tmp_path: Path) -> None:
    settings = LoggerConfig(name=LoggerName.wandb, mode="offline")
    first = make_loggers(settings, tmp_path / "first", {})
    with pytest.raises(RuntimeError, match="out of memory"), closed_on_failure(first):
        first[0].log_metrics({"train/loss": 1.0}, step=0)
        raise RuntimeError("out of memory")
    assert wandb.run is None
    second = make_loggers(settings, tmp_path / "second", {})
    with closed_on_failure(second):
        second[0].log_metrics({"train/loss": 1.0}, step=0)
        assert wandb.run is not None and wandb.run.id == second[0].version != first[0].version
    wandb.run.finish()


def test_what_wandb_refuses_is_one_line_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = LoggerConfig(name=LoggerName.wandb, mode="offline", project="a/b")
    with pytest.raises(UserError, match=r"^logger=wandb: .*a/b.*logger\.project"):
        make_loggers(refused, tmp_path / "first", {})
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"^logger=wandb: .*wandb login"):
        make_loggers(LoggerConfig(name=LoggerName.wandb, mode="online"), tmp_path / "second", {})
