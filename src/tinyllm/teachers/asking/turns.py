"""Turns, one after the other: plan, ask, print; and the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from rich.console import Console

from tinyllm.config import Engine as EngineName
from tinyllm.config import ShardConfig
from tinyllm.errors import UserError
from tinyllm.records import Question, Split
from tinyllm.teachers.asking.ask import Choose, ask_engine, generate, no_examples, requests
from tinyllm.teachers.asking.budget import Budget, BudgetSpentError
from tinyllm.teachers.asking.in_context import examples_for, with_pool
from tinyllm.teachers.asking.plan import Item, Summary, Turn, estimate, items_of, known_from, known_of, speed_of
from tinyllm.teachers.asking.printing import print_estimate, print_existing, print_summary
from tinyllm.teachers.asking.retry import outcome, take_over
from tinyllm.teachers.audit import Audit, audit_teacher
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import Completion, CountsTokens, Engine
from tinyllm.teachers.store import RationaleStore

PILOT = 32
"""Texts from which the length of the others is guessed, where the store has none."""


def take_turns(
    turns: Sequence[Turn],
    store: RationaleStore,
    questions: Mapping[Split, Sequence[Question]],
    console: Console,
    *,
    held_out: Mapping[Split, Sequence[Question]] | None = None,
    shard: ShardConfig | None = None,
    budget: Budget | None = None,
) -> list[Summary]:
    """Ask for the texts that are missing from the store, turn by turn.

    A teacher is loaded once for turns that follow each other.

    Args:
        turns: as `plan_turns` gives them.
        store: where the texts go.
        questions: the splits' questions. Give all splits that exist: in-context examples come from train.
        console: where plan and progress are printed.
        held_out: all validation and test questions: no example may be a near-duplicate of one. None takes those of
            `questions`, which is right where these have no limit.
        shard: the part of each split that is asked; None asks all.
        budget: what may be spent on them; None for no limit.

    Returns:
        One summary a turn, in order.

    Raises:
        UserError: an impossible shard, or a teacher that can't be asked at all.
    """
    summaries: list[Summary] = []
    budget = budget or Budget()
    held_out = held_out or questions
    around = {**questions, **{split: held_out.get(split, ()) for split in (Split.valid, Split.test)}}
    for _, group in groupby(turns, key=lambda turn: (turn.teacher, turn.published)):
        engine: Engine | None = None
        for turn in group:
            engine = engine or open_engine(turn.teacher, turn.published)
            asked = shard_of(questions[turn.split], shard)
            summaries.append(_take_turn(turn, engine, store, asked, around, budget, console))
    return summaries


def shard_of(questions: Sequence[Question], shard: ShardConfig | None) -> list[Question]:
    """Every `shard.count`-th question, from the `shard.index`-th on; all for None."""
    if shard is None:
        return list(questions)
    return list(questions)[shard.index :: shard.count]


def audit_turns(
    turns: Sequence[Turn], store: RationaleStore, questions: Mapping[Split, Sequence[Question]]
) -> list[Audit]:
    """The audit of what the store holds of each turn."""
    return [
        audit_teacher(
            turn.teacher.name,
            turn.split,
            store.read(*turn.part, turn.teacher.sample),
            questions[turn.split],
            kind=turn.kind,
        )
        for turn in turns
    ]


def _take_turn(
    turn: Turn,
    engine: Engine,
    store: RationaleStore,
    asked: Sequence[Question],
    questions: Mapping[Split, Sequence[Question]],
    budget: Budget,
    console: Console,
) -> Summary:
    teacher = turn.teacher
    if teacher.sample > 0 and teacher.engine is EngineName.file:
        raise UserError(
            f"teacher {teacher.name}: a file has one text per question: give the second texts as another teacher, with "
            "a file of its own"
        )
    if teacher.sample > 0 and teacher.repeats_itself:
        raise UserError(
            f"teacher {teacher.name}: sample {teacher.sample} of greedy decoding is the first text again; set "
            f"teachers.{teacher.name}.temperature above 0, for all samples of this teacher and for whatever is "
            "compared with them"
        )
    items = items_of(turn, asked)
    missing, planned = items, False
    try:
        turn = with_pool(turn, engine, store, asked, questions, budget)
        taken = take_over(turn, store, items) if turn.retry and turn.reads_prompts else None
        existing = store.read(*turn.part, teacher.sample)
        missing = [item for item in items if item.key not in existing]
        print_existing(turn, f"rationales ({turn.kind})", len(items), len(missing), console)
        choose: Choose = no_examples
        watch: Callable[[Sequence[Completion]], None] | None = None
        if turn.reads_prompts and missing:
            about = list({item.question.id: item.question for item in missing}.values())
            choose = examples_for(turn, engine, store, about, questions, budget, console)
            lengths = {request.id: request.length for request in requests(turn, missing, choose)}
            # Longest first: a prompt too long for the memory shows at once, and batches hold like lengths.
            missing = sorted(missing, key=lambda item: -lengths[item.key])
            alike = {} if taken and taken.again else existing  # texts that ended early tell nothing of those to come
            known = known_of(turn, store, items, alike, lengths)
            if isinstance(engine, CountsTokens):
                some = missing[:: -(-len(missing) // PILOT)]  # of all lengths
                tokens = engine.prompt_tokens(list(requests(turn, some, choose)))
                known = replace(known, prompt_tokens=tokens / sum(lengths[item.key] for item in some))
            speed = speed_of(store, teacher.stored_name)
            first = estimate(teacher, [lengths[item.key] for item in missing], known, speed)
            print_estimate(turn, first, console)
            planned = True
            if first.known.completion_tokens is None and len(missing) >= 2 * PILOT:
                missing, watch = _pilot_first(turn, missing, lengths, console)
    except BudgetSpentError:
        if not planned:
            lengths = {request.id: request.length for request in requests(turn, missing, no_examples)}
            known = known_of(turn, store, items, {}, lengths)
            when = f"to come, beside its {turn.prompt.examples} in-context examples, which are not made yet"
            print_estimate(turn, estimate(teacher, list(lengths.values()), known, None), console, when=when)
        there = len(items) - len(missing)
        summary = Summary(turn.dataset, turn.split, teacher.stored_name, turn.prompt_key, teacher.sample, there, 0)
        summary = replace(summary, left=len(missing))
        print_summary(turn, summary, console)
        return summary
    ask = ask_engine(engine, turn, budget, choose)
    summary = generate(store, ask, missing, turn, costs=turn.reads_prompts, console=console, watch=watch)
    summary = replace(summary, existing=len(items) - len(missing))
    print_summary(turn, summary, console)
    if taken is not None:
        console.print(outcome(turn, store, items, taken), soft_wrap=True, highlight=False, markup=False)
    return summary


def _pilot_first(
    turn: Turn, missing: Sequence[Item], lengths: Mapping[str, int], console: Console
) -> tuple[list[Item], Callable[[Sequence[Completion]], None]]:
    """The items with `PILOT` of all lengths at the front, and who prints the estimate of all once these are answered.

    The longest one stays the first.
    """
    pilot = [missing[i * len(missing) // PILOT] for i in range(PILOT)]
    waiting = {item.key for item in pilot}
    answers: list[Completion] = []

    def watch(batch: Sequence[Completion]) -> None:
        if not waiting:
            return
        answers.extend(done for done in batch if done.id in waiting and done.error is None)
        waiting.difference_update(done.id for done in batch)
        if not waiting and answers:
            known = known_from(answers, lengths)
            every = estimate(turn.teacher, [lengths[item.key] for item in missing], known, None)
            print_estimate(turn, every, console, when="in all")

    keys = frozenset(waiting)
    return [*pilot, *(item for item in missing if item.key not in keys)], watch
