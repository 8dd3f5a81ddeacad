"""A run: its files, its name and its hash, written and read in one place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyllm import paper
from tinyllm.config import DataConfig, Engine, EvaluateConfig, ExperimentConfig, Source, TeacherConfig
from tinyllm.errors import BusyError, UserError
from tinyllm.methods import chosen_teachers, prompt_kinds, two_samples_of
from tinyllm.records import Prediction, Result

CONFIG, METRICS, PREDICTIONS, RESULT = "config.yaml", "metrics.csv", "predictions.jsonl", "result.json"
PATIENCE = 20.0
"""Seconds that a process waits for another one to leave a run."""
QUESTIONS, TEXTS = "questions.sha256", "texts.sha256"
"""Of the user's own files, of questions and of teachers' texts: a changed one is another run."""
ERROR = "error.txt"
"""Why a job of a sweep failed; the next call tries again."""
CHECKPOINTS, BEST, LAST = "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt"
STUDENT = "checkpoints/student"
"""The best checkpoint as a Hugging Face model folder, with the tokenizer; with LoRA, the adapters merged."""
ADAPTER = "checkpoints/adapter"
"""The best adapters in peft's format, of a run with LoRA."""
TEACHER = "teacher"
"""`method` of a teacher that was asked in place of a student; its name stands in `student`."""

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file whole or not at all: beside it, and renamed. A killed process or a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def hash_of(config: ExperimentConfig) -> str:
    """The run's `config_hash`."""
    return config_hash(as_mapping(config))


def as_mapping(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as nested dicts of plain values, enums by name."""
    plain: dict[str, Any] = _values(asdict(config))
    return plain


def _values(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {key: _values(inside) for key, inside in value.items()}
    return [_values(inside) for inside in value] if isinstance(value, list | tuple) else value


def write_config(config: ExperimentConfig, folder: Path) -> None:
    """Write the resolved configuration: an experiment's keys, without those that only a stage has."""
    own = ExperimentConfig(**{field.name: getattr(config, field.name) for field in fields(ExperimentConfig)})
    write_whole(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(own), resolve=True))


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
        # A report reads thousands: OmegaConf's own loader takes ten times as long as libyaml's.
        stored: Any = OmegaConf.create(yaml.load(path.read_text(encoding="utf-8"), _LOADER))
        for group, names in RENAMED.items():
            for new, old in names.items():
                if group in stored and old in stored[group]:
                    stored[group][new] = stored[group].pop(old)
        data = stored.get("data")
        if OmegaConf.is_dict(data) and "topic" not in data:  # a run of a version that had no such key
            data.topic = pinned_topic(data.get("name", ""))
        for key, values in _EARLIER_VALUES.items():
            if key in stored.get("trainer", {}):
                stored.trainer[key] = values.get(stored.trainer[key], stored.trainer[key])
        loaded = OmegaConf.merge(_schema(), stored)
        return cast(ExperimentConfig, OmegaConf.to_object(loaded))
    except (OmegaConfBaseException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].encode(errors="backslashreplace").decode()
        raise UserError(f"{path}: not a configuration of this version ({reason})") from error


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(ExperimentConfig))


def write_predictions(predictions: Iterable[Prediction], folder: Path) -> None:
    """One JSON line a question, in the order given."""
    lines = []
    for prediction in predictions:
        row = asdict(prediction)
        for optional in ("rationales", "subset", "group"):
            if not row[optional]:
                del row[optional]
        lines.append(json.dumps(row, ensure_ascii=False))
    write_whole(folder / PREDICTIONS, "\n".join(lines) + "\n")


def read_predictions(folder: Path) -> list[Prediction]:
    """Read `predictions.jsonl` back, in its order.

    Raises:
        ValueError: when it is missing, broken or foreign, with what is wrong.
    """
    path = folder / PREDICTIONS
    found = []
    try:
        # Not splitlines(): U+2028, U+0085 and their like stand unescaped inside the texts.
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                row = json.loads(line)
                row |= {"choices": tuple(row["choices"]), "scores": tuple(row["scores"] or ())}
                found.append(Prediction(**row))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not predictions of this version ({error})") from error
    return found


def write_evaluation(predictions: Iterable[Prediction], result: Result, folder: Path) -> None:
    """Write `predictions.jsonl`, then `result.json`, which says that the run is finished."""
    write_predictions(predictions, folder)
    write_result(result, folder)


def as_row(result: Result) -> dict[str, Any]:
    """A result's fields, first what was run, then its scores."""
    row = asdict(result)
    first = ("dataset", "student", "method", "ablation", "teachers", "alpha", "seed", "split")
    return {key: row[key] for key in first} | row


def write_result(result: Result, folder: Path) -> None:
    """Write `result.json`; its presence says that the run is finished."""
    write_whole(folder / RESULT, json.dumps(as_row(result), indent=2, ensure_ascii=False) + "\n")


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        ValueError: when it is broken or foreign, with what is wrong.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    names = {field.name for field in fields(Result)}
    needed = {"dataset", "student", "method", "n", "accuracy", "accuracy_low", "accuracy_high", "seed", "config_hash"}
    if not isinstance(row, dict) or needed - set(row):
        missing = ", ".join(sorted(needed - set(row))) if isinstance(row, dict) else "an object"
        raise ValueError(f"{path}: not a result of tinyllm (missing: {missing})")
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
    names = result_of(folder).teachers
    config = as_trained(read_config(folder), folder)
    voices = chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop)
    return {name: config.teachers[name].prefix for name in names if name in voices}


def as_trained(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """A finished run's configuration with the teachers that it had: `ablation.strongest` is carried out.

    Raises:
        UserError: when the folder is no finished run.
    """
    names = result_of(folder).teachers
    return two_samples_of(config, names[0]) if config.ablation.strongest is not None and names else config


@contextmanager
def alone(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other processes out of a run folder; the system lets go of it when the process ends, however it does.

    Args:
        folder: of the run.
        patience: seconds that another process is waited for; one of a killed run may need some to end.

    Raises:
        BusyError: another process is at this run, and stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(f"{folder}: another process is at this run: wait for it, or stop it") from None
                time.sleep(0.1)
                continue
            except OSError:
                pass  # this file system has no locks
            break
        yield
    finally:
        os.close(descriptor)


def is_own(source: object, dataset: object) -> bool:
    """Whether questions are the user's own: their ids say nothing of what stands under them."""
    return source == Source.jsonl or (source == Source.hub and dataset not in paper.DATASETS)


def check_files(config: ExperimentConfig, folder: Path) -> None:
    """Note what the user's own files hold that a run is about, its questions and texts; compare where that is noted.

    Raises:
        UserError: one has changed since the run began.
    """
    for name, files in _own_files(config).items():
        digest = hashlib.sha256(b"\n".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
        noted = folder / name
        if not noted.is_file():
            write_whole(noted, digest + "\n")
        elif noted.read_text().strip() != digest:
            raise UserError(
                f"{', '.join(map(str, files))}: changed since the run in {folder} began: choose another hydra.run.dir, "
                "or remove the folder"
            )


def _own_files(config: ExperimentConfig) -> dict[str, list[Path]]:
    """Name of the note -> files."""
    found: dict[str, list[Path]] = {}
    if config.data.root is not None and is_own(config.data.source, config.data.name):
        root = Path(config.data.root).expanduser()
        pattern = "*.jsonl" if config.data.source is Source.jsonl else "**/*.parquet"
        found[QUESTIONS] = sorted(root.glob(pattern)) if root.is_dir() else [root]
    texts = [Path(t.model).expanduser() for t in config.teachers.values() if t.engine is Engine.file]
    if texts and prompt_kinds(config.method, config.prompt):
        found[TEXTS] = texts
    return found


def discard(folder: Path, digest: str | None) -> None:
    """Remove what a run has left that ended in a mistake before its first checkpoint: the folder is free again.

    Another run's stays, and what another process is at. Empty folders above it go too, up to the working directory.

    Args:
        folder: of the run.
        digest: its `config_hash`; None where it has not come to one.
    """
    with suppress(BusyError, UserError), alone(folder, patience=0.0):
        own = not (folder / CONFIG).exists() or hash_of(read_config(folder)) == digest
        if own and not (folder / LAST).exists():
            for name in (CONFIG, METRICS, QUESTIONS, TEXTS):
                (folder / name).unlink(missing_ok=True)
    here = Path.cwd()
    with suppress(OSError):  # the first that holds something
        for one in (folder, *folder.parents):
            if here in one.parents:
                one.rmdir()


def result_of(folder: Path) -> Result:
    """The result of a finished run.

    Raises:
        UserError: when the folder is no finished run.
    """
    if not (folder / RESULT).is_file():
        raise UserError(f"{folder}: expected a finished run with {RESULT}, found none: run 'tinyllm train'")
    try:
        return read_result(folder / RESULT)
    except ValueError as error:
        raise UserError(str(error)) from error


def finished(folder: Path, digest: str) -> Result | None:
    """The result in a folder that a run is about to use; None where the run has not finished there.

    Args:
        folder: of the run, which may not exist.
        digest: the run's `config_hash`.

    Raises:
        UserError: when another configuration's run is in the folder, or a result that can't be read.
    """
    if (folder / RESULT).is_file():
        try:
            result = read_result(folder / RESULT)
        except ValueError as error:
            raise UserError(f"{error}: remove {folder} or choose another hydra.run.dir") from error
        if result.config_hash != digest:
            raise UserError(f"{folder} holds the finished run of another configuration: choose another hydra.run.dir")
        return result
    if (folder / CONFIG).is_file() and hash_of(read_config(folder)) != digest:
        raise UserError(f"{folder} holds the unfinished run of another configuration: choose another hydra.run.dir")
    return None


def check_output(folder: Path, digest: str) -> None:
    """That an evaluation with this `config_hash` may be written to a folder that the user names.

    One that ended while it was being written, as on a full disk, may be written again.

    Raises:
        UserError: a training run is in it, or an evaluation of other settings.
    """
    whole = (folder / RESULT).is_file()
    other = whole and result_of(folder).config_hash != digest
    begun = not whole and (folder / CONFIG).is_file() and hash_of(read_config(folder)) != digest
    if other or begun or any((folder / name).exists() for name in (CHECKPOINTS, METRICS)):
        found = "the evaluation of other settings" if other else "a training run"
        raise UserError(f"output={folder}: expected a folder without results, found {found}: choose another")


def student_folder(folder: Path) -> Path:
    """Where the student of a finished run is, as a Hugging Face model folder.

    Raises:
        UserError: when the folder holds no finished run.
    """
    if not (folder / STUDENT).is_dir() or not (folder / RESULT).is_file():
        raise UserError(
            f"{folder}: expected a finished run with {RESULT} and {STUDENT}, found none: run 'tinyllm train'"
        )
    return folder / STUDENT


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


_NOT_RESULT = ("store", "cache", "logger")
"""Keys of an experiment that leave its result as it is."""
NOT_RESULT_INSIDE = {
    "trainer": ("devices", "num_nodes", "accelerator", "strategy", "strategy_options", "log_every", "progress_bar"),
    "evaluation": ("batch_size",),
    "data": ("root",),
    "rationales": ("retry",),
}
"""The same, by group; `data.root` counts all the same where the questions are the user's own."""
_NOT_RESULT_OF_TEACHER = (
    "batch_size", "device_map", "base_url", "api_key_env", "concurrency", "timeout", "max_retries",
    "price_prompt", "price_completion", "licence",
)  # fmt: skip
"""Of a teacher: where and how fast it runs, and at what price."""
_EARLIER_VALUES = {"accelerator": {"cuda": "gpu", "auto": "cpu"}, "strategy": {"single_device": "auto"}}
"""Of `trainer`: values that earlier versions took, and what they are now; none of them shapes a result."""
RENAMED = {"trainer": {"accumulate_grad_batches": "accumulate"}}
"""By group, key -> the name that it had: hashes use it, and configurations of earlier runs are read with it."""


@cache
def hash_defaults() -> dict[str, dict[str, Any]]:
    """By schema class, the value of each key that `config_hash` leaves out: a key's default when it was introduced.

    `hash_defaults.json` is only ever added to. A default that changes later changes no hash of a finished run, and a
    run of the new default gets a hash of its own; a key that a later version adds leaves old hashes alone.
    """
    text = resources.files("tinyllm").joinpath("hash_defaults.json").read_text(encoding="utf-8")
    return cast(dict[str, dict[str, Any]], json.loads(text))


def pinned_topic(dataset: str) -> str:
    """The `data.topic` that hashes and prompt keys leave out: the one that the dataset had when there was no key."""
    defaults = hash_defaults()
    topic: str = defaults["topics"].get(dataset, defaults["ExperimentConfig"]["data"]["topic"])
    return topic


def _without_defaults(values: Any, default: Any) -> Any:
    if not (isinstance(values, Mapping) and isinstance(default, Mapping)):
        return values
    kept = {k: _without_defaults(v, default.get(k)) for k, v in values.items() if v != default.get(k)}
    return {key: value for key, value in kept.items() if value != {}}


def _wherever_it_runs(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """With the keys that no result depends on as the teacher's own file had them when hashes left them out."""
    defaults = hash_defaults()
    usual = defaults["TeacherConfig"] | defaults["teachers"].get(str(teacher.get("name")), {})
    return {key: usual[key] if key in _NOT_RESULT_OF_TEACHER else value for key, value in teacher.items()}


def config_hash(values: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of what shapes a result.

    Not of paths, loggers, devices or progress bars, nor of where, how fast and at what price a teacher runs.

    Values that equal those of `hash_defaults` are left out.

    Args:
        values: a resolved configuration as nested dicts (`OmegaConf.to_container`).
    """
    kept: dict[str, Any] = {
        key: {RENAMED.get(key, {}).get(k, k): v for k, v in value.items() if k not in NOT_RESULT_INSIDE.get(key, ())}
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
        if key in {f.name for f in fields(ExperimentConfig)} and key not in _NOT_RESULT
    }
    data = kept.get("data", {})
    if is_own(data.get("source"), data.get("name")):  # there the path says which questions they are
        kept["data"]["root"] = values["data"]["root"]
    defaults = hash_defaults()
    unset = defaults["ExperimentConfig"]["data"] | {"topic": pinned_topic(values.get("data", {}).get("name", ""))}
    shaping = _without_defaults(kept, defaults["ExperimentConfig"] | {"data": unset})
    shaping["teachers"] = {
        name: _without_defaults(_wherever_it_runs(teacher), defaults["TeacherConfig"])
        for name, teacher in kept.get("teachers", {}).items()
    }
    shaping.setdefault("method", {})["streams"] = {
        name: _without_defaults(stream, defaults["StreamConfig"])
        for name, stream in kept.get("method", {}).get("streams", {}).items()
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(root: DictConfig) -> dict[str, Any]:
    return {
        str(key): OmegaConf.to_container(root[key], resolve=True) if OmegaConf.is_config(root[key]) else root[key]
        for key in root
        if key != "hydra"
    }


def run_name(_root_: DictConfig) -> str:
    """A run's folder below `runs`: `<data>/<student>/<method>[-<ablation>]-seed<seed>-<config_hash>`."""
    values = _plain(_root_)
    parts = [_part(values["method"]["name"])]
    if values["ablation"]["name"] != "none":
        parts.append(_part(values["ablation"]["name"]))
    parts += [f"seed{values['seed']}", config_hash(values)]
    return "/".join([_part(values["data"]["name"]), _part(values["student"]["name"]), "-".join(parts)])


def _part(name: object) -> str:
    """A name that stays in its folder: Hydra makes the run's before `checks` has refused other names."""
    text = str(name).replace("/", "%2F").replace("\0", "%00").encode(errors="replace")[:80].decode(errors="ignore")
    return text.replace(".", "%2E") if set(text) <= {"."} else text


def asked_freely(config: EvaluateConfig, teacher: TeacherConfig) -> EvaluateConfig:
    """The configuration under which one teacher is asked about a split without being told the answers."""
    return replace(
        config,
        teachers={teacher.name: teacher},
        prompt=replace(config.prompt, teacher_forcing=False),
        rationales=replace(config.rationales, splits=[config.evaluation.split]),
    )


def teacher_folder(config: EvaluateConfig, teacher: TeacherConfig) -> Path:
    """Where the evaluation of a teacher goes, unless `output` names a folder."""
    digest = hash_of(asked_freely(config, teacher))
    return Path("runs") / config.data.name / teacher.name / f"teacher-{digest}"


def with_evaluation_of(folder: Path, config: EvaluateConfig, overrides: Iterable[str]) -> ExperimentConfig:
    """A run's configuration with another call's evaluation settings, and the data and store that it names.

    Args:
        folder: of the run.
        config: of the call.
        overrides: of the call, as they were given; `data=...` names all of the data, `data.root=...` that key alone.
    """
    trained = read_config(folder)
    named = [override.lstrip("+") for override in overrides]
    return replace(
        trained,
        evaluation=config.evaluation,
        data=config.data
        if any(name.startswith("data=") for name in named)
        else _with_keys(trained.data, config.data, named),
        store=config.store if any(name.startswith("store=") for name in named) else trained.store,
    )


def _with_keys(data: DataConfig, call: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """Data settings with the single keys of a call, such as `data.root`."""
    changed, given = OmegaConf.structured(data), OmegaConf.structured(call)
    for override in overrides:
        key = override.split("=")[0]
        if key.startswith("data."):
            path = key.removeprefix("data.")
            OmegaConf.update(changed, path, OmegaConf.select(given, path), merge=False)
    return cast(DataConfig, OmegaConf.to_object(changed))
