"""Run an experiment's sweeps, then its report: what `make experiment NAME=... SCALE=...` calls.

python experiments/run.py table1 minilab [Hydra overrides] [--list | --report | --pack | --unpack]

Reads `experiments/<name>/sweep.yaml`: for each scale the stages in order, and for each stage its sweeps, as overrides.
Runs go to `runs/` and rationales to `store/` of the current folder, shared by all experiments: a cell that another
experiment has finished is not run again. The report goes to `experiments/<name>/<scale>/`, with a line in `calls.csv`
for each call of this script, interrupted ones too. Overrides given here are added to every sweep, in place of
its own of the same key; `hydra/launcher=...` among them chooses where jobs run. Without one, a sweep on CPUs runs
as many jobs at a time as there are processors, on one thread each, and a sweep on GPUs one job after the other.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import cast

import archive
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from tinyllm import runs
from tinyllm.cli import report
from tinyllm.cli.alpha_grid import search_of, with_alpha_grid
from tinyllm.cli.alpha_staged import known_jobs
from tinyllm.cli.main import MISTAKES, STAGES, one_line
from tinyllm.compose import compose, config_folder
from tinyllm.config import Accelerator, EvaluateConfig, ExperimentConfig, ReportConfig
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.methods import prompt_kinds
from tinyllm.records import Question

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130
CHOOSING = ("method", "ablation")
"""Groups of which an override chooses among an experiment's sweeps."""


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


def narrowed(plan: Sequence[tuple[str, list[str]]], given: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The sweeps with the call's overrides in place of their own: `data=obqa` keeps one dataset of several.

    `method=` and `ablation=` choose among the sweeps of cells: those without such cells are left out. What teachers are
    asked stays whole, as cells read texts that stand under another name (those of `ablation=no_t5` under `none`); no
    teacher is asked where none of the methods learns from one.

    Raises:
        UserError: no cell is left.
    """
    values = dict(override.split("=", 1) for override in given if "=" in override)
    wanted = {key: set(values[key].split(",")) for key in CHOOSING if key in values}
    others = [override for override in given if override.partition("=")[0] not in wanted]
    keys = {override.partition("=")[0].lstrip("+") for override in others}
    left = []
    for stage, overrides in plan:
        if stage == "report":
            left.append((stage, overrides))
            continue
        own = dict(override.split("=", 1) for override in overrides if "=" in override)
        out = False
        kept = [o for o in overrides if o.partition("=")[0].lstrip("+") not in keys]
        for key, names in wanted.items():
            if stage == "rationales":
                out |= key == "method" and not any(map(asks_teachers, names))
            elif key in own:
                found = [name for name in own[key].split(",") if name in names]
                kept = [f"{key}={','.join(found)}" if o.startswith(f"{key}=") else o for o in kept]
                out |= not found
            elif stage == "train":
                out |= composed_cell(stage, jobs(stage, overrides)[0])[key].name not in names
        if not out:
            left.append((stage, [*kept, *others]))
    if not any(stage in ("evaluate", "train") for stage, _ in left):
        raise UserError(f"{' '.join(f'{key}={values[key]}' for key in wanted)}: the experiment has no such cells")
    return left


def asks_teachers(method: str) -> bool:
    """Whether a method learns from teachers' texts."""
    config = cast(ExperimentConfig, OmegaConf.to_object(composed_options("train", (f"method={method}",))))
    return bool(prompt_kinds(config.method, config.prompt))


@dataclass(frozen=True)
class Cell:
    """A job of a sweep of `train` or of `evaluate teacher=...`."""

    stage: str
    overrides: tuple[str, ...]
    folder: Path
    """Where its result goes."""
    on_gpu: bool


def jobs(stage: str, overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of every job of a sweep, in the order in which they run.

    Of a search (`alpha=staged`) those that are known so far: what it runs last follows from what it ran first.
    """
    if search_of(["-m", *overrides]) == "staged":
        return known_jobs(stage, ["-m", *(o for o in overrides if not o.startswith("hydra"))])
    expanded = with_alpha_grid(stage, ["-m", *overrides])
    parsed = OverridesParser.create().parse_overrides([o for o in expanded if o != "-m" and not o.startswith("hydra")])
    values = {override.get_key_element(): override_values(override) for override in parsed}
    return [
        tuple(f"{key}={value}" for key, value in zip(values, job, strict=True)) for job in product(*values.values())
    ]


def override_values(override: Override) -> list[str]:
    """What an override's key is set to, job by job."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def composed_cell(stage: str, job: Sequence[str]) -> DictConfig:
    """`compose(stage, job)`, but each choice of options is composed once, and plain values are set in a copy of it."""
    plain = [o for o in job if re.match(r"[\w.]+=", o) and not (config_folder() / o.partition("=")[0]).is_dir()]
    composed = copy.deepcopy(composed_options(stage, tuple(o for o in job if o not in plain)))
    for text in plain:
        override = parsed_override(text)
        OmegaConf.update(composed, override.key_or_group, override.value())
    return composed


composed_options = cache(compose)
parsed_override = cache(OverridesParser.create().parse_override)


def cell(stage: str, job: Sequence[str]) -> Cell:
    """A job, with what its configuration says of it."""
    composed = composed_cell(stage, job)
    on_gpu = composed.trainer.accelerator is Accelerator.gpu
    if stage == "train":
        return Cell(stage, tuple(job), Path("runs") / runs.run_name(composed), on_gpu)
    typed = cast(EvaluateConfig, OmegaConf.to_object(composed))
    if typed.teacher is None:
        raise UserError(f"evaluate {shlex.join(job)}: expected a teacher in a sweep.yaml, found none")
    return Cell(stage, tuple(job), runs.teacher_folder(typed, typed.teacher), on_gpu)


def planned(plan: Sequence[tuple[str, list[str]]]) -> tuple[list[Cell], dict[Path, Cell]]:
    """The cells of an experiment's sweeps that are known so far: all of them, and by folder those that train."""
    cells = [cell(stage, job) for stage, o in plan if stage in ("evaluate", "train") for job in jobs(stage, o)]
    return cells, {one.folder: one for one in cells if one.stage == "train"}


def state(folder: Path) -> str:
    """finished, failed, interrupted or new."""
    if (folder / runs.RESULT).is_file():
        return "finished"
    if (folder / runs.ERROR).is_file():
        return "failed"
    return "interrupted" if (folder / runs.CONFIG).is_file() else "new"


def questions(one: Cell, known: dict[str, list[Question]]) -> list[Question]:
    """Those of a cell's dataset, of all splits; what has been read once is taken from `known`."""
    data = cast(ExperimentConfig | EvaluateConfig, OmegaConf.to_object(composed_cell(one.stage, one.overrides))).data
    if repr(data) not in known:
        known[repr(data)] = [question for split in load_questions(data).values() for question in split]
    return known[repr(data)]


def described(counts: Counter[str]) -> str:
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
    config = cast(ReportConfig, OmegaConf.to_object(compose("report", overrides)))
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


def run_plan(plan: Sequence[tuple[str, list[str]]], own_processes: bool) -> list[int]:
    """Run every sweep but the report's; returns their exit codes, an interruption's last.

    Args:
        own_processes: run as many training jobs at a time as there are processors, on one thread each.
    """
    environment, launcher, codes = dict(os.environ), [], []
    if own_processes:
        environment["OMP_NUM_THREADS"] = "1"
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={processors()}", "trainer.progress_bar=false"]
    try:
        for stage, overrides in plan:
            if stage != "report":
                codes.append(call(stage, [*overrides, *(launcher if stage == "train" else [])], environment))
    except KeyboardInterrupt:
        codes.append(INTERRUPTED)
    return codes


def processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> int:
    """Plan, run, report; returns the exit code: 0, 1 or 2 as a failed sweep gave it, 130 for an interruption."""
    parser = argparse.ArgumentParser(description="Run an experiment's sweeps, then its report.")
    parser.add_argument("name", help="folder of experiments/, such as table1")
    parser.add_argument("scale", help="a scale of its sweep.yaml, such as minilab or paper")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="only list the cells and their states")
    only.add_argument("--report", action="store_true", help="only write the report of the cells that are finished")
    only.add_argument("--pack", action="store_true", help=f"only add the finished cells to the scale's {archive.NAME}")
    only.add_argument(
        "--unpack", action="store_true", help=f"only take cells that are finished there from {archive.NAME}"
    )
    options, extra = parser.parse_known_args()
    moved = [o for o in extra if o.startswith(("hydra.run.dir", "hydra.sweep", "output=", "run="))]
    if moved:
        raise UserError(f"{moved[0]}: runs go to runs/ of the current folder, where the report finds them: remove it")
    plan = narrowed(sweeps(options.name, options.scale), extra)
    cells, trained = planned(plan)
    before = Counter(map(state, trained))
    print(f"{options.name} at scale {options.scale}: {len(trained)} cells ({described(before)})", flush=True)
    if options.list:
        for folder, one in trained.items():
            print(f"{state(folder):12}{folder}  {' '.join(one.overrides)}")
        return 0
    output = HERE / options.name / options.scale
    reports = [overrides for stage, overrides in plan if stage == "report"]
    title = f"{options.name} at scale {options.scale}"
    if options.pack:
        packed = archive.pack(dict.fromkeys(one.folder for one in cells), output / archive.NAME)
        print(f"{output / archive.NAME}: {packed} finished cells, without weights and without texts of questions")
        return 0
    if options.unpack:
        known: dict[str, list[Question]] = {}
        taken: set[Path] = set()
        while found := archive.unpack(
            {one.folder: partial(questions, one, known) for one in cells}, output / archive.NAME
        ):
            taken |= set(found)
            cells, _ = planned(plan)  # what a search runs last follows from what it ran first
        print(f"{len(taken)} finished cells taken from {output / archive.NAME}")
        return 0
    if options.report:
        for overrides in reports:
            write_report(dict.fromkeys(one.folder for one in cells), output, title, overrides)
        return 0

    started, clock = datetime.now(UTC), time.perf_counter()
    chosen = any(o.startswith("hydra/launcher") for o in extra)
    codes = run_plan(plan, not chosen and processors() > 1 and not any(one.on_gpu for one in trained.values()))
    cells, trained = planned(plan)
    after, seconds = Counter(map(state, trained)), time.perf_counter() - clock
    row: dict[str, object] = {"started": started.isoformat(timespec="seconds"), "cells": len(trained)}
    for name, counts in (("before", before), ("after", after)):
        row |= {f"{what}_{name}": counts[what] for what in ("finished", "failed", "interrupted", "new")}
    log_call(output / "calls.csv", row | {"seconds": round(seconds)})
    print(f"{options.name}: {described(after)} after {seconds:.0f} s", flush=True)
    if INTERRUPTED in codes:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    folders = dict.fromkeys(one.folder for one in cells)
    if any(codes) and not after["finished"]:
        print("no cell is finished, so there is no report: the errors stand above", file=sys.stderr)
    else:
        for overrides in reports:
            write_report(folders, output, title, overrides)
    return min((code for code in codes if code), default=0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MISTAKES as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # of `--list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
