"""What is to be asked: turns of teachers on splits, and what a turn will take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tinyllm.config import ExperimentConfig, PromptConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import Question, Rationale, Split
from tinyllm.teachers.engines.protocol import Published
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.stored import is_recorded


@dataclass(frozen=True, slots=True)
class Turn:
    """One teacher's turn on one split: what shapes its texts, and where they are kept."""

    teacher: TeacherConfig
    prompt: PromptConfig
    dataset: str
    topic: str
    """Of the dataset, in words."""
    split: Split
    prompt_key: str
    published: Published | None = None
    """Where its texts are taken from; None where the teacher is asked."""

    @property
    def part(self) -> tuple[str, Split, str, str]:
        """The part of the store that holds its texts, as the methods of `RationaleStore` take it."""
        return self.dataset, self.split, self.teacher.stored_name, self.prompt_key

    @property
    def reads_prompts(self) -> bool:
        """Whether a model is asked, with a prompt and at a cost."""
        return self.published is None and self.teacher.reads_prompts


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
    """Questions that had a record before."""
    written: int
    failed: dict[str, str] = field(default_factory=dict)
    """Question id -> why it has no record."""
    claimed_elsewhere: int = 0
    """Questions left out because another process is asking them."""
    unparsed: int = 0
    """Of the written texts, those whose own answer can't be parsed; 0 with teacher forcing."""
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
    """The turns of every teacher of the set on `config.rationales.splits`, teacher by teacher.

    Raises:
        UserError: a split without questions.
    """
    for split in config.rationales.splits:
        if not questions.get(split):
            raise UserError(f"rationales.splits: expected questions in the split {split}, found none: see data.*")
    return [
        plan_turn(config, teacher, split) for teacher in config.teachers.values() for split in config.rationales.splits
    ]


def plan_turn(config: ExperimentConfig, teacher: TeacherConfig, split: Split) -> Turn:
    """One turn, under the run's prompt and data.

    Raises:
        UserError: published texts are to be taken, and no folder is named.
    """
    data, published = config.data, None
    if is_recorded(config, teacher):
        if data.root is None:
            raise UserError(
                "data.source=release: expected data.root to be the folder of the published data, found null"
            )
        published = Published(Path(data.root).expanduser(), data.name)
    key = prompt_key(teacher, config.prompt, data.name, data.topic, recorded=published is not None)
    return Turn(teacher, config.prompt, data.name, data.topic, split, key, published)


def with_prompt(turn: Turn, prompt: PromptConfig) -> Turn:
    """The turn of the same teacher under another prompt."""
    key = prompt_key(turn.teacher, prompt, turn.dataset, turn.topic, recorded=turn.published is not None)
    return replace(turn, prompt=prompt, prompt_key=key)


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
