"""The predictions of runs, each file read once for the whole report."""

from __future__ import annotations

import logging
from pathlib import Path

from tinyllm.records import Prediction
from tinyllm.runs import read_predictions

log = logging.getLogger(__name__)


class Predictions:
    """Predictions by run folder."""

    def __init__(self) -> None:
        self._read: dict[str, list[Prediction]] = {}

    def of(self, folder: str) -> list[Prediction]:
        """A run's predictions; none, with one warning, where its file is missing or broken."""
        if folder not in self._read:
            try:
                self._read[folder] = read_predictions(Path(folder))
            except ValueError as error:
                log.warning("excluded from tests and cases: %s", error)
                self._read[folder] = []
        return self._read[folder]
