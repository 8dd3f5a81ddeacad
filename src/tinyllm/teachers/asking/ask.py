"""The loop of a turn: claim, ask, write, count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console

from tinyllm.parsing import parse_answer
from tinyllm.prompts import Example, teacher_messages, teacher_prompt
from tinyllm.records import PromptKind, Question, Rationale, asked_hash
from tinyllm.teachers.asking.budget import Budget
from tinyllm.teachers.asking.plan import Item, Summary, Turn
from tinyllm.teachers.asking.printing import Bar, progress
from tinyllm.teachers.engines.protocol import Completion, Engine, Request, seed_of
from tinyllm.teachers.ledger import Ledger
from tinyllm.teachers.prompt_key import in_authors_words
from tinyllm.teachers.store import RationaleStore

CLAIM = 16
"""Items that a process claims at a time."""

Ask = Callable[[Iterable[Item]], Iterator[list[Completion]]]
"""Writes about items, a batch at a time; a completion's id is its item's key."""
Choose = Callable[[Question], Sequence[Example]]
"""The in-context examples above a question."""


def no_examples(question: Question) -> Sequence[Example]:
    """The `Choose` of a prompt without examples."""
    return ()


def requests(turn: Turn, items: Iterable[Item], choose: Choose) -> Iterator[Request]:
    """What a turn asks its teacher's engine, item by item."""
    teacher, kind = turn.teacher, turn.kind
    render = teacher_messages if teacher.chat else teacher_prompt
    authors = in_authors_words(turn.prompt, kind)
    for item in items:
        question = item.question
        yield Request(
            item.key,
            render(question, choose(question), kind=kind, option=item.option, authors=authors),
            seed_of(teacher.seed, teacher.sample, item.key),
            question=question,
            split=turn.split,
            kind=kind,
            option=item.option,
        )


def ask_engine(engine: Engine, turn: Turn, budget: Budget, choose: Choose = no_examples) -> Ask:
    """How a turn's items are asked about, as far as the budget goes."""
    if not turn.reads_prompts:
        return lambda items: engine.complete(requests(turn, items, choose))
    return lambda items: budget.let_through(engine.complete, requests(turn, items, choose), turn.teacher)


def generate(
    store: RationaleStore,
    ask: Ask,
    items: Sequence[Item],
    turn: Turn,
    *,
    costs: bool,
    console: Console | None = None,
    watch: Callable[[Sequence[Completion]], None] | None = None,
) -> Summary:
    """Ask about those of `items` that have no record, and append what comes, batch by batch.

    A killed run loses the batches in flight. Items that another process has claimed are left to it, and where a budget
    ends what `ask` asks, the rest is left.

    Args:
        store: where the texts go, into the turn's part.
        ask: called once, with the items in the order given.
        items: of the turn's split.
        turn: whose texts they are; where it asks for the teacher's own answer, that is read from each text.
        costs: keep the ledger.
        console: shows a progress bar; None shows nothing.
        watch: called with each batch that is in the store.
    """
    teacher = turn.teacher
    by_key = {item.key: item for item in items}
    solves = turn.kind is PromptKind.solve
    missing = store.missing(*turn.part, by_key, sample=teacher.sample)
    failed: dict[str, str] = {}
    refused: dict[str, str] = {}
    written = unparsed = elsewhere = 0
    prompt_key = turn.prompt_key  # once: of a file of texts it takes reading all of it
    ledger = Ledger(store.folder, turn.dataset, turn.split, prompt_key, teacher)
    with store.claims(*turn.part, sample=teacher.sample) as claims, progress(console) as shown:
        bar = Bar(shown, teacher.stored_name, len(missing))

        def claim() -> Iterator[Item]:
            nonlocal elsewhere
            for start in range(0, len(missing), CLAIM):
                block = missing[start : start + CLAIM]
                own = claims.take(block)
                elsewhere += len(block) - len(own)
                bar.update(len(block) - len(own), 0)
                yield from (by_key[key] for key in own)

        for batch in ask(claim()) if missing else ():
            good = [done for done in batch if done.error is None or done.final]
            records = [_record(turn, prompt_key, done, by_key[done.id]) for done in good]
            try:
                if costs:
                    ledger.add(batch)
            finally:
                store.append(records)
            written += len(records)
            unparsed += sum(record.answer is None for record in records) if solves else 0
            for done in batch:
                if done.error is not None:
                    (refused if done.final else failed)[done.id] = done.error
            bar.update(len(batch), sum(done.tokens for done in batch))
            if watch is not None:
                watch(batch)
    return Summary(
        dataset=turn.dataset,
        split=turn.split,
        teacher=teacher.stored_name,
        prompt_key=prompt_key,
        sample=teacher.sample,
        existing=len(by_key) - len(missing),
        written=written,
        failed=failed,
        refused=refused,
        claimed_elsewhere=elsewhere,
        left=len(missing) - elsewhere - written - len(failed),
        unparsed=unparsed,
        prompt_tokens=ledger.total.prompt_tokens,
        completion_tokens=ledger.total.completion_tokens,
        seconds=ledger.total.seconds,
        money=ledger.total.money,
    )


def _record(turn: Turn, prompt_key: str, done: Completion, item: Item) -> Rationale:
    answer = done.answer
    if turn.kind is PromptKind.solve and answer is None:
        answer = parse_answer(done.text, item.question.choices)
    return Rationale(
        dataset=turn.dataset,
        split=turn.split,
        question_id=item.question.id,
        teacher=turn.teacher.stored_name,
        sample=turn.teacher.sample,
        prompt_key=prompt_key,
        text=done.text,
        answer=answer,
        finish_reason=done.finish_reason,
        tokens=done.tokens,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        option=item.option,
        asked=asked_hash(item.question),
    )
