"""A checkpoint is the new one or the old one, never a half."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from tinyllm.config import Strategy, TrainerConfig
from tinyllm.student.checkpoints import WholeCheckpoints
from tinyllm.student.trainer import make_trainer


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    io = WholeCheckpoints()
    io.save_checkpoint({"weights": torch.arange(1000)}, path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            io.save_checkpoint({"weights": torch.arange(2000)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]
    (tmp_path / ".last.ckpt.123").write_bytes(before[:10])  # of a killed process
    (tmp_path / ".last.ckpt.draft").mkdir()  # of a killed one whose checkpoints are folders
    io.save_checkpoint({"weights": torch.arange(2000)}, path)
    assert len(torch.load(path, weights_only=True)["weights"]) == 2000
    assert sorted(os.listdir(tmp_path)) == [".last.ckpt.draft", "last.ckpt"]


@pytest.mark.parametrize("strategy", [Strategy.auto, Strategy.ddp, Strategy.fsdp])
def test_training_writes_its_checkpoints_so(tmp_path: Path, strategy: Strategy) -> None:
    trainer = make_trainer(
        TrainerConfig(strategy=strategy, precision="32-true"), tmp_path, steps_per_epoch=4, loggers=[], callbacks=[]
    )
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)
