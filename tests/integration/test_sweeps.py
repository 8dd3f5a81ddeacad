"""Sweeps with every launcher: finished cells are skipped, failed ones marked and tried again, a kill loses no cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.integration.conftest import SMALL, Stage, finish, popen

from tinyllm.cli import main as cli

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
import run as experiments  # noqa: E402


def results(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/minilab/tiny/*/result.json"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_goes_on_after_a_failed_cell_with_every_launcher(tmp_path: Path, launcher: str) -> None:
    """Jobs run in other processes; their failures reach the exit code, and the same command tries them again."""
    sweep = ["-m", f"hydra/launcher={launcher}", "method=full_ft,tinyllm", *SMALL, "trainer.max_steps=1"]
    sweep += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    first = popen(tmp_path, "train", *sweep)  # no rationales yet: tinyllm can't, full_ft can
    out, _ = first.communicate(timeout=300)
    assert first.returncode == 2, out
    assert out.count("lack a terse rationale") == 1 and "Traceback" not in out
    (done,) = results(tmp_path)
    assert "full_ft" in done.parent.name
    (mark,) = tmp_path.glob("runs/minilab/tiny/*/error.txt")
    assert "tinyllm" in mark.parent.name and "lack a terse rationale" in mark.read_text()
    before = done.stat().st_mtime_ns
    finish(tmp_path, "rationales", "data.limit_train=40")
    finish(tmp_path, "train", *sweep)
    assert len(results(tmp_path)) == 2 and done.stat().st_mtime_ns == before
    assert not mark.exists()
    assert not list(tmp_path.glob(".cache/tinyllm/sweeps/*.jsonl"))


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
    assert out.count("finished already") == 1 and out.count("going on from step") == 1
    found = [json.loads(path.read_text()) for path in results(tmp_path)]
    assert [row["seed"] for row in found] == [0, 1, 2] and [row["steps"] for row in found] == [60, 60, 60]


@pytest.mark.slow
def test_ddp_under_multirun_writes_one_folder_a_cell(tmp_path: Path) -> None:
    sweep = ["-m", "method=full_ft", "seed=0,1", *SMALL, "trainer.max_steps=2", "trainer=ddp"]
    finish(tmp_path, "train", *sweep, "trainer.accelerator=cpu", "trainer.devices=2")
    assert len(results(tmp_path)) == 2
    assert len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 2
    assert not {p.name for p in tmp_path.iterdir()} - {"runs", "store", ".cache"}, "nothing beside the runs"
    for path in results(tmp_path):
        assert json.loads(path.read_text())["steps"] == 2
        assert (path.parent / "predictions.jsonl").read_text().count("\n") == 24


@pytest.mark.parametrize("scale", ["minilab", "paper"])
@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXPERIMENTS.glob("*/sweep.yaml")))
def test_every_sweep_composes_into_cells_of_their_own(name: str, scale: str) -> None:
    cli.register()
    path = EXPERIMENTS / name / "sweep.yaml"
    assert path.read_text().startswith(f"# make experiment NAME={name} SCALE=minilab")
    for stage, overrides in experiments.sweeps(name, scale):
        assert stage in cli.STAGES
        if stage == "train":
            few = [o if o.startswith(("method.", "alpha")) else first_two(o) for o in overrides]
            jobs = experiments.cells(stage, few)
            assert len({folder for folder, _ in jobs}) == len(jobs), "two cells would share a folder"


def first_two(override: str) -> str:
    """A shorter sweep: composing takes a tenth of a second a cell."""
    key, _, values = override.partition("=")
    return f"{key}={','.join(values.split(',')[:2])}"


def test_the_five_experiments_are_there() -> None:
    names = {path.parent.name for path in EXPERIMENTS.glob("*/sweep.yaml")}
    assert names == {"table1", "table2_ablation", "fig2_train_size", "fig3_alpha", "fig4_cases"}
    assert names < {path.stem for path in (cli.config_folder() / "experiment").glob("*.yaml")}
    for name in names:
        assert set(yaml.safe_load((EXPERIMENTS / name / "sweep.yaml").read_text())) == {"minilab", "paper"}


@pytest.mark.slow
def test_an_experiment_runs_its_cells_and_reports(tmp_path: Path, stage: Stage) -> None:
    """The script behind `make experiment`, on a sweep of its own: cells, state, report, log of calls."""
    home = tmp_path / "experiments"
    (home / "small").mkdir(parents=True)
    lines = {
        "rationales": ["data.limit_train=40"],
        "evaluate": ["teacher=terse,wordy data.limit_test=24"],
        "train": [" ".join(["method=full_ft,tinyllm", *SMALL, "trainer.max_steps=1"])],
        "report": ["metric=accuracy_ranked"],
    }
    (home / "small" / "sweep.yaml").write_text(yaml.safe_dump({"minilab": lines}, sort_keys=False))
    (home / "run.py").write_text((EXPERIMENTS / "run.py").read_text())

    def call(*arguments: str) -> str:
        command = [sys.executable, "experiments/run.py", "small", "minilab", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 cells (2 new)" in call("--list")
    out = call("hydra/launcher=basic")
    assert "2 cells (2 new)" in out and "small: 2 finished" in out
    output = home / "small" / "minilab"
    assert {"results.csv", "report.md", "index.html", "calls.csv"} <= {path.name for path in output.iterdir()}
    out = call("hydra/launcher=basic")
    assert "2 cells (2 finished)" in out
    assert len(list(tmp_path.glob("runs/minilab/tiny/*"))) == 2, "the folders foreseen are those that runs take"
    calls = (output / "calls.csv").read_text().splitlines()
    assert len(calls) == 3 and calls[0].startswith("started,cells,finished_before")
    wrong = subprocess.run(
        [sys.executable, "experiments/run.py", "large", "minilab"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert wrong.returncode != 0 and "NAME=large: expected one of small" in wrong.stderr
    assert "Traceback" not in wrong.stderr
