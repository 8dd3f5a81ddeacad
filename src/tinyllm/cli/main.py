"""`tinyllm <stage> [Hydra overrides]`: dispatch to a stage, and one clear line for a user's mistake."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

import tinyllm
from tinyllm import processes, runs, shown
from tinyllm.checks import checked, refuse_changed_texts, refuse_secrets
from tinyllm.cli.alpha_grid import own_folder, search_of, with_alpha_grid
from tinyllm.cli.alpha_staged import Search, run_staged
from tinyllm.cli.failures import Failure, collected, record
from tinyllm.compose import config_folder, options_of, register
from tinyllm.errors import BusyError, UserError
from tinyllm.shown import log_visibly

STAGES = {
    "rationales": "generate the rationales that are missing from the store",
    "train": "train a student and evaluate it on test; writes a run folder",
    "evaluate": "evaluate a run, a model folder, a hub id or a teacher on a split",
    "report": "compare runs: tables, figures and one HTML page",
    "predict": "ask a trained student one question",
    "export": "write a run's student as a Hugging Face model folder",
}
_PATHS = (FileExistsError, NotADirectoryError, PermissionError)
MISTAKES = (UserError, HydraException, OmegaConfBaseException, YAMLError, *_PATHS)
"""Exceptions that stand for a user's mistake: `one_line` says which."""
_DISK_FAULTS = re.compile(
    "|".join(re.escape(os.strerror(n)) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))
)
_PROCESS_DIED = ("TerminatedWorkerError", "BrokenProcessPool", "FailedJobError", "ProcessExitedException")
"""What joblib's and submitit's launchers raise when a job's process is gone, and torch when a run's is."""


@contextmanager
def _disk_faults() -> Iterator[None]:
    """A full disk or one that can't be written, as a `UserError`: libraries say it in exceptions of their own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MISTAKES) or not (fault := _DISK_FAULTS.search(str(error))):
            raise
        path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        raise UserError(
            f"{path}{fault[0]}: free some space or choose another folder, then run the same command again; what was "
            "already written is kept"
        ) from error


def one_line(error: Exception) -> str:
    """What the user's mistake is, with the names that are allowed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, _PATHS):
        # Hydra makes the folder of the job before anything else.
        return f"{error.filename}: {error.strerror}: set hydra.run.dir, or the key of this path, to another folder"
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        known = error.options or options_of(group)  # of a list Hydra doesn't tell the options
        return f"{group}={option}: no such option; {_expected(option, sorted(known))}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key or cause.key}: a value is needed; give {cause.full_key or cause.key}=..."
    if isinstance(cause, OmegaConfBaseException):
        parent, key = cause.parent_node, str(cause.key)
        name = str(cause.full_key or key)
        message = (cause.msg or str(cause)).splitlines()[0]
        if "not in" in message and isinstance(parent, DictConfig):
            return f"{name}: no such key; {_expected(key, sorted(str(k) for k in parent if k != 'hydra'))}"
        return f"{name}: {_plainly(message)}"
    text = " ".join(str(error).split())
    if found := re.search(r"Could not override '([\w@./]+)'", text):
        groups = sorted(
            folder.name for folder in config_folder().iterdir() if folder.is_dir() and folder.name != found[1]
        )
        close = difflib.get_close_matches(found[1], groups, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{found[1]}: this stage has no such group or key: see 'tinyllm <stage> --help'{hint}"
    if found := re.search(r"Ambiguous value for argument '([^=]+)=", text):
        return f"{found[1]}: several values: add -m to sweep over them, or quote one value that has commas"
    if isinstance(error, OverrideParseException):
        reason = text.removeprefix(f"Error parsing override '{error.override}'").partition(" See https:")[0].strip()
        reason = re.sub(r"^\w+Exception: ", "", reason)
        quoted = f"'{error.override.partition('=')[0]}=\"...\"'"
        return (
            f"{error.override}: expected key=value, found {reason}: put a value that has special characters in "
            f"quotation marks, inside of the shell's: {quoted}"
        )
    return text


def _plainly(message: str) -> str:
    """OmegaConf's words on a value of another type, in this program's."""
    if found := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(found[2], found[2])
        return f"expected {wanted}, found {found[1]}"
    if found := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", message):
        return f"expected one of {found[2]}, found {found[1]}"
    if found := re.match(r"Value '(.*)' is not a valid bool", message):
        return f"expected true or false, found {found[1]}"
    if "is not a ListConfig" in message:
        return "expected a list, such as [first, second], found one value"
    if "is not Optional" in message or "Incompatible value 'None'" in message:
        return "expected a value, found null"
    return message


def _expected(found: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(found, allowed, n=1)
    if not allowed:
        return "there are none here"
    return f"expected one of {', '.join(allowed)}" + (f" (did you mean {close[0]}?)" if close else "")


def _end(message: str, code: int = 2) -> NoReturn:
    print(f"error: {shown.error_text(message)}", file=sys.stderr)
    sys.exit(code)


def _run_stage(stage: str, composed: DictConfig) -> None:
    """One job. A single run ends with its error; a job of a sweep records it, and the others go on."""
    register()
    log_visibly()  # a launcher's processes have no handler yet
    other = stage == "train" and processes.rank() > 0
    """Another process of the run, which says nothing."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = " ".join(HydraConfig.get().overrides.task)
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    begun = any((folder / name).exists() for name in (runs.CONFIG, runs.METRICS))
    if sweep and not other:
        print(f"job: tinyllm {stage} {shown.one_line(_as_typed())}", file=sys.stderr)
    typed = None
    try:
        typed = checked(composed, folder)
        module = importlib.import_module(f"tinyllm.cli.{stage}")
        processes.log_plainly()
        with _disk_faults():
            cast(Callable[[Any, Path], None], module.main)(typed, folder)
    except processes.Preempted:
        processes.leave()
    except MISTAKES as error:
        if other and sweep:
            return
        if other:
            sys.exit(2)
        busy = isinstance(error, BusyError)
        if stage == "train" and not begun and not busy:
            runs.discard(folder, runs.hash_of(typed) if typed is not None else None)
        if not sweep:
            _end(one_line(error))
        if stage == "train" and not busy:
            _mark(folder, one_line(error))
        record(Failure(overrides, one_line(error), exit_code=2))
    except Exception as error:
        if not sweep or other:
            raise
        message = f"{type(error).__name__}: {error}"
        if stage == "train":
            _mark(folder, traceback.format_exc())
            message += f" (see {folder / runs.ERROR})"
        else:
            traceback.print_exc()
        record(Failure(overrides, message, exit_code=1))


def _as_typed() -> str:
    """This job's overrides as a shell takes them."""
    given = HydraConfig.get()
    own = [
        f"--config-dir={source.path}" for source in given.runtime.config_sources if source.provider == "command-line"
    ]
    return shlex.join([*own, *given.overrides.task])


def _mark(folder: Path, text: str) -> None:
    """Leave the error in a run folder; the next call tries again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / runs.ERROR).write_text(text.rstrip() + "\n")


def _hydra_main(stage: str) -> Callable[[], None]:
    def task(composed: DictConfig) -> None:
        _run_stage(stage, composed)

    task.__name__ = task.__qualname__ = stage
    decorate = hydra.main(config_path=str(config_folder()), config_name=stage, version_base="1.3")
    return cast(Callable[[], None], decorate(task))


def _usage() -> str:
    lines = ["usage: tinyllm <stage> [group=option ...] [key=value ...] [-m] [--cfg job] [--help]", "", "stages:"]
    lines += [f"  {name:<12}{text}" for name, text in STAGES.items()]
    lines += ["", "-m runs a sweep over comma-separated values; --cfg job prints the configuration and runs nothing."]
    lines += ["First try:"]
    lines += ["  tinyllm rationales && tinyllm train -m experiment=minilab method=full_ft,tinyllm"]
    lines += ["  tinyllm report metric=accuracy_ranked"]
    lines += ["'tinyllm <stage> --help' shows a stage's groups and keys; 'tinyllm --version' prints the version."]
    return "\n".join(lines)


_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd")
"""Hydra's options that a value follows."""
_WITH_OPTIONAL_VALUE = ("--info", "-i", "--experimental-rerun")
"""And those that one may follow."""
_LITERAL = ("question", "context")
"""Keys of `predict` whose texts are taken as they are."""


def in_order(arguments: list[str]) -> list[str]:
    """Overrides first and options last: argparse takes no overrides on both sides of an option."""
    overrides, options = [], []
    rest = iter(enumerate(arguments))
    for place, argument in rest:
        if argument.startswith("-"):
            options.append(argument)
            following = arguments[place + 1 : place + 2]
            taken = argument in _WITH_VALUE or (
                argument in _WITH_OPTIONAL_VALUE and not any("=" in f for f in following)
            )
            options += [next(rest)[1] for _ in following] if taken else []
        else:
            overrides.append(argument)
    return [*overrides, *options]


def literal(stage: str, arguments: list[str]) -> list[str]:
    """A question is text and no expression of Hydra's grammar; one that stands in quotation marks is left as it is."""
    if stage != "predict":
        return arguments
    found = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key in _LITERAL and text.strip() and not re.fullmatch(r"'[^']*'|\"[^\"]*\"", text.strip()):
            # Before a quotation mark, and before what would be an interpolation, backslashes are doubled.
            quoted = re.sub(r"(\\*)(\"|\$\{|$)", lambda m: m[1] * 2 + ("\\" if m[2] else "") + m[2], text)
            argument = f'{key}="{quoted}"'
        found.append(argument)
    return found


def main() -> None:
    """Entry point of the console script.

    Exit codes: 0; 2 where a user's mistake is all that went wrong; 130 after Ctrl-C, and 144 where a run was told to
    make room, both with a checkpoint; 1 for anything else.
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
        _end(f"{stage}: no such stage; {_expected(stage, list(STAGES))}")
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if {"-m", "--multirun"} & options and (one := {"--cfg", "-c", "--info", "-i"} & options):
        _end(f"{min(one)} shows one job: leave out -m, and give one value per key")
    if foreign := {"--config-name", "-cn", "--config-path", "-cp"} & options:
        _end(f"{min(foreign)}: a stage has its own configuration: add options of your own with --config-dir=<folder>")
    for argument in arguments:
        if re.match(r"hydra\.(run|sweep)\.dir=['\"]*~", argument):
            _end(f"{argument}: ~ is not expanded here: write the whole path, or $HOME")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: they become one line below
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(lightning|peft|torch|transformers)\b.*")
    log_visibly(force=True)
    arguments = [stage, *literal(stage, arguments[1:])]
    register(own_folder(arguments[1:]))

    def run(given: list[str]) -> None:
        GlobalHydra.instance().clear()  # a search runs several sweeps
        sys.argv = [f"tinyllm {stage}", *in_order(given)]
        _hydra_main(stage)()

    searches: list[Search] = []
    try:
        refuse_secrets(arguments[1:])
        refuse_changed_texts(arguments[1:])
        with _disk_faults(), collected() as failures:
            if search_of(arguments[1:]) == "staged":
                searches = run_staged(stage, arguments[1:], run)
            else:
                run(with_alpha_grid(stage, arguments[1:]))
    except MISTAKES as error:
        _end(one_line(error))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _end(f"{str(error.filename)[:80]}...: {error.strerror}: set hydra.run.dir, or this path's own key, to another")
    except (AttributeError, AssertionError) as error:  # OmegaConf's own, for a value inside of a null
        found = re.search(r"^\s*full_key: (\S+)", str(error), re.MULTILINE)
        nested = [key for key in (one.partition("=")[0] for one in arguments[1:]) if key.count(".") > 1]
        if not found and not (nested and "root: NoneType" in str(error)):
            raise
        named = found[1] if found else " or ".join(nested)
        _end(f"{named}: it is null and can't be filled by an override; choose an option of its group that has it")
    except ValueError as error:  # Hydra's own, for a number in the place of an option
        if not str(error).startswith("Config group override"):
            raise
        groups = [one for one in arguments[1:] if (config_folder() / one.partition("=")[0]).is_dir()]
        _end(f"{' '.join(groups)}: expected names of options, found a number: see 'tinyllm {stage} --help'")
    except Exception as error:
        if type(error).__name__ not in _PROCESS_DIED:
            raise
        _end(
            f"a job's process died ({type(error).__name__}), often because memory ran out: run the same command again "
            "to resume, with fewer jobs at a time",
            code=1,
        )
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    for failure in failures:
        job = f"[{failure.overrides}] " if len(failures) > 1 else ""
        print(f"error: {shown.error_text(job + failure.message)}", file=sys.stderr)
    for search in searches:
        print(search)
    if failures:
        sys.exit(min(failure.exit_code for failure in failures))
