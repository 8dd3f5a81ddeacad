"""Sweeps with every launcher: finished cells are skipped, failed ones marked and tried again, a kill loses no cell."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.integration.conftest import SMALL, finish, popen


def results(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/minilab/tiny/*/result.json"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.nightly), "joblib", "submitit_local"])
def test_a_sweep_goes_on_after_a_failed_cell_with_every_launcher(tmp_path: Path, launcher: str) -> None:
    """Jobs run in other processes; their failures reach the exit code, and the same command tries them again."""
    sweep = ["-m", f"hydra/launcher={launcher}", "method=full_ft,tinyllm", *SMALL, "trainer.max_steps=1"]
    sweep += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    first = popen(tmp_path, "train", *sweep)  # no rationales yet: tinyllm can't, full_ft can
    out, _ = first.communicate(timeout=300)
    assert first.returncode == 2, out
    errors = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "terse" in errors[0] and "Traceback" not in out
    (done,) = results(tmp_path)
    assert "full_ft" in done.parent.name
    (mark,) = tmp_path.glob("runs/minilab/tiny/*/error.txt")
    assert "tinyllm" in mark.parent.name and mark.read_text().strip() == errors[0].removeprefix("error: ")
    before = done.stat().st_mtime_ns
    finish(tmp_path, "rationales", "data.limit_train=40")
    finish(tmp_path, "train", *sweep)
    assert len(results(tmp_path)) == 2 and done.stat().st_mtime_ns == before
    assert not mark.exists()
    assert not list(tmp_path.glob(".cache/tinyllm/sweeps/*.jsonl"))


@pytest.mark.slow
def test_a_fault_that_is_not_the_users_gives_exit_code_1(tmp_path: Path) -> None:
    """A folder stands where the first cell writes its metrics: the second runs, and the traceback is kept."""
    sweep = ["-m", "hydra/launcher=joblib", "method=full_ft", "seed=0,1", *SMALL, "trainer.max_steps=1"]
    finish(tmp_path, "train", *sweep)
    first, second = results(tmp_path)
    for result in (first, second):
        result.unlink()
    shutil.rmtree(first.parent)
    (first.parent / "metrics.csv").mkdir(parents=True)
    process = popen(tmp_path, "train", *sweep)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    (error,) = [line for line in out.splitlines() if line.startswith("error:")]
    assert str(first.parent / "error.txt") in error
    assert "Traceback" in (first.parent / "error.txt").read_text()
    assert results(tmp_path) == [second]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """SIGKILL in the second of three cells: the first is skipped, the second resumed, the third run."""
    sweep = ["-m", "method=full_ft", "seed=0,1,2", *SMALL, "data.limit_train=160", "trainer.max_epochs=3"]
    process = popen(tmp_path, "train", *sweep)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        second = list(tmp_path.glob("runs/minilab/tiny/full_ft-seed1-*/checkpoints/last.ckpt"))
        if second:
            break
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(results(tmp_path)) == 1
    out = finish(tmp_path, "train", *sweep)
    assert out.count("finished already") == 1 and out.count("resuming from step") == 1
    found = [json.loads(path.read_text()) for path in results(tmp_path)]
    assert [row["seed"] for row in found] == [0, 1, 2] and [row["steps"] for row in found] == [60, 60, 60]


@pytest.mark.slow
def test_ddp_under_multirun_writes_one_folder_a_cell(tmp_path: Path) -> None:
    sweep = ["-m", "method=full_ft", "seed=0,1", *SMALL, "trainer.max_steps=2", "trainer=ddp"]
    finish(tmp_path, "train", *sweep, "trainer.accelerator=cpu", "trainer.devices=2")
    assert len(results(tmp_path)) == 2
    assert len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 2
    assert not {p.name for p in tmp_path.iterdir()} - {"runs", "store", ".cache"}, "nothing but the runs"
    for path in results(tmp_path):
        assert json.loads(path.read_text())["steps"] == 2
        assert (path.parent / "predictions.jsonl").read_text().count("\n") == 24


@pytest.mark.slow
def test_a_staged_search_runs_seven_cells_and_says_what_it_chose(tmp_path: Path) -> None:
    """Killed after its second cell, it goes on; called again, it only says the same."""
    finish(tmp_path, "rationales", "data.limit_train=40")
    few = ["trainer.max_steps=5", "optimizer.warmup_steps=0", "optimizer.lr=0.02", "trainer.select_by=accuracy_ranked"]
    search = ["-m", "alpha=staged", "hydra/launcher=joblib", *SMALL, *few]
    # Without other processes: joblib's outlive their parent by minutes, and hold its output open.
    process = popen(tmp_path, "train", *search, "hydra/launcher=basic")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and len(results(tmp_path)) < 2:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    out = finish(tmp_path, "train", *search)
    assert len(results(tmp_path)) == len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 7
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    found = [json.loads(path.read_text())["valid_accuracy"] for path in results(tmp_path)]
    assert len(set(found)) > 1, "where all are equal, nothing is chosen"
    last = out.splitlines()[-1]
    assert last.startswith("alpha=staged") and f"{max(found):.4f}" in last and "7 cells" in last
    assert "alpha.terse=" in last
    assert finish(tmp_path, "train", *search).splitlines()[-1] == last
