"""Failed jobs of a sweep: each job adds a line to the sweep's file, in whatever process or machine it runs."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyllm.shown import error_text

_FILE = "TINYLLM_SWEEP_FAILURES"
"""Environment variable that names the file: every launcher's jobs inherit it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed."""

    overrides: str
    message: str
    """One line, or a list that follows it."""
    exit_code: int


def record(failure: Failure) -> None:
    """Called by a job inside `collected`: adds a line, short enough to be appended in one piece.

    A job to which no launcher has passed the environment prints its line and ends with its exit code.
    """
    if _FILE not in os.environ:
        print(f"error: {error_text(failure.message)}", file=sys.stderr)
        sys.exit(failure.exit_code)
    path = Path(os.environ[_FILE])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(failure)) + "\n")


@contextmanager
def collected() -> Iterator[list[Failure]]:
    """The failures of the jobs that run inside; the list is filled at the end."""
    path = Path(".cache/tinyllm/sweeps").resolve() / f"{uuid.uuid4().hex}.jsonl"  # where jobs on a cluster see it too
    found: list[Failure] = []
    os.environ[_FILE] = str(path)
    try:
        yield found
    finally:
        del os.environ[_FILE]
        if path.exists():
            found += [Failure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
            path.unlink()
