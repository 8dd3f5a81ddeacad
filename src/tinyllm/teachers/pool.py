"""The pool that in-context examples are drawn from, by the name that stands in prompt keys."""

from __future__ import annotations

from pathlib import Path

from tinyllm.config import DataConfig, ExampleSource, PromptConfig, Source, TeacherConfig
from tinyllm.teachers.prompt_key import digest_of_file, pool_key
from tinyllm.teachers.store import RationaleStore


def invented_file(store: RationaleStore, teacher: TeacherConfig, dataset: str, topic: str) -> Path:
    """Where the examples that a teacher invented for a dataset are kept."""
    return store.examples_file(dataset, teacher.stored_name, pool_key(teacher, dataset, topic))


def pool_name(store: RationaleStore, teacher: TeacherConfig, prompt: PromptConfig, data: DataConfig) -> str | None:
    """What tells one pool from another; None where the prompt shows no examples, or none have been invented yet.

    Invented examples are told by their content. Training examples are told by the training subset: the share and the
    number of its questions, and its seed where that matters.
    """
    if prompt.examples == 0 or not teacher.reads_prompts:
        return None
    if prompt.example_source is ExampleSource.generated:
        return digest_of(invented_file(store, teacher, data.name, data.topic))
    seeded = data.train_fraction < 1 or data.source is Source.builtin
    return f"{data.train_fraction:g} of train, first {data.limit_train}, seed {data.seed if seeded else None}"


def digest_of(file: Path) -> str | None:
    """Of the content; None where there is no such file."""
    return digest_of_file(file) if file.is_file() else None
