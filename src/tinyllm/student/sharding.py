"""Training whose weights, gradients and optimizer state lie in shards over the processes (FSDP2, DeepSpeed ZeRO).

Only training is sharded. A student that is asked is a whole copy, filled from the shards before every validation: so
asking knows nothing of shards, greedy generation gathers nothing, and each process asks its own share of the questions.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.strategies import Strategy as LightningStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tinyllm.config import Strategy
from tinyllm.errors import UserError

PROGRESS = "progress.ckpt"
"""Inside a folder of shards: the checkpoint without weights and optimizer state."""


def is_sharded(strategy: LightningStrategy) -> bool:
    """Whether a process holds only its part of what is trained."""
    return isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy)


def layout(strategy: Strategy) -> str:
    """How a checkpoint is laid out: one can go on from its own kind alone."""
    return strategy.value if strategy in (Strategy.fsdp, Strategy.deepspeed) else "whole"


@torch.no_grad()
def gather(trained: nn.Module, whole: nn.Module) -> None:
    """Copy trained weights, in fp32, into a module that holds all of them; every process has to call it.

    Args:
        trained: its weights may lie in shards.
        whole: a copy from before they did.
    """
    weights = dict(whole.named_parameters())
    for name, weight in trained.named_parameters():
        weights[name].copy_(_whole(weight))


def _whole(weight: nn.Parameter) -> Tensor:
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    if hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping"):
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        found: Tensor | None = safe_get_full_fp32_param(weight) if weight.requires_grad else None
        if found is not None:
            return found
        with deepspeed.zero.GatheredParameters([weight]):
            return weight.detach().clone()
    return weight


class Zero(DeepSpeedStrategy):
    """DeepSpeed with weights in a file like everyone's, and shards that are replaced as one."""

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning has divided the loss by the passes of a step already; DeepSpeed would do so once more."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights of the whole copy, as of the last validation."""
        whole = cast(Any, self.lightning_module).whole.model
        return {f"model.{name}": weight for name, weight in whole.state_dict().items()}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Weights alone become one file; all else a folder, written beside the one that is there and then renamed."""
        path = Path(self.broadcast(str(filepath)))
        if "optimizer_states" not in checkpoint:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path)
            return
        draft, old = beside(path)
        if self.is_global_zero:
            shutil.rmtree(draft, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, draft, storage_options)
        if self.is_global_zero:
            shards = ("state_dict", "optimizer_states")
            progress = {key: value for key, value in checkpoint.items() if key not in shards}
            torch.save(progress, draft / PROGRESS)
        self.barrier()
        if self.is_global_zero:
            restore(path)
            if path.exists():
                os.replace(path, old)
            os.replace(draft, path)
            shutil.rmtree(old, ignore_errors=True)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """As DeepSpeed does, which would unpickle anything, but only tensors and the types that it writes itself."""
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        try:
            with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
                return super().load_checkpoint(checkpoint_path, weights_only)
        finally:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def beside(path: Path) -> tuple[Path, Path]:
    """Where a folder is written before it takes its name, and where the one before it waits meanwhile."""
    return path.with_name(f".{path.name}.draft"), path.with_name(f".{path.name}.old")


def restore(path: Path) -> None:
    """Put the former folder of shards back, where a killed process had put it aside and not yet renamed the new one."""
    _, old = beside(path)
    if not path.exists():
        with suppress(FileNotFoundError):  # or another process has done it
            os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def read(checkpoint: Path) -> Mapping[str, Any]:
    """A checkpoint's content, without what lies in shards; empty where there is no checkpoint.

    Tensors stay in the file until they are used: those of an optimizer take twice the memory of the weights.
    """
    path = checkpoint / PROGRESS if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: expected a checkpoint of weights and numbers alone, found another or a broken file: "
            "remove the run folder, or choose another hydra.run.dir"
        ) from error
    return content
