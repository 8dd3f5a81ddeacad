"""Train a student on streams: the best checkpoint by validation accuracy and the last are kept."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tinyllm import processes, runs
from tinyllm.config import ExperimentConfig, MethodConfig, TeacherConfig, TrainerConfig, Weighting
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.errors import UserError
from tinyllm.methods import Stream, single_teacher
from tinyllm.records import Question, Split
from tinyllm.student.adapters import add_adapters, save_and_merge
from tinyllm.student.metrics_csv import MetricsCsv
from tinyllm.student.module import StudentModule
from tinyllm.student.sharding import is_sharded, layout, read, restore
from tinyllm.student.student import Student
from tinyllm.student.trainer import Leave, Progress, make_trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fit:
    """What training came to."""

    valid_accuracy: float | None
    """Best validation accuracy, by `trainer.select_by`; None where no validation ran."""
    steps: int
    """Optimizer steps, those before an interruption included."""
    train_loss: dict[str, float]
    """Last logged loss of each stream, in nats: its term in the loss of an optimizer step, before its weight."""
    seconds: float
    """Of training and validation, those before an interruption included."""
    tokens: int
    """Source and target tokens read, over all streams, epochs and processes."""
    parameters: int
    """Weights that were trained."""
    examples: int
    """Training questions."""
    weights: dict[str, list[float]]
    """Of every stream with a learned weight, the factor exp(-s) at the end of each epoch (`weighting=learned`)."""
    main_process: bool = True
    """False in the other processes of a distributed run, which have nothing more to do."""


def train(
    student: Student,
    config: ExperimentConfig,
    folder: Path,
    questions: Mapping[Split, Sequence[Question]],
    streams: Sequence[Stream],
    rationales: Mapping[Split, Mapping[str, Sequence[str]]],
    loggers: Sequence[Logger],
) -> Fit:
    """Train a student, or its adapters, and leave it with its best weights; adapters are merged into them.

    Args:
        student: changed in place.
        config: `student`, `method.lora`, `weighting`, `loss`, `optimizer`, `trainer`, `evaluation.batch_size` and
            `seed` are read.
        folder: the run's; training goes on from its last checkpoint.
        questions: training and validation questions.
        streams: of the training questions.
        rationales: by split, question id -> one rationale for each option, part of that option's source (PINTO).
        loggers: in addition to `metrics.csv`.

    Raises:
        UserError: for settings that can't work.
    """
    _log_plan(streams, config.method, config.teachers)
    adapters = add_adapters(student.model, config.method.lora) if config.method.lora is not None else None
    student.prepare(config.trainer.accelerator)
    data = QuestionDataModule(
        questions,
        streams,
        student.tokenizer,
        lay_out=student.lay_out,
        max_source_length=student.max_source_length,
        max_target_length=config.student.max_target_length,
        reduction=config.loss.reduction,
        batch_size=config.trainer.batch_size,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        shuffle=config.trainer.shuffle,
        group_by_length=config.trainer.group_by_length,
        seed=config.seed,
        answer_prefix=student.answer_prefix,
        evaluation_batch_size=config.evaluation.batch_size,
        cache=student.cache,
        rationales=rationales,
        form=student.form,
    )
    _log_cuts(data, student.max_source_length, config.student.max_target_length)
    module = StudentModule(
        student,
        {stream.name: stream.weight for stream in streams},
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        warmup_steps=config.optimizer.warmup_steps,
        schedule=config.optimizer.schedule,
        seed=config.seed,
        learned=learned_streams(config, streams),
        learned_lr=config.weighting.lr,
    )
    fitted = fit(module, data, config.trainer, folder, loggers)
    if adapters is not None and fitted.main_process:
        student.model = save_and_merge(adapters, student.model, folder / runs.ADAPTER)
    return fitted


def fit(
    module: StudentModule,
    data: QuestionDataModule,
    trainer_config: TrainerConfig,
    folder: Path,
    loggers: Sequence[Logger],
) -> Fit:
    """Train, going on from the last checkpoint where there is one, and put the best weights into the module's student.

    Raises:
        UserError: for settings of the trainer that can't work.
    """
    last = folder / runs.LAST
    restore(last)
    before = read(last)
    if last.exists():
        log.info("resuming from step %s (%s)", before.get("global_step", "?"), last)
    progress = Progress(list(module.weights), layout(trainer_config.strategy))
    written = before.get("callbacks", {}).get(progress.state_key, {}).get("layout", progress.layout)
    if written != progress.layout:
        trainers = {
            "whole": "trainer=cpu, gpu or ddp",
            "fsdp": "trainer=fsdp",
            "deepspeed": "trainer=deepspeed_zero2 or 3",
        }
        raise UserError(
            f"{last}: expected a checkpoint that trainer.strategy={trainer_config.strategy} can go on from, found "
            f"another's: go on with {trainers[written]}, as before, or remove the run folder to start again"
        )
    csv = MetricsCsv(folder / runs.METRICS, list(module.weights), from_step=before.get("global_step"))
    trainer = make_trainer(
        trainer_config,
        folder,
        steps_per_epoch=len(data.sampler) // data.sampler.accumulate_grad_batches,
        loggers=[csv, *loggers],
        callbacks=[progress, Leave(last)],
    )
    asked = sum(len(batch.questions) for batch in data.valid_batches)
    if asked < trainer.world_size:
        raise UserError(
            f"data.limit_valid: expected at least one validation question for each of {trainer.world_size} "
            f"processes, found {asked}: allow more questions, or use fewer trainer.devices"
        )
    sharded = is_sharded(trainer.strategy)
    if sharded and module.learned:
        raise UserError(
            f"weighting=learned: expected every process to hold all weights, found trainer.strategy="
            f"{trainer_config.strategy}: take trainer=ddp or trainer=gpu"
        )
    if sharded:
        module.whole = replace(module.student, model=copy.deepcopy(module.model))
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad) - len(module.learned)
    module.train()  # from_pretrained gives evaluation mode, and Lightning keeps the mode it finds
    processes.PREEMPTION.deferred = True
    try:
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except SIGTERMException as end:
        raise processes.PREEMPTION.end() from end
    except RuntimeError as error:
        if "only supported on CUDA GPUs" in str(error):
            raise UserError(
                f"trainer.strategy={trainer_config.strategy}: it needs a GPU: choose trainer=ddp"
            ) from error
        raise
    except SystemExit as end:  # Lightning's, for a second Ctrl-C
        raise (processes.PREEMPTION.end() if processes.PREEMPTION.interrupted else end) from end
    finally:
        processes.PREEMPTION.deferred = False
    if processes.PREEMPTION.received:  # in the last step
        raise processes.PREEMPTION.end()
    if module.whole is not None:  # the trained one holds this process's shards
        module.model = module.student.model = module.whole.model
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    if best.best_model_path:
        checkpoint = read(folder / runs.BEST)
        state = checkpoint["state_dict"]
        weights = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        module.model.load_state_dict(weights)
        log.info("the weights of step %d are kept: no later ones were better on validation", checkpoint["global_step"])
    # Processes of their own bring back the path alone, and a run with nothing left to do has logged nothing:
    # what training came to stands in the last checkpoint, which is written at the last step.
    after = read(last)
    states = after.get("callbacks", {})
    score = states.get(best.state_key, {}).get("best_model_score", best.best_model_score)
    state = states.get(progress.state_key, progress.state_dict())
    steps = int(after.get("global_step", trainer.global_step))
    return Fit(
        valid_accuracy=float(score) if score is not None else None,
        steps=steps,
        train_loss=state["train_loss"],
        seconds=state["seconds"],
        tokens=data.sampler.tokens_read(steps),
        parameters=trained,
        examples=len(data.dataset.question_ids),
        weights=state.get("weights", {}),
        main_process=trainer.is_global_zero,
    )


def learned_streams(config: ExperimentConfig, streams: Sequence[Stream]) -> list[str]:
    """Names of the streams whose weight is trained: with `weighting=learned` those of the teachers' texts."""
    if config.weighting.name is not Weighting.learned:
        return []
    return [stream.name for stream in streams if stream.name in config.teachers]


def _log_plan(streams: Sequence[Stream], method: MethodConfig, teachers: Mapping[str, TeacherConfig]) -> None:
    for stream in streams:
        log.info("%s", stream)
    if method.source_rationale:
        log.info("each option is read together with %s's rationale for it", single_teacher(method, teachers))
    if method.lora is not None:
        modules = ", ".join(method.lora.target_modules)
        log.info("adapters of rank %d on %s are trained in place of the weights", method.lora.r, modules)


def _log_cuts(data: QuestionDataModule, max_source_length: int, max_target_length: int) -> None:
    for name, count in data.truncated.items():
        if count:
            log.info(
                "stream %s: the context (or its rationale) of %d training questions is shortened to fit %d tokens",
                name,
                count,
                max_source_length,
            )
    for name, count in data.cut_targets.items():
        if count:
            log.info("stream %s: %d targets are cut at %d tokens", name, count, max_target_length)
