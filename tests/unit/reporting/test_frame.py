"""Run folders -> frame."""

from __future__ import annotations

from pathlib import Path

from tests.unit.reporting.conftest import MakeRun

from tinyllm.reporting.frame import collect


def test_runs_that_differ_in_their_seed_alone_share_a_setting(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("tinyllm", seed=0)
    make_run("tinyllm", seed=1)
    make_run("full_ft", seed=0)
    frame = collect([tmp_path / "runs"])
    assert len(frame) == 3
    tinyllm = frame[frame.method == "tinyllm"]
    assert tinyllm.setting.nunique() == 1
    assert set(tinyllm.setting).isdisjoint(frame[frame.method == "full_ft"].setting)
