"""From the store to the texts that a run trains on."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.config import ExperimentConfig
from tinyllm.data.streams import chosen_teachers, shuffle_rationales
from tinyllm.errors import UserError
from tinyllm.records import Question
from tinyllm.teachers.audit import for_training
from tinyllm.teachers.generate import stored


def training_texts(config: ExperimentConfig, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """By teacher of the method, question id -> cleaned text of the training questions.

    Raises:
        UserError: when the store lacks records, with the command that asks for them.
    """
    texts: dict[str, dict[str, str]] = {}
    ids = [question.id for question in questions]
    for name in chosen_teachers(config.method, config.teachers, config.alpha, config.ablation.drop):
        teacher = config.teachers[name]
        found = stored(config, teacher, "train")
        lacking = [i for i in ids if i not in found]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(ids)} {config.data.name}/train questions lack a {name} rationale in "
                f"{config.store}: run 'tinyllm rationales' with the same data, teachers and prompt options"
            )
        usable = for_training(
            {i: found[i] for i in ids}, questions, reject=config.rationales.reject, clean=config.rationales.clean
        )
        texts[name] = shuffle_rationales(usable, config.seed) if config.rationales.shuffle else dict(usable)
    return texts
