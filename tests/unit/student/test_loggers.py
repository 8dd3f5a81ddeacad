"""Weights & Biases, offline: a job's run is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from tinyllm.config import LoggerConfig, LoggerName
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
