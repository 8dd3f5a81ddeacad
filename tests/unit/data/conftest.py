"""Parquet files in the place of the hub, which these tests never reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` reads the environment when it is imported, so what it took from there is set too."""
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(root: Path, dataset: str, **rows_by_hub_split: list[dict[str, Any]]) -> Path:
    """Writes `<root>/<dataset>/<hub split>-00000-of-00001.parquet`, and returns the root."""
    for hub_split, rows in rows_by_hub_split.items():
        file = root / dataset / f"{hub_split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    return root
