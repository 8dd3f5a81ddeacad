"""Where a run's settings are not the paper's: its configuration against the composed preset, key by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from tinyllm.compose import compose
from tinyllm.config import Engine, EvaluateConfig, ExperimentConfig, Source, StreamConfig, Target, WhichTeachers
from tinyllm.methods import alpha_of, two_samples_of, weighs_texts
from tinyllm.paper import ABLATIONS, ALPHA_GRID, DATASETS, METHODS, STUDENTS, TEACHERS
from tinyllm.runs import NOT_RESULT_INSIDE

STATED = {
    "optimizer.lr", "trainer.batch_size", "trainer.max_epochs", "trainer.max_steps", "student.max_source_length",
    "student.name", "student.pretrained", "teachers", "teachers.*.model", "alpha.*",  # section 4.1
    "data.name", "data.source", "data.train_fraction", "data.limit_train", "data.limit_valid", "data.limit_test",
    "evaluation.split", "method.name", "method.train", "ablation.name", "ablation.drop",  # tables 1 and 2
    "prompt.teacher_forcing", "prompt.example_source",  # section 3.2
    "loss.reduction", "rationales.shuffle",  # equations 3 and 4
    "weighting.name",  # equation 2
}  # fmt: skip
"""Keys whose value the paper gives; `*` stands for a teacher. Of all others `experiment=paper` has a value of ours."""
_DISTILLATION_ONLY = (
    "optimizer.lr", "trainer.batch_size", "trainer.max_epochs", "trainer.max_steps", "student.max_source_length",
)  # fmt: skip
"""Of `STATED`, what section 4.1 says of TinyLLM and the distillation baselines, not of `_FINE_TUNING`."""
_FINE_TUNING = ("full_ft", "lora", "pinto")
_STREAMS_OF_OURS = ("pinto", "standard_kd")
"""Baselines of whose streams and weights the paper says nothing; those of the others are equations 2 to 4."""
NO_DEVIATION = {
    "seed": "runs are repeated over seeds",
    "data.seed": "so are subsets of the questions",
    "store": "a folder",
    "cache": "a folder",
    "logger": "what is written, not what is computed",
    **{f"{group}.{key}": "see runs" for group, keys in NOT_RESULT_INSIDE.items() for key in keys},
    "trainer.precision": "the number format of the hardware",
    "trainer.accumulate_grad_batches": "an update is the same however its step is split",
    "rationales.splits": "what the teachers are asked about; training reads what it needs",
    "rationales.retry": "what the teachers are asked again",
    "evaluation.rationales": "written beside the answers",
    "evaluation.max_rationale_tokens": "written beside the answers",
    "student.lora_modules": "method.lora.target_modules says it",
    "method.teacher": "the paper takes the best of its teachers",
    "teachers.*.name": "the key that it stands under",
    "teachers.*.engine": "a server gives what the model gives",
    "teachers.*.stored_as": "a name in the store",
    "teachers.*.seed": "as the run's",
    "teachers.*.batch_size": "speed",
    "teachers.*.dtype": "the number format of the hardware",
    "teachers.*.device_map": "where it runs",
    "teachers.*.base_url": "where it runs",
    "teachers.*.api_key_env": "where it runs",
    "teachers.*.concurrency": "speed",
    "teachers.*.timeout": "speed",
    "teachers.*.max_retries": "speed",
    "teachers.*.price_prompt": "money",
    "teachers.*.price_completion": "money",
    "teachers.*.licence": "for the reader",
}
"""Keys in which a run may differ and still be the paper's, and why. Every other key counts: a new one too."""
_ABSENT = object()


def deviations(config: ExperimentConfig) -> dict[str, list[str]]:
    """Where a run's settings are not the paper's: key -> [the paper's value, this run's], as texts.

    The run is compared with `experiment=paper teachers=paper` of its own dataset, student, method and ablation, where
    the paper has them, else with OBQA, FLAN-T5 small, TinyLLM without ablation. Where the paper is silent, the first
    text says so, and gives the preset's value.

    What a run does not read is no deviation: teachers and their prompts of a method without teachers, the training of
    an untrained student, the architecture of a pretrained one, and where questions of the paper's splits come from.
    A weight of the paper's grid is none either.
    """
    paper = _paper_row(config)
    own, reference = asdict(config), asdict(paper)
    asked = _asked(config)
    unread = {"teachers", "alpha"} if asked else {"teachers", "alpha", "prompt", "rationales"}
    pairs = [(group, reference[group], own[group]) for group in reference if group not in unread]
    found = {key: (theirs, ours) for pair in pairs for key, theirs, ours in _differences(*pair)}
    found |= _of_teachers(config, paper, asked)
    if config.data.name not in DATASETS:
        found["data.name"] = (_one_of(DATASETS), config.data.name)
    if config.student.name not in STUDENTS:
        found["student.name"] = (_one_of(STUDENTS), config.student.name)
    return {
        key: [_paper_text(key, theirs, config), _text(ours)]
        for key, (theirs, ours) in found.items()
        if not _never_counts(key) and not _unread(key, config)
    }


def _paper_row(config: ExperimentConfig) -> ExperimentConfig:
    """The preset for the row of the paper's tables that a run is, or comes closest to."""
    row = _composed(
        config.data.name if config.data.name in DATASETS else DATASETS[0],
        config.student.name if config.student.name in STUDENTS else STUDENTS[0],
        config.method.name if config.method.name in METHODS else "tinyllm",
        config.ablation.name if config.ablation.name in ABLATIONS else "none",
    )
    first = next(iter(config.teachers), "")
    resolved = config.ablation.strongest is not None and f"{first}_2" in config.teachers
    return two_samples_of(row, first) if resolved and first in row.teachers else row


@cache
def _composed(data: str, student: str, method: str, ablation: str) -> ExperimentConfig:
    """The preset of a row; to be read only."""
    chosen = [f"data={data}", f"student={student}", f"method={method}", f"ablation={ablation}"]
    composed = compose("train", ["experiment=paper", "teachers=paper", *chosen])
    return cast(ExperimentConfig, OmegaConf.to_object(composed))


def _asked(config: ExperimentConfig) -> list[str]:
    """Teachers whose texts, answers or scores a run reads, those at weight 0 included."""
    which = {stream.teachers for stream in config.method.streams.values() if stream.weight != 0}
    names: list[str] = []
    if WhichTeachers.all in which:
        names = list(config.teachers)
    elif WhichTeachers.one in which or config.method.source_rationale:
        names = [config.method.teacher or next(iter(config.teachers), "")]
    return [name for name in names if name in config.teachers and name not in config.ablation.drop]


def _of_teachers(config: ExperimentConfig, paper: ExperimentConfig, asked: list[str]) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    if not asked:
        return found
    expected = _asked(paper)
    if any(stream.teachers is WhichTeachers.all for stream in config.method.streams.values()):
        if set(asked) != set(expected):
            found["teachers"] = (", ".join(expected), ", ".join(asked))
    elif asked[0] not in paper.teachers:
        found["teachers"] = (_one_of(TEACHERS), asked[0])
    for name in asked:
        if name in paper.teachers:
            theirs, ours = paper.teachers[name], config.teachers[name]
            found |= {key: (a, b) for key, a, b in _differences(f"teachers.{name}", asdict(theirs), asdict(ours))}
            if ours.reads_prompts != theirs.reads_prompts:
                kind = "a scripted" if ours.engine is Engine.scripted else "texts of"
                found["teachers"] = (", ".join(expected), f"{kind} {name}")
        weight = alpha_of(config.alpha, name)
        taught = any(stream.target is Target.rationale for stream in config.method.streams.values())
        if taught and weight not in ALPHA_GRID:
            found[f"alpha.{name}"] = (_one_of(ALPHA_GRID), weight)
    return found


def _differences(path: str, paper: Any, own: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, paper's value, own value) of every leaf that differs."""
    if isinstance(paper, Mapping) and isinstance(own, Mapping):
        for key in dict.fromkeys([*paper, *own]):
            yield from _differences(f"{path}.{key}", paper.get(key, _ABSENT), own.get(key, _ABSENT))
    elif paper != own:
        yield path, paper, own


def _pattern(key: str) -> str:
    """The key with `*` for a teacher's name."""
    group, _, rest = key.partition(".")
    return f"{group}.*{rest[len(rest.partition('.')[0]) :]}" if group in ("teachers", "alpha") and rest else key


def _never_counts(key: str) -> bool:
    """Whether a key, or the group that it lies in, is in `NO_DEVIATION`."""
    pattern = _pattern(key)
    return any(pattern == one or pattern.startswith(f"{one}.") for one in NO_DEVIATION)


def _unread(key: str, config: ExperimentConfig) -> bool:
    """Whether a run reads a key at all, or another one says the same."""
    group, _, name = key.partition(".")
    if group == "student" and isinstance(config, EvaluateConfig) and config.teacher is not None:
        return True  # a teacher is evaluated in place of a student
    known_data, known_student = config.data.name in DATASETS, config.student.name in STUDENTS
    if not config.method.train:
        if group in ("loss", "optimizer", "trainer"):
            return True
        if key in ("student.max_target_length", "student.dropout", "data.train_fraction", "data.limit_train"):
            return True
    if group == "data" and name not in ("name", "train_fraction", "limit_train", "limit_valid", "limit_test"):
        if name == "source":
            return not known_data or config.data.source in (Source.hub, Source.release)
        return not known_data or (name != "topic" and config.data.source is not Source.hub)
    if group == "weighting":
        return not weighs_texts(config)
    if key == "rationales.recorded":
        return config.data.source is not Source.release
    if name.startswith(("architecture", "trim_vocabulary")) and group == "student":
        return config.student.pretrained is not None or not known_student
    return False


def _paper_text(key: str, value: Any, config: ExperimentConfig) -> str:
    stated = _pattern(key) in STATED
    if key.startswith("method.streams"):
        stated = config.method.name not in _STREAMS_OF_OURS
    if key in _DISTILLATION_ONLY:
        stated = config.method.name not in _FINE_TUNING
    return _text(value) if stated else f"not stated, preset {_text(value)}"


def _one_of(values: Iterable[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}"


def _text(value: Any) -> str:
    """A value for a note: without line breaks, or the semicolon that stands between two deviations."""
    if value is _ABSENT:
        return "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, Mapping) and "target" in value:  # a stream: without the defaults of its kind
        default = asdict(StreamConfig())
        value = {key: one for key, one in value.items() if key == "target" or one != default[key]}
    text = str(value) if isinstance(value, str) else yaml.safe_dump(_plain(value), default_flow_style=True, width=1000)
    return " ".join(text.removesuffix("...\n").split()).replace("; ", ", ")


def _plain(value: Any) -> Any:
    """The same, enums as texts."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, str) else value
