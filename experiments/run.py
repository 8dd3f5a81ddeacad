"""Run an experiment's sweeps, then its report: what `make experiment NAME=... SCALE=...` calls.

python experiments/run.py table1 minilab [Hydra overrides] [--list]

Reads `experiments/<name>/sweep.yaml`: for each scale the stages in order, and for each stage its sweeps, as overrides.
Runs go to `runs/` and rationales to `store/` of the current folder, shared by all experiments: a cell that another
experiment has finished is not run again. The report goes to `experiments/<name>/<scale>/`, with a line in `calls.csv`
for each call of this script, interrupted ones too. Overrides given here are added to every sweep; `hydra/launcher=...`
among them chooses where jobs run. Without one, a sweep on processors runs as many jobs at a time as there are
processors, on one thread each, and a sweep on cards one job after the other.
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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyllm import runs
from tinyllm.cli import report
from tinyllm.cli.expand import config_folder, with_alpha_grid, with_paper_settings
from tinyllm.cli.main import STAGES, one_line, register
from tinyllm.config import EvaluateConfig, ReportConfig
from tinyllm.errors import UserError
from tinyllm.runs import run_name, teacher_folder

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130


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
    """The jobs of a sweep: the folder of each one's result, and its overrides."""
    expanded = with_alpha_grid(stage, ["-m", *with_paper_settings(list(overrides))])
    given = [o for o in expanded if o != "-m" and not o.startswith("hydra")]
    jobs: list[tuple[Path, list[str]]] = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        for batch in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None):
            for job in batch:
                composed = hydra.compose(stage, overrides=job)
                if stage == "evaluate":
                    typed = cast(EvaluateConfig, OmegaConf.to_object(composed))
                    if typed.teacher is None:
                        raise UserError(f"evaluate {shlex.join(job)}: expected a teacher in a sweep.yaml, found none")
                    jobs.append((teacher_folder(typed, typed.teacher), job))
                else:
                    jobs.append((Path("runs") / run_name(composed), job))
    return jobs


def on_cards(job: Sequence[str]) -> bool:
    """Whether a training job wants a CUDA card."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return bool(hydra.compose("train", overrides=list(job)).trainer.accelerator != "cpu")


def state(folder: Path) -> str:
    """finished, failed, interrupted or new."""
    if (folder / runs.RESULT).is_file():
        return "finished"
    if (folder / "error.txt").is_file():
        return "failed"
    return "interrupted" if (folder / runs.CONFIG).is_file() else "new"


def told(counts: Counter[str]) -> str:
    """`5 finished, 1 failed`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def call(stage: str, overrides: Sequence[str], environment: dict[str, str]) -> int:
    """`tinyllm <stage> -m ...` in a process of its own; returns its exit code."""
    command = [sys.executable, "-c", "from tinyllm.cli.main import main; main()", stage, "-m", *overrides]
    print(f"$ tinyllm {stage} -m {shlex.join(overrides)}", flush=True)
    return subprocess.run(command, env=environment, check=False).returncode


def write_report(folders: Iterable[Path], output: Path, title: str, overrides: Sequence[str]) -> None:
    """`tinyllm report` of these run folders, those that exist."""
    found = [str(folder) for folder in folders if folder.is_dir()]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        config = cast(ReportConfig, OmegaConf.to_object(hydra.compose("report", overrides=list(overrides))))
    print(f"$ tinyllm report runs=<{len(found)} folders> output={output} {shlex.join(overrides)}", flush=True)
    report.main(replace(config, runs=found, output=str(output), title=title), output)


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
    """Plan, run, report; returns the exit code: 0, 1 or 2 as a failed sweep gave it, 130 for an interruption."""
    parser = argparse.ArgumentParser(description="Run an experiment's sweeps, then its report.")
    parser.add_argument("name", help="folder of experiments/, such as table1")
    parser.add_argument("scale", help="minilab or paper")
    parser.add_argument("--list", action="store_true", help="only list the cells and where they stand")
    options, extra = parser.parse_known_args()
    moved = [o for o in extra if o.startswith(("hydra.run.dir", "hydra.sweep", "output=", "run="))]
    if moved:
        raise UserError(f"{moved[0]}: runs go to runs/ of the current folder, where the report finds them: remove it")
    register()
    plan = [(stage, overrides if stage == "report" else [*overrides, *extra]) for stage, overrides in
            sweeps(options.name, options.scale)]  # fmt: skip
    jobs = {stage: [job for s, o in plan if s == stage for job in cells(s, o)] for stage in ("evaluate", "train")}
    trained = dict(jobs["train"])
    before = Counter(map(state, trained))
    print(f"{options.name} at scale {options.scale}: {len(trained)} cells ({told(before)})", flush=True)
    if options.list:
        for folder, job in trained.items():
            print(f"{state(folder):12}{folder}  {' '.join(job)}")
        return 0

    environment, several = dict(os.environ), []
    processors = len(os.sched_getaffinity(0))
    chooses = any(o.startswith("hydra/launcher") for o in extra)
    if not chooses and processors > 1 and not on_cards(next(iter(trained.values()))):
        environment["OMP_NUM_THREADS"] = "1"
        several = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={processors}", "trainer.progress_bar=false"]
    started, clock, codes = datetime.now(UTC), time.perf_counter(), []
    output = HERE / options.name / options.scale
    try:
        for stage, overrides in plan:
            if stage != "report":
                codes.append(call(stage, [*overrides, *(several if stage == "train" else [])], environment))
    except KeyboardInterrupt:
        codes.append(INTERRUPTED)
    after = Counter(map(state, trained))
    seconds = time.perf_counter() - clock
    row = {"started": started.isoformat(timespec="seconds"), "cells": len(trained)}
    for name, counts in (("before", before), ("after", after)):
        row |= {f"{what}_{name}": counts[what] for what in ("finished", "failed", "interrupted", "new")}
    log_call(output / "calls.csv", row | {"seconds": round(seconds)})
    print(f"{options.name}: {told(after)} after {seconds:.0f} s", flush=True)
    if INTERRUPTED in codes:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    folders = [folder for stage in ("evaluate", "train") for folder, _ in jobs[stage]]
    for overrides in (o for stage, o in plan if stage == "report"):
        write_report(dict.fromkeys(folders), output, f"{options.name} at scale {options.scale}", overrides)
    return min((code for code in codes if code), default=0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)
