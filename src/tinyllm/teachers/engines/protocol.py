"""The one thing that every engine does: requests in, completions out, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from tinyllm.prompts import Message
from tinyllm.records import PromptKind, Question, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
STOP = "\nQuestion:"
"""Where a teacher without a chat template ends: it would go on with a question of its own."""
FREE_BATCH = 256
"""Requests in a batch that costs nothing: large, so that few writes are needed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One text that is wanted of a teacher: a model reads the prompt, other teachers the question."""

    id: str
    prompt: str | Sequence[Message]
    """Text for a plain model, messages for a chat model."""
    seed: int = 0
    """Of the sampling; ignored by greedy decoding."""
    sampling: tuple[float, float] | None = None
    """Temperature and top_p; None is the teacher's own. Inventing examples takes variety even of a greedy teacher."""
    question: Question | None = None
    """What the prompt asks; None where a model is to invent something."""
    split: Split | None = None
    """Of the question."""
    kind: PromptKind = PromptKind.forced
    """What the teacher is asked for."""
    option: int | None = None
    """Position of the option that is asked about (`per_option`)."""

    @property
    def length(self) -> int:
        """Characters, by which requests are sorted."""
        if isinstance(self.prompt, str):
            return len(self.prompt)
        return sum(len(message["content"]) for message in self.prompt)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A source whose options a teacher shall score."""

    id: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one request; `error` says in one line why there is no text."""

    id: str
    text: str
    finish_reason: str
    """`stop`, `length` (cut at the token limit), `recorded` or `error`."""
    prompt_tokens: int = 0
    """0 where unknown."""
    tokens: int = 0
    """Completion tokens; 0 where unknown."""
    error: str | None = None
    answer: str | None = None
    """The teacher's own choice, from an engine that knows it; otherwise it is parsed from the text."""
    lost: tuple[int, int] = (0, 0)
    """Prompt and completion tokens of tries before that gave nothing: paid for, and not in the counts above."""
    late: int = 0
    """Tries before that had no answer in time: what they cost is unknown, at most as much as one that is answered."""
    final: bool = False
    """Of an error: no other try of this prompt could give a text, so it is kept as an empty one."""

    @property
    def paid(self) -> tuple[int, int]:
        """Prompt and completion tokens of all tries."""
        return self.prompt_tokens + self.lost[0], self.tokens + self.lost[1]


@dataclass(frozen=True, slots=True)
class Published:
    """Where the published texts about a dataset are."""

    root: Path
    """Folder of the published data, as `data.root`."""
    dataset: str


class Engine(Protocol):
    """Runs a teacher."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Answers `requests`, in any order, as they get done; draws new ones only when it has room for them.

        A request that can't be answered gives a completion with an `error`; the others go on.

        Raises:
            UserError: where no request can be answered, such as an unknown model or a wrong key.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """Knows how many tokens a prompt has before it is asked."""

    def prompt_tokens(self, requests: Sequence[Request]) -> int:
        """Tokens of all their prompts."""
        ...


class Scorer(Protocol):
    """Reads a teacher's likelihoods of given texts."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer.

        Raises:
            UserError: it can't be loaded.
        """
        ...

    def score(self, requests: Iterable[ScoreRequest], *, continues: bool = False) -> Iterator[list[Completion]]:
        """Mean token log-likelihood (nats) of every option; a completion's text is their JSON list, in their order.

        Args:
            requests: what to score.
            continues: an option continues the text of its source.

        Raises:
            UserError: the teacher has no such likelihoods.
        """
        ...


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one perhaps shorter; items are drawn when their list is wanted."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that is the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
