"""`tinyllm <stage> [Hydra overrides]`: dispatch to a stage, and one clear line for a user's mistake."""

from __future__ import annotations

import difflib
import importlib
import json
import logging
import os
import re
import sys
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import tinyllm
from tinyllm import config as schema
from tinyllm.cli.expand import config_folder, with_alpha_grid, with_paper_settings
from tinyllm.errors import UserError
from tinyllm.runs import run_name

STAGES = {
    "rationales": "ask every teacher for the rationales that the store lacks",
    "train": "train a student and evaluate it: a run folder",
    "evaluate": "evaluate a run, a model folder or a hub id on a split",
    "report": "the paper's tables and figures from run folders",
    "predict": "ask a trained student one question",
    "export": "write a run's student as a Hugging Face model folder",
}
_SCHEMAS = {
    "rationales": schema.RationalesStageConfig,
    "train": schema.ExperimentConfig,
    "evaluate": schema.EvaluateConfig,
    "report": schema.ReportConfig,
    "predict": schema.PredictConfig,
    "export": schema.ExportConfig,
}
_PROCESS_DIED = ("TerminatedWorkerError", "BrokenProcessPool", "FailedJobError")
"""What joblib's and submitit's launchers raise when a job's process is gone."""


def register() -> None:
    """Make the schemas and resolvers known to Hydra; may be called again."""
    store = ConfigStore.instance()
    for stage, node in _SCHEMAS.items():
        store.store(name=f"{stage}_schema", node=node)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("stem", lambda path: Path(path).stem if path else "jsonl", replace=True)


def one_line(error: Exception) -> str:
    """What went wrong with a configuration, with the names that are allowed."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options or [])
        return f"{group}={option}: no such option; expected one of {', '.join(options)}" + _nearest(option, options)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key or cause.key}: a value is needed; give {cause.full_key or cause.key}=..."
    if isinstance(cause, OmegaConfBaseException):
        parent, key = cause.parent_node, str(cause.key)
        name = str(cause.full_key or key)
        message = (cause.msg or str(cause)).splitlines()[0]
        if "not in" in message and isinstance(parent, DictConfig):
            allowed = sorted(str(k) for k in parent if k != "hydra")
            return f"{name}: no such key; expected one of {', '.join(allowed)}" + _nearest(key, allowed)
        return f"{name}: {message}"
    return " ".join(str(error).split())


def _nearest(found: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(found, allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


_failed: list[tuple[str, str, int]] = []
"""Jobs of this process that failed: their overrides, one line, exit code."""
_SWEEP = "TINYLLM_SWEEP_FAILURES"
"""Environment variable: the file where jobs of a sweep that a launcher runs elsewhere tell that they failed."""


def _fail(overrides: str, line: str, code: int) -> None:
    path, _, owner = os.environ.get(_SWEEP, "").rpartition(":")
    if not path or owner == str(os.getpid()):
        _failed.append((overrides, line, code))
        return
    with open(path, "a") as file:  # one line a job: short enough to be appended whole
        file.write(json.dumps([overrides, line, code]) + "\n")


@contextmanager
def _gathering_failures(arguments: list[str]) -> Iterator[None]:
    """Under `-m`: read what jobs in other processes or on other machines (joblib, submitit) have told."""
    if not {"-m", "--multirun"} & set(arguments):
        yield
        return
    path = Path(".cache/tinyllm/sweeps").resolve() / f"{uuid.uuid4().hex}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ[_SWEEP] = f"{path}:{os.getpid()}"
    try:
        yield
    finally:
        del os.environ[_SWEEP]
        if path.exists():
            _failed.extend(tuple(json.loads(line)) for line in path.read_text().splitlines())
            path.unlink()


def _check_known(node: DictConfig, path: str = "") -> None:
    """Refuse keys that were added with `+` and that nobody would read."""
    known = OmegaConf.get_type(node)
    for key in node:
        inside = f"{path}{key!s}"
        if is_dataclass(known) and key != "hydra" and key not in {field.name for field in fields(known)}:
            raise UserError(f"{inside}: no such key; remove +{inside}=...")
        if key != "hydra" and not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _check_known(node[key], f"{inside}.")


def _stage_task(stage: str, composed: DictConfig) -> None:
    """One job: from here on there are dataclasses only. A failed job of a sweep is marked, and the others go on."""
    register()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # a launcher's processes have no handler yet
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = " ".join(HydraConfig.get().overrides.task)
    multirun = HydraConfig.get().mode is RunMode.MULTIRUN
    if multirun:
        print(f"job: tinyllm {stage} {overrides}", file=sys.stderr)
    try:
        _check_known(composed)
        typed = OmegaConf.to_object(composed)
        module = importlib.import_module(f"tinyllm.cli.{stage}")
        for name in ("httpx", "httpcore", "datasets", "filelock", "fsspec", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)  # Lightning sets its own when it is imported
        logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
        cast(Callable[[Any, Path], None], module.main)(typed, folder)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        line = str(error) if isinstance(error, UserError) else one_line(error)
        _mark(stage, folder, multirun, line)
        _fail(overrides, line, 2)
    except Exception as error:
        if not multirun:
            raise
        _mark(stage, folder, multirun, traceback.format_exc())
        _fail(overrides, f"{type(error).__name__}: {error} (see {folder / 'error.txt'})", 1)


def _mark(stage: str, folder: Path, multirun: bool, text: str) -> None:
    """Leave the error in a sweep's run folder; the next call tries again."""
    if stage == "train" and multirun:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(text.rstrip() + "\n")


def _usage() -> str:
    lines = ["usage: tinyllm <stage> [key=value ...] [-m] [--cfg job] [--help]", "", "stages:"]
    lines += [f"  {name:<12}{text}" for name, text in STAGES.items()]
    lines += ["", "'tinyllm <stage> --help' shows a stage's groups and keys; 'tinyllm --version' the version."]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script.

    Exit codes: 0, 2 where a user's mistake is all that went wrong, 1 for anything else.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] == "--version":
        print(tinyllm.__version__)
        return
    stage = arguments[0]
    if stage not in STAGES:
        print(
            f"error: {stage}: no such stage; expected one of {', '.join(STAGES)}" + _nearest(stage, list(STAGES)),
            file=sys.stderr,
        )
        sys.exit(2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: they are told in one line below
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(lightning|torch|transformers)\b.*")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    register()
    try:
        sys.argv = [f"tinyllm {stage}", *with_alpha_grid(stage, with_paper_settings(arguments[1:]))]
        with _gathering_failures(arguments):
            _decorated(stage)()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (HydraException, ConfigCompositionException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except AttributeError as error:  # OmegaConf's own, for a value inside of a null
        found = re.search(r"^\s*full_key: (\S+)", str(error), re.MULTILINE)
        if found is None:
            raise
        print(
            f"error: {found[1]}: it is null here and can't be filled by an override; "
            "choose an option of its group that has it",
            file=sys.stderr,
        )
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ not in _PROCESS_DIED:
            raise
        print(
            f"error: a job's process died ({type(error).__name__}), often for want of memory: run the same command "
            "again to go on, with fewer jobs at a time",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    for overrides, line, _ in _failed:
        print(f"error: {f'[{overrides}] ' if len(_failed) > 1 else ''}{line}", file=sys.stderr)
    if _failed:
        sys.exit(min(code for _, _, code in _failed))


def _task_of(stage: str) -> Callable[[DictConfig], None]:
    def task(composed: DictConfig) -> None:
        _stage_task(stage, composed)

    task.__name__ = task.__qualname__ = stage
    return task


def _decorated(stage: str) -> Callable[[], None]:
    decorate = hydra.main(config_path=str(config_folder()), config_name=stage, version_base="1.3")
    return cast(Callable[[], None], decorate(_task_of(stage)))
