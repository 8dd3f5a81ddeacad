"""A Lightning Trainer from a trainer's settings: precision, strategy, checkpoints, progress."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies import Strategy as LightningStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.nn.parallel import DistributedDataParallel

from tinyllm import processes
from tinyllm.config import Accelerator, Strategy, TrainerConfig
from tinyllm.errors import UserError
from tinyllm.student.checkpoints import WholeCheckpoints
from tinyllm.student.sharding import Zero, is_sharded

log = logging.getLogger(__name__)


def resolve_precision(precision: str, accelerator: Accelerator) -> str:
    """`auto` becomes bf16-mixed where the hardware computes in bf16, else 32-true.

    Raises:
        UserError: for fp16, which overflows in T5's feed-forward layers (transformers issue 4586): NaN losses.
    """
    if precision.startswith("16") or "float16" in precision.replace("bfloat16", ""):
        raise UserError(
            f"trainer.precision={precision}: fp16 overflows in T5 and gives NaN losses; "
            "choose bf16-mixed (same speed on current GPUs) or 32-true"
        )
    if precision != "auto":
        return precision
    if accelerator is Accelerator.cpu:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"


def make_strategy(trainer: TrainerConfig) -> LightningStrategy | str:
    """The Lightning strategy of a trainer's settings; `processes` has started its processes.

    Raises:
        UserError: for a strategy that is not installed, or an option that it has not.
    """
    options: dict[str, Any] = dict(trainer.strategy_options)
    if trainer.strategy is Strategy.ddp:
        known = {*signature(DDPStrategy).parameters, *signature(DistributedDataParallel).parameters}
        if unknown := sorted(options.keys() - known):
            raise UserError(f"trainer.strategy_options.{unknown[0]}: neither Lightning nor PyTorch has it for ddp")
        return DDPStrategy(**options)
    if trainer.strategy is Strategy.fsdp:
        shards = trainer.num_nodes * processes.count(trainer)
        sizes = {"data_parallel_size": shards, "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
        return ModelParallelStrategy(**sizes, **options)  # type: ignore[arg-type]
    if trainer.strategy is Strategy.deepspeed:
        if options.get("stage", 2) not in range(4):
            raise UserError(f"trainer.strategy_options.stage={options['stage']}: expected 0, 1, 2 or 3")
        try:
            strategy = Zero(**options)
        except (ImportError, ModuleNotFoundError) as error:
            raise UserError(
                "trainer.strategy=deepspeed: DeepSpeed is not installed: 'make deepspeed', or "
                "'DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed'"
            ) from error
        # Lightning would look for the batch size of a batch sampler, which planned steps don't have.
        assert isinstance(strategy.config, dict)
        strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)
        # It would refuse our AdamW where it offloads, for one of its own that takes a compiler.
        strategy.config.setdefault("zero_force_ds_cpu_optimizer", False)
        return strategy
    return "auto"


def _leave_process_group() -> None:
    """A process that ends inside its group can be aborted by gloo's threads; Lightning only leaves groups of nccl."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Progress(Callback):
    """A line after every validation, a stop at the step limit that validates first, and what a run tells of itself: the
    seconds spent so far, and the learned weights by epoch.

    Args:
        streams: names.
        layout: how checkpoints are laid out (`sharding.layout`).
    """

    def __init__(self, streams: Sequence[str], layout: str) -> None:
        self.streams = streams
        self.layout = layout
        self.train_loss: dict[str, float] = {}
        self.weights: dict[str, list[float]] = {}
        self.before = 0.0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()
        if torch.distributed.is_initialized():
            atexit.register(_leave_process_group)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {name: f"train/loss/{name}" for name in self.streams}
        logged = trainer.callback_metrics
        self._note_weights(trainer, pl_module)
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note_weights(trainer, pl_module)

    def _note_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, weight in pl_module.learned_weights().items():  # type: ignore[operator]
            past = self.weights.setdefault(name, [])
            past[trainer.current_epoch :] = [weight]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The run folder may have been moved: best and last checkpoint lie where they are written now."""
        states = checkpoint.get("callbacks", {})
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
                states[callback.state_key] = _moved(states[callback.state_key], Path(str(callback.dirpath)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "train_loss": self.train_loss,
            "weights": self.weights,
            "layout": self.layout,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["seconds"])
        self.train_loss = dict(state_dict["train_loss"])
        self.weights = dict(state_dict.get("weights", {}))  # of no checkpoint of an earlier version


def _moved(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ModelCheckpoint with its files in another folder."""

    def there(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {key: there(value) for key, value in state.items() if key.endswith("_path") and isinstance(value, str)}
    best = {there(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": best, "dirpath": str(folder)}


class Leave(Callback):
    """After a signal that asks to leave, save at the end of an optimizer step, the same in all processes, and stop.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        processes.PREEMPTION.listen()  # Lightning's own handlers can't save, and can hang

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return
        received = processes.PREEMPTION.received
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:  # Lightning logs the step, validates if it is time, and raises
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            if self.saved != trainer.global_step:
                trainer.save_checkpoint(self.path)
            log.info("stopped by a signal after step %d: run the same command again to resume", trainer.global_step)


def _as_it_is(batch: Any) -> Any:
    """A batch with its own types: plugins of sharded and half precision would round the fp32 normalisers of a training
    batch to bf16, and can't walk through the frozen records of a validation batch."""
    return batch


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
        UserError: for settings that can't work: precision or strategy. `processes.check` has looked for the hardware.
    """
    interval = max(1, round(trainer.valid_every * steps_per_epoch)) * trainer.accumulate_grad_batches
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_top_k": 1,
        "enable_version_counter": False,
        "save_on_train_epoch_end": False,
    }
    monitor = f"valid/{trainer.select_by}"
    best = ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_weights_only=True, **common)
    # Its `save_last` writes only where the best one changes; and the last must hold the best one's state.
    last = ModelCheckpoint(filename="last", **common)
    bar = trainer.progress_bar and sys.stderr.isatty()
    try:
        strategy = make_strategy(trainer)
        made = Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=strategy,
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
            inference_mode=isinstance(strategy, str) or not is_sharded(strategy),  # validation gathers weights
            default_root_dir=folder,
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"trainer: Lightning refuses these settings: {' '.join(str(error).split())}") from error
    made.strategy.checkpoint_io = WholeCheckpoints()
    made.precision_plugin.convert_input = _as_it_is  # type: ignore[assignment]
    if isinstance(made.precision_plugin, HalfPrecision | DoublePrecision):
        # Lightning would change PyTorch's default type as well as the weights, but masks and losses are fp32.
        made.precision_plugin.forward_context = nullcontext  # type: ignore[assignment]
    return made
