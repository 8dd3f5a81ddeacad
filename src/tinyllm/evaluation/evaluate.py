"""Evaluate a student on questions: predictions, scores, scores by subset, and the result of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

import tinyllm
from tinyllm.config import EvaluationConfig, ExperimentConfig
from tinyllm.deviations import deviations
from tinyllm.evaluation.score import chance, majority, score, score_subsets
from tinyllm.methods import alpha_of, single_teacher, uses_single_teacher
from tinyllm.records import Prediction, Question, Result, Scores
from tinyllm.student.student import Student
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
    student: Student,
    questions: Sequence[Question],
    settings: EvaluationConfig,
    rationales: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Ask the student every question, by generation and by ranking; with rationales in its sources, by ranking alone.

    Args:
        student: on the device where it shall run.
        questions: of one split.
        settings: the batch size, and whether the student's own rationales are wanted too.
        rationales: question id -> one rationale for each option, part of that option's source (PINTO).
    """
    started = time.perf_counter()
    sources = student.sources(questions, rationales)
    longest = settings.max_rationale_tokens if settings.rationales else None
    found: dict[str, Prediction] = {}
    with tqdm(total=len(questions), unit="question", desc="evaluate", disable=not sys.stderr.isatty()) as bar:
        for part in student.predict(questions, sources, batch_size=settings.batch_size, max_rationale_tokens=longest):
            found.update((prediction.id, prediction) for prediction in part)
            bar.update(len(part))
    truncated = len(sources.truncated(student.answer_prefix))
    return scored([found[question.id] for question in questions], truncated, time.perf_counter() - started)


def scored(predictions: list[Prediction], truncated: int, seconds: float) -> Evaluation:
    """Predictions with their scores."""
    return Evaluation(predictions, score(predictions), score_subsets(predictions), truncated, seconds)


def make_result(
    config: ExperimentConfig,
    evaluation: Evaluation,
    train: Sequence[Question],
    student: Student | None,
    digest: str,
    trained: Fit | None = None,
    *,
    valid_examples: int = 0,
    weights: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Result:
    """`result.json` of an evaluation.

    Args:
        config: of the run.
        evaluation: of its student, or of a teacher.
        train: the training questions, for the majority class.
        student: where it was asked, with the voices of the teachers whose rationales it was taught; None for a teacher.
        digest: the run's `config_hash`.
        trained: None where nothing was trained.
        valid_examples: validation questions that the checkpoint was chosen on.
        weights: as in `Result`; None for all 1.
    """
    taught = [name for name in config.teachers if student is not None and name in student.voices]
    read = [single_teacher(config.method, config.teachers)] if uses_single_teacher(config.method) else []
    training: dict[str, Any] = {"valid_accuracy": None, "train_examples": 0}
    if trained is not None:
        training = {
            "valid_accuracy": trained.valid_accuracy,
            "train_examples": trained.examples,
            "valid_examples": valid_examples,
            "steps": trained.steps,
            "train_loss": trained.train_loss,
            "trained_parameters": trained.parameters,
            "train_tokens": trained.tokens,
            "train_seconds": round(trained.seconds, 3),
        }
    return Result(
        dataset=config.data.name,
        student=config.student.name,
        method=config.method.name,
        ablation=config.ablation.name,
        teachers=tuple(name for name in config.teachers if name in {*taught, *read}),
        alpha={name: alpha_of(config.alpha, name) for name in taught},
        seed=config.seed,
        split=config.evaluation.split,
        **asdict(evaluation.scores),
        wall_seconds=round(evaluation.seconds + (trained.seconds if trained else 0.0), 3),
        config_hash=digest,
        version=tinyllm.__version__,
        subsets={name: asdict(part) for name, part in evaluation.subsets.items()},
        context_truncated=evaluation.truncated,
        parameters=student.model.num_parameters() if student is not None else 0,
        weights={name: {key: list(row) for key, row in own.items()} for name, own in (weights or {}).items()},
        selected_by=str(config.trainer.select_by),
        deviations=deviations(config),
        chance=chance(evaluation.predictions),
        majority=majority(train, evaluation.predictions),
        precision=student.precision if student is not None else "",
        device=student.device_name if student is not None else "",
        **training,
    )
