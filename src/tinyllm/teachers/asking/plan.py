"""What is to be asked: turns of teachers on splits, and what a turn will take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from tinyllm.config import ExperimentConfig, PromptConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.methods import kinds_to_ask
from tinyllm.records import Finding, PromptKind, Question, Rationale, Split, text_key
from tinyllm.teachers.engines.protocol import Completion, Published
from tinyllm.teachers.ledger import money_of, read_ledger
from tinyllm.teachers.pool import pool_name
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import is_recorded

CHARACTERS = 0.25
"""Tokens for a character of a prompt, where no more is known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One teacher's turn on one split: what shapes its texts, and where they are kept."""

    teacher: TeacherConfig
    prompt: PromptConfig
    kind: PromptKind
    dataset: str
    topic: str
    """Of the dataset, in words."""
    split: Split
    pool: str | None = None
    """Of in-context examples, as `pool.pool_name`; None where there are none, or none have been invented yet."""
    published: Published | None = None
    """Where its texts are taken from; None where the teacher is asked."""
    key: str | None = None
    """In place of the key that follows from the others."""
    retry: frozenset[Finding] = frozenset()
    """Its texts of lower limits that have one of these are asked again; the others are taken over."""
    clean: bool = True
    """Whether texts are judged cleaned or raw."""

    @property
    def prompt_key(self) -> str:
        """Names its way of asking in the store."""
        recorded = self.published is not None
        return self.key or prompt_key(
            self.teacher, self.prompt, self.kind, self.dataset, pool=self.pool, recorded=recorded
        )

    @property
    def part(self) -> tuple[str, Split, str, str]:
        """The part of the store that holds its texts, as the methods of `RationaleStore` take it."""
        return self.dataset, self.split, self.teacher.stored_name, self.prompt_key

    @property
    def reads_prompts(self) -> bool:
        """Whether a model is asked, with a prompt and at a cost."""
        return self.published is None and self.teacher.reads_prompts


@dataclass(frozen=True, slots=True)
class Item:
    """What one text is about: a question, or one of its options."""

    question: Question
    option: int | None = None

    @property
    def key(self) -> str:
        """As `Rationale.key`."""
        return text_key(self.question.id, self.option)


def items_of(turn: Turn, questions: Iterable[Question]) -> list[Item]:
    """What the turn has to ask about these questions."""
    if turn.kind is PromptKind.per_option:
        return [Item(question, option) for question in questions for option in range(len(question.choices))]
    return [Item(question) for question in questions]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a turn came to."""

    dataset: str
    split: Split
    teacher: str
    """Its name in the store."""
    prompt_key: str
    sample: int
    existing: int
    """Questions, or options, that had a record before."""
    written: int
    failed: dict[str, str] = field(default_factory=dict)
    """Key of a question or option -> why it has no record."""
    refused: dict[str, str] = field(default_factory=dict)
    """Key of a question or option -> why its text, which is written, is empty: it can't be had."""
    claimed_elsewhere: int = 0
    """Those left out because another process is asking them."""
    left: int = 0
    """Those for which the budget has no room."""
    unparsed: int = 0
    """Of the written texts, those whose own answer can't be parsed; 0 where no answer was asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    money: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What texts under one key have taken so far."""

    prompt_tokens: float
    """For a character of a prompt."""
    completion_tokens: float | None
    """For a text; None where none is known."""
    where: str
    """In words: where it is known from."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the missing texts of a turn will take."""

    prompt_tokens: int
    completion_tokens: int
    """At most, where nothing is known: each text has then the longest allowed length."""
    known: Known
    seconds: float | None
    """None where the teacher's speed is unknown."""
    money: float | None
    """None where the teacher has no prices."""


def plan_turns(config: ExperimentConfig, questions: Mapping[Split, Sequence[Question]]) -> list[Turn]:
    """The turns of every teacher of the set on `config.rationales.splits`.

    There is one for every kind of text that the method and the weighting need.

    Raises:
        UserError: a split without questions.
    """
    for split in config.rationales.splits:
        if not questions.get(split):
            raise UserError(f"rationales.splits: expected questions in the split {split}, found none: see data.*")
    return [
        plan_turn(config, teacher, kind, split)
        for teacher in config.teachers.values()
        for kind in kinds_to_ask(config)
        for split in config.rationales.splits
    ]


def plan_turn(config: ExperimentConfig, teacher: TeacherConfig, kind: PromptKind, split: Split) -> Turn:
    """One turn, under the run's prompt and data.

    Raises:
        UserError: published texts are to be taken, and no folder is named.
    """
    data, published = config.data, None
    if is_recorded(config, teacher, kind):
        if data.root is None:
            raise UserError(
                "data.source=release: expected data.root to be the folder of the published data, found null"
            )
        published = Published(Path(data.root).expanduser(), data.name)
    pool = pool_name(RationaleStore(Path(config.store).expanduser()), teacher, config.prompt, data)
    retry, clean = frozenset(config.rationales.retry), config.rationales.clean
    return Turn(teacher, config.prompt, kind, data.name, data.topic, split, pool, published, retry=retry, clean=clean)


def known_of(
    turn: Turn,
    store: RationaleStore,
    items: Sequence[Item],
    existing: Mapping[str, Rationale],
    lengths: Mapping[str, int],
) -> Known:
    """What the store and its ledger know of a turn's texts.

    Lengths of texts are those under the same key, of this split or else of another. Tokens of a prompt are known where
    the ledger has such prompts, and are taken to grow with its characters: prompts of existing texts differ from those
    of missing ones by as many characters as their questions do. The ledger's tokens are divided
    by the texts that came: a request that failed has none, or some that were paid all the same.

    Args:
        turn: with its pool.
        store: holds the texts and the ledger.
        items: the turn's.
        existing: its texts, by key.
        lengths: characters of the prompts of the missing ones, by key.
    """
    dataset, own, teacher, key = turn.part
    costs = [c for c in read_ledger(store.folder) if (c.teacher, c.prompt_key, c.split) == (teacher, key, own)]
    answered, prompts = sum(c.prompts - c.failed for c in costs), sum(c.prompt_tokens for c in costs)
    there = [_size(item.question) for item in items if item.key in existing]
    each = CHARACTERS
    if prompts and answered and there:
        missing = mean(_size(item.question) for item in items if item.key in lengths)
        each = prompts / answered / (mean(lengths.values()) + mean(there) - missing)
    for split in (own, *(other for other in Split if other is not own)):
        texts = existing if split is own else store.read(dataset, split, teacher, key, turn.teacher.sample)
        if tokens := [text.tokens for text in texts.values() if text.tokens]:
            where = f"as its {len(tokens)} texts in the store" + (f" ({split})" if split is not own else "")
            return Known(each, mean(tokens), where)
    return Known(each, None, "how long its texts are is not known yet")


def _size(question: Question) -> int:
    return len(question.context) + len(question.question) + sum(map(len, question.choices))


def known_from(answers: Sequence[Completion], lengths: Mapping[str, int]) -> Known:
    """What a turn's first texts tell of the rest.

    Args:
        answers: one or more, without errors.
        lengths: characters of the prompt of each, by id.
    """
    tokens = [done.tokens for done in answers]
    prompts = sum(done.prompt_tokens for done in answers)
    each = prompts / sum(lengths[done.id] for done in answers) if prompts else CHARACTERS
    return Known(each, mean(tokens), f"as the first {len(tokens)} texts")


def estimate(teacher: TeacherConfig, prompt_lengths: Collection[int], known: Known, speed: float | None) -> Estimate:
    """What the missing texts will take.

    Args:
        teacher: for the longest text allowed, and its prices.
        prompt_lengths: characters of each prompt.
        known: of `known_of` or `known_from`.
        speed: completion tokens a second; None where unknown.
    """
    each = teacher.max_new_tokens if known.completion_tokens is None else known.completion_tokens
    prompt, completion = round(sum(prompt_lengths) * known.prompt_tokens), round(len(prompt_lengths) * each)
    seconds = completion / speed if speed else None
    return Estimate(prompt, completion, known, seconds, money_of(teacher, prompt, completion))


def speed_of(store: RationaleStore, teacher: str) -> float | None:
    """Completion tokens a second that this teacher reached in earlier runs on this store; None where unknown."""
    costs = [cost for cost in read_ledger(store.folder) if cost.teacher == teacher and cost.completion_tokens]
    tokens, seconds = sum(cost.completion_tokens for cost in costs), sum(cost.seconds for cost in costs)
    return tokens / seconds if seconds else None
