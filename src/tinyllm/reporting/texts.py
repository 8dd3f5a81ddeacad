"""Where the texts of a run's teachers came from, and whether two runs differ in them by one thing at most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tinyllm.config import Engine, ExperimentConfig, TeacherConfig
from tinyllm.methods import prompt_kinds
from tinyllm.records import PromptKind
from tinyllm.teachers.stored import is_recorded

PUBLISHED, GENERATED, SCRIPTED, GIVEN = "published", "generated", "scripted", "given in a file"
"""Of the paper's authors; written by a model that was asked; by one of minilab's scripted teachers; by whomever."""


@dataclass(frozen=True, slots=True)
class TeacherTexts:
    """One teacher's texts in one run."""

    teacher: str
    """Its name in the store."""
    origin: str
    model: str = ""
    """With revision, file and chat template; empty for published texts, of which nothing else is known either."""
    decoding: str = ""
    examples: str = ""
    """In-context examples: how many, and from where."""
    asked: str = ""
    """A `PromptKind`."""

    def __str__(self) -> str:
        return f"{self.teacher}: {', '.join(filter(None, (getattr(self, f.name) for f in fields(self)[1:])))}"


@dataclass(frozen=True, slots=True)
class RunTexts:
    """All teachers of a run, in the order of its set; none for a method without teachers."""

    teachers: tuple[TeacherTexts, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.teachers))

    def __lt__(self, other: RunTexts) -> bool:
        return str(self) < str(other)


def texts_of(config: ExperimentConfig, teachers: Iterable[str]) -> RunTexts:
    """What a run was trained on.

    Args:
        config: of the run, with the teachers that it had (`runs.as_trained`).
        teachers: names of those that it used.
    """
    kinds = prompt_kinds(config.method, config.prompt)
    kind = kinds[0] if kinds else PromptKind.forced
    return RunTexts(tuple(_of(config, config.teachers[name], kind) for name in teachers if name in config.teachers))


def _of(config: ExperimentConfig, teacher: TeacherConfig, kind: PromptKind) -> TeacherTexts:
    name = teacher.stored_name
    if is_recorded(config, teacher, kind):
        return TeacherTexts(name, PUBLISHED)
    if teacher.engine is Engine.file:
        return TeacherTexts(name, GIVEN, Path(teacher.model).name, asked=str(kind))
    if not teacher.reads_prompts:
        wrong = "" if teacher.share is None else f", wrong in {teacher.share:g}"
        return TeacherTexts(name, SCRIPTED, f"voice {teacher.model}{wrong}", asked=str(kind))
    parts = (teacher.model, teacher.revision, teacher.gguf_file, "chat" if teacher.chat else None)
    sampling = f"temperature {teacher.temperature:g}, top_p {teacher.top_p:g}" if teacher.temperature else "greedy"
    count = config.prompt.examples
    return TeacherTexts(
        name,
        GENERATED,
        " ".join(part for part in parts if part),
        f"{sampling}, {teacher.max_new_tokens} tokens at most",
        f"{count} {config.prompt.example_source} examples" if count else "no examples",
        str(kind),
    )


_OWN_CHANGE = ("examples", "asked")
"""What an ablation may change of a teacher's texts, one at a time."""


def differing(whole: RunTexts, ablation: RunTexts) -> list[str]:
    """Where the texts of an ablation are not those of the whole method but for one thing; empty where they are.

    A teacher that only the whole method has doesn't count: leaving it out is what the ablation changes. In-context
    examples or the kind of prompt may differ, not both. Origin, model and decoding have to be the same: else a
    difference in accuracy could be theirs.

    Returns:
        `terse: published in the whole method, generated here`, a text for every teacher and field.
    """
    found: dict[str, None] = {}
    changed: set[str] = set()
    known = {one.teacher for one in whole.teachers}
    for own in ablation.teachers:
        if own.teacher not in known:
            found[f"{own.teacher}: no teacher of the whole method"] = None
        for other in (one for one in whole.teachers if one.teacher == own.teacher):
            unlike = dict(_unlike(other, own))
            if "origin" in unlike:  # nothing else of published texts is known
                unlike = {"origin": unlike["origin"]}
            changed |= unlike.keys() & set(_OWN_CHANGE)
            allowed = _OWN_CHANGE if len(changed) < 2 else ()
            found |= dict.fromkeys(f"{own.teacher}: {text}" for name, text in unlike.items() if name not in allowed)
    return list(found)


def _unlike(whole: TeacherTexts, own: TeacherTexts) -> Iterator[tuple[str, str]]:
    for field in fields(own)[1:]:
        theirs, ours = getattr(whole, field.name), getattr(own, field.name)
        if theirs != ours:
            yield field.name, f"{theirs} in the whole method, {ours} here"
