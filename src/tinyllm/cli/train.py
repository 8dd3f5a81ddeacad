"""`tinyllm train`: questions + rationale store + student -> run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from tinyllm import runs
from tinyllm.config import ExperimentConfig, LoggerName
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.data.questions import load_questions
from tinyllm.errors import UserError
from tinyllm.evaluation.evaluate import Evaluation, evaluate, make_result
from tinyllm.methods import Stream, answer_prefix, build_streams, single_teacher
from tinyllm.paper import deviations
from tinyllm.records import SPLITS, Question, Result, Split
from tinyllm.student import models
from tinyllm.student.adapters import add_adapters, save_and_merge
from tinyllm.student.encoder_decoder import collate
from tinyllm.student.module import StudentModule
from tinyllm.student.training import Fit, fit, resolve_precision
from tinyllm.teachers.stored import option_scores, source_rationales, teacher_answers, training_texts
from tinyllm.teachers.strongest import resolve_strongest_teacher

log = logging.getLogger(__name__)


def main(config: ExperimentConfig, folder: Path) -> None:
    """Train, keep the best and the last checkpoint, evaluate the best once, write the run folder."""
    digest = runs.hash_of(config)
    if (folder / runs.RESULT).is_file():
        try:
            finished = runs.read_result(folder / runs.RESULT)
        except ValueError as error:
            raise UserError(f"{error}: remove {folder} or choose another hydra.run.dir") from error
        if finished.config_hash != digest:
            raise UserError(f"{folder} holds the finished run of another configuration: choose another hydra.run.dir")
        log.info("finished already: %s", runs.summary(finished, folder))
        return
    if (folder / runs.CONFIG).is_file() and runs.hash_of(runs.read_config(folder)) != digest:
        raise UserError(f"{folder} holds the unfinished run of another configuration: choose another hydra.run.dir")
    if config.student.max_target_length < 2:
        raise UserError(f"student.max_target_length: expected 2 or more, found {config.student.max_target_length}")
    precision = resolve_precision(config.trainer.precision, config.trainer.accelerator)
    started = time.perf_counter()
    questions = load_questions(config.data)
    composed, config = config, resolve_strongest_teacher(config, questions[Split.valid])
    split: Split = config.evaluation.split
    read: set[Split] = {Split.train, Split.valid, split} if config.method.train else {Split.train, split}
    rationales = {name: source_rationales(config, questions[name], name) for name in SPLITS if name in read}
    streams = training_streams(config, questions[Split.train])
    runs.write_config(composed, folder)
    (folder / "error.txt").unlink(missing_ok=True)
    log.info("run folder: %s", folder)
    describe(config, questions, streams)
    seed_everything(config.seed, verbose=False)
    model, tokenizer = models.load(config.student, questions[Split.train], streams, rationales[Split.train])
    wanted = config.method.lora if config.method.train else None
    adapters = add_adapters(model, wanted) if wanted is not None else None
    models.prepare(model, accelerator=config.trainer.accelerator)
    loggers = make_loggers(config, folder, digest)
    trained: Fit | None = None
    if config.method.train:
        trained, trainer, model = run_training(
            config, folder, questions, streams, rationales, model, tokenizer, loggers
        )
        if not trainer.is_global_zero:
            return
        if adapters is not None:
            model = save_and_merge(adapters, model, folder / runs.ADAPTER)
    models.save(model, tokenizer, folder / runs.STUDENT)

    device = torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")
    evaluation = evaluate(
        model.to(device),  # type: ignore[arg-type]
        tokenizer,
        questions[split],
        prefix=answer_prefix(config.method),
        voices={s.name: s.prefix for s in streams if s.name in config.teachers} if config.evaluation.rationales else {},
        rationales=rationales[split],
        max_source_length=config.student.max_source_length,
        max_rationale_tokens=config.evaluation.max_rationale_tokens,
        batch_size=config.evaluation.batch_size,
        precision=precision,
        cache=Path(config.cache).expanduser(),
    )
    seconds = trained.seconds if trained else 0.0
    result = make_result(
        config, evaluation, streams, digest, trained, seconds + evaluation.seconds,
        parameters=model.num_parameters(), train_examples=len(questions[Split.train]) if trained else 0,
    )  # fmt: skip
    runs.write_predictions(evaluation.predictions, folder)
    runs.write_result(result, folder)
    log_to_wandb(loggers, result, evaluation)
    log.info("%s (%.0f s in all)", runs.summary(result, folder), time.perf_counter() - started)


def training_streams(config: ExperimentConfig, questions: Sequence[Question]) -> list[Stream]:
    """The method's streams on the training questions, with what the store holds for them."""
    parts = (config.method, config.teachers, config.alpha, config.ablation.drop, questions)
    if not config.method.train:
        return build_streams(*parts, {})
    return build_streams(
        *parts,
        training_texts(config, questions),
        answers=teacher_answers(config, questions),
        scores=option_scores(config, questions),
    )


def describe(config: ExperimentConfig, questions: dict[Split, list[Question]], streams: Sequence[Stream]) -> None:
    """Say what the run is made of."""
    counts = ", ".join(f"{len(questions[split])} {split}" for split in SPLITS)
    log.info("%s: %s", config.data.name, counts)
    for key, (paper, own) in deviations(config).items():
        log.info("not the paper's: %s is %s (paper: %s)", key, own, paper)
    for stream in streams:
        log.info(
            "stream %s: weight %g, prefix %r, %d targets%s",
            stream.name,
            stream.weight,
            stream.prefix,
            len(stream.targets),
            f", {stream.mask:.0%} of the rationale in the source masked" if stream.mask else "",
        )
    if config.method.source_rationale:
        log.info("every source holds the rationale of %s", single_teacher(config.method, config.teachers))
    if config.method.lora is not None and config.method.train:
        lora = config.method.lora
        log.info(
            "adapters of rank %d on %s are trained in place of the weights", lora.r, ", ".join(lora.target_modules)
        )


def run_training(
    config: ExperimentConfig,
    folder: Path,
    questions: dict[Split, list[Question]],
    streams: Sequence[Stream],
    rationales: dict[Split, dict[str, str]],
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    loggers: Sequence[Logger],
) -> tuple[Fit, Trainer, T5ForConditionalGeneration]:
    """Build module and data module, and fit; returns the model with the best weights."""
    data = QuestionDataModule(
        questions,
        streams,
        tokenizer,
        collate=partial(collate, start_id=model.config.decoder_start_token_id),
        max_source_length=config.student.max_source_length,
        max_target_length=config.student.max_target_length,
        reduction=config.loss.reduction,
        batch_size=config.trainer.batch_size,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        shuffle=config.trainer.shuffle,
        group_by_length=config.trainer.group_by_length,
        seed=config.seed,
        answer_prefix=answer_prefix(config.method),
        evaluation_batch_size=config.evaluation.batch_size,
        cache=Path(config.cache).expanduser(),
        rationales=rationales,
    )
    for name, count in data.truncated.items():
        if count:
            log.info(
                "stream %s: the context (or the rationale beside it) of %d training questions is shortened to fit %d "
                "tokens",
                name,
                count,
                config.student.max_source_length,
            )
    for name, count in data.cut_targets.items():
        if count:
            log.info("stream %s: %d targets are cut at %d tokens", name, count, config.student.max_target_length)
    module = StudentModule(
        model,
        tokenizer,
        [stream.name for stream in streams],
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        warmup_steps=config.optimizer.warmup_steps,
        schedule=config.optimizer.schedule,
        seed=config.seed,
    )
    trained, trainer = fit(module, data, config.trainer, folder, loggers)
    return trained, trainer, module.model


def make_loggers(config: ExperimentConfig, folder: Path, digest: str) -> list[Logger]:
    """Weights & Biases where it is asked for; metrics.csv is added by `fit`."""
    if config.logger.name is LoggerName.csv:
        return []
    logger = WandbLogger(
        project=config.logger.project,
        entity=config.logger.entity,
        name="/".join(folder.parts[-3:]),
        id=digest,
        resume="allow",
        save_dir=folder,
        mode=config.logger.mode,
        config=OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True),
    )
    return [logger]


def log_to_wandb(loggers: Sequence[Logger], result: Result, evaluation: Evaluation) -> None:
    """The result as the run's summary, and every prediction in a table."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({f"result/{key}": value for key, value in asdict(result).items()})
            columns = ["id", "question", "choices", "answer", "generated", "predicted", "ranked"]
            rows = [[str(getattr(p, column)) for column in columns] for p in evaluation.predictions]
            logger.log_table("predictions", columns=columns, data=rows)
            logger.experiment.finish()
