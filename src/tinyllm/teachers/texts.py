"""From the store to the texts that a run trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyllm.config import ExperimentConfig, Source, TeacherConfig
from tinyllm.data import release
from tinyllm.data.streams import chosen_teachers, shuffle_rationales
from tinyllm.errors import UserError
from tinyllm.records import Question
from tinyllm.teachers.audit import for_training
from tinyllm.teachers.prompt_key import prompt_key
from tinyllm.teachers.store import RationaleStore


def is_recorded(config: ExperimentConfig, teacher: TeacherConfig) -> bool:
    """True where the published texts of this teacher stand in for asking it.

    They are the first sample of the paper's teachers, made with the answer given: other prompts have to be asked.
    """
    return (
        config.data.source is Source.release
        and config.rationales.recorded
        and (teacher.stored_as or teacher.name) in release.TEACHERS
        and teacher.sample == 0
        and config.prompt.teacher_forcing
    )


def training_texts(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """By teacher of the method, question id -> cleaned text of the training questions.

    Raises:
        UserError: when the store lacks records, with the command that asks for them.
    """
    store = RationaleStore(Path(config.store).expanduser())
    texts: dict[str, dict[str, str]] = {}
    ids = [question.id for question in questions]
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        teacher = config.teachers[name]
        key = prompt_key(teacher, config.prompt, config.data.name, recorded=is_recorded(config, teacher))
        stored = store.read(config.data.name, "train", teacher.stored_as or teacher.name, key, teacher.sample)
        lacking = [i for i in ids if i not in stored]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(ids)} {config.data.name}/train questions lack a {name} rationale in "
                f"{config.store}: run 'tinyllm rationales' with the same data, teachers and prompt options"
            )
        usable = for_training(
            {i: stored[i] for i in ids}, questions, reject=config.rationales.reject, clean=config.rationales.clean
        )
        texts[name] = shuffle_rationales(usable, config.seed) if config.rationales.shuffle else dict(usable)
    return texts
