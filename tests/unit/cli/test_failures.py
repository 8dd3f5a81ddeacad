"""Failures reach the process that collects them from any process that it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinyllm.cli.failures import Failure, collected, record


def test_failures_of_this_and_of_other_processes_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Failure("seed=0", "a line\u2028with 'quotes' and\nanother", 2)
    program = "from tinyllm.cli.failures import Failure, record; record(Failure('seed={}', 'lost', 1))"
    with collected() as failures:
        record(here)
        jobs = [subprocess.Popen([sys.executable, "-c", program.format(seed)], cwd="/") for seed in (1, 2)]
        assert [job.wait(60) for job in jobs] == [0, 0]
    assert failures[0] == here
    assert sorted(f.overrides for f in failures[1:]) == ["seed=1", "seed=2"]
    assert {f.exit_code for f in failures[1:]} == {1}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the file is gone"


def test_nothing_is_written_where_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with collected() as failures:
        pass
    assert failures == [] and not list(tmp_path.iterdir())
