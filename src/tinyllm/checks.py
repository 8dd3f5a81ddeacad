"""The checks of a configuration: done when it becomes dataclasses, before a stage reads a text or a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from tinyllm.compose import config_folder, refuse_unknown_keys
from tinyllm.config import (
    EvaluateConfig,
    ExampleSource,
    ExperimentConfig,
    ExportConfig,
    MethodConfig,
    PromptConfig,
    PromptTemplate,
    RationalesStageConfig,
    ReportConfig,
    Rule,
    Target,
    TeacherConfig,
    TrainerConfig,
    Weighting,
    WhichTeachers,
)
from tinyllm.errors import UserError
from tinyllm.methods import (
    BY_VALIDATION,
    alpha_of,
    check_stream,
    chosen_teachers,
    single_teacher,
    teaches,
    uses_single_teacher,
)

_TEXTS = ("choices", "question", "context", "rationales", "data.columns.fixed_choices", "data.columns.labels")
"""Keys whose texts may look like numbers."""
_PARTS = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,'"])+""")
_NOT_SHOWN = "another text (not shown: it may be a key)"


def checked(composed: DictConfig, folder: Path) -> Any:
    """A stage's configuration as dataclasses, with every value that can be judged by itself or beside others checked.

    Args:
        composed: by Hydra.
        folder: of the run.

    Raises:
        UserError: naming the first key whose value can't be used.
        OmegaConfBaseException: for a missing value.
    """
    refuse_unknown_keys(composed)
    config: Any = OmegaConf.to_object(composed)
    for problem in broken_rules(config):
        raise UserError(problem)
    if isinstance(config, ExperimentConfig):
        _check_experiment(config)
    _check_folders(config, folder)
    return config


def broken_rules(config: Any, path: str = "") -> Iterator[str]:
    """A line for every value of a dataclass, and of those inside of it, that breaks a rule of its annotation."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        yield from _broken(getattr(config, field.name), hints[field.name], f"{path}{field.name}")


def refuse_secrets(overrides: Iterable[str]) -> None:
    """Refuse a key or a password in a call: Hydra shows the overrides of a sweep, and writes them to a file.

    Raises:
        UserError: naming the key of the configuration, without the value.
    """
    hints = get_type_hints(TeacherConfig, include_extras=True)
    for override in overrides:
        key, _, values = override.lstrip("+").partition("=")
        rules = [rule for rule in _rules(hints.get(key.rpartition(".")[2])) if rule.secret]
        for value in values.split(","):
            for rule in rules:
                if not rule.holds(value.strip("[]'\" ")):
                    raise UserError(f"{key}: expected {rule.words}, found {_NOT_SHOWN}")


def refuse_changed_texts(overrides: Iterable[str]) -> None:
    """Refuse a text that Hydra would take for a number or a truth value, and write in another way: `0.50` as `0.5`.

    Raises:
        UserError: naming the key and the first such text.
    """
    for override in overrides:
        key, _, written = override.lstrip("+").partition("=")
        if key not in _TEXTS:
            continue
        with suppress(HydraException):  # told when Hydra reads it
            value = OverridesParser.create().parse_override(override).value()
            values = value if isinstance(value, list) else [value]
            parts = _PARTS.findall(written.strip().removeprefix("[").removesuffix("]"))
            for part, read in zip(parts, values, strict=False):
                if isinstance(read, bool | int | float) and str(read) != part.strip():
                    quoted = written.replace(part, f"'{part.strip()}'", 1)
                    raise UserError(
                        f"{key}: expected texts, found {part.strip()}, which is read as {read}: quote it, as in "
                        f'"{key}={quoted}"'
                    )


def _rules(hint: Any) -> Iterator[Rule]:
    yield from (rule for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, Rule))
    for inner in get_args(hint):
        yield from _rules(inner)


def _broken(value: Any, hint: Any, path: str) -> Iterator[str]:
    if value is None:
        return  # of an optional key: others can't be null
    if is_dataclass(value):
        yield from broken_rules(value, f"{path}.")
        return
    metadata = getattr(hint, "__metadata__", ())
    if broken := [rule for rule in metadata if isinstance(rule, Rule) and not rule.holds(value)]:
        found = _NOT_SHOWN if broken[0].secret else _shown(value)
        yield f"{path}: expected {broken[0].words}, found {found}"
        return
    inner = get_args(hint)
    if metadata or type(None) in inner:  # Annotated[X, Rule] and X | None: the rules of X
        yield from _broken(value, inner[0], path)
    elif isinstance(value, list) and inner:
        for number, entry in enumerate(value):
            yield from _broken(entry, inner[0], f"{path}[{number}]")
    elif isinstance(value, dict) and inner:
        for key, entry in value.items():
            yield from _broken(entry, inner[1], f"{path}.{key}")


def _shown(value: Any) -> str:
    """As it is written in a call, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value) if not str(value).strip() or not str(value).isprintable() else str(value)


def _check_experiment(config: ExperimentConfig) -> None:
    """Values that have to fit each other."""
    for name, teacher in config.teachers.items():
        if teacher.name != name:
            raise UserError(
                f"teachers.{name}.name: expected {name}, its name in the set, found {teacher.name}: "
                "teachers.<name>.stored_as names its texts in the store"
            )
    chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop)
    _check_ablation(config)
    _check_method(config.method)
    _check_single_teacher(config)
    _check_prompt(config.prompt)
    _check_trainer(config.trainer)
    _check_shuffle(config)
    _check_architecture(config)
    _check_columns(config)
    if isinstance(config, RationalesStageConfig) and config.shard.index >= config.shard.count:
        shard = config.shard
        raise UserError(f"shard.index: expected 0 to shard.count - 1 = {shard.count - 1}, found {shard.index}")


def _check_ablation(config: ExperimentConfig) -> None:
    names, drop, strongest = list(config.teachers), config.ablation.drop, config.ablation.strongest
    shipped = {file.stem for file in (config_folder() / "teacher").glob("*.yaml")}
    unknown = [name for name in drop if name not in names and (name not in shipped or not set(drop) & set(names))]
    if unknown:
        raise UserError(
            f"ablation.drop: expected teachers of the set ({', '.join(names) or 'none'}), found {unknown[0]}"
        )
    if strongest not in (None, BY_VALIDATION, *names):
        raise UserError(
            f"ablation.strongest={strongest}: expected {BY_VALIDATION} or one of {', '.join(names) or 'none'}"
        )
    if strongest in drop or (strongest in names and alpha_of(config.alpha, strongest) == 0):
        raise UserError(
            f"ablation.strongest={strongest}: expected a teacher that is kept, with a weight above 0: name another"
        )


def _check_method(method: MethodConfig) -> None:
    for name, stream in method.streams.items():
        if stream.weight != 0:
            check_stream(method, name, stream)
    if method.train and not any(stream.weight for stream in method.streams.values()):
        raise UserError("method.streams: expected a stream with a weight above 0, found none: set method.train=false")
    if not any(stream.target is Target.answer for stream in method.streams.values()):
        found = ", ".join(stream.target for stream in method.streams.values())
        raise UserError(
            f"method.streams: expected one with target answer, whose prefix asks the student, found {found}"
        )


def _check_single_teacher(config: ExperimentConfig) -> None:
    """Without its one teacher, a method would be full fine-tuning under another name."""
    method = config.method
    taught = [s for s in method.streams.values() if s.weight != 0 and s.target is Target.rationale]
    if not any(stream.teachers is WhichTeachers.one for stream in taught):
        return
    name = single_teacher(method, config.teachers)
    if not chosen_teachers(method, config.teachers, config.alpha, config.ablation.drop):
        dropped = name in config.ablation.drop
        why = f"which ablation={config.ablation.name} drops" if dropped else f"but alpha.{name} is 0"
        raise UserError(f"method={method.name} reads {name}, {why}: set method.teacher=<another>, or leave that out")


def _check_prompt(prompt: PromptConfig) -> None:
    random = prompt.example_source is ExampleSource.random or prompt.examples == 0
    if prompt.template is PromptTemplate.authors and not random:
        raise UserError(
            "prompt.template=authors: expected prompt.example_source=random (the authors show two random training "
            f"questions), found {prompt.example_source}"
        )


def _check_shuffle(config: ExperimentConfig) -> None:
    reads = "drop_conflicts=true" if config.weighting.drop_conflicts else f"name={config.weighting.name}"
    if config.rationales.shuffle and (config.weighting.drop_conflicts or config.weighting.name is Weighting.confidence):
        raise UserError(
            f"weighting.{reads}: judges a teacher's text on a question, and rationales.shuffle=true (as under "
            "ablation=shuffled_rationales) trains on another question's: use another weighting"
        )
    teaches_texts = teaches(config.method, Target.rationale) or config.method.source_rationale
    if config.rationales.shuffle and not teaches_texts and uses_single_teacher(config.method):
        raise UserError(
            f"rationales.shuffle=true (as under ablation=shuffled_rationales): method={config.method.name} learns a "
            "teacher's answers, and reads no rationale that could be shuffled: leave it out"
        )


def _check_trainer(trainer: TrainerConfig) -> None:
    if trainer.batch_size % trainer.accumulate_grad_batches:
        raise UserError(
            f"trainer.batch_size={trainer.batch_size}: expected a multiple of "
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
        )


def _check_architecture(config: ExperimentConfig) -> None:
    """Sizes; `from_scratch` says which fields there are."""
    for name, value in config.student.architecture.items():
        size = isinstance(value, int) and not isinstance(value, bool) and not name.endswith("_id")
        if isinstance(value, int | float) and not (value >= 1 if size else 0 <= value < float("inf")):
            expected = "1 or more" if size else "0 or more"
            raise UserError(f"student.architecture.{name}: expected {expected}, found {value}")


def _check_columns(config: ExperimentConfig) -> None:
    columns = config.data.columns
    if not columns.choices and not columns.fixed_choices:
        raise UserError(
            "data.columns.choices: expected one column or more, found none: set them, or data.columns.fixed_choices"
        )
    if len(columns.fixed_choices) == 1:
        raise UserError(
            f"data.columns.fixed_choices: expected two options or more, found {_shown(columns.fixed_choices)}"
        )


def _check_folders(config: Any, folder: Path) -> None:
    """Where the stage will write."""
    written = {"hydra.run.dir": str(folder)}
    if isinstance(config, EvaluateConfig | ReportConfig | ExportConfig) and config.output is not None:
        written["output"] = config.output
    if isinstance(config, RationalesStageConfig) or (isinstance(config, EvaluateConfig) and config.teacher is not None):
        written["store"] = config.store
    elif isinstance(config, ExperimentConfig):
        written["cache"] = config.cache
    for key, path in written.items():
        there = Path(path).expanduser().absolute()
        try:
            while not there.exists():
                there = there.parent
        except OSError as error:
            raise UserError(f"{key}={path[:80]}...: {error.strerror}: set {key} to another folder") from error
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            found = "a folder without write permission" if there.is_dir() else "a file"
            raise UserError(f"{key}={path}: expected a writable folder, found {found} at {there}: set {key} to another")
