"""Weights & Biases, where a run asks for it; `metrics.csv` is always written (`metrics_csv`)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from tinyllm import runs
from tinyllm.config import LoggerConfig, LoggerName
from tinyllm.errors import UserError
from tinyllm.records import Prediction, Result


class ResumedWandbLogger(WandbLogger):
    """Lightning's, for a run that is killed and resumed any number of times: its history has no step twice.

    A resumed run computes the steps behind its last checkpoint again, to the same numbers; they are logged once. What a
    kill finds in the memory of Weights & Biases is lost there, and stands in `metrics.csv`.

    Args:
        record: file in which the run's id stands, and of every metric the last step logged.
        options: of WandbLogger.
    """

    def __init__(self, record: Path, **options: Any) -> None:
        self._record = record
        known: dict[str, Any] = {"id": secrets.token_hex(6), "steps": {}}
        if record.is_file():
            known = json.loads(record.read_text())
        self._steps: dict[str, int] = known["steps"]
        super().__init__(id=known["id"], resume="allow", **options)
        self._write()

    @rank_zero_only
    def _write(self) -> None:
        runs.write_whole(self._record, json.dumps({"id": self._id, "steps": self._steps}))

    @rank_zero_only
    def abandon(self) -> None:
        """End a run that failed, if it has begun; the same command resumes it."""
        if self._experiment is not None:
            self.experiment.finish(exit_code=1)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log what is new; `step`, counted from 0, is the row's in the history."""
        if step is None:
            raise ValueError("expected the step of a row")
        new = {name: value for name, value in metrics.items() if step > self._steps.get(name, -1)}
        if set(new) - {"epoch"}:
            self._steps |= dict.fromkeys(new, step)
            self._write()
            self.experiment.log({**new, "trainer/global_step": step}, step=step)


def make_loggers(settings: LoggerConfig, folder: Path, config: Mapping[str, Any]) -> list[Logger]:
    """Loggers in addition to `metrics.csv`.

    Args:
        settings: where metrics go.
        folder: of the run.
        config: the resolved configuration, recorded with the run.

    Raises:
        UserError: Weights & Biases does not let a run begin, such as without a login.
    """
    if settings.name is LoggerName.csv:
        return []
    from wandb.errors import Error

    logger = ResumedWandbLogger(
        folder / "wandb" / "run.json",
        project=settings.project,
        entity=settings.entity,
        name="/".join(folder.parts[-3:]),
        save_dir=folder,
        mode=settings.mode,
        config=dict(config),
    )
    try:
        logger.experiment  # noqa: B018  # begins the run: better now than after the first step
    except Error as error:
        raise UserError(
            f"logger=wandb: {' '.join(str(error).split())}: log in with 'wandb login', check logger.project and "
            "logger.entity, or set logger.mode=offline or logger=csv"
        ) from error
    return [logger]


@contextmanager
def closed_on_failure(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close what a failed job leaves open: the next job of a sweep, in the same process, would log into its run."""
    try:
        yield
    except BaseException:
        for logger in loggers:
            if isinstance(logger, ResumedWandbLogger):
                logger.abandon()
        raise


def log_result(loggers: Sequence[Logger], result: Result, predictions: Sequence[Prediction]) -> None:
    """The result as the run's summary, and every prediction in a table."""
    for logger in loggers:
        if isinstance(logger, ResumedWandbLogger):
            logger.experiment.summary.update({f"result/{key}": value for key, value in asdict(result).items()})
            columns = ["id", "question", "choices", "answer", "generated", "predicted", "ranked"]
            rows = [[str(getattr(p, column)) for column in columns] for p in predictions]
            logger.log_table("predictions", columns=columns, data=rows, step=result.steps or 0)
            logger.experiment.finish()
