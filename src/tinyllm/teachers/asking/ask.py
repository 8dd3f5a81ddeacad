"""The loop of a turn: claim, ask, write, count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console

from tinyllm.parsing import parse_answer
from tinyllm.prompts import Example, teacher_messages, teacher_prompt
from tinyllm.records import Question, Rationale
from tinyllm.teachers.asking.plan import Summary, Turn
from tinyllm.teachers.asking.printing import Bar, progress
from tinyllm.teachers.engines.protocol import Completion, Engine, Request, seed_of
from tinyllm.teachers.ledger import Ledger
from tinyllm.teachers.store import RationaleStore

CLAIM = 16
"""Questions that a process claims at a time."""

Ask = Callable[[Iterable[Question]], Iterator[list[Completion]]]
"""Answers questions, a batch at a time; a completion's id is its question's."""
Choose = Callable[[Question], Sequence[Example]]
"""The in-context examples above a question."""


def no_examples(question: Question) -> Sequence[Example]:
    """The `Choose` of a prompt without examples."""
    return ()


def requests(turn: Turn, questions: Iterable[Question], choose: Choose) -> Iterator[Request]:
    """What a turn asks its teacher's engine, question by question."""
    teacher, forcing = turn.teacher, turn.prompt.teacher_forcing
    render = teacher_messages if teacher.chat else teacher_prompt
    for question in questions:
        yield Request(
            question.id,
            render(question, choose(question), teacher_forcing=forcing),
            seed_of(teacher.seed, teacher.sample, question.id),
            question=question,
            split=turn.split,
            teacher_forcing=forcing,
        )


def ask_engine(engine: Engine, turn: Turn, choose: Choose = no_examples) -> Ask:
    """How a turn's questions are asked."""
    return lambda questions: engine.complete(requests(turn, questions, choose))


def generate(
    store: RationaleStore,
    ask: Ask,
    questions: Sequence[Question],
    turn: Turn,
    *,
    parse_answers: bool,
    costs: bool,
    console: Console | None = None,
) -> Summary:
    """Ask about those of `questions` that have no record, and append what comes, batch by batch.

    A killed run loses the batches in flight. Questions that another process has claimed are left to it.

    Args:
        store: where the texts go, into the turn's part.
        ask: called once, with the questions in the order given.
        questions: of the turn's split.
        turn: whose texts they are.
        parse_answers: read the teacher's own answer from each text (it was not given); None where there is none.
        costs: keep the ledger.
        console: shows a progress bar; None shows nothing.
    """
    teacher = turn.teacher
    by_id = {question.id: question for question in questions}
    missing = store.missing(*turn.part, by_id, sample=teacher.sample)
    failed: dict[str, str] = {}
    written = unparsed = claimed = 0
    ledger = Ledger(
        store.folder,
        dataset=turn.dataset,
        split=turn.split,
        teacher=teacher.stored_name,
        prompt_key=turn.prompt_key,
        price_prompt=teacher.price_prompt,
        price_completion=teacher.price_completion,
    )
    with store.claims(*turn.part, sample=teacher.sample) as claims, progress(console) as shown:
        bar = Bar(shown, teacher.stored_name, len(missing))

        def claim() -> Iterator[Question]:
            nonlocal claimed
            for start in range(0, len(missing), CLAIM):
                block = missing[start : start + CLAIM]
                own = claims.take(block)
                claimed += len(own)
                bar.update(len(block) - len(own), 0)
                yield from (by_id[question_id] for question_id in own)

        try:
            for batch in ask(claim()) if missing else ():
                good = [done for done in batch if done.error is None]
                records = [_record(turn, done, by_id[done.id], parse_answers) for done in good]
                store.append(records)
                written += len(records)
                unparsed += sum(record.answer is None for record in records) if parse_answers else 0
                failed.update({done.id: done.error for done in batch if done.error is not None})
                tokens = sum(done.tokens for done in batch)
                ledger.add(
                    prompts=len(batch) if costs else 0,
                    failed=len(batch) - len(good),
                    prompt_tokens=sum(done.prompt_tokens for done in batch),
                    completion_tokens=tokens,
                )
                bar.update(len(batch), tokens)
        finally:
            ledger.write()
    return Summary(
        dataset=turn.dataset,
        split=turn.split,
        teacher=teacher.stored_name,
        prompt_key=turn.prompt_key,
        sample=teacher.sample,
        existing=len(by_id) - len(missing),
        written=written,
        failed=failed,
        claimed_elsewhere=len(missing) - claimed,
        unparsed=unparsed,
        prompt_tokens=ledger.total.prompt_tokens,
        completion_tokens=ledger.total.completion_tokens,
        seconds=ledger.total.seconds,
        money=ledger.total.money,
    )


def _record(turn: Turn, done: Completion, question: Question, parse: bool) -> Rationale:
    answer = done.answer
    if parse and answer is None:
        answer = parse_answer(done.text, question.choices)
    return Rationale(
        dataset=turn.dataset,
        split=turn.split,
        question_id=done.id,
        teacher=turn.teacher.stored_name,
        sample=turn.teacher.sample,
        prompt_key=turn.prompt_key,
        text=done.text,
        answer=answer,
        finish_reason=done.finish_reason,
        tokens=done.tokens,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
