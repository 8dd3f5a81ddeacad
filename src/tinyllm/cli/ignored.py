"""Keys that a call sets and that its data, teachers, method or student do not read: said once, in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import yaml

from tinyllm.compose import config_folder
from tinyllm.config import (
    Engine,
    EvaluateConfig,
    ExperimentConfig,
    LoggerConfig,
    LoggerName,
    LossConfig,
    OptimizerConfig,
    PromptConfig,
    RationalesConfig,
    Source,
    Strategy,
    Target,
    TeacherConfig,
    TrainerConfig,
    Weighting,
    WeightingConfig,
    WhichTeachers,
)
from tinyllm.methods import kinds_to_ask, prompt_kinds, weighs_texts
from tinyllm.records import PromptKind
from tinyllm.runs import NOT_RESULT_INSIDE
from tinyllm.teachers.stored import is_recorded

_DECODING = ("chat", "max_new_tokens", "temperature", "top_p", "seed")
_LOCAL = ("batch_size", "dtype", "device_map", "gguf_file")
_SERVED = ("base_url", "api_key_env", "concurrency", "timeout", "max_retries")


@dataclass(frozen=True)
class OfTeacher:
    """Keys of `teachers.<name>` that some teachers do not read."""

    keys: tuple[str, ...]
    who: str
    """Words for the log: who does not read them."""
    applies: Callable[[ExperimentConfig, TeacherConfig], bool]


@dataclass(frozen=True)
class OfRun:
    """Keys of groups that some runs do not read."""

    keys: tuple[str, ...]
    why: str
    """Words for the log."""
    applies: Callable[[ExperimentConfig], bool]


def _of(group: str, owner: type, *, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every key of a group."""
    return tuple(f"{group}.{field.name}" for field in fields(owner) if field.name not in but)


def _takes(config: ExperimentConfig, which: WhichTeachers) -> bool:
    return any(stream.teachers is which and stream.weight != 0 for stream in config.method.streams.values())


def _asks_a_teacher(config: ExperimentConfig) -> bool:
    """`tinyllm evaluate teacher=...`, which reads no method."""
    return isinstance(config, EvaluateConfig) and config.teacher is not None


def _takes_texts(config: ExperimentConfig) -> bool:
    """Whether teachers are asked, or what they wrote is read."""
    if _asks_a_teacher(config):
        return True
    return _takes(config, WhichTeachers.one) or _takes(config, WhichTeachers.all) or config.method.source_rationale


def _every_teacher(config: ExperimentConfig, test: Callable[[ExperimentConfig, TeacherConfig], bool]) -> bool:
    return bool(config.teachers) and all(test(config, teacher) for teacher in config.teachers.values())


def _is_scripted(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    return teacher.engine is Engine.scripted


def _is_file(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    return teacher.engine is Engine.file


def _reads_no_prompt(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    return not teacher.reads_prompts


def _is_published(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    """Whether all that is read of this teacher are texts that the paper's authors published."""
    kinds = kinds_to_ask(config)
    if weighs_texts(config) and config.weighting.name is Weighting.confidence:
        return False  # it reads them itself
    return bool(kinds) and all(is_recorded(config, teacher, kind) for kind in kinds)


def _forces_nobody(config: ExperimentConfig) -> bool:
    if _asks_a_teacher(config):
        return False
    streams = [stream for stream in config.method.streams.values() if stream.weight != 0]
    return not any(stream.target is Target.rationale and stream.prompt is PromptKind.forced for stream in streams)


TEACHER_RULES = (
    OfTeacher(("revision", *_DECODING, *_LOCAL, *_SERVED), "a scripted teacher", _is_scripted),
    OfTeacher(("revision", *_DECODING, *_LOCAL, *_SERVED), "a teacher whose texts are in a file", _is_file),
    OfTeacher(
        ("engine", "model", "revision", *_DECODING, *_LOCAL, *_SERVED),
        "a teacher whose texts are the published ones",
        _is_published,
    ),
    OfTeacher(_SERVED, "engine=transformers", lambda c, t: t.engine is Engine.transformers),
    OfTeacher(_LOCAL, "engine=openai", lambda c, t: t.engine is Engine.openai),
    OfTeacher(("top_p", "seed"), "a teacher at temperature 0", lambda c, t: t.temperature == 0),
)
_PROMPT = _of("prompt", PromptConfig, but=("teacher_forcing",))
RUN_RULES = (
    OfRun((*_of("prompt", PromptConfig), *_of("rationales", RationalesConfig), "ablation.drop", "ablation.strongest"),
          "the method reads no teacher's text", lambda c: not _takes_texts(c)),
    OfRun(_PROMPT, "the teachers read no prompt", lambda c: _every_teacher(c, _reads_no_prompt)),
    OfRun(_PROMPT, "the teachers' texts are the published ones", lambda c: _every_teacher(c, _is_published)),
    OfRun(("prompt.teacher_forcing",), "the method's teachers are never told the answer", _forces_nobody),
    OfRun(("prompt.template",), "only forced and unforced prompts have a template",
          lambda c: not {PromptKind.forced, PromptKind.unforced} & set(prompt_kinds(c.method, c.prompt))),
    OfRun(("prompt.example_source",), "prompt.examples=0", lambda c: c.prompt.examples == 0),
    OfRun(("rationales.retry",), "the teachers have no token limit",
          lambda c: _every_teacher(c, _reads_no_prompt)),
    OfRun(("rationales.recorded",), "only data.source=release has published texts",
          lambda c: c.data.source is not Source.release),
    OfRun(_of("weighting", WeightingConfig), "the method teaches no teacher's text", lambda c: not weighs_texts(c)),
    OfRun(("weighting.floor",), "only weighting=correct has one", lambda c: c.weighting.name is not Weighting.correct),
    OfRun(("weighting.temperature",), "only weighting=consensus, confidence and surprisal have one",
          lambda c: c.weighting.name not in (Weighting.consensus, Weighting.confidence, Weighting.surprisal)),
    OfRun(("weighting.embeddings",), "only weighting=consensus compares texts",
          lambda c: c.weighting.name is not Weighting.consensus),
    OfRun(("weighting.folds",), "only weighting=router has a classifier",
          lambda c: c.weighting.name is not Weighting.router),
    OfRun(("weighting.lr",), "only weighting=learned is trained",
          lambda c: c.weighting.name is not Weighting.learned),
    OfRun(("method.teacher",), "the method takes no single teacher",
          lambda c: not (_takes(c, WhichTeachers.one) or c.method.source_rationale)),
    OfRun(("data.hub_id", "data.hub_config", "data.hub_revision"), "data.source is not hub",
          lambda c: c.data.source is not Source.hub),
    OfRun(("data.root",), "data.source=builtin reads no files", lambda c: c.data.source is Source.builtin),
    OfRun(("student.revision", "student.gguf_file"), "random weights have none",
          lambda c: c.student.pretrained is None),
    OfRun(("student.lora_modules",), "the method has no adapters", lambda c: c.method.lora is None),
    OfRun(("student.architecture", "student.trim_vocabulary"), "student.pretrained brings its own",
          lambda c: c.student.pretrained is not None),
    OfRun((*_of("loss", LossConfig), *_of("optimizer", OptimizerConfig),
           *_of("trainer", TrainerConfig, but=("precision", *NOT_RESULT_INSIDE["trainer"]))),
          "method.train=false trains nothing", lambda c: not c.method.train),
    OfRun(("trainer.group_by_length",), "trainer.shuffle=false keeps the order", lambda c: not c.trainer.shuffle),
    OfRun(("trainer.strategy_options",), "trainer.strategy=auto takes none",
          lambda c: c.trainer.strategy is Strategy.auto),
    OfRun(("evaluation.rationales", "evaluation.max_rationale_tokens"), "the student is taught no rationale",
          lambda c: not isinstance(c, EvaluateConfig) and not weighs_texts(c)),
    OfRun(("evaluation.max_rationale_tokens",), "evaluation.rationales=false", lambda c: not c.evaluation.rationales),
    OfRun(_of("logger", LoggerConfig, but=("name",)), "logger=csv reads none",
          lambda c: c.logger.name is LoggerName.csv),
)  # fmt: skip
"""A key is named under the first rule that it falls under."""
log = logging.getLogger(__name__)


def log_ignored(config: ExperimentConfig) -> None:
    """Log a line for every key that has a value of the call's own and that nothing reads."""
    for key, (value, why) in ignored(config).items():
        log.info("%s=%s has no effect: %s", key, value, why)


def ignored(config: ExperimentConfig) -> dict[str, tuple[str, str]]:
    """Keys without effect -> (value, why).

    A value that the schema, `base.yaml` or the file of the dataset, student or teacher gives is nobody's wish, and left
    out.
    """
    values = asdict(config)
    found: dict[str, tuple[str, str]] = {}
    for rule in RUN_RULES:
        for key in rule.keys if rule.applies(config) else ():
            group, name = key.split(".")
            given = (
                _given("base.yaml"),
                _given(f"data/{config.data.name}.yaml"),
                _given(f"student/{config.student.name}.yaml"),
            )
            default = getattr(type(getattr(config, group))(), name)
            if values[group][name] not in [default, *(own[key] for own in given if key in own)]:
                found.setdefault(key, (_text(values[group][name]), rule.why))
    for name, teacher in config.teachers.items():
        shipped = _given(f"teacher/{name}.yaml")
        for of_teacher in TEACHER_RULES:
            for key in of_teacher.keys if of_teacher.applies(config, teacher) else ():
                value, default = getattr(teacher, key), getattr(TeacherConfig(), key)
                if value not in (default, shipped.get(f"teacher.{key}", default)):
                    found.setdefault(f"teachers.{name}.{key}", (_text(value), f"{of_teacher.who} does not read it"))
    return found


@cache
def _given(file: str) -> Mapping[str, Any]:
    """The keys that a file of `conf/` sets, as `group.key`; none for a file that is not there."""
    path = config_folder() / file
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    groups = content if file == "base.yaml" or text.startswith("# @package _global_") else {path.parent.name: content}
    return {
        f"{group}.{key}": value for group, own in groups.items() if isinstance(own, dict) for key, value in own.items()
    }


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
