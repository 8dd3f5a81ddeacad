"""What is to be asked: turns of teachers on splits, and what a turn will take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyllm.config import ExperimentConfig, PromptConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.methods import kinds_to_ask
from tinyllm.records import PromptKind, Question, Rationale, Split, text_key
from tinyllm.teachers.engines.protocol import Published
from tinyllm.teachers.pool import pool_name
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import is_recorded


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
    claimed_elsewhere: int = 0
    """Those left out because another process is asking them."""
    unparsed: int = 0
    """Of the written texts, those whose own answer can't be parsed; 0 where no answer was asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    money: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the missing texts of a turn will take."""

    prompt_tokens: int
    """At four characters a token."""
    completion_tokens: int
    from_existing: bool
    """Whether the texts are taken to be as long as the existing ones; otherwise each has the longest allowed length."""
    seconds: float | None
    """None where the teacher's speed is unknown."""


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
    return Turn(teacher, config.prompt, kind, data.name, data.topic, split, pool, published)


def estimate(
    teacher: TeacherConfig, prompt_lengths: Collection[int], existing: Iterable[Rationale], speed: float | None
) -> Estimate:
    """What the missing texts will take.

    Args:
        teacher: for the longest text allowed.
        prompt_lengths: characters of each prompt.
        existing: texts under the same key; those to come are expected to be as long on average.
        speed: completion tokens a second; None where unknown.
    """
    tokens = [rationale.tokens for rationale in existing if rationale.tokens]
    each = sum(tokens) / len(tokens) if tokens else teacher.max_new_tokens
    completion = round(len(prompt_lengths) * each)
    seconds = completion / speed if speed else None
    return Estimate(sum(prompt_lengths) // 4, completion, bool(tokens), seconds)
