"""`tinyllm rationales`: questions + teachers -> rationale store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tinyllm.cli.ignored import log_ignored
from tinyllm.config import RationalesStageConfig, Target, TeacherConfig, Weighting, WhichTeachers
from tinyllm.data.questions import limited, load_whole
from tinyllm.errors import UserError
from tinyllm.methods import (
    chosen_teachers,
    kinds_to_ask,
    prompt_kinds,
    rationale_kind,
    single_teacher,
    teaches,
    uses_single_teacher,
    weighs_texts,
)
from tinyllm.records import PromptKind, Split
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.confidence import ask_for_confidence
from tinyllm.teachers.asking.in_context import explaining_examples
from tinyllm.teachers.asking.plan import Turn, plan_turn, plan_turns
from tinyllm.teachers.asking.scores import ask_for_scores
from tinyllm.teachers.asking.turns import audit_turns, shard_of, take_turns
from tinyllm.teachers.audit import audit_table, write_audit
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import check_unchanged, resolve_strongest_teacher, stored_scores


def main(config: RationalesStageConfig, _: Path) -> None:
    """Generate what is missing from the store, teacher by teacher, then print the audit and write `audit.json`."""
    if not config.teachers:
        raise UserError("teachers: expected a teacher set with one teacher or more, found none: choose teachers=...")
    log_ignored(config)
    whole = load_whole(config.data)
    questions = limited(whole, config.data)
    config = resolve_strongest_teacher(config, questions[Split.valid])
    config = replace(config, teachers=_read_teachers(config))
    scored = teaches(config.method, Target.teacher_options)
    if not prompt_kinds(config.method, config.prompt) and not scored:
        raise UserError(f"method={config.method.name}: expected a method that learns from teachers, found one without")
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    store = RationaleStore(Path(config.store).expanduser())
    more = [kind for kind in kinds_to_ask(config) if kind not in prompt_kinds(config.method, config.prompt)]
    trusts = weighs_texts(config) and config.weighting.name is Weighting.confidence
    if more or trusts:
        what = "its own answers (solve)" if more else "scores of the right answer after its texts"
        console.print(f"weighting={config.weighting.name}: every teacher is asked for {what} too", soft_wrap=True)
    turns = plan_turns(config, questions)
    budget = Budget(config.budget)
    scoring = []
    if scored and Split.train in config.rationales.splits:
        teacher = config.teachers[single_teacher(config.method, config.teachers)]
        scoring = [plan_turn(config, teacher, PromptKind.solve, Split.train)]
    _check_prices(config, [*turns, *scoring])
    summaries = []
    for turn in turns:
        for one in (turn, *explaining_examples(turn)):
            check_unchanged(config, questions[one.split], store.read(*one.part, one.teacher.sample), one.split)
    if scoring:
        name = single_teacher(config.method, config.teachers)
        check_unchanged(config, questions[Split.train], stored_scores(config, name), Split.train)
    if not config.audit:
        summaries = take_turns(turns, store, questions, console, held_out=whole, shard=config.shard, budget=budget)
        turns = plan_turns(config, questions)  # examples may have been invented just now
        for turn in scoring:
            asked = shard_of(questions[Split.train], config.shard)
            summaries.append(ask_for_scores(turn, config.student, store, asked, budget, console))
        if Split.train in config.rationales.splits and trusts:
            asked = shard_of(questions[Split.train], config.shard)
            for teacher in config.teachers.values():
                turn = plan_turn(config, teacher, rationale_kind(config.method, config.prompt), Split.train)
                summaries.append(ask_for_confidence(turn, store, asked, budget, console))
    audits = audit_turns(turns, store, questions)
    if any(s.left for s in summaries) and 0 in (config.budget.tokens, config.budget.money):
        console.print("nothing was asked, as the budget is 0: leave it out to ask for these texts", soft_wrap=True)
        return
    console.print(audit_table(audits))
    file = store.folder / "audit.json"
    write_audit(file, config.data.name, audits)
    console.print(f"audit written to {file}", soft_wrap=True)
    failed = [f"{len(s.failed)} {s.split} questions of {s.teacher}" for s in summaries if s.failed]
    if failed:
        raise UserError(f"generation failed for {', '.join(failed)}: run the same command again to ask them again")
    left = [f"{s.left} {s.split} texts of {s.teacher}" for s in summaries if s.left]
    if left:
        again = "run the same command again to continue with a fresh budget"
        if budget.tokens == 0:
            again = "one text could take more than all of it: raise the budget, or lower teachers.<name>.max_new_tokens"
        raise UserError(
            f"stopped at {budget}, as the next text could exceed it: {', '.join(left)} are still missing; all others "
            f"are in the store; {again}"
        )


def _read_teachers(config: RationalesStageConfig) -> dict[str, TeacherConfig]:
    """The teachers whose texts runs of these options read; all, where a method of one teacher names none."""
    method, single = config.method, uses_single_teacher(config.method)
    one = single or any(stream.teachers is WhichTeachers.one for stream in method.streams.values())
    if one and method.teacher is None:
        return config.teachers
    names = chosen_teachers(method, config.teachers, config.alpha, config.ablation.drop)
    if single:
        names.append(single_teacher(method, config.teachers))
    return {name: teacher for name, teacher in config.teachers.items() if name in names} or config.teachers


def _check_prices(config: RationalesStageConfig, turns: Sequence[Turn]) -> None:
    if config.budget.money is None:
        return
    for turn in turns:
        name, prices = turn.teacher.name, (turn.teacher.price_prompt, turn.teacher.price_completion)
        if turn.reads_prompts and None in prices:
            raise UserError(
                f"budget.money={config.budget.money:g}: expected teachers with prices, found {name} without: set "
                f"teachers.{name}.price_prompt and .price_completion (0 where it costs nothing), or budget.tokens"
            )
