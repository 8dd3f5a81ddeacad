"""Minilab's scripted teachers: a text for every question of minilab, by rule, in no time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinyllm.config import Knows
from tinyllm.data.minilab import MISLEADING, answer_freely, argue, explain, reason
from tinyllm.errors import UserError
from tinyllm.records import PromptKind
from tinyllm.teachers.engines.protocol import FREE_BATCH, Completion, Request, in_batches


class ScriptedEngine:
    """Answers the question of a request; its prompt is not read.

    Args:
        voice: of `data.minilab`, such as `terse`.
        sample: 0 for the first text on a question, 1 for a second one in other words, ...
        knows: links that it knows; where it is given the answer, its text on others is empty.
        share: of the voice `misleading`, the part of its texts that are wrong; None for the others.

    Raises:
        UserError: for a share that is out of place, missing or none.
    """

    def __init__(self, *, voice: str, sample: int = 0, knows: Knows = Knows.all, share: float | None = None) -> None:
        if (voice == MISLEADING) != (share is not None):
            expected = "a share of 0 to 1" if voice == MISLEADING else "null"
            raise UserError(f"teachers.<name>.share: expected {expected} for the voice {voice}, found {share}")
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"teachers.<name>.share: expected a share of 0 to 1, found {share}")
        self.voice = voice
        self.sample = sample
        self.knows = knows
        self.share = share or 0.0

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Completions in the order of `requests`; where the teacher is to solve the question, with its choice.

        Raises:
            UserError: an unknown voice, or a question that is none of minilab's.
        """
        for batch in in_batches(requests, FREE_BATCH):
            yield [self._answer(request) for request in batch]

    def _answer(self, request: Request) -> Completion:
        question, kind = request.question, request.kind
        if question is None:
            raise UserError(f"scripted teacher {self.voice}: expected a question of minilab, found a prompt alone")
        if kind is PromptKind.solve:
            text, choice = answer_freely(question, self.voice, self.sample, knows=self.knows, share=self.share)
            return Completion(request.id, text, "stop", answer=choice)
        if kind is PromptKind.per_option:
            if request.option is None:
                raise ValueError("expected the option that is asked about, found none")
            return Completion(request.id, argue(question, request.option, self.voice, self.sample), "stop")
        write = explain if kind is PromptKind.forced else reason
        text = write(question, self.voice, self.sample, knows=self.knows, share=self.share)
        return Completion(request.id, text, "stop")
