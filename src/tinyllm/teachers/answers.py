"""A teacher's own answers: asked without being told the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from tinyllm.config import ExperimentConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import Prediction, Question, Split
from tinyllm.teachers.asking import run
from tinyllm.teachers.stored import stored


def teacher_predictions(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    questions: Mapping[Split, Sequence[Question]],
    split: Split,
    console: Console,
) -> list[Prediction]:
    """Ask what the store lacks of a split, and give the teacher's answers in the order of the questions."""
    run(config, questions, console)
    found = stored(config, teacher, split)
    missing = sum(question.id not in found for question in questions[split])
    if missing:
        raise UserError(
            f"{teacher.name} has not answered {missing} questions: run the same command again to ask for them"
        )
    return [
        Prediction(q.id, q.question, q.choices, q.answer, found[q.id].text, found[q.id].answer, None, (), q.subset)
        for q in questions[split]
    ]
