"""Run an experiment's sweeps, then its report: what `make experiment NAME=... SCALE=...` calls.

python experiments/run.py table1 minilab [Hydra overrides] [--list]

Reads `experiments/<name>/sweep.yaml`: for each scale the stages in order, and for each stage its sweeps, as overrides.
Runs go to `runs/` and rationales to `store/` of the current folder, shared by all experiments: a cell that another
experiment has finished is not run again. The report goes to `experiments/<name>/<scale>/`, with a line in `calls.csv`
for each call of this script. Overrides given here are added to every sweep; `hydra/launcher=...` among them chooses
where jobs run. Without one, as many jobs run at a time as there are processors, on one thread each.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from tinyllm.cli.main import STAGES, config_folder, register, run_name, with_alpha_grid
from tinyllm.errors import UserError
from tinyllm.evaluation import run_folder

HERE = Path(__file__).resolve().parent


def sweeps(name: str, scale: str) -> list[tuple[str, list[str]]]:
    """(stage, overrides) of every sweep of an experiment, in order."""
    path = HERE / name / "sweep.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in HERE.glob("*/sweep.yaml"))
        raise UserError(f"NAME={name}: expected one of {', '.join(known)}")
    scales = yaml.safe_load(path.read_text())
    if scale not in scales:
        raise UserError(f"SCALE={scale}: expected one of {', '.join(scales)}")
    found = [(stage, shlex.split(line)) for stage, lines in scales[scale].items() for line in lines]
    unknown = [stage for stage, _ in found if stage not in STAGES]
    if unknown:
        raise UserError(f"{path}: {unknown[0]}: no such stage; expected one of {', '.join(STAGES)}")
    return found


def cells(stage: str, overrides: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """The jobs of a sweep: where each one's result lies, and its overrides.

    A teacher's evaluation lies in a folder of the teacher's, whose name this does not foresee.
    """
    given = [o for o in with_alpha_grid(stage, ["-m", *overrides]) if o != "-m" and not o.startswith("hydra")]
    parsed = OverridesParser.create().parse_overrides(overrides=given)
    jobs: list[tuple[Path, list[str]]] = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
            for job in batch:
                values = hydra.compose(stage, overrides=job)
                if stage == "evaluate":
                    jobs.append((Path("runs") / values.data.name / values.teacher.name, job))
                else:
                    jobs.append((Path("runs") / run_name(values), job))
    return jobs


def state(folder: Path) -> str:
    """finished, failed, interrupted or new."""
    if (folder / run_folder.RESULT).is_file():
        return "finished"
    if (folder / "error.txt").is_file():
        return "failed"
    return "interrupted" if (folder / run_folder.CONFIG).is_file() else "new"


def launcher(extra: Sequence[str]) -> list[str]:
    """As many jobs at a time as processors, where the call chooses no launcher."""
    jobs = os.cpu_count() or 1
    if any(o.startswith("hydra/launcher") for o in extra) or jobs == 1:
        return []
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}", "trainer.progress_bar=false"]


def call(stage: str, overrides: Sequence[str], environment: dict[str, str]) -> int:
    """`tinyllm <stage> ...` in a process of its own; returns its exit code."""
    command = [sys.executable, "-c", "from tinyllm.cli.main import main; main()", stage, *overrides]
    print(f"$ tinyllm {stage} {shlex.join(overrides)}", flush=True)
    return subprocess.run(command, env=environment, check=False).returncode


def log_call(path: Path, row: dict[str, object]) -> None:
    """Add a line to calls.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> int:
    """Plan, run, report. Exit code 0, or 2 where a cell failed or the call was wrong."""
    parser = argparse.ArgumentParser(description="Run an experiment's sweeps, then its report.")
    parser.add_argument("name", help="folder of experiments/, such as table1")
    parser.add_argument("scale", help="minilab or paper")
    parser.add_argument("--list", action="store_true", help="only list the cells and where they stand")
    options, extra = parser.parse_known_args()
    register()
    plan = sweeps(options.name, options.scale)
    started, clock = datetime.now(UTC), time.perf_counter()
    folders = {stage: {} for stage in ("train", "evaluate")}
    for stage, overrides in plan:
        if stage in folders:
            folders[stage] |= {folder: job for folder, job in cells(stage, [*overrides, *extra])}
    before = {folder: state(folder) for folder in folders["train"]}
    counts = Counter(before.values())
    print(f"{options.name} at scale {options.scale}: {len(before)} cells ({told(counts)})", flush=True)
    if options.list:
        for folder, job in folders["train"].items():
            print(f"{before[folder]:12}{folder}  {' '.join(job)}")
        return 0
    environment = dict(os.environ)
    where = launcher(extra)
    if where:
        environment.setdefault("OMP_NUM_THREADS", "1")
    failed = 0
    output = HERE / options.name / options.scale
    for stage, overrides in plan:
        if stage == "report":
            continue
        # Teachers are asked one after the other: each has its own batches or requests in flight.
        several = where if stage == "train" else [o for o in where if o.startswith("trainer")]
        failed += call(stage, ["-m", *overrides, *extra, *several], environment) != 0
    after = Counter(state(folder) for folder in folders["train"])
    log_call(
        output / "calls.csv",
        {
            "started": started.isoformat(timespec="seconds"),
            "cells": len(before),
            "finished_before": counts["finished"],
            "failed_before": counts["failed"],
            "interrupted_before": counts["interrupted"],
            "finished_after": after["finished"],
            "failed_after": after["failed"],
            "seconds": round(time.perf_counter() - clock),
        },
    )
    print(f"{options.name}: {told(after)} after {time.perf_counter() - clock:.0f} s", flush=True)
    found = [str(f) for f in (*folders["evaluate"], *folders["train"]) if f.is_dir()]
    for overrides in (o for stage, o in plan if stage == "report"):
        given = [f"runs=[{','.join(found)}]", f"output={output}", f"title={options.name} ({options.scale})"]
        failed += call("report", [*given, *overrides], environment) != 0
    return 2 if failed else 0


def told(counts: Counter[str]) -> str:
    """`5 finished, 1 failed`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
