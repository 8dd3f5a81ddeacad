"""The files of a run folder: `config.yaml`, `predictions.jsonl`, `result.json`, and the student."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyllm.config import ExperimentConfig, config_hash
from tinyllm.data.streams import chosen_teachers
from tinyllm.errors import UserError
from tinyllm.records import Prediction, Result
from tinyllm.teachers.strongest import doubled

CONFIG, METRICS, PREDICTIONS, RESULT = "config.yaml", "metrics.csv", "predictions.jsonl", "result.json"
CHECKPOINTS, LAST = "checkpoints", "checkpoints/last.ckpt"
STUDENT = "checkpoints/student"
"""The best checkpoint as a Hugging Face model folder, with the tokenizer; with LoRA, the adapters merged."""
ADAPTER = "checkpoints/adapter"
"""The best adapters in peft's format, of a run with LoRA."""


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a killed process leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def hash_of(config: ExperimentConfig) -> str:
    """The run's `config_hash`."""
    values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))
    return config_hash(values)


def write_config(config: ExperimentConfig, folder: Path) -> None:
    """Write the resolved configuration: an experiment's keys, without those that only a stage has."""
    own = ExperimentConfig(**{field.name: getattr(config, field.name) for field in fields(ExperimentConfig)})
    _write(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(own), resolve=True))


def read_config(folder: Path) -> ExperimentConfig:
    """Read it back.

    Raises:
        UserError: when the folder holds no configuration, or one that this version can't read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{folder}: expected a run folder with {CONFIG}, found none: give a folder that 'tinyllm train' wrote"
        )
    try:
        loaded = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), OmegaConf.load(path))
        return cast(ExperimentConfig, OmegaConf.to_object(loaded))
    except (OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a configuration of this version ({str(error).splitlines()[0]})") from error


def write_predictions(predictions: Iterable[Prediction], folder: Path) -> None:
    """One JSON line a question, in the order given."""
    lines = []
    for prediction in predictions:
        row = asdict(prediction)
        for optional in ("rationales", "subset"):
            if not row[optional]:
                del row[optional]
        lines.append(json.dumps(row, ensure_ascii=False))
    _write(folder / PREDICTIONS, "\n".join(lines) + "\n")


def write_result(result: Result, folder: Path) -> None:
    """Write `result.json`; its presence says that the run is finished."""
    _write(folder / RESULT, json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        ValueError: when it is broken or foreign, with what is wrong.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    names = {field.name for field in fields(Result)}
    needed = {"dataset", "student", "method", "n", "accuracy", "accuracy_low", "accuracy_high", "seed", "config_hash"}
    if not isinstance(row, dict) or needed - set(row):
        missing = ", ".join(sorted(needed - set(row))) if isinstance(row, dict) else "an object"
        raise ValueError(f"{path}: not a result of tinyllm (lacks {missing})")
    try:
        row["teachers"] = tuple(row.get("teachers", ()))
        return Result(**{key: value for key, value in row.items() if key in names})
    except TypeError as error:
        raise ValueError(f"{path}: not a result of this version ({error})") from error


def taught_teachers(folder: Path) -> dict[str, str]:
    """Source prefix of every teacher whose rationales a finished run's student was taught, by name.

    Raises:
        UserError: when the folder is no finished run.
    """
    names = _teachers(folder)
    config = as_trained(read_config(folder), folder)
    voices = chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop)
    return {name: config.teachers[name].prefix for name in names if name in voices}


def as_trained(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """A finished run's configuration with the teachers that it had: `ablation.strongest` is carried out.

    Raises:
        UserError: when the folder is no finished run.
    """
    names = _teachers(folder)
    return doubled(config, names[0]) if config.ablation.strongest is not None and names else config


def _teachers(folder: Path) -> tuple[str, ...]:
    if not (folder / RESULT).is_file():
        raise UserError(f"{folder}: expected a finished run with {RESULT}, found none: run 'tinyllm train'")
    try:
        return read_result(folder / RESULT).teachers
    except ValueError as error:
        raise UserError(str(error)) from error


def summary(result: Result, folder: Path) -> str:
    """One line for people."""
    ranked = (
        f"ranked {result.accuracy_ranked:.3f} [{result.accuracy_ranked_low:.3f}, {result.accuracy_ranked_high:.3f}], "
        if result.accuracy_ranked is not None
        else ""
    )
    return (
        f"{result.dataset}/{result.split} {result.student} {result.method}: accuracy {result.accuracy:.3f} "
        f"[{result.accuracy_low:.3f}, {result.accuracy_high:.3f}], {ranked}n {result.n}, "
        f"{result.unparsed} unparsed; {folder / RESULT}"
    )
