"""What asking the teachers has cost: a CSV in the store's folder, a line for each stretch of a run."""

from __future__ import annotations

import csv
import fcntl
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

FILE_NAME = "ledger.csv"
STRETCH = 60.0
"""Seconds between two lines of one run, so that a killed run's costs are known but for the last minute."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the ledger."""

    created: str
    """UTC, ISO 8601."""
    dataset: str
    split: str
    teacher: str
    prompt_key: str
    prompts: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """0 where the server doesn't say."""
    completion_tokens: int = 0
    seconds: float = 0.0
    money: float | None = None
    """In the unit of the prices in the teacher's YAML; None where there are none."""


class Ledger:
    """Counts costs and writes them down every `STRETCH` seconds and at the end.

    price_prompt, price_completion: money for 1e6 tokens; None for both leaves the money out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dataset: str,
        split: str,
        teacher: str,
        prompt_key: str,
        price_prompt: float | None = None,
        price_completion: float | None = None,
    ) -> None:
        self._file = folder / FILE_NAME
        self._price_prompt = price_prompt
        self._price_completion = price_completion
        self._blank = Cost("", dataset, split, teacher, prompt_key)
        self._stretch = self._blank
        self._since = time.monotonic()
        self.total = self._blank
        """Costs since the ledger was opened."""

    def add(self, *, prompts: int, failed: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Count one batch."""
        self._stretch = replace(
            self._stretch,
            prompts=self._stretch.prompts + prompts,
            failed=self._stretch.failed + failed,
            prompt_tokens=self._stretch.prompt_tokens + prompt_tokens,
            completion_tokens=self._stretch.completion_tokens + completion_tokens,
        )
        if time.monotonic() - self._since >= STRETCH:
            self.write()

    def write(self) -> None:
        """Write the stretch since the last line down; nothing where nothing was asked."""
        now = time.monotonic()
        if not self._stretch.prompts:
            self._since = now
            return
        cost = replace(
            self._stretch,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(now - self._since, 3),
            money=self._money(self._stretch),
        )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", newline="") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            writer = csv.DictWriter(stream, [field.name for field in fields(Cost)])
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(asdict(cost))
        total = self.total
        self.total = replace(
            total,
            created=cost.created,
            prompts=total.prompts + cost.prompts,
            failed=total.failed + cost.failed,
            prompt_tokens=total.prompt_tokens + cost.prompt_tokens,
            completion_tokens=total.completion_tokens + cost.completion_tokens,
            seconds=total.seconds + cost.seconds,
            money=None if cost.money is None else (total.money or 0.0) + cost.money,
        )
        self._stretch, self._since = self._blank, now

    def _money(self, cost: Cost) -> float | None:
        if self._price_prompt is None and self._price_completion is None:
            return None
        prompt, completion = self._price_prompt or 0.0, self._price_completion or 0.0
        return (cost.prompt_tokens * prompt + cost.completion_tokens * completion) / 1e6


def known_speed(folder: Path, teacher: str) -> float | None:
    """Completion tokens a second that this teacher reached in earlier runs on this store; None where unknown."""
    file = folder / FILE_NAME
    if not file.exists():
        return None
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["teacher"] == teacher]
    tokens = sum(int(row["completion_tokens"]) for row in rows)
    seconds = sum(float(row["seconds"]) for row in rows)
    return tokens / seconds if tokens and seconds else None
