"""Ask a student: greedy answers, ranked options, and its own rationales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from tinyllm.data.question_batches import QuestionBatch
from tinyllm.parsing import match_choice
from tinyllm.records import Prediction
from tinyllm.student.encoder_decoder import generate, rank

_SPARE_TOKENS = 8
"""Beyond the longest option: room for a leading "(b)" and the end token."""


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Texts of generated token ids, without special tokens."""
    return [text.strip() for text in tokenizer.batch_decode([list(row) for row in ids], skip_special_tokens=True)]


def predict_batch(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, batch: QuestionBatch
) -> list[Prediction]:
    """Both answers to every question of a batch; generation has room for the longest option."""
    pad = tokenizer.pad_token_id
    longest = max(len(ids) for options in batch.options for ids in options)
    generated = decode(tokenizer, generate(model, batch.sources, pad_id=pad, max_new_tokens=longest + _SPARE_TOKENS))
    scores = rank(model, batch.sources, batch.options)
    predictions: list[Prediction] = []
    for question, text, values in zip(batch.questions, generated, scores, strict=True):
        best = max(range(len(values)), key=values.__getitem__)
        predictions.append(
            Prediction(
                id=question.id,
                question=question.question,
                choices=question.choices,
                answer=question.answer,
                generated=text,
                predicted=match_choice(text, question.choices),
                ranked=question.choices[best],
                scores=tuple(values),
                subset=question.subset,
            )
        )
    return predictions


def predict(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, batches: Iterable[QuestionBatch]
) -> Iterator[list[Prediction]]:
    """Predictions batch by batch, in evaluation mode; the model's mode is put back at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                yield predict_batch(model, tokenizer, batch)
    finally:
        model.train(training)


def student_rationales(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    sources: Mapping[str, Sequence[Sequence[int]]],
    *,
    max_new_tokens: int,
) -> dict[str, list[str]]:
    """The student's own rationale in each voice.

    Args:
        model: the student.
        tokenizer: its tokenizer.
        sources: by teacher, the sources of some questions with that teacher's prefix.
        max_new_tokens: tokens a rationale at most.

    Returns:
        By teacher, a text a question, in the order of the sources.
    """
    pad = tokenizer.pad_token_id
    return {
        teacher: decode(tokenizer, generate(model, rows, pad_id=pad, max_new_tokens=max_new_tokens))
        for teacher, rows in sources.items()
    }
