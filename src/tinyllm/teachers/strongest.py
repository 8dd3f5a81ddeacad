"""Two samples of the strongest teacher in place of the set: the paper's variant without diverse teachers (table 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tinyllm.config import ExperimentConfig
from tinyllm.errors import UserError
from tinyllm.methods import BY_VALIDATION, two_samples_of
from tinyllm.parsing import normalise
from tinyllm.records import Question, Split
from tinyllm.teachers.stored import stored

log = logging.getLogger(__name__)
C = TypeVar("C", bound=ExperimentConfig)


def resolve_strongest_teacher(config: C, valid: Sequence[Question]) -> C:
    """The configuration with `ablation.strongest` carried out: its teacher set is the strongest teacher twice.

    Args:
        config: unchanged where `ablation.strongest` is null.
        valid: the validation questions.

    Raises:
        UserError: for a teacher outside of the set, or when the store lacks the answers that would tell the strongest.
    """
    if config.ablation.strongest is None:
        return config
    name = config.ablation.strongest
    if name == BY_VALIDATION:
        name = strongest(config, valid)
    return two_samples_of(config, name)


def strongest(config: ExperimentConfig, valid: Sequence[Question]) -> str:
    """Name of the teacher that answers most validation questions rightly by itself, asked without the answer.

    Of equals, the first of the set.

    Raises:
        UserError: when the store lacks answers, with the command that asks for them.
    """
    free = replace(config, prompt=replace(config.prompt, teacher_forcing=False))
    right: dict[str, int] = {}
    for name, teacher in config.teachers.items():
        answers = stored(free, teacher, Split.valid)
        lacking = sum(question.id not in answers for question in valid)
        if lacking:
            raise UserError(
                f"ablation.strongest=valid: {name} has not answered {lacking} of {len(valid)} validation questions "
                f"itself: run 'tinyllm evaluate teacher={name} evaluation.split=valid' with the same data and prompt, "
                "or name the strongest: ablation.strongest=<teacher>"
            )
        right[name] = sum(normalise(answers[q.id].answer or "") == normalise(q.answer) for q in valid)
    best = max(right, key=right.__getitem__)
    told = ", ".join(f"{name} {count} of {len(valid)}" for name, count in right.items())
    log.info("strongest teacher on validation: %s (%s)", best, told)
    return best
