"""`tinyllm rationales`: questions + teachers -> rationale store."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tinyllm.config import RationalesStageConfig
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.methods import single_teacher, uses_single_teacher
from tinyllm.records import Split
from tinyllm.teachers.asking import run
from tinyllm.teachers.strongest import resolve_strongest_teacher


def main(config: RationalesStageConfig, _: Path) -> None:
    """Ask every teacher of the set for what the store lacks, then print the audit and write `audit.json`."""
    if not config.teachers:
        raise UserError("teachers: expected a teacher set with one teacher or more, found none: choose teachers=...")
    questions = load_questions(config.data)
    config = resolve_strongest_teacher(config, questions[Split.valid])
    if config.method.teacher is not None and uses_single_teacher(config.method):
        name = single_teacher(config.method, config.teachers)
        config = replace(config, teachers={name: config.teachers[name]})
    summaries = run(
        config,
        questions,
        Console(width=None if sys.stdout.isatty() else 160),
        shard=(config.shard.index, config.shard.count),
        audit_only=config.audit,
        audit_file=Path(config.store).expanduser() / "audit.json",
    )
    failed = {f"{s.teacher}/{s.split}": len(s.failed) for s in summaries if s.failed}
    if failed:
        told = ", ".join(f"{count} of {name}" for name, count in failed.items())
        raise UserError(f"no rationale came for some questions ({told}): run the same command again to ask for them")
