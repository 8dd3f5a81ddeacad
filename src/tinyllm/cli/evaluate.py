"""`tinyllm evaluate`: a run folder, a model folder or a hub id -> predictions and result on a split."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from tinyllm import runs
from tinyllm.config import EvaluateConfig, ExperimentConfig, TeacherConfig
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.evaluation.evaluate import Evaluation, evaluate, make_result
from tinyllm.evaluation.score import score, score_subsets
from tinyllm.methods import Stream, answer_prefix, single_target
from tinyllm.records import Prediction, Split
from tinyllm.runs import asked_freely, teacher_folder
from tinyllm.student import models
from tinyllm.student.training import resolve_precision
from tinyllm.teachers.asking import run
from tinyllm.teachers.stored import source_rationales, stored

log = logging.getLogger(__name__)


def main(config: EvaluateConfig, _: Path) -> None:
    """Evaluate on `evaluation.split` of the run's own data, or of the data that the call names."""
    if config.teacher is not None:
        if config.run is not None:
            raise UserError("evaluate: expected run=... or teacher=..., found both")
        evaluate_teacher(config, config.teacher)
        return
    chosen: ExperimentConfig = config
    if config.run is not None:
        trained = Path(config.run).expanduser()
        chosen = _of_run(config, trained, HydraConfig.get().overrides.task)
        folder = Path(config.output).expanduser() if config.output else trained / f"evaluation-{_name(chosen)}"
        student = trained / runs.STUDENT
        if not student.is_dir():
            raise UserError(f"{run}: expected a finished run with {runs.STUDENT}, found none: run 'tinyllm train'")
        model, tokenizer = models.load_pretrained(str(student))
    else:
        if not chosen.student.pretrained and not chosen.method.train:
            log.info("student.pretrained is null: random weights are evaluated")
        folder = Path(config.output or f"runs/evaluate/{runs.hash_of(chosen)}").expanduser()
    questions = load_questions(chosen.data)
    split: Split = chosen.evaluation.split
    reader = runs.as_trained(chosen, Path(config.run).expanduser()) if config.run is not None else chosen
    rationales = source_rationales(reader, questions[split], split)
    if config.run is None:
        answers = Stream(
            "answer", answer_prefix(chosen.method), 1.0, single_target({q.id: q.answer for q in questions[Split.train]})
        )
        model, tokenizer = models.load(chosen.student, questions[Split.train], [answers])
    taught = runs.taught_teachers(Path(config.run).expanduser()) if config.run is not None else {}
    streams = [Stream(name, prefix, chosen.alpha.get(name, 1.0), {}) for name, prefix in taught.items()]
    models.prepare(model, accelerator=config.trainer.accelerator)
    device = torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")
    evaluation = evaluate(
        model.to(device),  # type: ignore[arg-type]
        tokenizer,
        questions[split],
        prefix=answer_prefix(chosen.method),
        voices={stream.name: stream.prefix for stream in streams} if config.evaluation.rationales else {},
        max_source_length=chosen.student.max_source_length,
        max_rationale_tokens=config.evaluation.max_rationale_tokens,
        batch_size=config.evaluation.batch_size,
        precision=resolve_precision(config.trainer.precision, config.trainer.accelerator),
        cache=Path(config.cache).expanduser(),
        rationales=rationales,
    )
    result = make_result(
        chosen, evaluation, streams, runs.hash_of(chosen), None, evaluation.seconds,
        parameters=model.num_parameters(), train_examples=0,
    )  # fmt: skip
    runs.write_config(chosen, folder)
    runs.write_predictions(evaluation.predictions, folder)
    runs.write_result(result, folder)
    log.info("%s", runs.summary(result, folder))


def evaluate_teacher(config: EvaluateConfig, teacher: TeacherConfig) -> None:
    """The accuracy of a teacher's own answers: it is asked without being told the right one, and unparsed is wrong."""
    split: Split = config.evaluation.split
    questions = load_questions(config.data)
    free = asked_freely(config, teacher)
    started = time.perf_counter()
    run(free, questions, Console(width=None if sys.stdout.isatty() else 160))
    found = stored(free, teacher, split)
    lacking = sum(question.id not in found for question in questions[split])
    if lacking:
        raise UserError(
            f"{teacher.name} has not answered {lacking} questions: run the same command again to ask for them"
        )
    predictions = [
        Prediction(q.id, q.question, q.choices, q.answer, found[q.id].text, found[q.id].answer, None, (), q.subset)
        for q in questions[split]
    ]
    evaluation = Evaluation(
        predictions, score(predictions), score_subsets(predictions), 0, time.perf_counter() - started
    )
    result = replace(
        make_result(free, evaluation, [], runs.hash_of(free), None, evaluation.seconds, parameters=0, train_examples=0),
        student=teacher.name,
        method="teacher",
    )
    folder = Path(config.output).expanduser() if config.output else teacher_folder(config, teacher)
    runs.write_config(free, folder)
    runs.write_predictions(evaluation.predictions, folder)
    runs.write_result(result, folder)
    log.info("%s", runs.summary(result, folder))


def _of_run(config: EvaluateConfig, folder: Path, overrides: list[str]) -> ExperimentConfig:
    """The run's configuration, with this call's evaluation settings, and its data and store where it names them."""
    theirs = runs.read_config(folder)
    named = [override.lstrip("+") for override in overrides]
    return replace(
        theirs,
        evaluation=config.evaluation,
        data=config.data if any(name.startswith(("data=", "data.")) for name in named) else theirs.data,
        store=config.store if any(name.startswith("store=") for name in named) else theirs.store,
    )


def _name(config: ExperimentConfig) -> str:
    return f"{config.data.name}-{config.evaluation.split}"
