"""The one thing that every engine does: requests in, completions out, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinyllm.prompts import Message

STOP = "\nQuestion:"
"""Where a teacher without a chat template ends: it would go on with a question of its own."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt. `prompt` is text for a plain model and messages for a chat model."""

    id: str
    prompt: str | Sequence[Message]
    seed: int = 0
    """Of the sampling; ignored by greedy decoding."""
    sampling: tuple[float, float] | None = None
    """Temperature and top_p; None is the teacher's own. Inventing examples takes variety even of a greedy teacher."""

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
    """`stop`, `length` (cut at the token limit) or `error`."""
    prompt_tokens: int = 0
    """0 where unknown."""
    tokens: int = 0
    """Completion tokens; 0 where unknown."""
    error: str | None = None
    answer: str | None = None
    """The teacher's own choice, from an engine that knows it; otherwise it is parsed from the text."""


class Engine(Protocol):
    """Runs a teacher."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Answers `requests`, in any order, as they get done; draws new ones only when it has room for them.

        A request that can't be answered gives a completion with an `error`; the others go on.

        Raises:
            UserError: where no request can be answered, such as an unknown model or a wrong key.
        """
        ...


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that is the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
