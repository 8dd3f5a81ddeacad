"""Run folders -> one frame with a row a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from tinyllm.errors import UserError
from tinyllm.evaluation import run_folder

log = logging.getLogger(__name__)


def collect(folders: Sequence[Path]) -> pd.DataFrame:
    """All results below the folders; a broken or foreign `result.json` is named and skipped.

    Returns:
        The fields of `records.Result`, flattened (`subset/hidden/accuracy`), plus `folder` and `setting`: the same for
        runs that differ in their seed alone.

    Raises:
        UserError: when a folder is missing, or none holds a result.
    """
    rows: list[dict[str, object]] = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"runs: expected a folder, found none at {folder}")
        for path in sorted(folder.rglob(run_folder.RESULT)):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                result = run_folder.read_result(path)
            except ValueError as error:
                log.warning("skipped: %s", error)
                continue
            row = asdict(result)
            for name, scores in row.pop("subsets").items():
                row |= {f"subset/{name}/{key}": value for key, value in scores.items()}
            row["alpha"] = " ".join(f"{name}={weight:g}" for name, weight in result.alpha.items())
            row["teachers"] = "+".join(result.teachers)
            row["train_loss"] = " ".join(f"{name}={loss:.4f}" for name, loss in result.train_loss.items())
            row["setting"] = _setting(path.parent) or result.config_hash
            row["folder"] = str(path.parent)
            rows.append(row)
    if not rows:
        raise UserError(f"runs: no {run_folder.RESULT} below {', '.join(map(str, folders))}: run 'tinyllm train'")
    return pd.DataFrame(rows)


def _setting(folder: Path) -> str | None:
    try:
        config = run_folder.read_config(folder)
    except UserError:
        return None
    return run_folder.hash_of(replace(config, seed=0, data=replace(config.data, seed=0)))
