"""Weights & Biases, where a run asks for it; `metrics.csv` is always written (`metrics_csv`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from tinyllm.config import LoggerConfig, LoggerName
from tinyllm.records import Prediction, Result


def make_loggers(settings: LoggerConfig, folder: Path, digest: str, config: Mapping[str, Any]) -> list[Logger]:
    """Loggers in addition to `metrics.csv`: one id a run, whatever the number of resumes.

    Args:
        settings: where metrics go.
        folder: of the run.
        digest: the run's `config_hash`, which is its id.
        config: the resolved configuration, recorded with the run.
    """
    if settings.name is LoggerName.csv:
        return []
    logger = WandbLogger(
        project=settings.project,
        entity=settings.entity,
        name="/".join(folder.parts[-3:]),
        id=digest,
        resume="allow",
        save_dir=folder,
        mode=settings.mode,
        config=dict(config),
    )
    return [logger]


def log_result(loggers: Sequence[Logger], result: Result, predictions: Sequence[Prediction]) -> None:
    """The result as the run's summary, and every prediction in a table."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({f"result/{key}": value for key, value in asdict(result).items()})
            columns = ["id", "question", "choices", "answer", "generated", "predicted", "ranked"]
            rows = [[str(getattr(p, column)) for column in columns] for p in predictions]
            logger.log_table("predictions", columns=columns, data=rows)
            logger.experiment.finish()
