"""`tinyllm evaluate`: a run folder, a model folder or a hub id -> predictions and result on a split."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig

from tinyllm.cli.train import answer_prefix, check_split, load_student, make_result, summary
from tinyllm.config import EvaluateConfig, ExperimentConfig
from tinyllm.data.questions import load_questions
from tinyllm.data.streams import Stream, chosen_teachers
from tinyllm.errors import UserError
from tinyllm.evaluation import run_folder
from tinyllm.evaluation.evaluate import evaluate
from tinyllm.student import models
from tinyllm.student.training import resolve_precision

log = logging.getLogger(__name__)


def main(config: EvaluateConfig, _: Path) -> None:
    """Evaluate on `evaluation.split` of the run's own data, or of the data that the call names."""
    check_split(config)
    chosen: ExperimentConfig = config
    if config.run is not None:
        run = Path(config.run).expanduser()
        chosen = _of_run(config, run, HydraConfig.get().overrides.task)
        folder = Path(config.output).expanduser() if config.output else run / f"evaluation-{_name(chosen)}"
        student = run / run_folder.STUDENT
        if not student.is_dir():
            raise UserError(
                f"{run}: expected a finished run with {run_folder.STUDENT}, found none: run 'tinyllm train'"
            )
        model, tokenizer = models.load_pretrained(str(student))
    else:
        if not chosen.student.pretrained and not chosen.method.train:
            log.info("student.pretrained is null: random weights are evaluated")
        folder = Path(config.output or f"runs/evaluate/{run_folder.hash_of(chosen)}").expanduser()
    questions = load_questions(chosen.data)
    if config.run is None:
        answers = Stream("answer", answer_prefix(chosen), 1.0, {q.id: q.answer for q in questions["train"]})
        model, tokenizer = load_student(chosen.student, questions["train"], [answers])
    names = chosen_teachers(chosen.method, chosen.teachers, chosen.alpha, chosen.ablation.drop)
    streams = [Stream(name, chosen.teachers[name].prefix, chosen.alpha.get(name, 1.0), {}) for name in names]
    models.prepare(model, accelerator=config.trainer.accelerator)
    device = torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")
    evaluation = evaluate(
        model.to(device),  # type: ignore[arg-type]
        tokenizer,
        questions[chosen.evaluation.split],  # type: ignore[index]
        prefix=answer_prefix(chosen),
        voices={stream.name: stream.prefix for stream in streams} if config.evaluation.rationales else {},
        max_source_length=chosen.student.max_source_length,
        max_rationale_tokens=config.evaluation.max_rationale_tokens,
        batch_size=config.evaluation.batch_size,
        precision=resolve_precision(config.trainer.precision, config.trainer.accelerator),
        cache=Path(config.cache).expanduser(),
    )
    result = make_result(
        chosen, evaluation, streams, run_folder.hash_of(chosen), None, evaluation.seconds, train_examples=0
    )
    run_folder.write_config(chosen, folder)
    run_folder.write_predictions(evaluation.predictions, folder)
    run_folder.write_result(result, folder)
    log.info("%s", summary(result, folder))


def _of_run(config: EvaluateConfig, run: Path, overrides: list[str]) -> ExperimentConfig:
    """The run's configuration, with the evaluation settings of this call, and its data where the call names some."""
    stored = run_folder.read_config(run)
    names_data = any(override.lstrip("+").startswith(("data=", "data.")) for override in overrides)
    return replace(stored, evaluation=config.evaluation, data=config.data if names_data else stored.data)


def _name(config: ExperimentConfig) -> str:
    return f"{config.data.name}-{config.evaluation.split}"
