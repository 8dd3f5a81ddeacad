"""The rationales stage: asks each teacher for what the store lacks (paper, section 3.2 and equation 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tinyllm.config import Engine as EngineName
from tinyllm.config import ExampleSource, ExperimentConfig, PromptConfig, Target, TeacherConfig
from tinyllm.data.minilab.scripted import answer_freely, explain
from tinyllm.data.release import load_rationales
from tinyllm.errors import UserError
from tinyllm.methods import single_teacher
from tinyllm.parsing import parse_answer
from tinyllm.prompts import Example, teacher_messages, teacher_prompt
from tinyllm.records import Finding, Question, Rationale, Split
from tinyllm.teachers import examples as in_context
from tinyllm.teachers.audit import audit_table, audit_teacher, for_training, write_audit
from tinyllm.teachers.engines import open_engine
from tinyllm.teachers.engines.protocol import Completion, Engine, Request, seed_of
from tinyllm.teachers.engines.transformers import TransformersEngine
from tinyllm.teachers.ledger import Ledger, known_speed
from tinyllm.teachers.option_scores import ask_scores, check_scorer, student_vocabulary
from tinyllm.teachers.prompt_key import prompt_key, scores_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import is_recorded, stored

CLAIM = 16
"""Questions that a process claims at a time."""
FAILURES_SHOWN = 5
FREE_BATCH = 256

Ask = Callable[[Iterable[Question]], Iterator[list[Completion]]]
"""Answers questions, a batch at a time; a completion's id is its question's."""
Choose = Callable[[Question], Sequence[Example]]
"""The in-context examples above a question."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one teacher's turn on one split came to."""

    dataset: str
    split: Split
    teacher: str
    """Its name in the store."""
    prompt_key: str
    sample: int
    there: int
    """Questions that had a record before."""
    written: int
    failed: dict[str, str] = field(default_factory=dict)
    """Question id -> why it has no record."""
    elsewhere: int = 0
    """Questions left out because another process is asking them."""
    unparsed: int = 0
    """Of the written texts, those whose own answer can't be parsed; 0 with teacher forcing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    money: float | None = None


def run(
    config: ExperimentConfig,
    questions: Mapping[Split, Sequence[Question]],
    console: Console,
    *,
    shard: tuple[int, int] = (0, 1),
    audit_only: bool = False,
    audit_file: Path | None = None,
) -> list[Summary]:
    """Ask every teacher of the set about `config.rationales.splits` for what the store lacks, then audit.

    A method that teaches option scores has them asked too, of its single teacher and for the training questions.

    Args:
        config: `teachers`, `prompt`, `rationales`, `data` and `store` are read, and what `method` says of scores.
        questions: the splits' questions. Give all splits that exist: in-context examples come from train, and none may
            be a near-duplicate of a validation or test question.
        console: where plan, progress and audit are printed.
        shard: (index, count): take every count-th question, from the index-th on.
        audit_only: ask nothing; audit what is in the store.
        audit_file: where audit.json goes; None writes none.

    Returns:
        One summary for each teacher and split, in order; empty with `audit_only`.

    Raises:
        UserError: a split without questions, an impossible shard, or a teacher that can't be asked at all.
    """
    index, count = shard
    if not 0 <= index < count:
        raise UserError(f"shard: expected an index of 0 to count - 1, found index {index} of count {count}")
    splits = config.rationales.splits
    _check_splits(splits, questions)
    store = RationaleStore(Path(config.store).expanduser())
    summaries: list[Summary] = []
    for teacher in config.teachers.values():
        if audit_only:
            break
        engine: Engine | None = None
        for split in splits:
            asked = list(questions[split])[index::count]
            if is_recorded(config, teacher):
                summaries.append(_take_recorded(config, teacher, store, split, asked, console))
                continue
            if engine is None and teacher.engine is not EngineName.scripted:
                engine = open_engine(teacher)
            summaries.append(_ask_teacher(config, teacher, engine, store, split, asked, questions, console))
    if not audit_only and "train" in splits and _wants_scores(config):
        summaries.append(_ask_scores(config, store, list(questions[Split.train])[index::count], console))
    audits = [
        audit_teacher(
            teacher.name,
            split,
            stored(config, teacher, split),
            questions[split],
            teacher_forcing=config.prompt.teacher_forcing or is_recorded(config, teacher),
        )
        for teacher in config.teachers.values()
        for split in splits
    ]
    console.print(audit_table(audits))
    if audit_file is not None:
        write_audit(audit_file, config.data.name, audits)
        console.print(f"audit written to {audit_file}", soft_wrap=True)
    return summaries


def generate(
    store: RationaleStore,
    ask: Ask,
    questions: Sequence[Question],
    *,
    dataset: str,
    split: Split,
    teacher: str,
    prompt_key: str,
    sample: int = 0,
    parse_answers: bool = False,
    costs: bool = True,
    price_prompt: float | None = None,
    price_completion: float | None = None,
    console: Console | None = None,
) -> Summary:
    """Ask about those of `questions` that have no record, and append what comes, batch by batch.

    A killed run loses the batches in flight. Questions that another process has claimed are left to it.

    Args:
        ask: called once, with the questions in the order given.
        parse_answers: read the teacher's own answer from each text (it was not given); None where there is none.
        costs: keep the ledger.
        price_prompt, price_completion: money for 1e6 tokens, for the ledger.
        console: shows a progress bar; None shows nothing.
    """
    part = (dataset, split, teacher, prompt_key)
    by_id = {question.id: question for question in questions}
    missing = store.missing(*part, by_id, sample=sample)
    failed: dict[str, str] = {}
    written = unparsed = taken = 0
    ledger = Ledger(
        store.folder,
        dataset=dataset,
        split=split,
        teacher=teacher,
        prompt_key=prompt_key,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    with store.claims(*part, sample=sample) as claims, _progress(console) as progress:

        def claimed() -> Iterator[Question]:
            nonlocal taken
            for start in range(0, len(missing), CLAIM):
                block = missing[start : start + CLAIM]
                mine = claims.take(block)
                taken += len(mine)
                bar.update(len(block) - len(mine), 0)
                yield from (by_id[question_id] for question_id in mine)

        bar = _Bar(progress, teacher, len(missing))
        try:
            for batch in ask(claimed()) if missing else ():
                good = [done for done in batch if done.error is None]
                records = []
                for done in good:
                    answer = done.answer
                    if parse_answers and answer is None:
                        answer = parse_answer(done.text, by_id[done.id].choices)
                        unparsed += answer is None
                    records.append(
                        Rationale(
                            dataset=dataset,
                            split=split,
                            question_id=done.id,
                            teacher=teacher,
                            sample=sample,
                            prompt_key=prompt_key,
                            text=done.text,
                            answer=answer,
                            finish_reason=done.finish_reason,
                            tokens=done.tokens,
                            created=datetime.now(UTC).isoformat(timespec="microseconds"),
                        )
                    )
                store.append(records)
                written += len(records)
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
        dataset=dataset,
        split=split,
        teacher=teacher,
        prompt_key=prompt_key,
        sample=sample,
        there=len(by_id) - len(missing),
        written=written,
        failed=failed,
        elsewhere=len(missing) - taken,
        unparsed=unparsed,
        prompt_tokens=ledger.total.prompt_tokens,
        completion_tokens=ledger.total.completion_tokens,
        seconds=ledger.total.seconds,
        money=ledger.total.money,
    )


def ask_engine(
    engine: Engine, choose: Choose, *, chat: bool, teacher_forcing: bool, seed: int = 0, sample: int = 0
) -> Ask:
    """Asks an engine with the teacher's prompts."""
    render = teacher_messages if chat else teacher_prompt

    def requests(questions: Iterable[Question]) -> Iterator[Request]:
        for question in questions:
            prompt = render(question, choose(question), teacher_forcing=teacher_forcing)
            yield Request(question.id, prompt, seed_of(seed, sample, question.id))

    return lambda questions: engine.complete(requests(questions))


def ask_script(voice: str, *, teacher_forcing: bool, sample: int = 0) -> Ask:
    """Minilab's scripted teachers, which need no prompt."""

    def answer(question: Question) -> Completion:
        if teacher_forcing:
            return Completion(question.id, explain(question, voice, sample), "stop")
        text, choice = answer_freely(question, voice, sample)
        return Completion(question.id, text, "stop", answer=choice)

    return lambda questions: _in_batches(answer, questions)


def _in_batches(answer: Callable[[Question], Completion], questions: Iterable[Question]) -> Iterator[list[Completion]]:
    """Answers that cost nothing, in batches so large that writing them costs little."""
    iterator = iter(questions)
    while batch := [answer(question) for question in islice(iterator, FREE_BATCH)]:
        yield batch


def _check_splits(splits: Iterable[Split], questions: Mapping[Split, Sequence[Question]]) -> None:
    for split in splits:
        if not questions.get(split):
            raise UserError(f"rationales.splits: expected questions in the split {split}, found none: see data.*")


def _ask_teacher(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    engine: Engine | None,
    store: RationaleStore,
    split: Split,
    asked: Sequence[Question],
    questions: Mapping[Split, Sequence[Question]],
    console: Console,
) -> Summary:
    if teacher.sample > 0 and teacher.temperature == 0 and engine is not None:
        raise UserError(
            f"teacher {teacher.name}: sample {teacher.sample} of greedy decoding is the first text again; set "
            f"teachers.{teacher.name}.temperature above 0, for all samples of this teacher"
        )
    prompt, name, dataset = config.prompt, teacher.stored_name, config.data.name
    key = prompt_key(teacher, prompt, dataset, recorded=False)
    there = store.read(dataset, split, name, key, teacher.sample)
    wanted = [question for question in asked if question.id not in there]
    _print_there(teacher, dataset, split, len(asked), len(wanted), console)
    if engine is None:
        ask = ask_script(teacher.model, teacher_forcing=prompt.teacher_forcing, sample=teacher.sample)
    else:
        choose = _chooser(config, teacher, engine, store, wanted, questions, console)
        ask = ask_engine(
            engine,
            choose,
            chat=teacher.chat,
            teacher_forcing=prompt.teacher_forcing,
            seed=teacher.seed,
            sample=teacher.sample,
        )
        render = teacher_messages if teacher.chat else teacher_prompt
        lengths = {
            q.id: Request(q.id, render(q, choose(q), teacher_forcing=prompt.teacher_forcing)).length for q in wanted
        }
        # Longest first: a prompt too long for the memory shows at once, and batches hold like lengths.
        wanted = sorted(wanted, key=lambda question: -lengths[question.id])
        _print_estimate(store, teacher, lengths.values(), there.values(), console)
    parse = not prompt.teacher_forcing
    summary = _generate(config, teacher, store, ask, wanted, split, key, parse, engine is not None, console)
    summary = replace(summary, there=len(asked) - len(wanted))
    _print_summary(teacher, summary, console)
    return summary


def _wants_scores(config: ExperimentConfig) -> bool:
    return any(s.target is Target.teacher_options and s.weight != 0 for s in config.method.streams.values())


def _ask_scores(
    config: ExperimentConfig, store: RationaleStore, asked: Sequence[Question], console: Console
) -> Summary:
    teacher = config.teachers[single_teacher(config.method, config.teachers)]
    check_scorer(teacher)
    vocabulary = student_vocabulary(config.student)
    engine = open_engine(teacher)
    assert isinstance(engine, TransformersEngine)
    key = scores_key(teacher, vocabulary)
    first = replace(teacher, sample=0)  # scores don't depend on the sampling
    missing = store.missing(
        config.data.name, Split.train, teacher.stored_name, key, (question.id for question in asked)
    )
    console.print(
        f"{teacher.name}: {config.data.name}/train has option scores of {len(asked) - len(missing)} of {len(asked)} "
        f"questions, {len(missing)} to ask",
        soft_wrap=True,
    )
    by_length = sorted(asked, key=lambda question: -len(question.context + question.question))
    ask = ask_scores(teacher, engine, vocabulary)
    summary = _generate(config, first, store, ask, by_length, Split.train, key, False, False, console)
    return replace(summary, there=len(asked) - len(missing))


def _generate(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    store: RationaleStore,
    ask: Ask,
    questions: Sequence[Question],
    split: Split,
    key: str,
    parse_answers: bool,
    costs: bool,
    console: Console,
) -> Summary:
    return generate(
        store,
        ask,
        questions,
        dataset=config.data.name,
        split=split,
        teacher=teacher.stored_name,
        prompt_key=key,
        sample=teacher.sample,
        parse_answers=parse_answers,
        costs=costs,
        price_prompt=teacher.price_prompt,
        price_completion=teacher.price_completion,
        console=console,
    )


def _chooser(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    engine: Engine,
    store: RationaleStore,
    wanted: Sequence[Question],
    questions: Mapping[Split, Sequence[Question]],
    console: Console,
) -> Choose:
    """How the in-context examples of a question are found; what they need is made here, once."""
    n, source, dataset = config.prompt.examples, config.prompt.example_source, config.data.name
    if n == 0 or not wanted:
        return lambda question: ()
    training = list(questions.get(Split.train, ()))
    held_out = [*questions.get(Split.valid, ()), *questions.get(Split.test, ())]
    if source is ExampleSource.generated:
        key = prompt_key(teacher, PromptConfig(examples=n, example_source=source), dataset, recorded=False)
        invented = in_context.invented_examples(
            store.examples_file(dataset, teacher.stored_name, key),
            engine,
            in_context.domain_of(dataset, training or wanted),
            n,
            chat=teacher.chat,
            avoid=held_out,
            teacher=teacher.name,
        )
        return lambda question: in_context.pick_invented(invented, question, n)
    allowed = in_context.allowed_for_training_examples(training, held_out)
    orders: dict[str, list[Question]]
    if source is ExampleSource.random:
        pool = in_context.random_pool(dataset, allowed)
        orders = {question.id: in_context.random_order(pool, question) for question in wanted}
    else:
        orders = in_context.nearest_orders(allowed, wanted, n + in_context.SPARE)
        pool = list({one.id: one for order in orders.values() for one in order[: n + 1]}.values())
    if not pool:
        raise UserError(
            f"prompt.example_source={source}: expected training questions to take examples from, found none of "
            f"{len(training)} that may serve; use prompt.example_source=generated or prompt.examples=0"
        )
    rationales = _zero_shot(config, teacher, engine, store, pool, console)
    return lambda question: in_context.pick(orders.get(question.id, ()), rationales, question, n)


def _zero_shot(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    engine: Engine,
    store: RationaleStore,
    pool: Sequence[Question],
    console: Console,
) -> dict[str, str]:
    """The teacher's own rationales for training questions, made with the answer given and no example shown."""
    zero_shot = PromptConfig(teacher_forcing=True, examples=0)
    teacher = replace(teacher, sample=0)
    key = prompt_key(teacher, zero_shot, config.data.name, recorded=False)
    ask = ask_engine(engine, lambda question: (), chat=teacher.chat, teacher_forcing=True, seed=teacher.seed)
    while True:
        summary = _generate(config, teacher, store, ask, pool, Split.train, key, False, True, console)
        if not summary.elsewhere:
            break
        time.sleep(1.0)  # another job of the same run is at them; should it die, its claims fall to this one
    found = store.read(config.data.name, Split.train, teacher.stored_name, key)
    return for_training(found, pool, reject=(Finding.empty, Finding.cut, Finding.other_answer, Finding.debris))


def _take_recorded(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    store: RationaleStore,
    split: Split,
    asked: Sequence[Question],
    console: Console,
) -> Summary:
    """The published texts, copied into the store so that every stage reads one place."""
    if config.data.root is None:
        raise UserError("data.source=release: expected data.root to be the folder of the published data, found null")
    name = teacher.stored_name
    key = prompt_key(teacher, config.prompt, config.data.name, recorded=True)
    missing = store.missing(config.data.name, split, name, key, (question.id for question in asked), teacher.sample)
    _print_there(teacher, config.data.name, split, len(asked), len(missing), console)
    texts = load_rationales(Path(config.data.root).expanduser(), config.data.name, split, asked).get(name, {})

    def answer(question: Question) -> Completion:
        # Nothing more will ever be published: an empty text says so, and the audit keeps it out of training.
        return Completion(question.id, texts.get(question.id, ""), "recorded")

    def ask(questions: Iterable[Question]) -> Iterator[list[Completion]]:
        return _in_batches(answer, questions)

    summary = _generate(config, teacher, store, ask, asked, split, key, False, False, console)
    _print_summary(teacher, summary, console)
    return summary


class _Bar:
    """Questions done, with tokens a second."""

    def __init__(self, progress: Progress, teacher: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(teacher, total=total, speed="")
        self._tokens = 0
        self._start = time.monotonic()

    def update(self, questions: int, tokens: int) -> None:
        self._tokens += tokens
        seconds = time.monotonic() - self._start
        speed = f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens and seconds else ""
        self._progress.update(self._task, advance=questions, speed=speed)


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(quiet=True),
        disable=console is None,
    )


def _print_there(
    teacher: TeacherConfig, dataset: str, split: Split, asked: int, missing: int, console: Console
) -> None:
    line = f"{teacher.name}: {dataset}/{split} has {asked - missing} of {asked} rationales"
    console.print(f"{line}, {missing} to ask" if missing else line, soft_wrap=True)


def _print_estimate(
    store: RationaleStore,
    teacher: TeacherConfig,
    lengths: Iterable[int],
    there: Iterable[Rationale],
    console: Console,
) -> None:
    """What the missing texts will take.

    lengths: characters of each prompt, four of which are taken for a token.
    there: texts under the same key, whose mean length is expected again.
    """
    lengths = list(lengths)
    if not lengths:
        return
    tokens = [rationale.tokens for rationale in there if rationale.tokens]
    each = sum(tokens) / len(tokens) if tokens else teacher.max_new_tokens
    completion = round(len(lengths) * each)
    bound = "about" if tokens else "at most"
    prompts = sum(lengths) // 4
    line = f"{teacher.name}: about {prompts:,} prompt tokens and {bound} {completion:,} completion tokens to come"
    speed = known_speed(store.folder, teacher.stored_name)
    line += f", {bound} {_duration(completion / speed)}" if speed else "; time known after the first batches"
    console.print(line, soft_wrap=True)


def _print_summary(teacher: TeacherConfig, summary: Summary, console: Console) -> None:
    total = summary.there + summary.written
    line = (
        f"{teacher.name}: {summary.dataset}/{summary.split} now has {total} rationales, {summary.written} of them new"
    )
    if summary.completion_tokens:
        line += (
            f"; {summary.prompt_tokens:,} prompt and {summary.completion_tokens:,} completion tokens in "
            f"{_duration(summary.seconds)} ({summary.completion_tokens / max(summary.seconds, 1e-9):,.0f} tokens/s)"
        )
    if summary.money is not None:
        line += f", {summary.money:.4f} spent"
    if summary.unparsed:
        line += f"; {summary.unparsed} texts name no option"
    if summary.elsewhere:
        line += f"; {summary.elsewhere} left to another process that is asking them"
    console.print(line, soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for question_id, reason in summary.failed.items():
        reasons.setdefault(reason, []).append(question_id)
    for reason, ids in reasons.items():
        shown = ", ".join(ids[:FAILURES_SHOWN]) + (", ..." if len(ids) > FAILURES_SHOWN else "")
        console.print(f"  {len(ids)} failed ({reason}): {shown}", soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
