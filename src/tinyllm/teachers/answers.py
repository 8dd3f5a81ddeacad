"""A teacher's own answers: what it says when it is asked without being given the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tinyllm.config import ExperimentConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import Prediction, PromptKind, Question, Split
from tinyllm.teachers.asking.plan import plan_turn
from tinyllm.teachers.asking.turns import audit_turns, take_turns
from tinyllm.teachers.audit import audit_table
from tinyllm.teachers.store import RationaleStore
from tinyllm.teachers.stored import check_unchanged


def teacher_predictions(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    questions: Mapping[Split, Sequence[Question]],
    split: Split,
    console: Console,
    held_out: Mapping[Split, Sequence[Question]] | None = None,
) -> list[Prediction]:
    """Ask a teacher freely for the answers to a split that are missing from the store, and read all of them.

    Args:
        config: data, prompt and store are read.
        teacher: whom to ask.
        questions: all splits: in-context examples come from train.
        split: the questions to be answered.
        console: where plan, progress and audit are printed.
        held_out: as in `take_turns`.

    Returns:
        One prediction per question, in order, without ranks or scores.

    Raises:
        UserError: the teacher can't be asked, some questions have no answer yet, or others stood under their ids when
            it was asked.
    """
    store = RationaleStore(Path(config.store).expanduser())
    turn = plan_turn(config, teacher, PromptKind.solve, split)
    check_unchanged(config, questions[split], store.read(*turn.part, teacher.sample), split)
    take_turns([turn], store, questions, console, held_out=held_out)
    turn = plan_turn(config, teacher, PromptKind.solve, split)  # its examples may have been invented just now
    console.print(audit_table(audit_turns([turn], store, questions)))
    found = store.read(*turn.part, teacher.sample)
    missing = sum(question.id not in found for question in questions[split])
    if missing:
        raise UserError(
            f"{missing} of {len(questions[split])} {turn.dataset}/{split} questions lack an answer of {teacher.name} "
            "(generation failed for them, or another process is asking them): run the same command again"
        )
    return [
        Prediction(
            id=q.id,
            question=q.question,
            choices=q.choices,
            answer=q.answer,
            generated=found[q.id].text,
            predicted=found[q.id].answer,
            ranked=None,
            scores=(),
            subset=q.subset,
            group=q.group,
        )
        for q in questions[split]
    ]
