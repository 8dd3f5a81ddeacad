"""Questions to be answered, tokenized and batched: what a student is asked in validation, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tinyllm.data.tokens import SourceTokens, tokenize
from tinyllm.records import Question


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Questions to be answered, in tokens."""

    questions: tuple[Question, ...]
    sources: tuple[tuple[tuple[int, ...], ...], ...]
    """Of every question its source, or one source for each option (PINTO)."""
    options: tuple[tuple[tuple[int, ...], ...], ...]
    """Token ids of every option, with the end token."""
    lead: tuple[int, ...] = ()
    """What stands between source and answer: a decoder's instruction."""

    @property
    def by_option(self) -> bool:
        """Whether each option has a source of its own."""
        return any(len(sources) > 1 for sources in self.sources)

    def singles(self) -> list[QuestionBatch]:
        """The same questions, one a batch."""
        rows = zip(self.questions, self.sources, self.options, strict=True)
        return [QuestionBatch((question,), (own,), (options,), self.lead) for question, own, options in rows]

    def to(self, device: Any, non_blocking: bool = False) -> QuestionBatch:
        """Lists move to the device when they become tensors."""
        return self


def question_batches(
    questions: Sequence[Question],
    sources: SourceTokens,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix: str,
    batch_size: int,
    cache: Path,
) -> list[QuestionBatch]:
    """Batches of questions for ranking and generation, longest first, so that little is padded."""
    form = sources.form
    texts = [form.target(choice) for question in questions for choice in question.choices]
    ids = iter(tokenize(texts, tokenizer, cache))
    options = {question.id: tuple((*next(ids), form.end) for _ in question.choices) for question in questions}
    order = sorted(questions, key=lambda q: (-max(map(len, sources.sources(q.id, prefix))), q.id))
    return [
        QuestionBatch(
            tuple(part),
            tuple(sources.sources(question.id, prefix) for question in part),
            tuple(options[question.id] for question in part),
            sources.lead(prefix),
        )
        for part in (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    ]
