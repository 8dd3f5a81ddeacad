"""`tinyllm evaluate`: a run folder, a model folder, a hub id or a teacher -> predictions and result on a split."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything

from tinyllm import processes, runs
from tinyllm.checks import broken_rules
from tinyllm.cli.ignored import log_ignored
from tinyllm.config import EvaluateConfig, ExperimentConfig
from tinyllm.data.questions import check_splits, load_questions
from tinyllm.errors import UserError
from tinyllm.evaluation.evaluate import evaluate, make_result
from tinyllm.evaluation.teacher import evaluate_teacher
from tinyllm.methods import answer_stream
from tinyllm.records import Split
from tinyllm.student.student import Student
from tinyllm.student.trainer import resolve_precision
from tinyllm.teachers.stored import source_rationales

log = logging.getLogger(__name__)
_READ_WITH_RUN = (
    "run=", "output=", "cache=", "store=", "data=", "data.", "evaluation.", "hydra",
    "trainer=", "trainer.precision=", "trainer.accelerator=",
)  # fmt: skip
"""Beginnings of overrides that an evaluation of a run reads."""


def main(config: EvaluateConfig, _: Path) -> None:
    """Evaluate on `evaluation.split` of the run's own data, or of the data that the call names."""
    if config.teacher is not None:
        if config.run is not None:
            raise UserError("evaluate: expected run=... or teacher=..., found both")
        log_ignored(runs.asked_freely(config, config.teacher))
        log.info("%s", runs.summary(*evaluate_teacher(config, config.teacher)))
        return
    trained = Path(config.run).expanduser() if config.run is not None else None
    for override in HydraConfig.get().overrides.task if trained else ():
        if not override.lstrip("+").startswith(_READ_WITH_RUN):
            log.info("%s has no effect: the run has its own", override)
    processes.check_gpu(config.trainer)
    own = runs.read_config(trained) if trained is not None else config
    named = [override.lstrip("+").split("=")[0] for override in HydraConfig.get().overrides.task]
    asked = config if "trainer.precision" in named else own
    precision = resolve_precision(asked.trainer.precision, config.trainer.accelerator)
    chosen: ExperimentConfig = config
    if trained is not None:
        student = Student.load(trained, precision=precision, cache=Path(config.cache).expanduser())
        chosen = runs.with_evaluation_of(trained, config, HydraConfig.get().overrides.task)
        chosen = replace(chosen, trainer=replace(chosen.trainer, precision=asked.trainer.precision))
        for problem in broken_rules(chosen.data, "data."):  # the run may be another's, and its names become folders
            raise UserError(f"{trained / runs.CONFIG}: {problem}")
    questions = load_questions(chosen.data)
    split, digest = chosen.evaluation.split, runs.hash_of(chosen)
    if config.output:
        runs.check_output(Path(config.output).expanduser(), digest)
    check_splits(questions, [split], chosen.data)
    reader = runs.as_trained(chosen, trained) if trained is not None else chosen
    rationales = source_rationales(reader, questions[split], split)
    if trained is None:
        log_ignored(chosen)
        if not chosen.student.pretrained:
            if chosen.method.train:
                raise UserError(
                    f"evaluate: expected run=<folder> or student.pretrained=<model> for method={chosen.method.name}, "
                    "found neither: nothing is trained here (method=inference evaluates random weights)"
                )
            log.info("student.pretrained is null: random weights are evaluated")
        seed_everything(chosen.seed, verbose=False)  # of random weights
        answers = answer_stream(chosen.method, questions[Split.train])
        student = Student.create(chosen, questions[Split.train], [answers], precision=precision)
    student.to(config.trainer.accelerator)
    evaluation = evaluate(student, questions[split], config.evaluation, rationales)
    weights = runs.result_of(trained).weights if trained is not None else None
    result = make_result(reader, evaluation, questions[Split.train], student, digest, weights=weights)
    if trained is not None:
        result = replace(result, trained_by=runs.hash_of(own))
    folder = trained / f"evaluation-{chosen.data.name}-{split}" if trained else Path("runs/evaluate") / digest
    if trained and (folder / runs.RESULT).is_file() and runs.result_of(folder).config_hash != digest:
        folder = folder.with_name(f"{folder.name}-{digest}")  # of other settings: both stay
    folder = Path(config.output).expanduser() if config.output else folder
    runs.write_config(chosen, folder)
    runs.write_evaluation(evaluation.predictions, result, folder)
    log.info("%s", runs.summary(result, folder))
