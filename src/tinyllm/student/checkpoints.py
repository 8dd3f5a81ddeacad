"""Checkpoints that a killed process or a full disk leaves whole: the last one that was written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tinyllm.runs import write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its path and renames it.

    Lightning's own writes it to the folder of temporary files. Where that is on another file system, moving it is
    copying it over the checkpoint before, and a kill in between leaves half a one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """As in Lightning.

        Raises:
            OSError: no space is left; the file is as it was.
        """
        path = Path(path)
        for draft in path.parent.glob(f".{path.name}.*"):  # of a killed process
            if not draft.is_dir():
                draft.unlink(missing_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(path, buffer.getbuffer())
