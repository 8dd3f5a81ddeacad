"""The processes of one training run on this machine: started here, or by torchrun, SLURM or submitit."""

from __future__ import annotations

import os

import torch

from tinyllm.config import Accelerator, TrainerConfig


def rank() -> int:
    """Of this process among those of its run; 0 where it is alone."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def started_outside() -> bool:
    """Whether torchrun or SLURM has started this process beside others of its run."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def count(trainer: TrainerConfig) -> int:
    """Processes of a run on this machine."""
    if trainer.devices != -1:
        return trainer.devices
    return torch.cuda.device_count() if trainer.accelerator is Accelerator.gpu else 1
