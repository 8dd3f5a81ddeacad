"""Which runs are one setting, which settings are chosen among, and what tells a variant from the others of its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from tinyllm.config import (
    AblationConfig,
    EvaluationConfig,
    ExperimentConfig,
    MethodConfig,
    PromptConfig,
    RationalesConfig,
    Source,
    StudentConfig,
    WeightingConfig,
    WhichTeachers,
)
from tinyllm.methods import alpha_of
from tinyllm.records import Result
from tinyllm.runs import NOT_RESULT_INSIDE, TEACHER, hash_of


@dataclass(frozen=True, slots=True)
class Identity:
    """Hashes that are equal for runs of one kind; see `frame.Collected`."""

    setting: str
    family: str
    shared_settings: str
    """Hash of what methods share: data, student, optimizer without its rate, trainer."""
    values: dict[str, str]
    """Flattened settings of the family, by which families differ."""


def composed_alpha(config: ExperimentConfig) -> dict[str, float]:
    """The weight of every teacher as configured."""
    return {name: alpha_of(config.alpha, name) for name in config.teachers}


def which_teachers(config: ExperimentConfig) -> WhichTeachers:
    """What a method asks of its teachers, over all its streams."""
    asked = {stream.teachers for stream in config.method.streams.values()}
    if WhichTeachers.all in asked:
        return WhichTeachers.all
    return WhichTeachers.one if WhichTeachers.one in asked or config.method.source_rationale else WhichTeachers.none


def single_teacher_of(config: ExperimentConfig) -> str:
    """The teacher of a single-teacher method; "" for other methods."""
    if which_teachers(config) is not WhichTeachers.one:
        return ""
    return config.method.teacher or next(iter(config.teachers), "")


def seedless(config: ExperimentConfig) -> ExperimentConfig:
    """Equal for runs that differ in their seeds and in their evaluation alone, on whatever device."""
    # What `auto` becomes on most machines; a report notes where students computed in other ways.
    precision = "auto" if config.trainer.precision == "bf16-mixed" else config.trainer.precision
    return replace(
        config,
        seed=0,
        data=replace(config.data, seed=0),
        trainer=replace(config.trainer, precision=precision),
        evaluation=EvaluationConfig(),
    )


def identity_of(config: ExperimentConfig | None, result: Result) -> Identity:
    """Of a run; without a configuration nothing tells it from others but its hash."""
    if config is None:
        return Identity(result.config_hash, result.config_hash, result.config_hash, {NO_CONFIG: result.config_hash})
    shaping = seedless(config)
    which = which_teachers(config)
    if result.method == TEACHER:
        all_questions = replace(shaping.data, train_fraction=1.0)
        shaping = ExperimentConfig(
            data=all_questions,
            student=StudentConfig(name=result.student),
            teachers=config.teachers,
            method=MethodConfig(name=TEACHER),
            prompt=config.prompt,
        )
    elif not config.method.train:
        base = ExperimentConfig()
        shaping = replace(shaping, optimizer=base.optimizer, loss=base.loss, trainer=base.trainer)
    if which is WhichTeachers.none and result.method != TEACHER:
        shaping = replace(shaping, teachers={}, alpha={}, prompt=PromptConfig(), rationales=RationalesConfig())
        shaping = replace(shaping, weighting=WeightingConfig())
    elif result.method != TEACHER:
        method = replace(config.method, teacher=single_teacher_of(config) or None)
        # Seeds may find different teachers to be the strongest: the same setting all the same.
        doubled = config.ablation.strongest is not None
        alpha = composed_alpha(config) if doubled else dict(result.alpha)
        shaping = replace(shaping, alpha=alpha, method=method)
        unweighted = [name for name in config.teachers if alpha_of(config.alpha, name) == 0]
        if which is WhichTeachers.all and unweighted:  # left out all the same
            drop = [name for name in config.teachers if name in {*unweighted, *config.ablation.drop}]
            shaping = replace(shaping, ablation=replace(config.ablation, drop=drop))
    family = replace(
        shaping,
        alpha={},
        method=replace(shaping.method, teacher=None),
        data=replace(shaping.data, train_fraction=1.0),
        teachers={} if which is WhichTeachers.one else shaping.teachers,
        optimizer=replace(shaping.optimizer, lr=0.0),
    )
    common = ExperimentConfig(
        data=family.data,
        student=family.student,
        optimizer=family.optimizer,
        trainer=family.trainer,
        loss=family.loss,
        method=MethodConfig(name=""),
        ablation=AblationConfig(),
    )
    return Identity(
        hash_of(shaping),
        hash_of(family),
        hash_of(common),
        dict(_flat(asdict(family))),
    )


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key -> value as text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


NO_CONFIG = "without config.yaml"
"""Key of `Identity.values` where nothing else is known."""
NO_RUN = "training run unknown"
"""Key of `Identity.values` of a student whose training run is not among the folders, or was on other data; its value
says which of both."""
_NOT_SETTINGS = (
    "store", "cache", "logger.", "evaluation.",
    *(f"{group}.{key}" for group, keys in NOT_RESULT_INSIDE.items() for key in keys if group != "data"),
)  # fmt: skip
"""Starts of keys that no result depends on; `data.root` is one with most sources."""


def variants_of(frame: pd.DataFrame, identities: Sequence[Identity]) -> list[str]:
    """Each run's variant.

    The reference family is the one whose shared settings most runs of the dataset and the student have: a control that
    trained three times as long stays the exception however many seeds it has. Then one that neither weighs its texts
    nor leaves teachers out, and of these the one that differs least from the defaults. A method that was trained with
    other shared settings alone is a variant, too: beside the others it would pass for one that differs in its method.
    So is every student of a run on other data, whatever stands beside it.
    """
    variants = [""] * len(frame)
    shared: Counter[tuple[object, ...]] = Counter()
    for position, row in enumerate(frame.itertuples()):
        shared[row.dataset, row.student, row.split, identities[position].shared_settings] += 1
    common = _common_settings(frame, identities)
    for _, group in frame.groupby(["dataset", "student", "method", "ablation", "split"], sort=False, dropna=False):
        places = list(group.index)
        row = frame.loc[places[0]]
        unusual = _differences_from_defaults([identities[i] for i in places])
        usual = common.get((row["dataset"], row["student"], row["split"]))
        for i in places:
            variants[i] = identities[i].values.get(NO_RUN, NO_RUN).removesuffix(NO_RUN)
        places = [i for i in places if not variants[i]]
        trained = [i for i in places if _is_trained(frame.loc[i], identities[i])]
        if usual and trained and usual.shared_settings not in {identities[i].shared_settings for i in trained}:
            for i in trained:
                own = _shared_values(identities[i])
                variants[i] = differing_settings(own, _shared_values(usual))
        sizes = Counter(identities[i].family for i in places)
        if len(sizes) < 2:
            continue
        reference = min(
            places,
            key=lambda i: (
                NO_CONFIG in identities[i].values,
                -shared[row["dataset"], row["student"], row["split"], identities[i].shared_settings],
                identities[i].values.get("weighting.name", "uniform") != "uniform",
                identities[i].values.get("ablation.drop", "[]") != "[]" and row["ablation"] == "none",
                unusual[identities[i].family],
                -sizes[identities[i].family],
                identities[i].family,
            ),
        )
        unknown = {identities[i].family for i in places if NO_CONFIG in identities[i].values}
        for i in places:
            if identities[i].family == identities[reference].family:
                continue
            differing = differing_settings(identities[i].values, identities[reference].values)
            variants[i] = ", ".join(dict.fromkeys(filter(None, [*variants[i].split(", "), *differing.split(", ")])))
            if variants[i] == NO_CONFIG and len(unknown) > 1:
                # Nobody knows whether these are seeds of one setting: they are neither averaged nor chosen among.
                variants[i] += f" ({identities[i].values[NO_CONFIG]})"
    return variants


def _differences_from_defaults(identities: Sequence[Identity]) -> dict[str, int]:
    """By family, in how many of the keys that tell families apart it has no default; teachers and streams have none."""
    defaults = dict(_flat(asdict(ExperimentConfig())))
    values = {one.family: one.values for one in identities}
    keys = [
        key
        for key in {key for own in values.values() for key in own}
        if not key.startswith(("teachers.", "method.")) and len({own.get(key) for own in values.values()}) > 1
    ]
    return {family: sum(own.get(key) != defaults.get(key) for key in keys) for family, own in values.items()}


def _common_settings(frame: pd.DataFrame, identities: Sequence[Identity]) -> dict[tuple[str, str, str], Identity]:
    """By dataset, student and split, a run with the shared settings of most trained runs; of equals TinyLLM's."""
    places: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    plain = (frame["method"] == "tinyllm") & (frame["ablation"] == "none")
    for i, row in enumerate(frame.to_dict("records")):
        if _is_trained(row, identities[i]):
            by_settings = places.setdefault((row["dataset"], row["student"], row["split"]), {})
            by_settings.setdefault(identities[i].shared_settings, []).append(i)
    return {
        where: identities[max(found.values(), key=lambda own: (len(own), sum(plain[i] for i in own)))[0]]
        for where, found in places.items()
    }


def _is_trained(row: Mapping[Any, Any] | pd.Series, identity: Identity) -> bool:
    """Whether a run trained a student with settings that are known."""
    unknown = NO_CONFIG in identity.values or NO_RUN in identity.values
    return not unknown and not row["untrained"] and not row["evaluated_only"]


def _shared_values(identity: Identity) -> dict[str, str]:
    groups = ("data.", "student.", "optimizer.", "trainer.", "loss.")
    return {key: value for key, value in identity.values.items() if key.startswith(groups)}


def differing_settings(own: Mapping[str, str], reference: Mapping[str, str]) -> str:
    """The keys that differ; a teacher or stream that only one of the two has is given by its name."""
    if NO_RUN in own:
        return own[NO_RUN]
    if NO_CONFIG in own:
        return NO_CONFIG
    parts: dict[str, None] = {}
    for key in [*own, *(key for key in reference if key not in own)]:
        if key.startswith(_NOT_SETTINGS) or own.get(key) == reference.get(key):
            continue
        if key == "data.root" and own.get("data.source") != Source.jsonl:  # else it only says where the files are
            continue
        group = "teachers." if key.startswith("teachers.") else "method.streams."
        if key.startswith(group) and _names(own, group) != _names(reference, group):
            parts[f"{group.rstrip('.')}={'+'.join(_names(own, group)) or 'none'}"] = None
        else:
            parts[f"{key}={own.get(key, 'null')}"] = None
    return ", ".join(parts) or "other settings"


def _names(values: Mapping[str, str], group: str) -> list[str]:
    return list(dict.fromkeys(key.removeprefix(group).split(".")[0] for key in values if key.startswith(group)))
