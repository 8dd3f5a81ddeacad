"""Which in-context examples stand above a question of a turn; what they need of the teacher is generated first."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from rich.console import Console

from tinyllm.config import ExampleSource
from tinyllm.errors import UserError
from tinyllm.records import Finding, PromptKind, Question, Split
from tinyllm.teachers import examples
from tinyllm.teachers.asking.ask import Choose, ask_engine, generate, no_examples, requests
from tinyllm.teachers.asking.budget import Budget, BudgetSpentError
from tinyllm.teachers.asking.plan import Turn, estimate, items_of, known_of, speed_of
from tinyllm.teachers.asking.printing import print_estimate
from tinyllm.teachers.asking.retry import keep_pool, take_over
from tinyllm.teachers.audit import for_training
from tinyllm.teachers.engines.protocol import Completion, Engine, Request
from tinyllm.teachers.ledger import EXAMPLES, Ledger
from tinyllm.teachers.pool import digest_of, invented_file
from tinyllm.teachers.store import RationaleStore, append_lines, complete_lines

log = logging.getLogger(__name__)

WAIT = 1.0
"""Seconds between two looks at the questions that another process is asking."""


def with_pool(
    turn: Turn,
    engine: Engine,
    store: RationaleStore,
    asked: Sequence[Question],
    questions: Mapping[Split, Sequence[Question]],
    budget: Budget,
) -> Turn:
    """The turn with the pool of examples that its teacher invents, which is invented now where there is none.

    The pool is made once for a teacher and a dataset; its content is part of the prompt key.

    Raises:
        UserError: the teacher has too few usable ones for a prompt.
        BudgetSpentError: there is no room for all that it takes; what was written meanwhile is kept for the next call.
    """
    n = turn.prompt.examples
    if not _shows_invented(turn) or not asked:
        return turn
    file = invented_file(store, turn.teacher, turn.dataset, turn.topic)
    if turn.retry:
        keep_pool(turn, store)
    training = list(questions.get(Split.train, ()))
    examples.invented_examples(
        file,
        _Inventing(engine, turn, store, file.with_suffix(".asked"), budget),
        examples.domain_of(turn.topic, training or asked),
        n,
        chat=turn.teacher.chat,
        avoid=_held_out(questions),
        teacher=turn.teacher.name,
    )
    file.with_suffix(".asked").unlink(missing_ok=True)
    return replace(turn, pool=digest_of(file))


class _Inventing:
    """The engine of a teacher that invents: within the budget and in the ledger.

    Its texts are kept in a file until the pool is whole, so that a call that goes on asks for none of them again.
    """

    def __init__(self, engine: Engine, turn: Turn, store: RationaleStore, file: Path, budget: Budget) -> None:
        self._engine = engine
        self._teacher = turn.teacher
        self._file = file
        self._budget = budget
        self._ledger = Ledger(store.folder, turn.dataset, EXAMPLES, file.stem, turn.teacher)

    @cached_property
    def _known(self) -> dict[str, str]:
        """Texts of earlier calls. Read when the first is wanted, under the pool's lock: who had it may have written."""
        lines = complete_lines(self._file) if self._file.is_file() else ()
        return dict(json.loads(line) for line in lines)

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        missing: dict[str, Request] = {}
        for request in requests:
            if (key := _key(request)) in self._known:
                yield [Completion(request.id, self._known[key], "stop")]
            else:
                missing[request.id] = request
        answered = 0
        for batch in self._budget.let_through(self._engine.complete, missing.values(), self._teacher):
            good = [(_key(missing[done.id]), done.text) for done in batch if done.error is None or done.final]
            try:
                self._ledger.add(batch)
            finally:
                append_lines(self._file, [json.dumps(one, ensure_ascii=False) for one in good])
            answered += len(batch)
            yield batch
        if answered < len(missing):
            raise BudgetSpentError


def _key(request: Request) -> str:
    """Of one draw of one prompt."""
    return f"{request.seed}-{hashlib.sha256(str(request.prompt).encode(errors='replace')).hexdigest()[:16]}"


def _shows_invented(turn: Turn) -> bool:
    generated = turn.prompt.example_source is ExampleSource.generated
    return turn.reads_prompts and turn.prompt.examples > 0 and generated


def _held_out(questions: Mapping[Split, Sequence[Question]]) -> list[Question]:
    return [*questions.get(Split.valid, ()), *questions.get(Split.test, ())]


def examples_for(
    turn: Turn,
    engine: Engine,
    store: RationaleStore,
    missing: Sequence[Question],
    questions: Mapping[Split, Sequence[Question]],
    budget: Budget,
    console: Console,
) -> Choose:
    """How the examples of a question are found; what that takes is made here, once.

    Args:
        turn: of `with_pool`; its prompt says how many examples there are, and of which source.
        engine: the teacher's, which explains examples of training.
        store: keeps what it says.
        missing: the questions that will be asked.
        questions: all splits: examples come from train, and none may be like a validation or test question.
        budget: what may be spent on it.
        console: shows progress.

    Raises:
        UserError: too few examples can be had.
        BudgetSpentError: there is no room for all that it takes.
    """
    n, source = turn.prompt.examples, turn.prompt.example_source
    if n == 0 or not missing:
        return no_examples
    if source is ExampleSource.generated:
        invented = examples.read_examples(invented_file(store, turn.teacher, turn.dataset, turn.topic))
        return lambda question: examples.pick_invented(invented, question, n)
    training, held_out = list(questions.get(Split.train, ())), _held_out(questions)
    allowed = examples.allowed_for_training_examples(training, held_out)
    orders: dict[str, list[Question]]
    if source is ExampleSource.random:
        pool = examples.random_pool(turn.dataset, allowed)
        orders = {question.id: examples.random_order(pool, question) for question in missing}
    else:
        orders = examples.nearest_orders(allowed, missing, n + examples.SPARE)
        pool = list({one.id: one for order in orders.values() for one in order[: n + 1]}.values())
    if not pool:
        raise UserError(
            f"prompt.example_source={source}: expected training questions to take examples from, found none of "
            f"{len(training)} that may serve; use prompt.example_source=generated or prompt.examples=0"
        )
    rationales = _zero_shot_rationales(turn, engine, store, pool, budget, console)
    if len(rationales) < n:
        raise UserError(
            f"teacher {turn.teacher.name}: prompt.examples={n} needs {n} usable rationales of training questions, "
            f"found {len(rationales)} of {len(pool)}: the others are empty, cut off, or conclude on another answer; "
            f"raise teachers.{turn.teacher.name}.max_new_tokens, or use prompt.example_source=generated"
        )
    short = sum(len(examples.pick(orders.get(q.id, ()), rationales, q, n)) < n for q in missing)
    if short:
        log.warning(
            "teacher %s: %d of %d prompts show fewer than %d examples: %d of %d rationales made for them are usable",
            turn.teacher.name, short, len(missing), n, len(rationales), len(pool),
        )  # fmt: skip
    return lambda question: examples.pick(orders.get(question.id, ()), rationales, question, n)


def explaining_examples(turn: Turn) -> list[Turn]:
    """The turn in which the teacher explains training questions as examples for `turn`; none where it does not."""
    shown = turn.reads_prompts and turn.prompt.examples > 0
    if not shown or turn.prompt.example_source is ExampleSource.generated:
        return []
    first = replace(turn, teacher=replace(turn.teacher, sample=0), split=Split.train)
    return [replace(first, prompt=replace(turn.prompt, examples=0), kind=PromptKind.forced, pool=None)]


def _zero_shot_rationales(
    turn: Turn, engine: Engine, store: RationaleStore, pool: Sequence[Question], budget: Budget, console: Console
) -> dict[str, str]:
    """The teacher's own rationales for training questions, made with the answer given and no example shown."""
    (zero_shot,) = explaining_examples(turn)
    ask, items = ask_engine(engine, zero_shot, budget), items_of(zero_shot, pool)
    if turn.retry:
        take_over(zero_shot, store, items)
    existing = store.read(*zero_shot.part)
    if missing := [item for item in items if item.key not in existing]:
        lengths = {request.id: request.length for request in requests(zero_shot, missing, no_examples)}
        known = known_of(zero_shot, store, items, existing, lengths)
        expected = estimate(turn.teacher, list(lengths.values()), known, speed_of(store, turn.teacher.stored_name))
        print_estimate(zero_shot, expected, console, when=f"for the rationales of {len(missing)} in-context examples")
    while True:
        summary = generate(store, ask, items, zero_shot, costs=True, console=console)
        if summary.left:
            raise BudgetSpentError
        if summary.failed:
            raise UserError(
                f"teacher {turn.teacher.name}: {len(summary.failed)} of {len(pool)} rationales for in-context examples "
                f"failed ({next(iter(summary.failed.values()))}): run the same command again"
            )
        if not summary.claimed_elsewhere:
            break
        time.sleep(WAIT)  # another job of the same run is at them; should it die, its claims fall to this one
    found = store.read(*zero_shot.part)
    return for_training(found, pool, reject=(Finding.empty, Finding.cut, Finding.other_answer, Finding.debris))
