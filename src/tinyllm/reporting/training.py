"""Columns of the frame on what a run was trained on, and for how long."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from tinyllm.config import (
    AblationConfig,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    RationalesConfig,
    Target,
    TeacherConfig,
    WeightingConfig,
)
from tinyllm.methods import alpha_of, chosen_teachers, two_samples_of
from tinyllm.paper import ONE_TEACHER
from tinyllm.records import PromptKind, Result
from tinyllm.reporting.identity import seedless
from tinyllm.reporting.texts import RunTexts, texts_of
from tinyllm.runs import TEACHER, config_hash, hash_of


def as_now(result: Result, config: ExperimentConfig | None) -> tuple[Result, ExperimentConfig | None]:
    """Distilling step-by-step asks its teacher without the answer: a run with other texts is another method."""
    if config is None or result.method != "step_by_step":
        return result, config
    taught = [stream for stream in config.method.streams.values() if stream.target is Target.rationale]
    if all(stream.prompt is PromptKind.solve for stream in taught):
        return result, config
    return replace(result, method=ONE_TEACHER), replace(config, method=replace(config.method, name=ONE_TEACHER))


def training_columns(config: ExperimentConfig | None, result: Result) -> dict[str, Any]:
    """From `teacher_set` and `texts` to `taught`, `without_teachers` and `untaught`, as in `frame.Collected`."""
    if config is None:
        return {
            "teacher_set": "+".join(result.teachers),
            "texts": RunTexts(),
            "apart_from_texts": result.config_hash,
            "epochs": float("nan"),
            "passes": float("nan"),
            "taught": "",
            "without_teachers": result.config_hash,
            "untaught": result.config_hash,
        }
    trained = config
    if config.ablation.strongest is not None and result.teachers and result.teachers[0] in config.teachers:
        trained = two_samples_of(config, result.teachers[0])
    epochs = _epochs(config, result)
    return {
        "teacher_set": "+".join(config.teachers),
        "texts": texts_of(trained, result.teachers),
        "apart_from_texts": _apart_from_texts(config),
        "epochs": epochs,
        "passes": epochs * _streams(config, result),
        "taught": _taught(config, result),
        "without_teachers": _hash_but(config),
        "untaught": _untaught(config),
    }


def _taught(config: ExperimentConfig, result: Result) -> str:
    """The teachers whose texts are taught, as JSON: name -> [hash of how it was asked, α]; of a teacher its own.

    Empty under `ablation.strongest`, whose set is two texts of one teacher.
    """
    if config.ablation.strongest is not None:
        return ""
    names = list(config.teachers)
    if result.method != TEACHER:
        names = chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop)
    own = {name: [_digest(config.teachers[name]), alpha_of(config.alpha, name)] for name in names}
    return json.dumps(own, sort_keys=True) if own else ""  # the order of a set says nothing of its teachers


def _digest(teacher: TeacherConfig) -> str:
    return config_hash({"teachers": {"": asdict(teacher)}})


def _untaught(config: ExperimentConfig) -> str:
    return _hash_but(
        config,
        method=MethodConfig(name=""),
        weighting=WeightingConfig(),
        prompt=PromptConfig(),
        rationales=RationalesConfig(),
    )


def _hash_but(config: ExperimentConfig, **others: Any) -> str:
    """Equal for runs that differ in seeds, teachers, ablation and evaluation alone, and in what is replaced."""
    alike = replace(seedless(config), teachers={}, alpha={}, ablation=AblationConfig())
    return hash_of(replace(alike, **others))


def _epochs(config: ExperimentConfig, result: Result) -> float:
    """As configured: a kept checkpoint may be of an earlier epoch."""
    epochs = float(config.trainer.max_epochs)
    if config.trainer.max_steps < 0 or not result.train_examples:
        return epochs
    return min(epochs, config.trainer.max_steps * config.trainer.batch_size / result.train_examples)


def _streams(config: ExperimentConfig, result: Result) -> int:
    streams = [stream for stream in config.method.streams.values() if stream.weight != 0]
    return sum(len(result.alpha) if stream.target is Target.rationale else 1 for stream in streams)


def _apart_from_texts(config: ExperimentConfig) -> str:
    kept = RationalesConfig(clean=config.rationales.clean, reject=config.rationales.reject)
    alike = seedless(config)
    return hash_of(
        replace(
            alike,
            data=replace(alike.data, train_fraction=1.0),
            teachers={},
            alpha={},
            method=replace(config.method, teacher=None),
            ablation=AblationConfig(),
            prompt=PromptConfig(),
            rationales=kept,
        )
    )
