"""Fit a student with Lightning: the best checkpoint by validation accuracy and the last are kept."""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.strategies import Strategy as LightningStrategy

from tinyllm.config import Strategy, TrainerConfig
from tinyllm.data.datamodule import QuestionDataModule
from tinyllm.errors import UserError
from tinyllm.student.metrics_csv import MetricsCsv
from tinyllm.student.module import StudentModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fit:
    """What training came to."""

    valid_accuracy: float | None
    """Best validation accuracy, by `trainer.select_by`; None where no validation ran."""
    steps: int
    """Optimizer steps, those before an interruption included."""
    train_loss: dict[str, float]
    """Last loss of each stream, in nats."""
    seconds: float
    """Of training and validation, those before an interruption included."""
    tokens: int
    """Source and target tokens read, over all streams, epochs and processes."""
    parameters: int
    """Weights that were trained."""


def resolve_precision(precision: str, accelerator: str) -> str:
    """`auto` becomes bf16-mixed where the hardware computes in bf16, else 32-true.

    Raises:
        UserError: for fp16, which overflows in T5's feed-forward layers (transformers issue 4586): NaN losses.
    """
    if precision.startswith("16") or "float16" in precision.replace("bfloat16", ""):
        raise UserError(
            f"trainer.precision={precision}: fp16 overflows in T5 and gives NaN losses; "
            "choose bf16-mixed (same speed on current cards) or 32-true"
        )
    if precision != "auto":
        return precision
    if accelerator == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"


def _launched_from_outside() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ


def make_strategy(trainer: TrainerConfig) -> LightningStrategy | str:
    """The Lightning strategy of a trainer's settings.

    DDP on one node spawns its processes from this one, so that a job of a sweep stays one job and writes one folder;
    torchrun and SLURM bring their own processes, which FSDP and DeepSpeed need on several cards.

    Raises:
        UserError: for a strategy that is not installed, or not started by torchrun or SLURM where it has to be.
    """
    options: dict[str, Any] = dict(trainer.strategy_options)
    if trainer.strategy is Strategy.ddp:
        if _launched_from_outside():
            return DDPStrategy(**options)
        if trainer.accelerator == "cpu":
            options = {"process_group_backend": "gloo", **options}
        return DDPStrategy(start_method="spawn", **options)
    if (
        trainer.strategy in (Strategy.deepspeed, Strategy.fsdp)
        and trainer.devices != 1
        and not _launched_from_outside()
    ):
        raise UserError(
            f"trainer.strategy={trainer.strategy}: on several cards start it with "
            "'torchrun --no-python --nproc-per-node=<cards> tinyllm train ... trainer.devices=<cards>', or under SLURM"
        )
    if trainer.strategy is Strategy.deepspeed:
        try:
            strategy = DeepSpeedStrategy(**options)
        except (ImportError, ModuleNotFoundError) as error:
            raise UserError(
                "trainer.strategy=deepspeed: DeepSpeed is not installed: pip install 'tinyllm[deepspeed]'"
            ) from error
        # Lightning would look for the batch size of a batch sampler, which planned steps don't have.
        assert isinstance(strategy.config, dict)
        strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)
        return strategy
    return FSDPStrategy(**options) if trainer.strategy is Strategy.fsdp else "auto"


class _Progress(Callback):
    """A line after every validation, a stop at the step limit that validates first, and the seconds spent so far."""

    def __init__(self, streams: Sequence[str]) -> None:
        self.streams = streams
        self.train_loss: dict[str, float] = {}
        self.before = 0.0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {name: f"train/loss/{name}" for name in self.streams}
        logged = trainer.callback_metrics
        self.train_loss |= {name: float(logged[key]) for name, key in names.items() if key in logged}
        if trainer.is_global_zero and not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            log.info(
                "step %d of %s: loss %.3f, valid/accuracy %.3f (ranked %.3f), %.0f s",
                trainer.global_step,
                trainer.estimated_stepping_batches,
                float(metrics.get("train/loss", float("nan"))),
                float(metrics["valid/accuracy"]),
                float(metrics["valid/accuracy_ranked"]),
                self.seconds,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "train_loss": self.train_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["seconds"])
        self.train_loss = dict(state_dict["train_loss"])


def make_trainer(
    trainer: TrainerConfig,
    folder: Path,
    *,
    steps_per_epoch: int,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
) -> Trainer:
    """A Lightning Trainer that writes `checkpoints/best.ckpt` and `checkpoints/last.ckpt` under `folder`.

    Raises:
        UserError: for settings that can't work: a batch that does not split, precision, strategy or missing hardware.
    """
    if (
        trainer.batch_size < 1
        or trainer.accumulate_grad_batches < 1
        or trainer.batch_size % trainer.accumulate_grad_batches
    ):
        raise UserError(
            f"trainer.batch_size={trainer.batch_size}: expected a multiple of "
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
        )
    if trainer.valid_every <= 0:
        raise UserError(f"trainer.valid_every={trainer.valid_every}: expected a number of epochs above 0")
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu: no CUDA card is visible; choose trainer=cpu")
    interval = max(1, round(trainer.valid_every * steps_per_epoch)) * trainer.accumulate_grad_batches
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_top_k": 1,
        "enable_version_counter": False,
        "save_on_train_epoch_end": False,
    }
    best = ModelCheckpoint(filename="best", monitor=f"valid/{trainer.select_by}", mode="max", **common)
    # Its `save_last` writes only where the best one changes; and the last must hold the best one's state.
    last = ModelCheckpoint(filename="last", **common)
    bar = trainer.progress_bar and sys.stderr.isatty()
    try:
        return Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=make_strategy(trainer),
            precision=resolve_precision(trainer.precision, trainer.accelerator),  # type: ignore[arg-type]
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            gradient_clip_val=trainer.gradient_clip,
            val_check_interval=interval,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=trainer.log_every,
            logger=list(loggers),
            callbacks=[best, last, *callbacks, *([TQDMProgressBar(leave=True)] if bar else [])],
            enable_progress_bar=bar,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: Lightning refuses these settings: {' '.join(str(error).split())}") from error


def fit(
    module: StudentModule,
    data: QuestionDataModule,
    trainer_config: TrainerConfig,
    folder: Path,
    loggers: Sequence[Logger],
) -> tuple[Fit, Trainer]:
    """Train, going on from `checkpoints/last.ckpt` where it exists, and put the best weights into `module.model`.

    Returns:
        What it came to, and the trainer (for `is_global_zero`: other processes have nothing more to do).
    """
    last = folder / "checkpoints" / "last.ckpt"
    before = _read(last)
    if last.exists():
        log.info("going on from step %s (%s)", before.get("global_step", "?"), last)
    progress = _Progress(module.streams)
    csv = MetricsCsv(folder / "metrics.csv", module.streams, from_step=before.get("global_step"))
    trainer = make_trainer(
        trainer_config,
        folder,
        steps_per_epoch=len(data.sampler) // data.sampler.accumulate_grad_batches,
        loggers=[csv, *loggers],
        callbacks=[progress],
    )
    sharded = isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy)
    whole = copy.deepcopy(module.model) if sharded else None
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    module.train()  # from_pretrained gives evaluation mode, and Lightning keeps the mode it finds
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if whole is not None:  # the trained one holds this process's shards
        module.model = whole
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    if best.best_model_path:
        _load_weights(module, Path(best.best_model_path))
    # Processes of their own bring back the path alone, and a run with nothing left to do has logged nothing:
    # what training came to stands in the last checkpoint, which is written at the last step.
    after = _read(last)
    states = after.get("callbacks", {})
    score = states.get(best.state_key, {}).get("best_model_score", best.best_model_score)
    state = states.get(progress.state_key, progress.state_dict())
    steps = int(after.get("global_step", trainer.global_step))
    fitted = Fit(
        float(score) if score is not None else None, steps, state["train_loss"], state["seconds"],
        data.sampler.tokens_read(steps), trained,
    )  # fmt: skip
    return fitted, trainer


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's content; empty where there is none, or where it lies in shards."""
    if not checkpoint.is_file():
        return {}
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return content


def _load_weights(module: StudentModule, path: Path) -> None:
    if path.is_dir():  # DeepSpeed writes its checkpoints in shards
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state = get_fp32_state_dict_from_zero_checkpoint(str(path))
        module.load_state_dict({key.removeprefix("_forward_module."): value for key, value in state.items()})
        return
    module.load_state_dict(_read(path)["state_dict"])
