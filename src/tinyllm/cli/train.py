"""`tinyllm train`: questions + rationale store + student -> run folder."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import seed_everything

from tinyllm import processes, runs
from tinyllm.cli.ignored import log_ignored
from tinyllm.config import ExperimentConfig, Metric
from tinyllm.data.questions import check_splits, load_questions
from tinyllm.deviations import deviations
from tinyllm.evaluation.evaluate import evaluate, make_result
from tinyllm.methods import prompt_kinds
from tinyllm.records import Result, Split
from tinyllm.student.loggers import closed_on_failure, log_result, make_loggers
from tinyllm.student.student import Student
from tinyllm.student.trainer import resolve_precision
from tinyllm.student.training import train
from tinyllm.teachers.stored import resolve_strongest_teacher, source_rationales, training_streams
from tinyllm.weighting.weigh import left, summary, weigh

log = logging.getLogger(__name__)


def main(config: ExperimentConfig, folder: Path) -> None:
    """Train and evaluate, in processes of its own where there are several devices and nobody else has started them."""
    if (result := runs.finished(folder, runs.hash_of(config))) is not None:
        runs.check_files(config, folder)
        _log_finished(config, folder, result)
        return
    processes.check(config.trainer)
    if not config.method.train and processes.rank() > 0:
        return  # the first process alone evaluates
    if config.method.train and processes.count(config.trainer) > 1 and not processes.started_outside():
        processes.start(run, config.trainer, config, folder)
    else:
        run(config, folder)


def run(config: ExperimentConfig, folder: Path) -> None:
    """Train, keep the best and the last checkpoint, evaluate the best once, write the run folder."""
    first = processes.rank() == 0
    with runs.alone(folder) if first else nullcontext(), processes.handled(processes.PREEMPTION):
        if first:
            runs.check_files(config, folder)
            # Another process may have finished it meanwhile; those of this run can't know, and go on together.
            if (
                processes.is_single(config.trainer)
                and (result := runs.finished(folder, runs.hash_of(config))) is not None
            ):
                _log_finished(config, folder, result)
                return
        _run(config, folder)


def _run(config: ExperimentConfig, folder: Path) -> None:
    processes.take_device(config.trainer)
    digest = runs.hash_of(config)
    precision = resolve_precision(config.trainer.precision, config.trainer.accelerator)
    started = time.perf_counter()
    questions = load_questions(config.data)
    composed, config = config, resolve_strongest_teacher(config, questions[Split.valid])
    split = config.evaluation.split
    needed = [Split.train, Split.valid, split] if config.method.train else [Split.train, split]
    check_splits(questions, needed, config.data)
    rationales = {name: source_rationales(config, questions[name], name) for name in dict.fromkeys(needed)}
    streams = training_streams(config, questions[Split.train])
    runs.write_config(composed, folder)
    (folder / runs.ERROR).unlink(missing_ok=True)
    log.info("run folder: %s", folder)
    log.info("%s: %s", config.data.name, ", ".join(f"{len(part)} {name}" for name, part in questions.items()))
    log_ignored(composed)
    _log_deviations(deviations(config))
    seed_everything(config.seed, verbose=False)
    student = Student.create(config, questions[Split.train], streams, rationales[Split.train], precision=precision)
    weighed = weigh(config, questions[Split.train], streams, student)
    streams = left(weighed)
    student.voices = {name: prefix for name, prefix in student.voices.items() if name in {s.name for s in streams}}
    loggers = make_loggers(config.logger, folder, runs.as_mapping(config))
    with closed_on_failure(loggers):
        trained = (
            train(student, config, folder, questions, streams, rationales, loggers) if config.method.train else None
        )
        if trained is not None and not trained.main_process:
            return
        student.save(folder / runs.STUDENT, config.student.max_target_length)
        student.to(config.trainer.accelerator)
        evaluation = evaluate(student, questions[split], config.evaluation, rationales[split])
        result = make_result(
            config,
            evaluation,
            questions[Split.train],
            student,
            digest,
            trained,
            valid_examples=len(questions[Split.valid]),
            weights=summary(weighed, list(config.teachers), trained.weights if trained else {}),
        )
        runs.write_evaluation(evaluation.predictions, result, folder)
        log_result(loggers, result, evaluation.predictions)
        if 2 * result.unparsed > result.n:
            ranked = config.trainer.select_by is Metric.accuracy_ranked or not config.method.train
            also = "" if ranked else ", and let it select too (trainer.select_by=accuracy_ranked)"
            mute = f"{result.unparsed} of {result.n} written answers name no option"
            log.info("%s: compare students by ranking ('tinyllm report metric=accuracy_ranked')%s", mute, also)
        log.info("%s (%.0f s in total)", runs.summary(result, folder), time.perf_counter() - started)


def _log_finished(config: ExperimentConfig, folder: Path, result: Result) -> None:
    log.info("finished already: %s", runs.summary(result, folder))
    if (folder / runs.CONFIG).is_file() and prompt_kinds(config.method, config.prompt):
        store = runs.read_config(folder).store
        if Path(store).expanduser().resolve() != Path(config.store).expanduser().resolve():
            log.warning(
                "it learned the texts of store=%s; for those of %s choose another hydra.run.dir", store, config.store
            )


def _log_deviations(found: dict[str, list[str]]) -> None:
    """A line each, but one for all where no row of the paper's tables is meant."""
    if names := [f"{key}={found[key][1]}" for key in ("data.name", "student.name") if key in found]:
        also = f" and {len(found) - len(names)} other settings" if len(found) > len(names) else ""
        log.info("differs from the paper: %s%s ('deviations' in %s)", ", ".join(names), also, runs.RESULT)
        return
    for key, (paper, own) in found.items():
        log.info("differs from the paper: %s=%s (paper: %s)", key, own, paper)
