"""`metrics.csv`: one line a logged step, appended as training goes; a resumed run goes on in the same file."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from tinyllm.runs import write_whole


class MetricsCsv(Logger):
    """Lightning logger with fixed columns.

    Lightning's own CSVLogger deletes the file of the run that it resumes, and rewrites it whole at every line.

    Args:
        path: the file.
        streams: names of the streams, for their columns.
        from_step: optimizer steps behind the run; lines of later steps (they count from 0) are dropped, and come again.
    """

    def __init__(self, path: Path, streams: Sequence[str], from_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.columns = [
            "step",
            "train/loss",
            *(f"train/loss/{name}" for name in streams),
            "valid/accuracy",
            "valid/accuracy_ranked",
            "valid/accuracy_exact",
            "train/examples_per_second",
            "lr",
            "epoch",
        ]
        kept: list[dict[str, str]] = []
        if from_step is not None and path.is_file():
            whole = path.read_text().rpartition("\n")[0]  # a full disk may have left a part of a line behind it
            rows = [row for row in csv.DictReader(whole.splitlines()) if (row.get("step") or "").isdigit()]
            kept = [row for row in rows if int(row["step"]) < from_step]
        self._start = (kept, from_step)
        self._started = False

    @property
    def name(self) -> str:
        """Of no use here: there is one file."""
        return "metrics"

    @property
    def version(self) -> str:
        """Likewise."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line; names without a column are left out."""
        row = {key: value for key, value in metrics.items() if key in self.columns}
        if not set(row) - {"epoch"}:
            return
        if not self._started:
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns)
            writer.writeheader()
            writer.writerows({key: old.get(key, "") for key in self.columns} for old in self._start[0])
            write_whole(self.path, text.getvalue())
            self._started = True
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({**row, "step": step})
