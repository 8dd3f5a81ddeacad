"""Text -> answer: which option a generated text names. Pure functions; what can't be parsed is None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LEADING_LETTER = re.compile(r"^\(([a-z])\)\s*")
_SPACES = re.compile(r"\s+")


def normalise(text: str) -> str:
    """Lower case, single spaces, no leading `(b)` and no final stop: two answers are the same when these are equal."""
    text = _SPACES.sub(" ", text).strip().lower()
    return _LEADING_LETTER.sub("", text).removesuffix(".").strip()


def match_choice(generated: str, choices: Sequence[str]) -> str | None:
    """The option that `generated` names, or None.

    The whole text must be one option after `normalise`; a bare `(b)` names the second one.
    """
    letter_alone = re.fullmatch(r"\s*\(([a-z])\)\s*\.?\s*", generated.lower())
    if letter_alone:
        index = ord(letter_alone[1]) - ord("a")
        return choices[index] if index < len(choices) else None
    wanted = normalise(generated)
    return next((choice for choice in choices if wanted and normalise(choice) == wanted), None)
