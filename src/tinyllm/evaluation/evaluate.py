"""Evaluate a student on questions: predictions, scores, scores by subset, and the result of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

import tinyllm
from tinyllm.config import ExperimentConfig
from tinyllm.data.question_batches import question_batches
from tinyllm.data.tokens import SourceTokens
from tinyllm.evaluation.score import Scores, score, score_subsets
from tinyllm.methods import Stream, single_teacher, uses_single_teacher
from tinyllm.paper import deviations
from tinyllm.records import Prediction, Question, Result
from tinyllm.student.predict import predict, student_rationales
from tinyllm.student.training import Fit


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation came to."""

    predictions: list[Prediction]
    """In the order of the questions."""
    scores: Scores
    subsets: dict[str, Scores]
    truncated: int
    """Questions whose context (or source rationale) was shortened."""
    seconds: float


def evaluate(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    prefix: str,
    max_source_length: int,
    batch_size: int,
    precision: str,
    cache: Path,
    voices: Mapping[str, str] | None = None,
    max_rationale_tokens: int = 128,
    rationales: Mapping[str, str] | None = None,
) -> Evaluation:
    """Ask the student every question, by generation and by ranking.

    Args:
        model: the student, on the device where it shall run.
        tokenizer: its tokenizer.
        questions: of one split.
        prefix: source prefix of the answer stream.
        max_source_length: tokens; contexts and source rationales are shortened.
        batch_size: questions a forward pass.
        precision: as in Lightning; a name with `bf16` runs under autocast.
        cache: folder of tokenized texts.
        voices: source prefix by teacher, where the student's own rationales are wanted too.
        max_rationale_tokens: tokens of such a rationale at most.
        rationales: question id -> text that stands in the question's source (PINTO).
    """
    started = time.perf_counter()
    sources = SourceTokens(questions, tokenizer, max_source_length, cache, rationales)
    batches = question_batches(questions, sources, tokenizer, prefix=prefix, batch_size=batch_size, cache=cache)
    found: dict[str, Prediction] = {}
    bar = tqdm(total=len(questions), unit="question", desc="evaluate", disable=not sys.stderr.isatty())
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled="bf16" in precision), bar:
        for part in predict(model, tokenizer, batches):
            if voices:
                rows = {name: [sources.source(p.id, voice) for p in part] for name, voice in voices.items()}
                texts = student_rationales(model, tokenizer, rows, max_new_tokens=max_rationale_tokens)
                part = [replace(p, rationales={name: texts[name][i] for name in texts}) for i, p in enumerate(part)]
            found.update((p.id, p) for p in part)
            bar.update(len(part))
    predictions = [found[question.id] for question in questions]
    return Evaluation(
        predictions, score(predictions), score_subsets(predictions), len(sources.truncated(prefix)),
        time.perf_counter() - started,
    )  # fmt: skip


def make_result(
    config: ExperimentConfig,
    evaluation: Evaluation,
    streams: Sequence[Stream],
    digest: str,
    trained: Fit | None,
    seconds: float,
    *,
    parameters: int,
    train_examples: int,
) -> Result:
    """`result.json` of an evaluation.

    Args:
        config: of the run.
        evaluation: of its student.
        streams: those that the student was taught by.
        digest: the run's `config_hash`.
        trained: None where nothing was trained.
        seconds: of training and evaluation.
        parameters: weights of the student.
        train_examples: training questions; 0 where nothing was trained.
    """
    scores = evaluation.scores
    taught = [stream for stream in streams if stream.name in config.teachers]
    names = {stream.name for stream in taught}
    if uses_single_teacher(config.method):
        names.add(single_teacher(config.method, config.teachers))
    return Result(
        dataset=config.data.name,
        student=config.student.name,
        method=config.method.name,
        ablation=config.ablation.name,
        teachers=tuple(name for name in config.teachers if name in names),
        alpha={stream.name: config.alpha.get(stream.name, 1.0) for stream in taught},
        seed=config.seed,
        split=config.evaluation.split,
        **asdict(scores),
        valid_accuracy=trained.valid_accuracy if trained else None,
        train_examples=train_examples,
        wall_seconds=round(seconds, 3),
        config_hash=digest,
        version=tinyllm.__version__,
        subsets={name: asdict(part) for name, part in evaluation.subsets.items()},
        context_truncated=evaluation.truncated,
        steps=trained.steps if trained else 0,
        train_loss=trained.train_loss if trained else {},
        parameters=parameters,
        trained_parameters=trained.parameters if trained else 0,
        selected_by=str(config.trainer.select_by),
        train_tokens=trained.tokens if trained else 0,
        train_seconds=round(trained.seconds, 3) if trained else 0.0,
        deviations=deviations(config),
    )
