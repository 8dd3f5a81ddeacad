"""What asking the teachers has cost: a CSV in the store's folder, a line for each turn of each call."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from tinyllm.config import TeacherConfig
from tinyllm.errors import UserError
from tinyllm.teachers.engines.protocol import Completion

FILE_NAME = "ledger.csv"
EXAMPLES = "examples"
"""`Cost.split` of what it took to invent in-context examples."""
_WIDTH = 14
"""Characters of a number in the file, so that a line can be brought up to date in its place."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the ledger."""

    created: str
    """UTC, ISO 8601: of the last batch."""
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
    """In the unit of the prices in the teacher's YAML; None where there are none, or the server counts no tokens."""


class Ledger:
    """Counts what one turn costs, and brings its line up to date with every batch, so that a killed process's costs are
    known."""

    def __init__(self, folder: Path, dataset: str, split: str, prompt_key: str, teacher: TeacherConfig) -> None:
        self._file = folder / FILE_NAME
        self._teacher = teacher
        self._since = time.monotonic()
        self._start: int | None = None
        """Where this turn's line begins in the file, in bytes; None as long as it has none."""
        self.total = Cost("", dataset, split, teacher.stored_name, prompt_key)

    def add(self, batch: Sequence[Completion]) -> None:
        """Count one batch, and write it down.

        Raises:
            UserError: the file can't be written.
        """
        total = replace(
            self.total,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            prompts=self.total.prompts + len(batch),
            failed=self.total.failed + sum(done.error is not None for done in batch),
            prompt_tokens=self.total.prompt_tokens + sum(done.paid[0] for done in batch),
            completion_tokens=self.total.completion_tokens + sum(done.paid[1] for done in batch),
            seconds=round(time.monotonic() - self._since, 3),
        )
        # A server that counts no tokens leaves the cost unknown; it is not 0.
        counted = total.prompt_tokens or total.completion_tokens or total.prompts == total.failed
        money = money_of(self._teacher, total.prompt_tokens, total.completion_tokens) if counted else None
        self.total = replace(total, money=money)
        try:
            self._write()
        except OSError as error:
            raise UserError(f"writing to the ledger failed: {error}; free space and run again") from error

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            line, start = _line(self.total), self._start
            if start is None:
                start = os.lseek(descriptor, 0, os.SEEK_END)
                if start == 0:
                    line = ",".join(field.name for field in fields(Cost)).encode() + b"\n" + line
                elif os.pread(descriptor, 1, start - 1) != b"\n":  # of a full disk
                    line = b"\n" + line
            if os.pwrite(descriptor, line, start) < len(line):
                os.ftruncate(descriptor, start)
                raise OSError("no space left for a line")
            self._start = start + len(line) - len(_line(self.total))
        finally:
            os.close(descriptor)


def money_of(teacher: TeacherConfig, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What tokens cost by the teacher's prices; None where it has none."""
    if teacher.price_prompt is None and teacher.price_completion is None:
        return None
    return (prompt_tokens * (teacher.price_prompt or 0.0) + completion_tokens * (teacher.price_completion or 0.0)) / 1e6


def _line(cost: Cost) -> bytes:
    """As long for every state of a turn."""
    buffer = io.StringIO()
    row = asdict(cost)
    numbers = {
        name: f"{f'{value:.6f}' if name == 'money' else value:>{_WIDTH}}"
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    if cost.money is None:
        numbers["money"] = " " * _WIDTH  # it may be known later
    csv.DictWriter(buffer, list(row), lineterminator="\n").writerow(row | numbers)
    return buffer.getvalue().encode(errors="replace")


def read_ledger(folder: Path) -> list[Cost]:
    """The lines of a store's ledger; those that can't be read (a full disk) are left out."""
    file = folder / FILE_NAME
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream))
    costs = []
    for row in rows:
        with suppress(TypeError, ValueError):
            costs.append(
                Cost(
                    row["created"],
                    row["dataset"],
                    row["split"],
                    row["teacher"],
                    row["prompt_key"],
                    prompts=int(row["prompts"]),
                    failed=int(row["failed"]),
                    prompt_tokens=int(row["prompt_tokens"]),
                    completion_tokens=int(row["completion_tokens"]),
                    seconds=float(row["seconds"]),
                    money=float(row["money"]) if row["money"].strip() else None,
                )
            )
    return costs
